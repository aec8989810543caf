"""The attempts a cell took: one process each, kept in its state folder and then in its manifest."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from dm2core.records import provenance
from dm2core.records.files import write_atomic
from dm2core.records.manifest import Attempt, now
from dm2core.records.numerics import numerics_key
from dm2core.records.progress import read_attempts, take_effort


class Attempts:
    """All attempts so far, this one last; what an earlier one spent is what it had last reported."""

    def __init__(
        self,
        folder: Path,
        digest: str,
        code: dict[str, str],
        device: str = "cpu",
        form: str = "",
        *,
        together: int = 1,
    ) -> None:
        """Begin one of the cell with this digest and write it down; `device` and `form` as for `numerics_key`.

        `together`: how many cells this process trains, a share of whose processor time is this one's.
        """
        self._start, self._together, path = time.monotonic(), together, folder / "attempts.json"
        self.all = _earlier(path, digest)
        if self.all:
            self.all[-1] |= take_effort(folder)
        self.all.append(
            {
                "started": now(),
                "host": provenance.host_class(),
                "numerics": numerics_key(device, form),
                **code,
            }
        )
        for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
            if key in os.environ:
                self.all[-1][key.lower()] = os.environ[key]
        write_atomic(path, json.dumps({"digest": digest, "attempts": self.all}).encode())

    def end(self) -> dict[str, Any]:
        """Close this one; what a manifest says of them all."""
        wall_s = round(time.monotonic() - self._start, 3)
        effort = provenance.effort()
        self.all[-1] |= {"wall_s": wall_s, "cpu_s": round(effort["cpu_s"] / self._together, 2)}
        total = {key: round(sum(one.get(key, 0.0) for one in self.all), 3) for key in ("wall_s", "cpu_s")}
        return {
            "attempts": self.all,
            "last_attempt": {"wall_s": wall_s},
            "started": self.all[0]["started"],
            "ended": now(),
            **total,
            "peak_memory_mb": effort["peak_memory_mb"],
            "host": self.all[-1]["host"],
            "numerics": self.all[-1]["numerics"],
        }


def _earlier(path: Path, digest: str) -> list[dict[str, Any]]:
    """The attempts so far; none of another configuration's state, nor of a file that is damaged."""
    try:
        whose, listed = read_attempts(path.parent)
        if whose not in ("", digest):
            return []
        return [Attempt.model_validate(one).model_dump(exclude_none=True) for one in listed]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        print(f"warning: {path} is damaged; earlier attempts will not be counted", file=sys.stderr)
        return []
