"""One cell from its configuration to its results: iterate, evaluate, log, checkpoint, resume.

The state folder holds what an unfinished cell needs and goes when the manifest is in place; the manifest is written
last, so a folder with a manifest is a finished cell.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dm2core.config import CellConfig, ConfigError
from dm2core.demonstrations import Demonstrations, load_demos
from dm2core.env.smac.vector import game_info
from dm2core.env.vector import map_spec
from dm2core.errors import DataError, NumericError
from dm2core.evaluate import evaluate
from dm2core.finite import NotFinite, require_all_finite
from dm2core.learner import Learner
from dm2core.learners import open_learner
from dm2core.memory import trim
from dm2core.nets import Actor
from dm2core.records import provenance
from dm2core.records.attempts import Attempts
from dm2core.records.checkpoint import (
    Progress,
    load_checkpoint,
    load_sealed,
    save_checkpoint,
    save_sealed,
    save_tensors,
)
from dm2core.records.crash import reach
from dm2core.records.files import remove_parts, write_atomic, write_error
from dm2core.records.interrupt import catch_signals
from dm2core.records.lock import CellLock, cell_lock
from dm2core.records.manifest import VERSION, CellManifest, to_bytes
from dm2core.records.metrics import MetricLog, write_parquet
from dm2core.records.progress import CellProgress
from dm2core.records.starts import note_progress, note_start
from dm2core.records.state import left_over, remove_state, require_own, scheduler_is_gone


@dataclass
class Run:
    """A running cell."""

    cell: CellConfig
    state_folder: Path
    learner: Learner
    log: MetricLog
    next_eval: int
    poll: Callable[[], None]
    lock: CellLock


def train_cell(
    cell: CellConfig, out: Path, state_folder: Path, demos: Path | None, *, config_sha256: str = ""
) -> None:
    """Train one cell to its end, or go on with it; Dm2Error says what went wrong.

    A finished cell in `out` is made anew, if it is this one; another's is a ConfigError.

    `config_sha256`: of the whole resolved configuration that the cell was taken from, for its manifest.
    """
    torch.set_num_threads(1)  # the number of threads changes the bits
    require_own(state_folder, out)
    code = provenance.code_version()  # what runs, even if the sources change while the lock is another's
    with (
        cell_lock(state_folder, wait="SLURM_JOB_ID" in os.environ) as lock,
        catch_signals() as interrupt,
    ):
        if (lock.waited or left_over(state_folder)) and is_finished(cell, out):
            remove_state(state_folder)  # by the process before this one, which died before it could
            return
        refuse_another(cell, out)
        loaded = loaded_demos(cell, demos)
        started = time.monotonic()
        clear(out, state_folder)
        note_start(state_folder)
        attempts = Attempts(
            state_folder, cell.digest(), code, form=cell.form if cell.qmix is not None else ""
        )
        run = open_run(cell, state_folder, loaded, interrupt.poll, lock)
        first = run.learner.env_steps
        with open_progress(run) as progress:
            _loop(run, progress)
        spent = time.monotonic() - started
        timing = {
            "wall_s": round(spent, 3),
            "env_steps_per_s": round((run.learner.env_steps - first) / spent, 1),
        }
        about = {"code": code, "config_sha256": config_sha256, "inputs": inputs_of(cell, out, demos)}
        finish(run, out, about | {"last_attempt": timing}, attempts)
        if not scheduler_is_gone():
            remove_state(state_folder)


def is_finished(cell: CellConfig, out: Path) -> bool:
    """Its manifest is there and is this cell's, and so is everything the manifest names."""
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        if manifest["digest"] != cell.digest():
            return False
        return all((out / name).is_file() for name in manifest["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def refuse_another(cell: CellConfig, out: Path) -> None:
    """ConfigError if `out` holds what this cell would replace: another one that is finished, or no cell at all.

    The same one may be made again, and one whose manifest is damaged.
    """
    try:
        there = json.loads((out / "manifest.json").read_text())
    except OSError:
        return
    except ValueError:
        there = None
    if isinstance(there, dict) and "digest" in there:
        if there["digest"] != cell.digest():
            raise ConfigError(
                f"--out {out}: a finished cell of another configuration lies there; delete it or give another folder"
            )
    elif there is not None or not (out / "metrics.parquet").is_file():
        raise ConfigError(f"--out {out}: its manifest.json is no cell's; give another folder")


def loaded_demos(cell: CellConfig, demos: Path | None) -> Demonstrations | None:
    """The cell's demonstrations, checked; None where it takes none. DataError if they are not those of its digest."""
    if demos is None:
        return None
    loaded = load_demos(demos, cell, map_spec(cell.map_name))
    if loaded.sha256 != cell.demos_sha256:
        raise DataError(f"{demos}: exchanged while this cell waited for its state; run again")
    return loaded


def inputs_of(cell: CellConfig, out: Path, demos: Path | None) -> dict[str, str]:
    """The demonstration file, relative to the cell, with the SHA-256 under which it was loaded."""
    if demos is None:
        return {}
    return {os.path.relpath(demos / "demos.npz", out): cell.demos_sha256}


def clear(out: Path, state_folder: Path) -> None:
    """From here on the cell is unfinished; what a killed write left goes."""
    try:
        out.mkdir(
            parents=True, exist_ok=True
        )  # if it cannot be made, better known before the training than after
        (out / "manifest.json").unlink(missing_ok=True)
        (state_folder / "failure.json").unlink(missing_ok=True)  # if it still fails it will say so again
        for folder in (out, state_folder):
            remove_parts(folder)
    except OSError as error:
        raise write_error(out, 0, error) from None


def open_run(
    cell: CellConfig, folder: Path, demos: Demonstrations | None, poll: Callable[[], None], lock: CellLock
) -> Run:
    learner = open_learner(cell, demos)
    saved = load_checkpoint(folder, cell.digest())
    if saved is None:
        try:
            learner.start(poll)
        except FloatingPointError as error:
            raise NumericError(f"{name_of(cell)}, before the first iteration: {error}") from None
        return Run(cell, folder, learner, MetricLog(folder / "metrics.jsonl"), 0, poll, lock)
    at, tensors = saved
    learner.load_tensors(tensors)
    learner.iteration, learner.env_steps = at.iteration, at.env_steps
    log = MetricLog(folder / "metrics.jsonl", at.metrics_bytes, at.metrics_sha256)
    return Run(cell, folder, learner, log, at.next_eval, poll, lock)


def open_progress(run: Run, *, bar: bool = True) -> CellProgress:
    """What is shown of the run, from where it stands."""
    rates = [value for _, _, key, value in run.log.rows() if key == "eval/win_rate"]
    learner, last = run.learner, rates[-1] if rates else float("nan")
    name, total = name_of(run.cell), run.cell.env_steps
    return CellProgress(name, total, learner.env_steps, run.state_folder, last, bar=bar)


def _loop(run: Run, progress: CellProgress) -> None:
    cell, learner = run.cell, run.learner
    if learner.iteration == 0:
        evaluate_run(run, progress)
    while learner.env_steps < cell.env_steps:
        try:
            metrics = learner.iterate(run.poll)
            log_iteration(run, metrics)
        except (FloatingPointError, NumericError) as error:
            raise report_failure(run, error) from None
        save_iteration(run, progress)


def log_iteration(run: Run, metrics: dict[str, float]) -> None:
    """Metrics of the iteration just made; NumericError or NotFinite if they or the learner's state are not finite."""
    learner = run.learner
    run.lock.check()
    require_all_finite(learner.tensors(), "state")
    run.log.append(learner.iteration, learner.env_steps, metrics)
    reach("log-appended")


def save_iteration(run: Run, progress: CellProgress) -> None:
    """What follows a logged iteration: evaluation where it is due, and the checkpoint."""
    learner = run.learner
    if learner.env_steps >= min(run.next_eval, run.cell.env_steps):
        evaluate_run(run, progress)
    run.lock.check()
    save_checkpoint(run.state_folder, progress_of(run), learner.tensors())
    reach("checkpoint-saved")
    note_progress(run.state_folder)
    progress.update(learner.env_steps)
    trim()


def progress_of(run: Run) -> Progress:
    learner, log = run.learner, run.log
    return Progress(
        run.cell.digest(), learner.iteration, learner.env_steps, log.size, log.sha256, next_eval=run.next_eval
    )


def evaluate_run(run: Run, progress: CellProgress) -> None:
    """Play the fixed battles; experts also keep the policy, and are measured as their demonstrations are played."""
    cell, learner = run.cell, run.learner

    def play(*, greedy: bool) -> dict[str, float]:
        rates = evaluate(
            learner.policy,
            cell.map_name,
            cell.eval_episodes,
            cell.eval_seed,
            greedy=greedy,
            compute=cell.form if isinstance(learner.policy, Actor) else "torch",
            poll=run.poll,
            smac=cell.smac,
        )
        return rates

    metrics = {f"eval/{key}": value for key, value in play(greedy=True).items()}
    if cell.keep_checkpoints:
        if isinstance(learner.policy, Actor):  # values are not sampled from
            metrics["eval_sampled/win_rate"] = play(greedy=False)["win_rate"]
        save_sealed(_kept(run, learner.env_steps), progress_of(run), learner.policy.state_dict())
    run.log.append(learner.iteration, learner.env_steps, metrics)
    run.next_eval = (learner.env_steps // cell.eval_every + 1) * cell.eval_every
    progress.evaluated(metrics["eval/win_rate"])


def _kept(run: Run, env_steps: int) -> Path:
    return run.state_folder / f"policy{env_steps:010d}"


def finish(run: Run, out: Path, about: dict[str, Any], attempts: Attempts) -> None:
    """Results into `out`, the manifest last."""
    cell, rows = run.cell, run.log.rows()
    run.lock.check()
    write_parquet(out / "metrics.parquet", rows)
    save_tensors(
        out / "policy.safetensors",
        run.learner.policy.state_dict(),
        {"map": cell.map_name, "digest": cell.digest()},
    )
    names = ["metrics.parquet", "policy.safetensors"]
    if cell.keep_checkpoints:
        kept: dict[str, Tensor] = {}
        for env_steps in sorted({row[1] for row in rows if row[2] == "eval/win_rate"}):
            saved = load_sealed(_kept(run, env_steps))
            if saved is None or (saved[0].digest, saved[0].env_steps) != (cell.digest(), env_steps):
                raise DataError(f"{_kept(run, env_steps)}: damaged; delete the folder to start anew")
            kept.update({f"{env_steps:010d}/{key}": value for key, value in saved[1].items()})
        save_tensors(out / "checkpoints.safetensors", kept, {"map": cell.map_name, "digest": cell.digest()})
        names.append("checkpoints.safetensors")
    manifest = CellManifest(
        schema_version=VERSION,
        kind="expert" if cell.keep_checkpoints else "cell",
        digest=cell.digest(),
        seed=cell.seed,
        config=cell.model_dump(),
        outputs={name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names},
        env_steps=run.learner.env_steps,
        iterations=run.learner.iteration,
        packages=provenance.package_versions(),
        lock_sha256=provenance.lock_sha256(),
        game=game_info() if cell.smac is not None else {},
        **{**attempts.end(), **about},
    )
    reach("results-written")
    write_atomic(out / "manifest.json", to_bytes(manifest))
    reach("manifest-written")


def report_failure(run: Run, error: Exception) -> NumericError:
    """Write failure.json: what is not finite, whose, when, and the last metrics that were; the error to raise.

    The checkpoint stays the last good one, and an iteration is a function of it: running again shows the same failure.
    """
    learner, rows = run.learner, run.log.rows()
    report = {
        "what": str(error),
        "quantity": error.quantity if isinstance(error, NotFinite) else None,
        "agents": error.agents if isinstance(error, NotFinite) else [],
        "iteration": learner.iteration,
        "env_steps": learner.env_steps,
        "last_values": {key: value for _, _, key, value in rows},
        "last_rows": rows[-20:],
    }
    path = run.state_folder / "failure.json"
    write_atomic(path, json.dumps(report, indent=2).encode())
    return NumericError(f"{name_of(run.cell)}, iteration {learner.iteration}: {error}; see {path}")


def name_of(cell: CellConfig) -> str:
    return f"{cell.map_name}/{'expert ' if cell.keep_checkpoints else ''}{cell.method}/{cell.demos}/seed{cell.seed}"
