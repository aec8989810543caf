"""`snakemake --profile slurm` on a real Slurm: jobs that are cancelled and a main process that is killed change no bit.

The short list, for continuous integration. tests/slurm/test_drills.py has the long one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import ROOT, Cluster, slurm
from tests.slurm.daemons import LINKS, MARK, missing, processes
from tests.slurm.workflow import Clone

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]
CONFIG = """\
scale: smoke
results: results/smoke
seeds: [1, 2, 3]
budget: {env_steps: 30_000, eval_every: 15_000}
figures:
  core: [{map: 3m, curves: {ippo: ""}}]
"""
PACK = """\
scale: smoke
results: results/smoke
seeds: [1, 2, 3]
figures:
  core: [{map: 3m, curves: {ippo: ""}}]
packs: {cells: 3, device: cuda, threads: 2}
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with slurm() as cluster:
        yield cluster


def test_cells_end_once_with_the_same_bits_when_a_job_and_the_main_process_are_killed(
    cluster: Cluster, tmp_path: Path
) -> None:
    alone = Clone(tmp_path / "alone", cluster, CONFIG)
    assert alone.snakemake("figures/core.csv", "--cores", "2").wait(300) == 0, alone.said()
    there = Clone(tmp_path / "there", cluster, CONFIG, of=alone.folder)
    main = there.on_slurm("figures/core.csv")
    hit: dict[str, str] = {}
    try:
        living, left = there.next_cell(hit)
        with there.held(left):  # until it has met a second job
            hit[left] = "its main process killed"
            first, cancelled = there.next_cell(hit)
            cluster.call("scancel", first)
            again = there.next_job(first)
            main.kill()
            main.wait()
            there.unlock()
            main = there.on_slurm("figures/core.csv")
            cluster.wait(lambda: "waiting for process" in there.log_of(left), 90, "the second job")
        assert main.wait(240) == 0, there.said()
    finally:
        main.kill()
    assert there.hashes() == alone.hashes() and len(there.hashes()) == 3
    csv = Path("figures") / "core.csv"
    assert (there.folder / csv).read_bytes() == (alone.folder / csv).read_bytes()
    assert not list((there.results / "state").glob("**/lock")), "no cell has state left"
    jobs = cluster.jobs()
    assert jobs[first]["state"] == "CANCELLED"
    assert (jobs[first]["memory"], jobs[first]["limit"]) == ("3000M", "31:00")
    assert (jobs[again]["memory"], jobs[again]["limit"]) == ("6000M", "1:02:00"), "asked for with the attempt"
    assert there.attempts(cancelled)[0] == first and len(there.attempts(cancelled)) >= 2
    assert there.attempts(left) == [living], "the second job only waited"


def test_a_pack_asks_for_a_gpu_and_one_interrupt_empties_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    clone = Clone(tmp_path / "pack", cluster, PACK)
    clone.copy_site_example()
    busy = cluster.call(
        "sbatch", "--parsable", "--gpus=1", "--output=/dev/null", "--wrap", "sleep 600"
    ).strip()
    main = clone.on_slurm("figures/core.csv")
    try:

        def pending() -> list[str]:
            return [name for name, job in cluster.jobs().items() if "train_pack" in job["comment"]]

        cluster.wait(pending, 60, f"the pack's job: {clone.said()}")
        (pack,) = pending()
        asked = cluster.details(pack)
        assert asked["JobState"] == "PENDING" and "gres:gpu:1" in asked["TresPerJob"]
        assert asked["CPUs/Task"] == "2" and asked["Requeue"] == "1"
        assert cluster.jobs()[pack]["memory"] == "4300M", "by the number of its cells: three"
        assert asked["Partition"] == "gpu", "the example's partitions, by what a job needs"
        main.send_signal(signal.SIGINT)
        assert main.wait(60) == 1
        assert cluster.jobs()[pack]["state"] == "CANCELLED"
    finally:
        main.kill()
        cluster.call("scancel", busy)


def test_daemons_do_not_outlive_a_killed_test() -> None:
    code = "from tests.slurm.cluster import start_keeper; start_keeper()[1].call('sbatch', '--wrap', 'sleep 99');"
    code += "import os; os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    end = time.monotonic() + 30
    while time.monotonic() < end and (list(processes(MARK.encode())) or LINKS[0].is_symlink()):
        time.sleep(0.2)
    assert not list(processes(MARK.encode())), "no daemon and no job is left"
    assert not any(link.is_symlink() for link in LINKS)
