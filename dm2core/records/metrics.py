"""The table of metrics, and their way to disk.

While a cell runs, rows go to a log of JSON lines in its state folder, whose length the checkpoint knows; at the end
they become metrics.parquet. Only numbers that a rerun reproduces bit for bit are metrics; times go to the manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dm2core.errors import DataError, NumericError
from dm2core.records.files import write_atomic, write_error

# key -> (unit, meaning); train/ are means over agents and the iteration's minibatches, disc/ over agents
METRICS: dict[str, tuple[str, str]] = {
    "eval/win_rate": ("1", "share of the fixed evaluation battles won, greedy play"),
    "eval/episode_return": ("SMAC reward", "mean undiscounted return there"),
    "eval/episode_length": ("env steps", "mean length there"),
    "eval/timeout_rate": ("1", "share of battles that used up the limit there"),
    "eval/env_restarts": ("1", "games that died or hung and were replaced meanwhile; real game only"),
    "eval/episodes_discarded": ("1", "episodes dropped with them and played again"),
    "eval_sampled/win_rate": ("1", "the same battles, actions sampled; experts only"),
    "train/win_rate": ("1", "share of the iteration's battles won, actions sampled"),
    "train/episode_return": ("SMAC reward", "their mean undiscounted return"),
    "train/episode_length": ("env steps", "their mean length"),
    "train/env_restarts": ("1", "games that died or hung and were replaced in the iteration; real game only"),
    "train/episodes_discarded": ("1", "episodes dropped with them and played again"),
    "train/imitation_reward": ("logit", "mean imitation reward over executed steps"),
    "train/policy_loss": ("1", "clipped surrogate, without the entropy bonus"),
    "train/value_loss": ("1", "clipped Huber loss"),
    "train/entropy": ("nat", "policy entropy over the slots that count"),
    "train/approx_kl": ("nat", "mean of ratio - 1 - log ratio"),
    "train/clip_fraction": ("1", "share of probability ratios outside the clip"),
    "train/grad_norm_actor": ("1", "before clipping"),
    "train/grad_norm_critic": ("1", "before clipping"),
    "train/explained_variance": ("1", "of the value targets, by the values before the update"),
    "train/epsilon": ("1", "share of random actions; QMIX"),
    "train/loss": ("1", "QMIX's loss"),
    "train/grad_norm": ("1", "before clipping, agents and mixer together; QMIX"),
    "train/td_error_abs": ("SMAC reward", "mean size of the temporal-difference error; QMIX"),
    "train/q_taken": ("SMAC reward", "mean team value of the actions taken; QMIX"),
    "train/target": ("SMAC reward", "mean target of it; QMIX"),
    "disc/loss": ("nat", "last step: both cross entropies and the weighted penalty"),
    "disc/bce_expert": ("nat", "last step"),
    "disc/bce_policy": ("nat", "last step"),
    "disc/gradient_penalty": ("1", "last step, unweighted"),
    "disc/accuracy_expert": (
        "1",
        "share of the expert's rows with a positive logit, absorbing padding included",
    ),
    "disc/accuracy_policy": (
        "1",
        "share of the policy's rows with a negative logit, absorbing padding included",
    ),
    "disc/logit_policy": ("logit", "mean logit over executed steps"),
}


class MetricLog:
    """Appends rows; a checkpoint remembers `size` and `sha256` to cut a lost iteration off and to see damage."""

    def __init__(self, path: Path, size: int = 0, sha256: str | None = None) -> None:
        """Go on after the first `size` bytes; DataError if they are not those of `sha256`."""
        self.path, self.size = path, size
        try:
            path.touch()
            with open(path, "rb") as handle:
                data = handle.read(size)
            self._hash = hashlib.sha256(data)
            if len(data) < size or sha256 not in (None, self.sha256):
                raise DataError(
                    f"{path}: damaged, not what its checkpoint says; delete the folder to start anew"
                )
            os.truncate(path, size)
        except OSError as error:
            raise write_error(path, size, error) from None

    @property
    def sha256(self) -> str:
        """Hex digest of the rows so far."""
        return self._hash.hexdigest()

    def append(self, iteration: int, env_steps: int, values: Mapping[str, float]) -> None:
        """Add one row per metric; NumericError names the first that is not finite."""
        for key, value in values.items():
            if key not in METRICS:
                raise KeyError(f"{key} is not in the table of metrics")
            if not math.isfinite(value):
                raise NumericError(f"{key} is {value} at iteration {iteration}, env step {env_steps}")
        rows = [json.dumps([iteration, env_steps, key, values[key]]) + "\n" for key in sorted(values)]
        data = "".join(rows).encode()
        try:
            with open(self.path, "ab") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())  # before the checkpoint that counts on it
        except OSError as error:
            raise write_error(self.path, len(data), error) from None
        self.size += len(data)
        self._hash.update(data)

    def rows(self) -> list[tuple[int, int, str, float]]:
        """All rows: iteration, env_steps, key, value; DataError if the file is not what was written."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise DataError(f"{self.path}: damaged or written by another process; run again")
        return [tuple(json.loads(line)) for line in data.splitlines()]


def write_parquet(path: Path, rows: list[tuple[int, int, str, float]]) -> None:
    """Long table with columns env_steps, iteration, key, value."""
    iteration, env_steps, key, value = zip(*rows, strict=True)
    columns = {
        "env_steps": _numbers(pa.int64(), np.array(env_steps, np.int64)),
        "iteration": _numbers(pa.int64(), np.array(iteration, np.int64)),
        "key": _strings(key),
        "value": _numbers(pa.float64(), np.array(value, np.float64)),
    }
    table = pa.Table.from_arrays(list(columns.values()), list(columns))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())


# pa.array would do, but imports pandas to see whether it was given a column of it: half a second of every cell.
def _numbers(kind: pa.DataType, values: NDArray[Any]) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _strings(values: Sequence[str]) -> pa.Array:
    data = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(data), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(data))]
    )
