"""A cell's starts: its history for the manifest, and the end of those that never get anywhere."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from dm2core.checkpoint import write_atomic
from dm2core.errors import ServiceError

MOST = 20  # starts without a saved iteration in between


def note_attempt(folder: Path, code: str) -> list[dict[str, Any]]:
    """Add this start to the cell's history and return all of it.

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
    path = folder / "attempts.json"
    try:
        attempts = list(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        attempts = []
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    attempts.append({"started": now, "host": socket.gethostname(), "dm2core_sha256": code})
    for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        if key in os.environ:
            attempts[-1][key.lower()] = os.environ[key]
    write_atomic(path, json.dumps(attempts).encode())
    return attempts


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
