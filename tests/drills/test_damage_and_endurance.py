"""Bit flips, wrong configurations, clocks and thousands of iterations."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dm2core import train
from dm2core.config import Config, cell_config, dump_config
from dm2core.records.checkpoint import NAMES, Progress, load_sealed, save_checkpoint
from dm2core.train import train_cell
from tests.drills.conftest import Say
from tests.shell.conftest import ROOT, outputs
from tests.shell.test_promises import flip_all, mutate, mutate_text
from tests.shell.test_resume import Cells

pytestmark = pytest.mark.drill


def test_bit_flips(demo_sets: dict[str, Path], experts: list[Path], tmp_path: Path, say: Say) -> None:
    draws, seen = random.Random(1), 0
    save_checkpoint(tmp_path, Progress("d", 3, 40, 0, "", 50), {"a": torch.arange(2000.0)})
    path = tmp_path / NAMES[0]
    data = path.read_bytes()
    for k in range(4000):
        bit = draws.randrange(8 * len(data))
        damaged = data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        path.write_bytes(damaged if k % 40 else data[: bit // 8])
        assert load_sealed(path) is None
        seen += 1
    others = flip_all(
        tmp_path, demo_sets["ippo-q50_joint-concurrent"], experts[0] / "policy.safetensors", 2000
    )
    total = seen + sum(others.values())
    say(f"{total} flips and cuts in checkpoint, {', '.join(others)}: 0 read")


def test_wrong_configurations(config: Config, tmp_path: Path, say: Say) -> None:
    tried, refused = mutate(config, 1.0, 2)
    texts, refused_texts = mutate_text(tmp_path, 300, 2)
    assert tried + texts > 4000
    say(
        f"{tried + texts} mutations, {refused + refused_texts} refused in one line, the others valid; 0 tracebacks"
    )


def test_clocks_that_jump(cells: Cells, config: Config, tmp_path: Path, say: Say) -> None:
    """Yesterday, tomorrow, and a clock that stands still: the same bits, and no time below 0 in a manifest."""
    if shutil.which("faketime") is None:
        pytest.skip("needs faketime")
    train_cell(cells["ippo"][0], tmp_path / "clean", tmp_path / "clean.state", None)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    command = f"{sys.executable} -m dm2core train --config c.yaml --map 3m --method ippo --seed 7".split()
    clocks = {"-1d": "-1d", "+1d": "+1d", "frozen": "2020-01-01 00:00:00"}
    for name, clock in clocks.items():
        env = {**os.environ, "PYTHONPATH": str(ROOT), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        subprocess.run(
            ["faketime", "-f", clock, *command, "--out", f"out{name}"],
            cwd=tmp_path, env=env, check=True, capture_output=True,
        )  # fmt: skip
        assert outputs(tmp_path / f"out{name}") == outputs(tmp_path / "clean")
        manifest = json.loads((tmp_path / f"out{name}" / "manifest.json").read_text())
        assert manifest["last_attempt"]["wall_s"] >= 0
    say(f"{len(clocks)} clocks, same bits")


def test_thousands_of_iterations_leak_nothing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    """2,000 tiny iterations; resident memory, open files and threads from the 400th on, and what a checkpoint costs."""
    small = config.model_dump()
    small["maps"]["3m"] |= {"episodes_per_update": 2, "ppo_epochs": 1}
    cell = cell_config(Config(**small), map_name="3m", method="ippo", seed=1).model_copy(
        update={"env_steps": 10**9, "eval_every": 10**9}
    )
    seen: list[tuple[int, int, int]] = []
    spent, began, count = 0.0, time.monotonic(), 0

    class Enough(Exception):
        pass

    def saved(*args: Any) -> None:
        nonlocal spent, count
        at = time.monotonic()
        save_checkpoint(*args)
        spent += time.monotonic() - at
        count += 1
        if count % 100 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append((pages * 4096, len(os.listdir("/proc/self/fd")), threading.active_count()))
        if count == 2000:
            raise Enough

    monkeypatch.setattr(train, "save_checkpoint", saved)
    with pytest.raises(Enough):
        train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    growth = (seen[-1][0] - seen[3][0]) / 1e6
    assert growth < 5
    assert {held[1:] for held in seen[1:]} == {seen[1][1:]}
    assert not list((tmp_path / "state").glob(".*.tmp"))
    each = 1000 * (time.monotonic() - began) / count
    say(
        f"{count} iterations of {each:.0f} ms: memory {growth:+.1f} MB, files and threads constant; "
        f"a checkpoint takes {1000 * spent / count:.1f} ms"
    )


def test_nothing_that_surrounds_a_cell_changes_its_bits(
    cells: Cells, config: Config, tmp_path: Path, say: Say
) -> None:
    train_cell(cells["ippo"][0], tmp_path / "clean", tmp_path / "clean.state", None)
    variants: dict[str, dict[str, str]] = {
        "PYTHONHASHSEED": {"PYTHONHASHSEED": "77"},
        "TZ": {"TZ": "Pacific/Chatham"},
        "locale": {"LC_ALL": "C", "PYTHONUTF8": "0"},
        "OMP_NUM_THREADS": {"OMP_NUM_THREADS": "2"},
        "MKL_NUM_THREADS": {"MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        "NUMBA_NUM_THREADS": {"NUMBA_NUM_THREADS": "2"},
    }
    for name, extra in variants.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "c.yaml").write_text(dump_config(config))
        command = f"{sys.executable} -m dm2core train --config c.yaml --map 3m --method ippo --seed 7 --out out".split()
        env = {**os.environ, "PYTHONPATH": str(ROOT), **extra}
        subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
        assert outputs(folder / "out") == outputs(tmp_path / "clean"), name
    say(f"{len(variants)} variations ({', '.join(variants)}), each in a folder of its own: same bits")
