"""The end of cells that are started again and again and never get anywhere."""

from __future__ import annotations

from pathlib import Path

from dm2core.errors import ServiceError
from dm2core.records.files import write_atomic

MOST = 20  # starts without a saved iteration in between


def note_start(folder: Path) -> None:
    """Count this start in the state folder, beside the checkpoint.

    ServiceError once MOST starts in a row have saved nothing: a scheduler that submits a cell again whenever it dies,
    of too little memory or time, would do so for ever.
    """
    count = _starts(folder)
    if count >= MOST:
        raise ServiceError(
            f"{folder}: started {count} times and died each time before another iteration was saved; look at its log, "
            f"give it more memory or time, then delete {_counter(folder)} and run again"
        )
    write_atomic(_counter(folder), f"{count + 1}\n".encode())


def note_progress(folder: Path) -> None:
    """An iteration was saved: the count starts anew."""
    _counter(folder).unlink(missing_ok=True)


def _counter(folder: Path) -> Path:
    return folder / "starts_without_progress"


def _starts(folder: Path) -> int:
    try:
        return max(0, int(_counter(folder).read_text()))
    except (OSError, ValueError):
        return 0
