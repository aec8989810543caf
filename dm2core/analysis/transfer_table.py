"""Policies that played in the simulator and in StarCraft II (`dm2 evaluate --env`), side by side, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dm2core.analysis.simulator_page import table, wilson
from dm2core.env.smac.preflight import DATA_VERSION
from dm2core.errors import DataError

NOT_RUN = "not run: no StarCraft here"
NOT_PLAYED = "not run"
WHERE = {"embedded": "simulator", "smac": "StarCraft II"}


def transfers(folder: Path) -> str:
    """A row per policy of the results in `folder` (transfer.py), or NOT_RUN. DataError if one cannot be read."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".manifest.json"):
            continue
        try:
            result = json.loads(path.read_bytes())
            row, place, cell = _policy(result), result["played"]["env"], _rate(result)
            found.setdefault(row, {})[WHERE[place]] = cell
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"{path}: not a result of dm2 evaluate --env; remove it, or evaluate again"
            ) from None
    if not found:
        return f"{NOT_RUN}."
    missing = NOT_PLAYED if any("StarCraft II" in cells for cells in found.values()) else NOT_RUN
    rows = [
        [*row, cells.get("simulator", NOT_PLAYED), cells.get("StarCraft II", missing)]
        for row, cells in sorted(found.items())
    ]
    head = ["map", "policy", "SHA-256", "trained in", "actions", "in the simulator", "in StarCraft II"]
    return table(head, rows, right=len(head)).rstrip("\n")


def _policy(result: Mapping[str, Any]) -> tuple[str, ...]:
    policy, played = result["policy"], result["played"]
    parts = (
        policy.get("method"),
        policy.get("demos"),
        f"seed {policy['seed']}" if "seed" in policy else None,
    )
    name = ", ".join(str(part) for part in parts if part not in (None, "none"))
    trained = WHERE[policy["env"]] if "env" in policy else "unknown"
    actions = "likeliest" if played["greedy"] else "sampled"
    return (played["map"], name or "unknown", policy["sha256"][:12], trained, actions)


def _rate(result: Mapping[str, Any]) -> str:
    """Win rate, 95 % interval, battles; of the game also its version, and its data's if that is not 4.10.0's."""
    rate, count, game = float(result["result"]["win_rate"]), int(result["played"]["episodes"]), result["game"]
    low, high = wilson(rate, count)
    said = [f"{count} battles"]
    if result["played"]["env"] == "smac":
        said.append(str(game["game_version"]))
        if game["data_version"] != DATA_VERSION:
            said.append(f"data version {game['data_version']}, not that of 4.10.0")
    return f"{rate:.3f} [{low:.3f}, {high:.3f}] ({'; '.join(said)})"
