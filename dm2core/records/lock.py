"""One writer per cell: a lock on its state folder that the kernel frees when the process dies.

Where locks of files do nothing, as on some network disks, the name in the lock file decides: the process that wrote
it last is the holder, and any other stops before its next checkpoint. The name says since when, because containers may
share a host's name and number their processes alike.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dm2core.errors import TryAgain, WriteError

LOOK_S = 1.0


@dataclass(frozen=True)
class CellLock:
    """A held lock; `waited`: somebody else held it first."""

    path: Path
    name: str
    waited: bool

    def check(self) -> None:
        """TryAgain if the lock is another's by now, or gone: the files are no longer this process's to write."""
        try:
            found = self.path.read_text(errors="replace").strip()
        except OSError:
            found = ""
        if found != self.name:
            by = f"{found} took it over" if found else "its lock was removed"
            raise TryAgain(f"{self.path.parent}: this cell was lost, {by}; nothing more was written here")


@contextmanager
def cell_lock(folder: Path, *, wait: bool = False) -> Iterator[CellLock]:
    """Hold the cell.

    If somebody else holds it, TryAgain names them at once, or with `wait` this one queues: a scheduler's second job
    for a cell whose first one still runs would otherwise use up its retries. The holder removes the folder at its end,
    so a lock counts only while its file is the one that lies there. Where nothing was begun, no folder stays behind.
    """
    path, waited = folder / "lock", False
    while True:
        handle = _open(path)
        try:
            if not _take(handle, path):
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                if not wait:
                    text = f"{folder}: in use by {holder}; wait for it, or stop it and run again"
                    raise TryAgain(text)
                if not waited:
                    print(f"dm2: {folder}: waiting for {holder}", file=sys.stderr, flush=True)
                waited = True
                time.sleep(LOOK_S)
            elif _lies_there(handle, path):
                lock = CellLock(path, _name(), waited)
                _sign(handle, path, lock.name)
                try:
                    yield lock
                finally:
                    _leave_no_lock_alone(lock)
                return
        finally:
            os.close(handle)


def _name() -> str:
    since = datetime.now().isoformat(timespec="microseconds")
    return f"process {os.getpid()} since {since} on {socket.gethostname()}"


def _leave_no_lock_alone(lock: CellLock) -> None:
    with suppress(OSError, TryAgain):
        if all(path == lock.path for path in lock.path.parent.iterdir()):
            lock.check()
            lock.path.unlink()
            lock.path.parent.rmdir()


def _open(path: Path, tries: int = 20) -> int:
    """A holder that is done may remove the folder between the two steps; a path that leads nowhere ends the tries."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and tries > 1:
            return _open(path, tries - 1)
        raise WriteError(f"{path}: cannot be created ({error.strerror})") from None


def _sign(handle: int, path: Path, name: str) -> None:
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, name.encode(), 0)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror}); make room and run again") from None


def _take(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a Lustre that is mounted without `flock`, for one
        text = f"{path}: this file system has no locks ({error.strerror}); put the state on one that has"
        raise WriteError(text) from None
    return True


def _lies_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
