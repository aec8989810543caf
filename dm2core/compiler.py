"""How kernels are compiled: numba's `njit` with the whole vectors of the processor, and when its disk cache is stale.

LLVM keeps loops at half of a 512-bit vector on Intel's processors, for the sake of older ones that lowered their clock.
Bits do not depend on it (fused/lanes.py, tests/learning/test_bits.py). NUMBA_CPU_NAME or NUMBA_CPU_FEATURES, where set,
decide instead. numba looks once, at the first kernel in a process, so kernels import `njit` from here.

No kernel may be compiled with fast mathematics: numba compiles a kernel once for itself and again inside each of its
callers, which of the copies a call reaches depends on what was compiled and what came from the cache, and the copies
of a sum that may be reordered round differently. Sums are ordered by hand instead (fused/lanes.py).

numba takes a kernel from its cache as long as the kernel's own file is unchanged; a change in a file whose kernels or
constants it uses would go unnoticed. So the stamp of every kernel of the package, and of the benchmarks, is a hash over
SHARED and its own file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import config as _config
from numba import njit
from numba.core.caching import CacheImpl, InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

__all__ = ["INLINE", "KERNEL", "SHARED", "njit"]

KERNEL: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False, "nogil": True}
INLINE: dict[str, Any] = {**KERNEL, "forceinline": True}

_PACKAGE = Path(__file__).resolve().parent
# Files of which kernels in other files use something.
SHARED = (
    *sorted((_PACKAGE / "fused").glob("*.py")),
    _PACKAGE / "env" / "battle.py",
    _PACKAGE / "env" / "observe.py",
)
_shared = hashlib.sha256(b"".join(path.read_bytes() for path in SHARED))

_numba: Any = _config  # its settings are made at run time
_features = llvm.get_host_cpu_features()
if _numba.CPU_NAME is None and _numba.CPU_FEATURES is None and _numba.ENABLE_AVX and _features.get("avx512f"):
    _numba.CPU_FEATURES = f"{_features.flatten()},-prefer-256-bit"


def _for_our_kernels(base: Any) -> Any:
    class Locator(base):  # type: ignore[misc]
        def get_source_stamp(self) -> bytes:
            stamp = _shared.copy()
            stamp.update(Path(self._py_file).read_bytes())
            return stamp.digest()

        @classmethod
        def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
            path = Path(py_file)
            ours = path.is_relative_to(_PACKAGE) or path.parent == _PACKAGE.parent / "benchmarks"
            return super().from_function(py_func, py_file) if ours else None

    return Locator


# Before numba's own.
CacheImpl._locator_classes[:0] = [
    _for_our_kernels(base) for base in (UserProvidedCacheLocator, InTreeCacheLocator, UserWideCacheLocator)
]
