"""A test's view of the cluster that tests/slurm/daemons.py keeps: its commands, its jobs, and blows to its node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.slurm.daemons import MARK, environment_of, last_words, processes

ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """Up while the keeper's input is open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = environment_of(folder)

    def call(self, *command: str) -> str:
        """Standard output of one of Slurm's commands; RuntimeError if it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}{last_words(self.folder)}")
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """Every job that Slurm remembers, by id; `comment` names its rule and wildcards."""
        keys = ("id", "state", "comment", "reason", "memory", "limit", "cpus", "gpu")
        said = self.call("squeue", "-h", "--states=all", "-o", "%i|%T|%k|%r|%m|%l|%C|%b")
        rows = [dict(zip(keys, line.split("|"), strict=True)) for line in said.splitlines()]
        return {row["id"]: row for row in rows}

    def running(self) -> set[str]:
        return {name for name, job in self.jobs().items() if job["state"] == "RUNNING"}

    def details(self, job: str) -> dict[str, str]:
        """`scontrol show job`, key by key."""
        words = self.call("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def kill_slurmd(self) -> None:
        """kill -9 the node's daemon; its jobs go on."""
        os.kill(int((self.folder / "slurmd.pid").read_text()), signal.SIGKILL)

    def kill_node(self) -> None:
        """kill -9 the daemon and every process of every job, as a power cut does."""
        self.kill_slurmd()
        mine = b"%s=%s" % (MARK.encode(), os.fsencode(self.folder))
        pids = [*processes(mine, named="slurmstepd"), *processes(mine, b"SLURM_JOB_ID=")]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # all at once: nobody lives to report another's end
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def start_slurmd(self) -> None:
        self.call("slurmd")
        self.wait(lambda: self.node() in ("idle", "mixed", "allocated"), 60, "the node")

    def node(self) -> str:
        """State of the node."""
        return self.call("sinfo", "-h", "-p", "main", "-o", "%T").strip()

    def wait(self, ready: Callable[[], object], seconds: float, what: str) -> None:
        """Until `ready`; RuntimeError after so many seconds."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise RuntimeError(f"{what}: not within {seconds:g} s{last_words(self.folder)}")
            time.sleep(0.3)


def start_keeper() -> tuple[subprocess.Popen[str], Cluster]:
    """A cluster that lives until the keeper's input is closed, or this process dies."""
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.slurm.daemons"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C at the tests' terminal is not for the keeper
    )
    assert keeper.stdout is not None and keeper.stderr is not None
    said = keeper.stdout.readline()
    if not said:
        raise RuntimeError(keeper.stderr.read())
    return keeper, Cluster(Path(said.strip().removeprefix("export SLURM_CONF=")).parent)


@contextlib.contextmanager
def slurm() -> Iterator[Cluster]:
    """A cluster for a `with` block."""
    keeper, cluster = start_keeper()
    try:
        yield cluster
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(60)
