"""One writer per cell: a lock on its state folder that the kernel frees when the process dies."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dm2core.errors import TryAgain, WriteError

LOOK_S = 1.0


@contextmanager
def cell_lock(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the cell; whether it had to be waited for.

    If somebody else holds it, TryAgain names them at once, or with `wait` this one queues: a scheduler's second job
    for a cell whose first one still runs would otherwise use up its retries. The holder removes the folder at its end,
    so a lock counts only while its file is the one that lies there.
    """
    path, waited = folder / "lock", False
    while True:
        handle = _open(path)
        try:
            if not _take(handle):
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                if not wait:
                    text = f"{folder}: in use by {holder}; wait for it or stop it, then run again"
                    raise TryAgain(text)
                if not waited:
                    print(f"dm2: {folder}: waiting for {holder}", file=sys.stderr, flush=True)
                waited = True
                time.sleep(LOOK_S)
            elif _lies_there(handle, path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                yield waited
                return
        finally:
            os.close(handle)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WriteError(f"{path}: cannot be created ({error.strerror})") from None


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lies_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
