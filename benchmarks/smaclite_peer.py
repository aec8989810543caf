"""smaclite, measured in its own environment: `.venv-bench/bin/python benchmarks/smaclite_peer.py MAP CHECKOUT`.

Like smax.py: a number of battles per line (smaclite plays one at a time, so 1), one line of JSON each. smaclite ships
no marine maps; the marine maps here are its own map format with SMAC's units and starting places.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SECONDS = 1.0
UNITS = {"m": "MARINE", "s": "STALKER", "z": "ZEALOT"}


def map_file(map_name: str, folder: Path) -> Path:
    """A map such as 5m_vs_6m in smaclite's format."""
    allies, enemies = ([(int(n), UNITS[kind]) for n, kind in re.findall(r"(\d+)([a-z])", side)]
                       for side in map_name.split("_vs_"))  # fmt: skip
    if len(allies) > 1 or len(enemies) > 1:
        raise SystemExit(f"{map_name}: only maps with one unit type a side")
    sides = (("ALLY", 9, allies), ("ENEMY", 23, enemies))
    content = {
        "name": map_name,
        "num_allied_units": allies[0][0],
        "num_enemy_units": enemies[0][0],
        "groups": [
            {"x": x, "y": 16, "faction": side, "units": {kind: n for n, kind in units}}
            for side, x, units in sides
        ],
        "attack_point": [9, 16],
        "terrain_preset": "NARROW",
        "num_unit_types": 0,
        "ally_has_shields": allies[0][1] != "MARINE",
        "enemy_has_shields": enemies[0][1] != "MARINE",
    }
    path = folder / f"{map_name}.json"
    path.write_text(json.dumps(content))
    return path


def main(map_name: str, checkout: str) -> None:
    """Answer until the input ends."""
    sys.path.insert(0, checkout)
    import gymnasium
    import smaclite  # noqa: F401  registers its environments

    with tempfile.TemporaryDirectory() as folder:
        env = gymnasium.make("smaclite/custom-v0", map_file=str(map_file(map_name, Path(folder)))).unwrapped
    rng = np.random.default_rng(0)
    env.reset()
    for _ in sys.stdin:
        steps, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.process_time() - cpu < SECONDS:
            avail = env.get_avail_actions()
            _, _, done, truncated, _ = env.step([int(rng.choice(np.flatnonzero(row))) for row in avail])
            steps += 1
            if done or truncated:
                env.reset()
        took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        print(json.dumps({"env_steps": steps, **took}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
