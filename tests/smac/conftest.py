"""The stand-in installed as the game, for tests that need pysc2 (and smac)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smac.tree import game_pids, make_tree


def has(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


needs_pysc2 = pytest.mark.skipif(
    not has("pysc2", "websockets"), reason="pysc2 is not installed here; make test-smac has it"
)
needs_smac = pytest.mark.skipif(
    not has("pysc2", "websockets", "smac"),
    reason="smac is not installed here; make test-smac says how to get it",
)
others_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pysc2's and smac's own


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """SC2PATH with the stand-in; whatever was started from it is stopped in the end."""
    folder = make_tree(tmp_path / "StarCraft II")  # a path with a space
    monkeypatch.setenv("SC2PATH", str(folder))
    yield folder
    from dm2core.env.smac.vector import close_games

    close_games()
    assert game_pids(folder)
