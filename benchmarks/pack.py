"""Packs of DM2 cells with the authors' hyper-parameters: env steps per second, and where the seconds go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dm2core.config import CellConfig, Config, cell_config, load_config
from dm2core.demonstrations import Demonstrations, of_rollout
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.pack import learner
from dm2core.rng import battle_keys
from dm2core.rollout import collect

CELLS = {"cuda": (1, 5, 25, 100), "cpu": (1, 2)}
CONDITION, PAPER = 5 * 10_000_000, 305 * 10_000_000  # env steps of five seeds, and of the paper's runs
PARTS = {"collect": ("collect_pack",), "discriminators": ("update_pack_discriminators", "pack_logits")}
SMALL: dict[str, Any] = {"scale": "smoke", "maps": {"5m_vs_6m": {"episodes_per_update": 16, "ppo_epochs": 2}}}


def pack_rows(map_name: str, device: str, iterations: int) -> list[tuple[str, float, str]]:
    """Rows for the table; on a CPU nothing but printed lines, which say nothing about a GPU."""
    config = load_config("config/config.yaml", {"scale": "paper"} if device == "cuda" else SMALL)
    rows: list[tuple[str, float, str]] = []
    for count in CELLS[device]:
        speed, seconds = measure(config, map_name, count, torch.device(device), iterations)
        shares = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
        print(
            f"pack of {count:>3} cells on {device}: {speed:,.0f} env steps/s; per iteration {shares}",
            flush=True,
        )
        if device == "cuda":
            rows.append(
                (f"pack_{count}_env_steps_per_s", speed, f"{count} DM2 cells in one pack, {map_name}")
            )
            if count == 5:
                rows.append(("pack_condition_minutes", CONDITION / speed / 60, "five seeds of 10M env steps"))
    if rows:
        best = max(value for key, value, _ in rows if key.endswith("_per_s"))
        rows.append(("pack_paper_hours", PAPER / best / 3600, "305 runs at the best of these, extrapolated"))
    return rows


def measure(
    config: Config, map_name: str, count: int, device: torch.device, iterations: int
) -> tuple[float, dict[str, float]]:
    """Env steps per second of wall time, and seconds per iteration of each part; one iteration is not counted."""
    cells = [
        cell_config(config, map_name=map_name, method="dm2", seed=s, demos="d", packed=True)
        for s in range(count)
    ]
    demos = _demonstrations(cells[0], config.demos.episodes)
    dm2s = [Dm2(cell, make_env(map_name, cell.map_params.episodes_per_update), demos) for cell in cells]
    threads = len(os.sched_getaffinity(0)) if device.type == "cuda" else 1
    pack = learner.PackLearner(dm2s, device, lambda battles: make_env(map_name, battles), threads)
    pack.iterate()
    first = sum(dm2.env_steps for dm2 in dm2s)
    spent = dict.fromkeys(PARTS, 0.0)
    with _timed(spent, device):
        began = time.perf_counter()
        for _ in range(iterations):
            pack.iterate()
        wall = time.perf_counter() - began
    spent["update and rest"] = wall - sum(spent.values())
    steps = sum(dm2.env_steps for dm2 in dm2s) - first
    return steps / wall, {name: value / iterations for name, value in spent.items()}


def _demonstrations(cell: CellConfig, episodes: int) -> Demonstrations:
    """Episodes of an untrained team."""
    env = make_env(cell.map_name, episodes)
    ippo = Dm2(cell.model_copy(update={"method": "ippo", "discriminator": None}), env)
    return of_rollout(
        collect(env, ippo.policy, None, battle_keys(0, "benchmark", 0, episodes)), cell.map_name
    )


@contextmanager
def _timed(spent: dict[str, float], device: torch.device) -> Iterator[None]:
    """Add up the seconds that the learner's parts take, the device's work included."""

    def wrap(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            out = work(*args, **kwargs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent[name] += time.perf_counter() - began
            return out

        return timed

    before = {function: getattr(learner, function) for functions in PARTS.values() for function in functions}
    try:
        for name, functions in PARTS.items():
            for function in functions:
                setattr(learner, function, wrap(name, before[function]))
        yield
    finally:
        for function, work in before.items():
            setattr(learner, function, work)
