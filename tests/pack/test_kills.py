"""kill -9 of a pack: run again, every cell has the bits of a pack that nothing disturbed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from dm2core.config import Config, cell_config, load_config
from dm2core.errors import Dm2Error
from dm2core.pack.train import Member, train_pack
from dm2core.records.checkpoint import NAMES
from tests.shell.conftest import ROOT, outputs
from tests.shell.test_resume import wait

SEEDS = (1, 2, 3)  # they reach their budget in different iterations
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def pack_config() -> Config:
    """In single precision, where what else is in a round shows in the bits."""
    tiny = {
        "scale": "smoke",
        "budget": {"env_steps": 600, "eval_every": 400, "eval_episodes": 1},
        "maps": {"3m": {"episodes_per_update": 4, "ppo_epochs": 2}},
    }
    return load_config(ROOT / "config" / "config.yaml", tiny)


def members(config: Config, folder: Path) -> list[Member]:
    cells = [cell_config(config, map_name="3m", method="ippo", seed=seed, packed=True) for seed in SEEDS]
    return [Member(cell, folder / f"out{cell.seed}", folder / f"state{cell.seed}", None) for cell in cells]


def start_pack(config: Config, folder: Path, die_at: str = "") -> int:
    """Train in a forked child; returns its pid."""
    pid = os.fork()
    if pid == 0:
        os.environ["DM2_CRASH_AT"] = die_at
        try:
            train_pack(members(config, folder), CPU)
            os._exit(0)
        except Dm2Error as error:
            os._exit(error.exit_code)
        except BaseException:
            os._exit(99)
    return pid


def made(config: Config, folder: Path) -> list[dict[str, str]]:
    """Hashes of the results; nothing else is left."""
    listed = members(config, folder)
    assert not any(member.state.exists() for member in listed)
    return [outputs(member.out) for member in listed]


def test_a_pack_killed_between_its_cells_makes_the_same_rounds_again(
    pack_config: Config, tmp_path: Path
) -> None:
    assert wait(start_pack(pack_config, tmp_path / "clean")) == 0
    for point in (
        "log-appended::2",  # one cell has its first checkpoint, the others have none
        "checkpoint-saved::4",  # one cell is an iteration ahead
        f"write-kept:{NAMES[0]}:2",  # and one has its newest checkpoint under the second name alone
        "manifest-written::1",
    ):
        assert wait(start_pack(pack_config, tmp_path / "killed", point)) == -signal.SIGKILL
    assert wait(start_pack(pack_config, tmp_path / "killed")) == 0
    assert made(pack_config, tmp_path / "killed") == made(pack_config, tmp_path / "clean")
