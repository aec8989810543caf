"""`dm2 train-pack`: cells of a pack end like single cells, with a stop in between or not; wrong use is one line."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from dm2core import cli
from dm2core.config import Config, cell_config, dump_config, load_config
from dm2core.errors import EXIT_USAGE, TryAgain
from dm2core.pack import train
from dm2core.pack.train import Member, train_pack
from dm2core.records.lock import cell_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config() -> Config:
    tiny = {
        "scale": "smoke",
        "dtype": "float64",
        "budget": {"env_steps": 700, "eval_every": 300, "eval_episodes": 2},
        "maps": {"3m": {"episodes_per_update": 8, "ppo_epochs": 2}},
    }
    return load_config(ROOT / "config" / "config.yaml", tiny)


def members(config: Config, folder: Path) -> list[Member]:
    cells = [cell_config(config, map_name="3m", method="ippo", seed=s, packed=True) for s in (1, 2)]
    return [Member(c, folder / f"out{c.seed}", folder / f"state{c.seed}", None) for c in cells]


def outputs(member: Member) -> dict[str, str]:
    return dict(json.loads((member.out / "manifest.json").read_text())["outputs"])


def test_a_stopped_pack_goes_on_to_the_same_bits(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, stopped = members(config, tmp_path / "a"), members(config, tmp_path / "b")
    train_pack(straight, torch.device("cpu"))
    iterate, calls = train.PackLearner.iterate, []

    def stop_at_the_third(self, poll):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 3:
            raise TryAgain("stopped")
        return iterate(self, poll)

    with monkeypatch.context() as patch:
        patch.setattr(train.PackLearner, "iterate", stop_at_the_third)
        with pytest.raises(TryAgain):
            train_pack(stopped, torch.device("cpu"))
    assert not (stopped[0].out / "manifest.json").exists()
    train_pack(stopped, torch.device("cpu"))
    for a, b in zip(straight, stopped, strict=True):
        assert outputs(a) == outputs(b)
        manifest = json.loads((a.out / "manifest.json").read_text())
        assert manifest["config"]["compute"] == "pack"
        assert manifest["digest"] == a.cell.digest()
        assert not a.state.exists() and not b.state.exists()


def test_under_a_scheduler_a_packs_second_job_waits_and_trains_what_is_left(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first job's cells are held until it ends; it has finished one of its two."""
    made, mine = members(config, tmp_path / "made"), members(config, tmp_path / "mine")
    train_pack(made, torch.device("cpu"))
    locks = ExitStack()
    for member in mine:
        locks.enter_context(cell_lock(member.state))

    def first_job_ends() -> None:
        shutil.copytree(made[0].out, mine[0].out)
        locks.close()

    monkeypatch.setenv("SLURM_JOB_ID", "4")
    end = threading.Timer(1.5, first_job_ends)
    end.start()
    train_pack(mine, torch.device("cpu"))
    end.join()
    assert "waiting for process" in capsys.readouterr().err
    manifest = "manifest.json"
    assert (mine[0].out / manifest).read_bytes() == (made[0].out / manifest).read_bytes(), "not trained again"
    assert (mine[1].out / manifest).exists()
    assert not any(member.state.exists() for member in mine)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("ippo:none:1:out", "expected METHOD:DEMOS:SEED:OUT:STATE"),
        ("ippo:none:x:out:state", "expected METHOD:DEMOS:SEED:OUT:STATE"),
        ("dm2:none:1:out:state", "learns from demonstrations"),
        ("dm2_sil:none:1:out:state", "dm2_sil is not trained in packs"),
        ("ipo:none:1:out:state", "unknown method 'ipo'"),
    ],
)
def test_a_wrong_cell_is_one_line(
    cell: str, message: str, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(config))
    command = [
        "train-pack",
        "--config",
        str(tmp_path / "c.yaml"),
        "--map",
        "3m",
        "--device",
        "cpu",
        "--cell",
        cell,
    ]
    assert cli.main(command) == EXIT_USAGE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
