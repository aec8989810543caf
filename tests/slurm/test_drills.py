"""Everything that can happen to jobs on a cluster: each cell still ends once, with the bits it has on one machine.

`make drills-slurm`; what was done and what happened goes to results/drills/slurm.md, and from there to docs/slurm.md.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.slurm.cluster import ROOT, Cluster, slurm
from tests.slurm.daemons import missing
from tests.slurm.workflow import Clone

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
SMOKE = (ROOT / "config" / "scale" / "smoke.yaml").read_text()
LONGER = """\
scale: smoke
results: results/smoke
seeds: [1, 2, 3, 4]
budget: {env_steps: 40_000, expert_env_steps: 3_000, eval_every: 20_000}
figures:
  core: [{map: 3m, curves: {ippo: "", dm2@ippo-q50_joint-concurrent: ""}}]
"""


class Notes:
    """The table: what was done, what happened, and after how many seconds."""

    def __init__(self, name: str) -> None:
        self.path, self.start = ROOT / "results" / "drills" / f"{name}.md", time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("| at | done | happened |\n|---|---|---|\n")

    def add(self, at: float, done: str, happened: str) -> None:
        row = f"| {at - self.start:.0f} s | {done} | {happened} |"
        print(row, flush=True)
        with open(self.path, "a") as table:
            table.write(row + "\n")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with slurm() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The longer cells on one machine, undisturbed."""
    folder = tmp_path_factory.mktemp("alone") / "clone"
    clone = Clone(folder, Cluster(folder), LONGER)
    assert clone.snakemake("figures/core.csv", "--cores", "2").wait(900) == 0, clone.said()
    return clone


def restarts(cluster: Cluster, jobs: set[str]) -> dict[str, int]:
    """How often Slurm itself put each job back into the queue."""
    return {job: int(cluster.details(job)["Restarts"]) for job in jobs}


def run_again(clone: Clone, before: dict[str, int]) -> None:
    """Wait until Slurm has put all these jobs back and runs them, or they ran."""
    cluster = clone.cluster

    def again() -> bool:
        states = {job: cluster.jobs()[job]["state"] for job in before}
        now = restarts(cluster, set(before))
        back = {job for job in before if now[job] > before[job]}
        ended = {job for job in before if states[job] == "COMPLETED"}  # a moment before the blow
        return bool(back) and back | ended == set(before) and set(states.values()) <= {"RUNNING", "COMPLETED"}

    cluster.wait(again, 180, f"{listed(before)} to run again: {clone.said()}")


def running_cells(clone: Clone) -> dict[str, str]:
    """Two running cells or more by job, each with a checkpoint."""
    clone.cluster.wait(lambda: len(clone.running_cells()) >= 2, 180, f"two cells: {clone.said()}")
    return clone.running_cells()


def listed(jobs: Collection[str]) -> str:
    return f"job{'s' if len(jobs) > 1 else ''} {', '.join(sorted(jobs, key=int))}"


def since(at: float) -> str:
    return f"{time.monotonic() - at:.0f} s"


def check_end(there: Clone, alone: Clone, notes: Notes) -> None:
    """Every cell ended once, with the same bits; the figure's table is the same."""
    ended = there.manifests()
    attempts = sum(len(there.attempts(cell)) for cell in ended)
    jobs = len(there.cluster.jobs())
    notes.add(
        time.monotonic(), "nothing more", f"{len(ended)} cells ended in {attempts} attempts, {jobs} jobs"
    )
    assert there.hashes() == alone.hashes() and len(ended) == 8
    csv = Path("figures") / "core.csv"
    assert (there.folder / csv).read_bytes() == (alone.folder / csv).read_bytes()
    assert not list((there.results / "state").glob("**/lock")), "no cell has state left"


def test_smoke_scale_as_typed_from_nothing_to_the_figure(cluster: Cluster, tmp_path: Path) -> None:
    notes = Notes("slurm-smoke")
    alone = Clone(tmp_path / "alone", cluster, SMOKE)
    assert alone.snakemake("figures/demo_ablation.pdf", "--cores", "2").wait(600) == 0, alone.said()
    there = Clone(tmp_path / "there", cluster, SMOKE, of=alone.folder)
    at = notes.start = time.monotonic()
    main = there.snakemake("figures/demo_ablation.pdf", "--profile", "slurm")
    try:
        assert main.wait(900) == 0, there.said()
    finally:
        main.kill()
    jobs = cluster.jobs()
    demos = [job for job in jobs.values() if "small" in job["comment"]]
    text = f"{len(there.hashes())} cells in {len(jobs)} jobs, {since(at)}; four demonstration sets in {len(demos)} job"
    notes.add(
        at, "`snakemake --profile slurm`", f"{text} of {demos[0]['cpus']} CPUs and {demos[0]['memory']}"
    )
    assert {job["state"] for job in jobs.values()} == {"COMPLETED"}
    assert len(demos) == 1 and len(jobs) == 3 + 1 + len(there.hashes()), "experts, demonstrations, cells"
    assert there.hashes() == alone.hashes() and len(there.hashes()) == 10
    for name in ("demo_ablation.csv", "demo_ablation.pdf"):
        same = [(clone.folder / "figures" / name).read_bytes() for clone in (alone, there)]
        assert same[0] == same[1], name


