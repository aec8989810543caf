"""The end of a cell's state folder, in an order that leaves nothing misleading when the process dies half-way."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from dm2core.records.checkpoint import NAMES
from dm2core.records.crash import reach
from dm2core.records.files import write_error


def remove_state(folder: Path) -> None:
    """Remove what a finished cell does not need any more; only for whoever holds its lock.

    The checkpoints go first, the older one before the newer: a checkpoint without the log that it counts on would be
    taken for damage. The lock goes last, and with it the folder, unless somebody has made a lock there meanwhile.
    """
    try:
        for name in reversed(NAMES):
            (folder / name).unlink(missing_ok=True)
        reach("checkpoints-removed")
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink(missing_ok=True)
        (folder / "lock").unlink(missing_ok=True)
    except OSError as error:
        raise write_error(folder, 0, error) from None
    with suppress(OSError):
        folder.rmdir()


def left_over(folder: Path) -> bool:
    """Whether a process before this one, which holds the lock, left anything here."""
    return any(path.name != "lock" for path in folder.iterdir())
