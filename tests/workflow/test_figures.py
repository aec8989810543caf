"""Every figure of the paper by name, through the real command line, and what its cells must agree on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from dm2core.config import FIGURES, load_config
from dm2core.methods import split_run

from .conftest import ROOT, SMOKE, snakemake

CONFIG = load_config(ROOT / "config" / "config.yaml", {"scale": "smoke"})


@pytest.fixture(scope="session")
def drawn(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All figures at the smoke scale, one seed, with the cells that figure demo_ablation has of them."""
    folder = tmp_path_factory.mktemp("figures")
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    targets = [f"figures/{name}.pdf" for name in FIGURES]
    cores = str(min(2, os.cpu_count() or 1))
    outcome = snakemake(folder, *targets, "--cores", cores, *SMOKE, "--config", "seeds=[112358]")
    assert outcome.code == 0, outcome.text[-6000:]
    assert outcome.plan["train_expert"] == 1 and outcome.plan["sample_demos"] == 4
    return folder


@pytest.mark.parametrize("name", FIGURES)
def test_figure_shows_every_configured_curve(name: str, drawn: Path) -> None:
    stem = drawn / "figures" / name
    assert stem.with_suffix(".pdf").stat().st_size > 5_000
    assert stem.with_suffix(".png").stat().st_size > 5_000
    data = pd.read_csv(stem.with_suffix(".csv"))
    for panel in CONFIG.figures[name]:
        there = data[data["map"] == panel.map]
        assert set(there["condition"]) == set(panel.curves)
        if name != "switchboard":
            shown = there.loc[there["series"] == "demonstrators", "condition"]
            assert set(shown) == {run for run in panel.curves if split_run(run)[1] != "none"}


def test_dm2_with_coefficient_zero_is_ippo_to_the_last_bit(drawn: Path) -> None:
    cells = drawn / "results" / "smoke" / "cells" / "3m"
    zero = cells / "dm2+imitation_coef=0" / "ippo-q50_joint-concurrent" / "seed112358"
    ippo = cells / "ippo" / "none" / "seed112358"
    ours, theirs = (load_file(folder / "policy.safetensors") for folder in (zero, ippo))
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs) and ours.keys() == theirs.keys()
    evaluations = []
    for folder in (zero, ippo):
        rows = pd.read_parquet(folder / "metrics.parquet")
        evaluations.append(rows[rows["key"].str.startswith("eval/")].reset_index(drop=True))
    pd.testing.assert_frame_equal(*evaluations)


def test_asking_again_does_nothing(drawn: Path) -> None:
    targets = [f"figures/{name}.pdf" for name in FIGURES]
    outcome = snakemake(drawn, "-n", *targets, *SMOKE, "--config", "seeds=[112358]")
    assert "Nothing to be done" in outcome.text


def test_cells_can_be_asked_for_by_figure(drawn: Path) -> None:
    chosen = ("only_figure=qmix_arch", "only_method=qmix_fc3")
    outcome = snakemake(
        drawn, "-n", "cells", "--forcerun", "train_cell", *SMOKE, "--config", "seeds=[112358]", *chosen
    )
    assert outcome.cells == {"3m/qmix_fc3/none/seed112358"}
