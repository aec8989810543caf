"""Named points at which a drill kills the process, so that the worst moments are tested and not waited for.

DM2_CRASH_AT=POINT, POINT:FILE or POINT:FILE:N: at the N-th time (default the first) that POINT is reached for FILE
(default any) the process is gone as by kill -9. Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal

POINTS = {
    "write-half": "half of a new file's bytes are in its temporary file",
    "write-unsynced": "all of them are, perhaps not on the disk",
    "write-synced": "they are on the disk, not yet under the file's name",
    "write-kept": "the old file has its second name, the new one not yet its own",
    "write-renamed": "the new file has its name, perhaps not on the disk",
    "log-appended": "an iteration's metrics are on the disk, its checkpoint is not",
    "checkpoint-saved": "the checkpoint is, too",
    "results-written": "all results of a cell or a step are there, their manifest is not",
    "manifest-written": "the manifest is there, and so is the state of a cell that is not needed any more",
    "checkpoints-removed": "the checkpoints of a finished cell are gone, the rest of its state is not",
}

_reached = 0


def reach(point: str, file: str = "") -> None:
    """Die here if the drill says so."""
    wanted = os.environ.get("DM2_CRASH_AT")
    if wanted is None:
        return
    at, _, rest = wanted.partition(":")
    name, _, count = rest.partition(":")
    if at != point or name not in ("", file):
        return
    global _reached
    _reached += 1
    if _reached == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
