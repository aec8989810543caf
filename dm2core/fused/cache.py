"""How kernels are compiled, and numba's disk cache for kernels that call kernels of other files.

No kernel may be compiled with fast mathematics: numba compiles a kernel once for itself and again inside each of its
callers, which of the copies a call reaches depends on what was compiled and what came from the cache, and the copies
of a sum that may be reordered round differently. Sums are ordered by hand instead (lanes.py).

numba reuses a cached kernel as long as the kernel's own file is unchanged; a change in a file that it calls would go
unnoticed. Here the stamp of every kernel is a hash over all files of this folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import CacheImpl, InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

KERNEL: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False, "nogil": True}
INLINE: dict[str, Any] = {**KERNEL, "forceinline": True}

_FOLDER = Path(__file__).resolve().parent
_STAMP = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.py")))).digest()


def _for_this_folder(base: Any) -> Any:
    class Locator(base):  # type: ignore[misc]
        def get_source_stamp(self) -> bytes:
            return _STAMP

        @classmethod
        def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
            return super().from_function(py_func, py_file) if Path(py_file).parent == _FOLDER else None

    return Locator


def install() -> None:
    """Register the locators, before numba's own; a second call changes nothing."""
    if not any(locator.__module__ == __name__ for locator in CacheImpl._locator_classes):
        places = (UserProvidedCacheLocator, InTreeCacheLocator, UserWideCacheLocator)
        CacheImpl._locator_classes[:0] = [_for_this_folder(base) for base in places]


install()
