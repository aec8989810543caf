"""Random one-byte edits of a finished tree are all named: two real cells, a table of them and a figure of it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from dm2core.cli import main
from dm2core.config import cell_config, load_config
from dm2core.manifest import Job, hash_file, read_manifest
from dm2core.train import train_cell
from dm2core.verify import verify

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "config.yaml"


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    tiny = {
        "budget": {"env_steps": 1000, "eval_every": 1000, "eval_episodes": 2},
        "maps": {"3m": {"episodes_per_update": 8}},
    }
    config = load_config(CONFIG, {"scale": "smoke", **tiny})
    inputs = []
    for seed in (1, 2):
        folder = root / "cells" / f"seed{seed}"
        cell = cell_config(config, map_name="3m", method="ippo", seed=seed)
        train_cell(cell, folder, root.parent / f"state{seed}", None)
        inputs += [folder / "manifest.json", folder / "metrics.parquet"]
    shutil.copy(CONFIG, root / "config.yaml")
    for kind, name in (("table", "table.csv"), ("figure", "figure.csv")):
        job = Job(kind, hash_file(root / "config.yaml"), [root / "config.yaml", *inputs])
        (root / name).write_text("win_rate\n0.5\n")
        job.finish(root / f"{name}.manifest.json", [root / name])
        inputs = [root / name, root / f"{name}.manifest.json"]
    return root


def test_clean_tree(tree: Path) -> None:
    found = verify([tree])
    assert (found.damaged, found.downstream) == ({}, {})
    assert main(["verify", str(tree)]) == 0


def test_every_one_byte_edit_is_named(tree: Path) -> None:
    rng = random.Random(1)
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    for _ in range(500):
        path = rng.choice(files)
        good, stat = path.read_bytes(), path.stat()
        at = rng.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ rng.randrange(1, 256)]) + good[at + 1 :])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        found = verify([tree])
        path.write_bytes(good)
        assert path.resolve() in found.damaged, (path, at)


def test_downstream_of_a_cell(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tree / "cells" / "seed1" / "metrics.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        assert main(["verify", str(tree)]) == 65
        found = verify([tree])
    finally:
        path.write_bytes(good)
    assert {tree / "table.csv", tree / "figure.csv"} <= set(found.downstream)
    assert "metrics.parquet" in capsys.readouterr().out


def test_mixed_numerics_are_said_downstream(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    cell = copy / "cells" / "seed1" / "manifest.json"
    cell.write_text(cell.read_text().replace('"threads": "1"', '"threads": "2"'))
    cells = sorted((copy / "cells").glob("*/manifest.json"))
    Job("table", "", cells).finish(copy / "t.manifest.json", [])
    said = read_manifest(copy / "t.manifest.json").not_for_publication
    assert any("numerics" in reason for reason in said)


def test_copies_in_a_tracking_store_are_not_results(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(tree, copy)
    artifacts = copy / "mlflow" / "artifacts"
    artifacts.mkdir(parents=True)
    shutil.copy(tree / "cells" / "seed1" / "manifest.json", artifacts)
    assert verify([copy]).damaged == {}
