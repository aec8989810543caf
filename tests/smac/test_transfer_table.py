"""The place of the transfer's results in the verdict, and what it says until there are any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dm2core.analysis.transfer_table import transfers
from dm2core.env.smac.preflight import DATA_VERSION
from dm2core.errors import DataError


def write(folder: Path, name: str, env: str, **changes: Any) -> None:
    trained = {"env": "embedded", "map_name": "3m", "method": "dm2", "demos": "x-q50", "seed": 7}
    game = {"game_version": "4.10.0.75689", "data_version": DATA_VERSION} if env == "smac" else {}
    result: dict[str, Any] = {
        "policy": {"sha256": "ab" * 32, "file": "policy.safetensors", **trained},
        "played": {"env": env, "map": "3m", "episodes": 32, "seed": 0, "greedy": True},
        "result": {"win_rate": 0.75},
        "game": game,
    }
    for key, value in changes.items():
        result[key] |= value
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result))
    (folder / f"{name}.manifest.json").write_text("{}")


def last_row(folder: Path) -> list[str]:
    return [cell.strip() for cell in transfers(folder).splitlines()[-1].strip("|").split("|")]


def test_without_the_game_it_says_not_run(tmp_path: Path) -> None:
    assert transfers(tmp_path / "none") == "not run: no StarCraft here."
    write(tmp_path, "a", "embedded")
    assert last_row(tmp_path)[-2:] == ["0.750 [0.579, 0.867] (32 battles)", "not run: no StarCraft here"]


def test_both_places_of_one_policy_are_one_row(tmp_path: Path) -> None:
    write(tmp_path, "a", "embedded")
    write(tmp_path, "b", "smac", result={"win_rate": 0.5})
    row = last_row(tmp_path)
    assert row[:5] == ["3m", "dm2, x-q50, seed 7", "abababababab", "simulator", "likeliest"]
    assert row[5].startswith("0.750") and row[6].startswith("0.500 [0.336, 0.664] (32 battles; 4.10.0.75689)")
    assert len(transfers(tmp_path).splitlines()) == 3


def test_what_was_not_played_in_the_game_of_4_10_0_is_marked(tmp_path: Path) -> None:
    write(tmp_path, "a", "smac", game={"data_version": "stand-in"})
    assert "data version stand-in, not that of 4.10.0" in last_row(tmp_path)[-1]
    assert last_row(tmp_path)[-2] == "not run"


def test_a_policy_without_a_cell_beside_it_still_has_its_row(tmp_path: Path) -> None:
    write(tmp_path, "a", "embedded")
    path = tmp_path / "a.json"
    result = json.loads(path.read_text())
    result["policy"] = {"sha256": "cd" * 32, "file": "elsewhere"}
    path.write_text(json.dumps(result))
    assert last_row(tmp_path)[1:4] == ["unknown", "cdcdcdcdcdcd", "unknown"]


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a", "embedded")
    (tmp_path / "a.json").write_text('{"policy": 3}')
    with pytest.raises(DataError, match=r"a\.json: not a result of dm2 evaluate"):
        transfers(tmp_path)
