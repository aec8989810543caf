"""What a policy did in the simulator or in the real game, as a file: `dm2 evaluate --env`.

A file in results/transfer holds the result, where the policy was trained and where it was played; its manifest beside
it hashes the policy and the file, so that `dm2 verify` finds edits.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dm2core.env.smac.vector import game_info
from dm2core.records import provenance
from dm2core.records.files import write_atomic
from dm2core.records.manifest import Job
from dm2core.records.numerics import numerics_key

FOLDER = Path("results/transfer")


class Record:
    """One evaluation; made before it, because inputs are hashed before they are used."""

    def __init__(
        self, policy: Path, map_name: str, env: str, how: dict[str, Any], out: Path | None = None
    ) -> None:
        """DataError if `policy`, a policy.safetensors, cannot be read. It is going to be played in `env`, `how`.

        `path` is where the result will be: `out`, or a name of its own in `FOLDER`.
        """
        self.policy, self.map_name, self.env = policy, map_name, env
        self.played = {"env": env, "map": map_name, **how}
        config_sha256 = hashlib.sha256(json.dumps(self.played, sort_keys=True).encode()).hexdigest()
        self._job = Job("transfer", config_sha256, [policy])
        self.sha256 = self._job.inputs[policy.absolute()]
        self._code = provenance.code_version()
        self.path = FOLDER / f"{self.map_name}-{self.sha256[:12]}-{self.env}.json" if out is None else out
        self.manifest = self.path.with_suffix(".manifest.json")

    def finish(self, compute: str, result: dict[str, float]) -> Path:
        """Write the result and its manifest; the path of the result. `compute`: what evaluated the policy."""
        cell = _trained(self.policy)
        report = {
            "schema_version": 1,
            "policy": {"sha256": self.sha256, "file": self.policy.as_posix(), **cell},
            "played": self.played,
            "compute": compute,
            "result": result,
            "game": game_info(),
            "code": self._code,
            "packages": provenance.package_versions(),
            "numerics": numerics_key(),
        }
        data = (json.dumps(report, indent=2) + "\n").encode()
        write_atomic(self.path, data)
        self._job.finish(self.manifest, [self.path])
        return self.path


def _trained(policy: Path) -> dict[str, Any]:
    """What the cell beside a policy says about itself; {} if it has none."""
    try:
        manifest = json.loads((policy.parent / "manifest.json").read_text())
        cell = manifest["config"]
        said = {key: cell[key] for key in ("env", "map_name", "method", "demos", "seed")}
        return {**said, "digest": manifest["digest"], "env_steps": manifest["env_steps"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
