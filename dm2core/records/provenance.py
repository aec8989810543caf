"""Where a result comes from: code, packages, machine and effort, as its manifest says it. No host or user names."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "numpy", "torch", "numba", "llvmlite", "scipy", "pandas", "pyarrow", "safetensors", "pydantic", "matplotlib",
    "snakemake",
)  # fmt: skip
# What decides results beside the configuration, which has a hash of its own; pages and tests do not.
DECIDING = ("dm2core", "workflow", "claims", "resources", "Snakefile", "requirements.txt", "pyproject.toml")
PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent


@functools.cache
def package_versions() -> dict[str, str]:
    """Python and the packages that touch a result's numbers or files."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def lock_sha256() -> str:
    """Hash of requirements.txt, the lock of every package; "" where the package was installed without it."""
    try:
        return hashlib.sha256((REPOSITORY / "requirements.txt").read_bytes()).hexdigest()
    except OSError:
        return ""


@functools.cache  # what runs was loaded at the start, whatever is edited meanwhile
def code_version() -> dict[str, str]:
    """Commit, hash of what differs from it ("" if nothing does), and hash of this package's sources."""
    tree = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        tree.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    commit = (_git("rev-parse", "HEAD") or b"").decode().strip()
    top = (_git("rev-parse", "--show-toplevel") or b"").decode().strip()
    if not commit or Path(top).resolve() != REPOSITORY:  # none, or that of a folder we happen to lie in
        return {"commit": "unknown", "dirty_sha256": "", "dm2core_sha256": tree.hexdigest()}
    return {"commit": commit, "dirty_sha256": _dirty(), "dm2core_sha256": tree.hexdigest()}


def _dirty() -> str:
    """SHA-256 of the uncommitted part of what decides results: the diff, and files that git does not know."""
    diff = _git("diff", "HEAD", "--binary", "--no-ext-diff", "--no-color", "--", *DECIDING)
    names = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *DECIDING)
    if diff is None or names is None:
        return hashlib.sha256(b"unknown").hexdigest()  # git failed: whether anything differs nobody knows
    strange = sorted(name for name in names.decode(errors="surrogateescape").split("\0") if name)
    if not diff and not strange:
        return ""
    total = hashlib.sha256(diff)
    for name in strange:
        path = REPOSITORY / name
        total.update(b"\0" + name.encode(errors="surrogateescape") + b"\0")
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


def _git(*arguments: str) -> bytes | None:
    """What git prints about the repository; None without git or a repository."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@functools.cache
def host_class() -> dict[str, str | int]:
    """The kind of machine: processor, cores this process may use, operating system."""
    return {"cpu": _cpu_model(), "cores": usable_cores(), "system": _system()}


def processor_maker(model: str) -> str:
    """Who made a processor of this model. Libraries choose their matrix products by it, and so their rounding."""
    return next((maker for maker in ("AMD", "Intel") if maker.lower() in model.lower()), model)


def usable_cores() -> int:
    """Cores this process may run on; a batch system or a container may give fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return " ".join(filter(None, (name, platform.system(), platform.machine())))


def effort() -> dict[str, float]:
    """CPU seconds and peak memory (MiB) of this process so far, its finished children included."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    unit = 1024 if sys.platform == "darwin" else 1  # macOS counts bytes, Linux KiB
    peak = max(own.ru_maxrss, children.ru_maxrss) // unit // 1024
    return {"cpu_s": round(seconds, 2), "peak_memory_mb": peak}
