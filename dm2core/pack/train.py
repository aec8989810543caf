"""Cells of one map from their configurations to their results, in step: `dm2 train-pack`.

Every cell has its own folders, log, checkpoints and manifest, as train.py makes them. In each round the cells that are
furthest behind make one iteration together, so cells that were stopped at different points come into step again. What
else is in a round changes a cell's numbers by rounding, so a pack that was killed makes the same rounds again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dm2core.config import CellConfig
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.errors import NumericError, TryAgain
from dm2core.pack.learner import PackLearner
from dm2core.records import provenance
from dm2core.records.attempts import Attempts
from dm2core.records.checkpoint import drop_newest, saved_iterations
from dm2core.records.interrupt import catch_signals
from dm2core.records.lock import CellLock, cell_lock
from dm2core.records.progress import CellProgress
from dm2core.records.starts import note_start
from dm2core.records.state import remove_state, require_own
from dm2core.train import (
    Run,
    clear,
    evaluate_run,
    finish,
    inputs_of,
    is_finished,
    loaded_demos,
    log_iteration,
    open_progress,
    open_run,
    refuse_another,
    report_failure,
    save_iteration,
)


@dataclass(frozen=True)
class Member:
    """One cell of a pack and its folders."""

    cell: CellConfig
    out: Path
    state: Path
    demos: Path | None

    def finished(self) -> bool:
        """An earlier pack, of other members perhaps, has trained it."""
        return is_finished(self.cell, self.out)


@dataclass
class _Running:
    member: Member
    run: Run
    dm2: Dm2
    progress: CellProgress
    about: dict[str, Any]
    attempts: Attempts


def train_pack(
    members: list[Member],
    device: torch.device,
    threads: int = 1,
    *,
    config_sha256: str = "",
    replace: bool = False,
) -> None:
    """Train the cells to their ends, or go on with them; Dm2Error says what went wrong. Finished ones are left alone.

    A cell whose numbers are no longer finite leaves the pack; the others go on, and NumericError names it at the end.
    A finished cell of another configuration in a member's folder is a ConfigError, or goes (`replace`).
    """
    torch.set_num_threads(1)
    provenance.code_version()  # looked at once: what runs, even if the sources change while a lock is another's
    for member in members:
        require_own(member.state, member.out)
        if not replace:
            refuse_another(member.cell, member.out)
    failed: list[str] = []
    finished = {member for member in members if member.finished()}
    _tidy(finished)
    with ExitStack() as stack:
        held = _hold([member for member in members if member not in finished], stack)
        _into_step([member for member, _ in held])
        poll = stack.enter_context(catch_signals()).poll
        waiting = [
            _start(member, lock, device, poll, config_sha256, len(held), stack) for member, lock in held
        ]
        pack: PackLearner | None = None
        while True:
            for cell in [c for c in waiting if c.dm2.env_steps >= c.member.cell.env_steps]:
                waiting.remove(cell)
                finish(cell.run, cell.member.out, cell.about, cell.attempts)
            if not waiting:
                break
            behind = min(c.dm2.iteration for c in waiting)
            group = [c for c in waiting if c.dm2.iteration == behind]
            dm2s = [c.dm2 for c in group]
            if pack is None or pack.cells != dm2s:
                make = partial(make_env, group[0].member.cell.map_name)
                pack = PackLearner(dm2s, device, make, threads)
            metrics = pack.iterate(poll)
            pack.put_back()
            for cell, values in zip(group, metrics, strict=True):
                try:
                    log_iteration(cell.run, values)
                except (FloatingPointError, NumericError) as error:
                    failed.append(str(report_failure(cell.run, error)))
                    waiting.remove(cell)
                    continue
                save_iteration(cell.run, cell.progress)
        if failed:
            raise NumericError("; ".join(failed))
        for member, _ in held:
            remove_state(member.state)


def _hold(members: list[Member], stack: ExitStack) -> list[tuple[Member, CellLock]]:
    """Lock every cell, in an order that all packs share; those that ended while a scheduler's job waited are done."""
    wait = "SLURM_JOB_ID" in os.environ
    order = sorted(members, key=lambda member: member.state)
    locks = {member: stack.enter_context(cell_lock(member.state, wait=wait)) for member in order}
    waited = any(lock.waited for lock in locks.values())
    for member in members:
        if waited and member.finished():
            remove_state(member.state)
            del locks[member]
    return [(member, locks[member]) for member in members if member in locks]


def _tidy(finished: set[Member]) -> None:
    """Remove what a killed pack left of cells that it had finished; a pack that runs removes its own."""
    for member in finished:
        if member.state.exists():
            with suppress(TryAgain), cell_lock(member.state):
                remove_state(member.state)


def _into_step(members: list[Member]) -> None:
    """Cells whose checkpoint of the last round was written before a kill make that round again, with the others."""
    saved = {member: saved_iterations(member.state, member.cell.digest()) or [0] for member in members}
    behind = min((iterations[0] for iterations in saved.values()), default=0)
    for member, iterations in saved.items():
        if iterations == [behind + 1, behind] or (behind == 0 and iterations == [1]):
            drop_newest(member.state)


def _start(
    member: Member,
    lock: CellLock,
    device: torch.device,
    poll: Callable[[], None],
    config_sha256: str,
    together: int,
    stack: ExitStack,
) -> _Running:
    demos = loaded_demos(member.cell, member.demos)
    clear(member.out, member.state)
    code = provenance.code_version()
    note_start(member.state)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    attempts = Attempts(member.state, member.cell.digest(), code, where, together=together)
    run = open_run(member.cell, member.state, demos, poll, lock)
    dm2 = run.learner
    assert isinstance(dm2, Dm2)
    about: dict[str, Any] = {
        "code": code,
        "config_sha256": config_sha256,
        "inputs": inputs_of(member.cell, member.out, member.demos),
    }
    shown = stack.enter_context(open_progress(run, bar=False))  # a terminal has room for one bar
    if dm2.iteration == 0:
        evaluate_run(run, shown)
    return _Running(member, run, dm2, shown, about, attempts)
