"""A few finished cells as files, and a store whose tables exist: making them takes MLflow most of ten seconds."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from dm2core.config import Config, load_config
from dm2core.records.metrics import write_parquet
from dm2core.tracking.deliver import Store

ROOT = Path(__file__).parents[2]
CELLS = ("3m/ippo/none", "3m/dm2/ippo-q50_joint-concurrent")
SEEDS = (112358, 1285842)


def write_cell(results: Path, name: str, points: int) -> None:
    """A finished cell's files; what MLflow reads of a manifest is as train.py writes it."""
    folder = results / "cells" / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(i, 100 * i, "eval/win_rate", (i % 7) / 7) for i in range(points)]
    write_parquet(folder / "metrics.parquet", rows)
    (folder / "policy.safetensors").write_bytes(b"weights of " + name.encode())
    map_name, method, demos, seed = name.split("/")
    manifest = {
        "config": {"map_name": map_name, "method": method, "demos": demos, "seed": int(seed[4:]), "env": "embedded",
                   "eval_every": 100, "env_steps": 100 * (points - 1), "ppo": {"lr": 0.0005}, "qmix": None},
        "outputs": {"metrics.parquet": hashlib.sha256((folder / "metrics.parquet").read_bytes()).hexdigest()},
        "code": {"commit": "abc"},
        "attempts": [{"started": "2026-01-02T03:04:05Z", "host": "h", "slurm_job_id": "17"}],
        "last_attempt": {"wall_s": 60.0},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store without runs."""
    results = tmp_path_factory.mktemp("store")
    Store("", results)
    return results / "mlflow" / "mlflow.db"


@pytest.fixture
def tree(tmp_path: Path, empty_store: Path) -> Config:
    """A configuration whose results folder holds four finished cells of demo_ablation, 1,200 evaluations each."""
    config = load_config(
        ROOT / "config" / "config.yaml", {"scale": "smoke", "results": str(tmp_path / "results")}
    )
    for name in CELLS:
        for seed in SEEDS:
            write_cell(tmp_path / "results", f"{name}/seed{seed}", 1200)
    card = {"map": "3m", "demos_id": "ippo-q50_joint-concurrent", "win_rate": 0.5, "episodes_per_agent": 3,
            "obs_size": 30, "sha256": "5" * 64}  # fmt: skip
    folder = tmp_path / "results" / "demos" / "3m" / card["demos_id"]  # type: ignore[operator]
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps(card))
    target = tmp_path / "results" / "mlflow" / "mlflow.db"
    target.parent.mkdir()
    shutil.copy(empty_store, target)
    return config
