"""A cell's state folder: what may lie in it, and its end, in an order that leaves nothing misleading if the process
dies half-way.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from dm2core.records.checkpoint import NAMES
from dm2core.records.crash import reach
from dm2core.records.files import write_error
from dm2core.strict import ConfigError

# All that a cell and its process ever leave there; .nfs* is what a file system keeps of a file that is still open.
_OWN = re.compile(
    r"lock|checkpoint(\.previous)?|metrics\.jsonl|attempts\.json|progress\.(json|part)|failure\.json"
    r"|starts_without_progress|policy\d{10}|\..+\.tmp|\.nfs.*"
)


def require_own(folder: Path, out: Path) -> None:
    """ConfigError unless `folder`, which goes when the cell is finished, can be the state of a cell in `out`."""
    if folder.resolve() == out.resolve():
        raise ConfigError(f"state folder {folder}: is the folder of the results; give another")
    others = sorted(p.name for p in folder.iterdir() if not _OWN.fullmatch(p.name)) if folder.is_dir() else []
    if others:
        raise ConfigError(
            f"state folder {folder}: holds {others[0]}, which is no cell's state; give a folder of its own"
        )


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
            if path.name != "lock" and _OWN.fullmatch(path.name):
                path.unlink(missing_ok=True)
        (folder / "lock").unlink(missing_ok=True)
    except OSError as error:
        raise write_error(folder, 0, error) from None
    with suppress(OSError):
        folder.rmdir()


def scheduler_is_gone() -> bool:
    """Whether the Snakemake that started this process was killed.

    The next one takes the results for half-made and deletes them: a state that is still there makes them again in a
    second.
    """
    pid = os.environ.get("DM2_SCHEDULER", "")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, OSError):
        return False
    return False


def left_over(folder: Path) -> bool:
    """Whether a process before this one, which holds the lock, left anything here."""
    return any(path.name != "lock" for path in folder.iterdir())
