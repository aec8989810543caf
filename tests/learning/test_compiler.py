"""Kernels use the whole vectors of the processor, unless the user says for which one to compile."""

from __future__ import annotations

import os
import subprocess
import sys

import llvmlite.binding as llvm
import pytest

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
