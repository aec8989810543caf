"""Tiny real cells: 3m, a second or two each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dm2core.config import CellConfig, Config, cell_config, load_config
from dm2core.demonstrations import load_demos
from dm2core.demos import make_demos
from dm2core.train import train_cell

ROOT = Path(__file__).parents[2]
IDS = [f"ippo-q50_{team}-{when}" for team in ("joint", "indep") for when in ("concurrent", "nonconcurrent")]


@pytest.fixture(scope="session")
def config() -> Config:
    tiny = {
        "scale": "smoke",
        "budget": {"env_steps": 3000, "expert_env_steps": 1000, "eval_every": 1000, "eval_episodes": 4},
        "demos": {"episodes": 12, "card_episodes": 8},
        "discriminator": {"steps": 2, "episodes_per_step": 4},
        "maps": {"3m": {"episodes_per_update": 8}},
    }
    return load_config(ROOT / "config" / "config.yaml", tiny)


@pytest.fixture(scope="session")
def experts(config: Config, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three finished expert runs."""
    root = tmp_path_factory.mktemp("experts")
    folders = []
    for seed in (1, 2, 3):
        cell = cell_config(config, map_name="3m", method="ippo", seed=seed, expert=True)
        folders.append(root / f"seed{seed}")
        train_cell(cell, folders[-1], root / f"state{seed}", None)
    return folders


@pytest.fixture(scope="session")
def demo_sets(
    config: Config, experts: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The four demonstration sets of those experts."""
    root = tmp_path_factory.mktemp("demos")
    for demos_id in IDS:
        make_demos(config, "3m", demos_id, experts, root / demos_id)
    return {demos_id: root / demos_id for demos_id in IDS}


@pytest.fixture(scope="session")
def cells(config: Config, demo_sets: dict[str, Path]) -> dict[str, tuple[CellConfig, Path | None]]:
    """An IPPO and a DM2 cell."""
    folder = demo_sets["ippo-q50_joint-concurrent"]
    demos = load_demos(folder)
    dm2 = cell_config(
        config, map_name="3m", method="dm2", seed=7, demos=demos.demos_id, demos_sha256=demos.sha256
    )
    return {"ippo": (cell_config(config, map_name="3m", method="ippo", seed=7), None), "dm2": (dm2, folder)}


@pytest.fixture(scope="session")
def undisturbed(
    cells: dict[str, tuple[CellConfig, Path | None]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Hashes of the IPPO cell's results when nothing disturbs it."""
    root = tmp_path_factory.mktemp("undisturbed")
    train_cell(cells["ippo"][0], root / "out", root / "state", None)
    return outputs(root / "out")


def outputs(folder: Path) -> dict[str, str]:
    """Hashes of a finished cell's results."""
    return dict(json.loads((folder / "manifest.json").read_text())["outputs"])
