"""The simulator's page is written without training; calibration trains IPPO cells and nothing else."""

from __future__ import annotations

from pathlib import Path

from .conftest import ROOT, SMOKE, snakemake

PAPER = ("--configfile", str(ROOT / "config" / "scale" / "paper.yaml"))


def test_the_page_never_starts_training(tmp_path: Path) -> None:
    outcome = snakemake(tmp_path, "-n", "docs/simulator.md", *PAPER)
    assert outcome.plan == {"measure_simulator": 1, "write_simulator_doc": 1}, outcome.text


def test_one_map_is_calibrated_by_its_ippo_cells_beside_the_committed_tables(tmp_path: Path) -> None:
    outcome = snakemake(tmp_path, "-n", "results/reference/simulator/ippo_3s_vs_3z.csv", *PAPER)
    assert outcome.plan == {"train_cell": 5, "calibrate_ippo": 1}, outcome.text
    assert all(cell.startswith("3s_vs_3z/ippo/none/") for cell in outcome.cells)


def test_other_scales_leave_the_committed_tables_alone(tmp_path: Path) -> None:
    outcome = snakemake(tmp_path, "-n", "calibration", *SMOKE)
    assert outcome.plan == {"train_cell": 1, "calibrate_ippo": 1, "calibration": 1}, outcome.text
    assert "results/smoke/simulator/ippo_3m.csv" in outcome.text and "results/reference" not in outcome.text
