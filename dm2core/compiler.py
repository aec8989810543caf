"""numba's `njit` for every kernel of the package, with the whole vectors of the processor.

LLVM keeps loops at half of a 512-bit vector on Intel's processors, for the sake of older ones that lowered their clock.
Bits do not depend on it (fused/lanes.py, tests/learning/test_bits.py). NUMBA_CPU_NAME or NUMBA_CPU_FEATURES, where set,
decide instead. numba looks once, at the first kernel in a process, so kernels import `njit` from here.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from numba import config as _config
from numba import njit

__all__ = ["njit"]

_numba: Any = _config  # its settings are made at run time
_features = llvm.get_host_cpu_features()
if _numba.CPU_NAME is None and _numba.CPU_FEATURES is None and _numba.ENABLE_AVX and _features.get("avx512f"):
    _numba.CPU_FEATURES = f"{_features.flatten()},-prefer-256-bit"