def test_jobs_cancelled_timed_out_preempted_and_orphaned(
    cluster: Cluster, tmp_path: Path, alone: Clone
) -> None:
    there = Clone(tmp_path / "there", cluster, LONGER, of=alone.folder, partition="spot")
    notes, hit = Notes("slurm-jobs"), dict[str, str]()
    main = there.on_slurm("figures/core.csv")

    def sent(job: str) -> str:
        row = cluster.jobs()[job]
        return f"Snakemake sent job {job} with {row['memory']} and {row['limit']}, {since(at)} later"

    try:
        job, cell = there.next_cell(hit)
        at, hit[cell] = time.monotonic(), job
        cluster.call("scancel", job)
        again = there.next_job(job)
        assert cluster.jobs()[job]["state"] == "CANCELLED"
        notes.add(at, f"`scancel` of job {job}", sent(again))

        before = restarts(cluster, set(running_cells(there)))
        at = time.monotonic()
        wanted = ["--parsable", "-p", "urgent", "-c", "3", "--output=/dev/null", "--wrap"]
        first = cluster.call("sbatch", *wanted, "sleep 5").strip()
        cluster.wait(lambda: cluster.jobs()[first]["state"] == "COMPLETED", 60, "the urgent job")
        now = restarts(cluster, set(before))
        victims = {job: before[job] for job in before if now[job] > before[job]}
        assert victims
        run_again(there, victims)
        text = f"{listed(victims)} stopped and back in the queue, running again {since(at)} later"
        notes.add(at, f"preempted: urgent job {first} wants 3 of 4 CPUs for 5 s", text)

        job, cell = there.next_cell(hit)
        at, hit[cell] = time.monotonic(), job
        with there.held(cell):  # a cell that stands still: a file system that hangs
            cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=1")
            cluster.wait(lambda: cluster.jobs()[job]["state"] == "TIMEOUT", 200, f"the limit of job {job}")
        again = there.next_job(job)
        notes.add(at, f"job {job} past its time limit of a minute", sent(again))

        job, cell = there.next_cell({})  # the last one at the latest
        at = time.monotonic()
        with there.held(cell):
            main.kill()
            main.wait()
            there.unlock()
            main = there.on_slurm("figures/core.csv", "--ignore-incomplete")
            cluster.wait(lambda: "waiting for process" in there.log_of(cell), 120, "the second job")
            second = max(there.jobs_of(job), key=int)
            text = (
                f"job {second} for the cell of job {job} after {since(at)}: it waits for it and ends with it"
            )
        notes.add(at, "`kill -9` of Snakemake; run again while its jobs live", text)
        assert main.wait(600) == 0, there.said()
    finally:
        main.kill()
    check_end(there, alone, notes)
    assert second not in there.attempts(cell), "the second job only waited"
    for cell, job in hit.items():  # also a cell that ended while no Snakemake ran is not trained again
        assert there.attempts(cell)[0] == job and len(there.attempts(cell)) >= 2


def test_a_node_whose_daemon_dies_is_given_up_or_loses_power(
    cluster: Cluster, tmp_path: Path, alone: Clone
) -> None:
    there = Clone(tmp_path / "there", cluster, LONGER, of=alone.folder)
    notes = Notes("slurm-node")
    main = there.on_slurm("figures/core.csv")
    try:
        before = restarts(cluster, set(running_cells(there)))
        at = time.monotonic()
        cluster.kill_slurmd()
        time.sleep(3)
        cluster.start_slurmd()
        assert restarts(cluster, set(before)) == before
        assert {cluster.jobs()[job]["state"] for job in before} <= {"RUNNING", "COMPLETING", "COMPLETED"}
        notes.add(at, "`kill -9` of the node's daemon, back after 3 s", f"{listed(before)} went on")

        with ExitStack() as stack:
            cells = running_cells(there)
            for cell in cells.values():
                stack.enter_context(there.held(cell))
            before = restarts(cluster, set(cells))
            at = time.monotonic()
            cluster.kill_slurmd()
            cluster.wait(lambda: cluster.node().startswith("down"), 60, "the node to be given up")
            down = since(at)
            cluster.start_slurmd()
        run_again(there, before)
        text = f"node down after {down}, {listed(before)} back in the queue, running again {since(at)} later"
        notes.add(at, "`kill -9` of the daemon, back when the node is given up", text)

        before = restarts(cluster, set(running_cells(there)))
        at = time.monotonic()
        cluster.kill_node()
        time.sleep(3)
        cluster.start_slurmd()
        run_again(there, before)
        text = f"{listed(before)} back in the queue, running again {since(at)} later"
        notes.add(at, "power cut: daemon and jobs killed, back after 3 s", text)
        assert main.wait(600) == 0, there.said()
    finally:
        main.kill()
    check_end(there, alone, notes)
