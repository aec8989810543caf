"""Kernels use the whole vectors of the processor, unless the user says for which one to compile."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest

from dm2core.compiler import SHARED
from dm2core.env import scripted
from dm2core.fused import lanes
from dm2core.rmappo import state

ROOT = Path(__file__).parents[2]

ADD = """
from dm2core.compiler import njit
import numpy as np

@njit(error_model="numpy")
def add(a, b):
    for j in range(a.size):
        a[j] += b[j]

add(np.zeros(64, np.float32), np.zeros(64, np.float32))
(code,) = add.inspect_asm().values()
print("zmm" in code)
"""


def _wide(**env: str) -> bool:
    """Whether the loop's code names 512-bit registers."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    out = subprocess.run(
        [sys.executable, "-c", ADD], env=plain | env, check=True, stdout=subprocess.PIPE, text=True
    )
    return out.stdout.strip() == "True"


@pytest.mark.skipif(not llvm.get_host_cpu_features().get("avx512f"), reason="a processor without AVX-512")
def test_loops_take_512_bits_where_the_processor_has_them() -> None:
    assert _wide()
    assert not _wide(NUMBA_CPU_NAME="skylake-avx512", NUMBA_CPU_FEATURES="+avx512f,+prefer-256-bit")
    assert not _wide(NUMBA_CPU_NAME="generic")


def _used_by_kernels(path: Path) -> list[tuple[Path, str]]:
    """What kernels of one file use of other files of the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kernels = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("njit" in ast.unparse(d) for d in node.decorator_list)
    ]
    used = {name.id for kernel in kernels for name in ast.walk(kernel) if isinstance(name, ast.Name)}
    return [
        (ROOT / f"{node.module.replace('.', '/')}.py", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("dm2core.")
        for alias in node.names
        if (alias.asname or alias.name) in used
    ]


def test_a_cached_kernel_is_stale_when_anything_that_it_uses_has_changed() -> None:
    """Nothing that any kernel takes from another file lies outside the files whose hash is every kernel's stamp."""
    files = [*ROOT.glob("dm2core/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    used = {
        file: [one for one in _used_by_kernels(file) if one[0] != ROOT / "dm2core/compiler.py"]
        for file in files
    }
    assert [file.name for file, found in used.items() if "SIZE_X" in [name for _, name in found]]
    assert {place for found in used.values() for place, _ in found} <= set(SHARED)


@pytest.mark.parametrize(
    "kernel", [scripted._toward, lanes.dot, state._encode], ids=lambda kernel: kernel.__module__
)
def test_a_kernels_stamp_is_of_its_file_and_the_shared_ones(kernel: Any) -> None:
    parts = [path.read_bytes() for path in (*SHARED, Path(kernel.py_func.__code__.co_filename))]
    assert kernel._cache._impl.locator.get_source_stamp() == hashlib.sha256(b"".join(parts)).digest()
