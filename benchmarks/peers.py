"""The simulator beside what a user would pick instead, in one run: same map, same core, taking turns.

The peers live in `.venv-bench` (`make bench-peers`) and answer from a process of their own, so nothing of theirs enters
our environment. This process and theirs are tied to one core while they are compared.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch

from benchmarks.sim import Player, per_cpu_second

PYTHON = Path(".venv-bench/bin/python")
HOW_TO = "SMAX and smaclite are not measured: `make bench-peers` installs what they need in .venv-bench"
REPETITIONS = 5
Took = dict[str, float]


class Peer:
    """A program of the peers' environment: a number of battles in, what one repetition took out."""

    def __init__(self, program: str, *args: str) -> None:
        single = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        single["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        command = [str(PYTHON), str(Path(__file__).with_name(program)), *args]
        self._process = subprocess.Popen(
            command, env=os.environ | single, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, battles: int) -> Took:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{battles}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # the peers print greetings
                took: Took = json.loads(line)
                return took
        raise RuntimeError(f"{self._process.args} ended early")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._process.communicate()  # closes its input, which ends it


class Ours(Protocol):
    """What takes turns with a peer."""

    def measure(self) -> Took: ...


def take_turns(peer: Peer, player: Ours, peer_battles: int) -> dict[str, list[Took]]:
    """Repetitions of us and of the peer, by turns; the peer's compilation is done before the first one."""
    out: dict[str, list[Took]] = {"sim": [], "peer": []}
    peer.measure(peer_battles)
    for _ in range(REPETITIONS):
        out["sim"].append(player.measure())
        out["peer"].append(peer.measure(peer_battles))
    return out


def compare(map_name: str, sizes: Sequence[int], smaclite: Path | None) -> dict[str, dict[str, list[Took]]]:
    """`smax_<battles>` for each size, and `smaclite` if a checkout is given: all repetitions."""
    out = {}
    with one_core():
        with Peer("smax.py", map_name) as peer:
            for battles in sizes:
                out[f"smax_{battles}"] = take_turns(peer, Player(map_name, battles), battles)
        if smaclite is not None:
            with Peer("smaclite_peer.py", map_name, str(smaclite.resolve())) as peer:
                out["smaclite"] = take_turns(peer, Player(map_name, sizes[0]), 1)
    return out


def compare_ippo(map_name: str, jaxmarl: Path) -> dict[str, list[Took]]:
    """JaxMARL's recurrent IPPO from a checkout, and ours with its settings (shared_ippo.py): all repetitions."""
    from benchmarks import shared_ippo

    torch.set_num_threads(1)
    with one_core(), Peer("jaxmarl_child.py", map_name, str(jaxmarl.resolve())) as peer:
        return take_turns(peer, shared_ippo.Player(map_name, jaxmarl), 0)


@contextmanager
def one_core() -> Iterator[None]:
    """This process and those it starts are tied to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def ratio(took: dict[str, list[Took]]) -> float:
    """How many times the peer's env steps per CPU second we make, medians."""
    return per_cpu_second(took["sim"]) / per_cpu_second(took["peer"])
