"""`snakemake --profile slurm` on a real Slurm: what happens to jobs, to the node and to Snakemake changes no bit.

One run, disturbed: a job cancelled, one requeued (what a preemption does), the node's daemon killed and started again,
Snakemake itself killed while its jobs live, and called again. The table it prints is the one in docs/slurm.md.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]
ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "Snakefile",
    "workflow",
    "config",
    "slurm",
    "profiles",
    "claims",
    "resources",
    "dm2core",
    "docs",
    "environment.yml",
)
CONFIG = """\
scale: smoke
results: results/smoke
seeds: [1, 2, 3]
budget: {env_steps: 40_000, expert_env_steps: 2_000, eval_every: 20_000}
figures:
  gail_only: [{map: 3m, curves: {ippo: "", gail_only@ippo-q50_joint-concurrent: ""}}]
"""
FIGURE = "figures/gail_only.pdf"
QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--jobs", "3", "--latency-wait", "10")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def clone(folder: Path) -> Path:
    """What a fresh clone holds, and a configuration whose cells last long enough to be hit."""
    folder.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "small.yaml").write_text(CONFIG)
    return folder


def snakemake(folder: Path, cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "snakemake", *arguments, "--configfile", "small.yaml", "--", FIGURE]
    environment = {**cluster.environment, "PYTHONPATH": str(folder)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    log = open(folder / "snakemake.log", "a")  # noqa: SIM115
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, text=True)


def hashes(folder: Path) -> dict[str, dict[str, str]]:
    """Every cell's outputs by SHA-256."""
    root = folder / "results" / "smoke" / "cells"
    return {
        path.parent.relative_to(root).as_posix(): json.loads(path.read_text())["outputs"]
        for path in sorted(root.glob("**/manifest.json"))
    }


def running_cells(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Slurm job -> cell, of cells that have a checkpoint to go on from."""
    out = {}
    for path in sorted((folder / "results" / "smoke" / "state" / "cells").glob("**/attempts.json")):
        if (path.parent / "checkpoint").exists():
            out[str(json.loads(path.read_text())[-1].get("slurm_job_id"))] = "/".join(path.parts[-5:-1])
    alive = {job["id"] for job in cluster.jobs() if job["state"] == "RUNNING"}
    return {job: cell for job, cell in out.items() if job in alive}


def next_cell(cluster: Cluster, folder: Path, hit: dict[str, str]) -> tuple[str, str]:
    """A running job whose cell was not hit yet."""
    found: list[tuple[str, str]] = []

    def ready() -> bool:
        found[:] = [(job, cell) for job, cell in running_cells(cluster, folder).items() if cell not in hit]
        return bool(found)

    cluster.wait(
        ready, 240, f"a running cell that was not hit; log: {(folder / 'snakemake.log').read_text()[-1500:]}"
    )
    return found[0]


def test_every_cell_ends_once_with_the_same_bits_whatever_happens(cluster: Cluster, tmp_path: Path) -> None:
    alone = clone(tmp_path / "alone")
    assert snakemake(alone, cluster, "--cores", "2").wait(600) == 0
    there = clone(tmp_path / "there")
    main = snakemake(there, cluster, "--profile", "slurm", *QUICK)
    hit: dict[str, str] = {}
    try:
        job, cell = next_cell(cluster, there, hit)
        cluster.call("scancel", job)
        hit[cell] = "scancel"
        job, cell = next_cell(cluster, there, hit)
        cluster.call("scontrol", "requeue", job)
        hit[cell] = "requeued, as a preemption does"
        job, cell = next_cell(cluster, there, hit)
        cluster.kill_node()
        time.sleep(3)
        cluster.start_node()
        hit[cell] = "slurmd killed, back after 3 s"
        job, cell = next_cell(cluster, there, hit)
        main.send_signal(signal.SIGKILL)
        main.wait()
        hit[cell] = "Snakemake killed, called again while the job runs"
        unlock = [sys.executable, "-m", "snakemake", "--unlock", "--configfile", "small.yaml"]
        subprocess.run(unlock, cwd=there, env={**cluster.environment, "PYTHONPATH": str(there)}, check=True,
                       capture_output=True)  # fmt: skip
        main = snakemake(there, cluster, "--profile", "slurm", *QUICK)
        assert main.wait(600) == 0, (there / "snakemake.log").read_text()[-3000:]
    finally:
        main.kill()
    assert (there / FIGURE).is_file()
    assert hashes(there) == hashes(alone)
    assert len(hashes(there)) == 6
    root = there / "results" / "smoke"
    assert not list((root / "state").glob("**/lock")), "no cell has state left"
    states = {job["id"]: job["state"] for job in cluster.jobs()}
    print("\n| what was done | cell | attempts (Slurm job: its state) |\n|---|---|---|")
    for cell, what in hit.items():
        attempts = json.loads((root / "cells" / cell / "manifest.json").read_text())["attempts"]
        ran = ", ".join(f"{a['slurm_job_id']}: {states.get(a['slurm_job_id'], 'gone')}" for a in attempts)
        print(f"| {what} | {cell} | {ran} |")
        assert len(attempts) >= (2 if what.startswith(("scancel", "requeued")) else 1)
