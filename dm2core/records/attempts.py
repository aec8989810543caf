"""The attempts a cell took: one process each, kept in its state folder and then in its manifest."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from dm2core.records import provenance
from dm2core.records.files import write_atomic
from dm2core.records.manifest import now
from dm2core.records.numerics import numerics_key
from dm2core.records.progress import read_progress


class Attempts:
    """All attempts so far, this one last; what an earlier one spent is what it had last reported."""

    def __init__(self, folder: Path, code: dict[str, str], device: str = "cpu", form: str = "") -> None:
        """Begin one and write it down; `device` and `form` as for `numerics_key`."""
        self._start, self._path = time.monotonic(), folder / "attempts.json"
        try:
            self.all: list[dict[str, Any]] = list(json.loads(self._path.read_text()))
        except (OSError, ValueError):
            self.all = []
        last = read_progress(folder)
        if self.all and last is not None:
            self.all[-1] |= {key: last[key] for key in ("wall_s", "cpu_s") if key in last}
        self.all.append(
            {
                "started": now(),
                "host": provenance.host_class(),
                "numerics": numerics_key(device, form),
                "dm2core_sha256": code["dm2core_sha256"],
            }
        )
        for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
            if key in os.environ:
                self.all[-1][key.lower()] = os.environ[key]
        write_atomic(self._path, json.dumps(self.all).encode())

    def end(self) -> dict[str, Any]:
        """Close this one; what a manifest says of them all."""
        wall_s = round(time.monotonic() - self._start, 3)
        effort = provenance.effort()
        self.all[-1] |= {"wall_s": wall_s, "cpu_s": effort["cpu_s"]}
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
