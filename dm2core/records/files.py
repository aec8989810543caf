"""Files written whole or not at all, and what is said when they cannot be written."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

from dm2core.errors import WriteError
from dm2core.records.crash import reach


def write_atomic(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Replace `path` by `data`, or leave it as it was; with `keep` the old file stays under that name.

    WriteError names path, size and free space. Nothing is renamed before the new bytes are safe on the disk.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb", buffering=0) as handle:
            view = memoryview(data)  # its parts are no copies
            _write_all(handle, view[: len(data) // 2])
            reach("write-half", path.name)
            _write_all(handle, view[len(data) // 2 :])
            reach("write-unsynced", path.name)
            os.fsync(handle.fileno())
        reach("write-synced", path.name)
        if keep is not None and path.exists():
            os.replace(path, keep)
            reach("write-kept", path.name)
        os.replace(part, path)
        reach("write-renamed", path.name)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise write_error(path, len(data), error) from None


def _write_all(handle: FileIO, view: memoryview) -> None:
    """All of `view`; a write may take only a part of it, on a disk that is nearly full for example."""
    while view:
        view = view[handle.write(view) :]


def make_folder(path: Path) -> None:
    """The folder of a file that will be written; WriteError, before the work, if it cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, 0, error) from None


def remove_parts(folder: Path, name: str = "*") -> None:
    """Remove what a killed `write_atomic` left of a file `name`; only for whoever alone may write there."""
    for part in folder.glob(f".{name}.*.tmp"):
        part.unlink(missing_ok=True)


def write_error(path: Path, size: int, error: OSError) -> WriteError:
    """One line for a failed write."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return WriteError(f"{path}: cannot be written ({error.strerror})")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    stats = os.statvfs(there)
    free = f"{error.strerror}, {stats.f_bavail * stats.f_frsize} bytes and {stats.f_favail} files free"
    return WriteError(f"{path}: cannot write {size} bytes ({free}); make room and run again")
