"""Where a result comes from: code, packages, machine and configuration, as its manifest says it."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("numpy", "torch", "numba", "pydantic", "pyarrow", "safetensors")


def package_versions() -> dict[str, str]:
    """Versions of the packages that touch a cell's numbers or files."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def numerics_key() -> dict[str, str]:
    """Results are promised bit for bit only where all of these are equal."""
    return {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "system": platform.system(),
        "device": "cpu",
    }


def code_version() -> dict[str, str]:
    """Hash of this package's sources, and the commit they lie in, if any."""
    folder = Path(__file__).parent
    tree = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        tree.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    try:
        git = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        commit = git.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        commit = "unknown"
    return {"commit": commit, "dm2core_sha256": tree.hexdigest()}
