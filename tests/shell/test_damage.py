"""Damage, a full disk and numbers that are not finite end in one line and an exit code, never in a wrong result."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dm2core import train
from dm2core.cli import main
from dm2core.config import CellConfig, Config, cell_config, dump_config, parse_demos_id
from dm2core.demonstrations import load_demos
from dm2core.demos import choose_checkpoint, make_demos
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.errors import DataError, NumericError, WriteError
from dm2core.records.checkpoint import NAMES, Progress, load_checkpoint, load_sealed, save_checkpoint
from dm2core.records.files import write_error
from dm2core.records.manifest import read_manifest
from dm2core.records.metrics import MetricLog
from dm2core.records.state import remove_state
from dm2core.train import train_cell
from tests.shell.conftest import ROOT, outputs
from tests.shell.test_resume import start, stopped, wait

Cells = dict[str, tuple[CellConfig, Path | None]]


@pytest.fixture
def expert_cell(config: Config) -> CellConfig:
    return cell_config(config, map_name="3m", method="ippo", seed=1, expert=True)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 64
    path.write_bytes(data)


def die_at(call: int, action: Callable[[], None]) -> tuple[int, int]:
    """Run in a child that is gone at its n-th fsync or rename; exit code, and calls made if it got through."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        made = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any) -> Any:
                nonlocal made
                made += 1
                if made == call:
                    os._exit(9)
                return real(*args)

            return wrapper

        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        action()
        os.write(write, str(made).encode())
        os._exit(0)
    os.close(write)
    code = wait(pid)
    told = os.read(read, 20).decode()
    os.close(read)
    return code, int(told or 0)


def test_dying_at_any_write_leaves_the_same_bits(
    expert_cell: CellConfig, experts: list[Path], tmp_path: Path
) -> None:
    """Eight moments spread over every fsync and rename of a cell, the last ones within its final outputs."""

    def run(name: str) -> Callable[[], None]:
        return lambda: train_cell(expert_cell, tmp_path / name, tmp_path / f"{name}.state", None)

    code, calls = die_at(0, run("whole"))
    assert code == 0
    for call in sorted({*range(2, calls - 8, calls // 4), calls - 7, calls - 5, calls - 2, calls}):
        assert die_at(call, run(f"at{call}"))[0] == 9
        run(f"at{call}")()
        assert outputs(tmp_path / f"at{call}") == outputs(experts[0])
        assert not list(tmp_path.glob(f"at{call}*/.*.tmp"))
        assert not (tmp_path / f"at{call}.state").exists()


def test_a_full_disk_keeps_both_generations_and_the_rerun_the_bits(
    cells: Cells, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    cell, _ = cells["ippo"]
    stopped(cell, tmp_path)
    before = [(tmp_path / "state" / name).read_bytes() for name in NAMES]
    pid = os.fork()
    if pid == 0:
        fill(len(before[0]) // 2)
        try:
            train_cell(cell, tmp_path / "out", tmp_path / "state", None)
        except Exception as error:
            print(error)
            os._exit(getattr(error, "exit_code", 99))
        os._exit(0)
    assert wait(pid) == 73
    assert [(tmp_path / "state" / name).read_bytes() for name in NAMES] == before
    assert not list((tmp_path / "state").glob(".*.tmp"))
    train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    assert outputs(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("file", ["metrics.jsonl", "manifest.json"])
def test_a_disk_that_is_full_from_a_moment_on(
    file: str, cells: Cells, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """In the middle of a row of the metrics log; when the results are there and their manifest is not."""
    cell, _ = cells["ippo"]
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        append = MetricLog.append

        def row(log: MetricLog, iteration: int, *rest: Any) -> None:
            if iteration == 2:
                fill(log.size + 10)
            append(log, iteration, *rest)

        if file == "metrics.jsonl":
            MetricLog.append = row  # type: ignore[method-assign]
        else:
            train.reach = lambda point: fill(100) if point == "results-written" else None  # type: ignore[assignment]
        try:
            train_cell(cell, tmp_path / "out", tmp_path / "state", None)
        except WriteError as error:
            os.write(write, str(error).encode())
            os._exit(error.exit_code)
        os._exit(0)
    os.close(write)
    assert wait(pid) == 73
    said = os.read(read, 1000).decode()
    os.close(read)
    assert re.fullmatch(
        rf"{tmp_path}/\w+/{file}: cannot write \d+ bytes \(.*, \d+ bytes and \d+ files free\); make room.*",
        said,
    )
    assert not list(tmp_path.rglob(".*.tmp")) and not (tmp_path / "out" / "manifest.json").exists()
    train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    assert outputs(tmp_path / "out") == undisturbed


def fill(size: int) -> None:
    """No file of this process may become larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_no_bit_flip_and_no_truncation_of_a_checkpoint_loads(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Progress("d", 3, 40, 0, "", 50), {"a": torch.arange(60.0)})
    path, rng = tmp_path / NAMES[0], random.Random(0)
    data = path.read_bytes()
    damaged = [data[:n] for n in range(0, len(data), 3)]
    for bit in rng.sample(range(8 * len(data)), 1000):
        damaged.append(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
    for bad in damaged:
        path.write_bytes(bad)
        assert load_sealed(path) is None
    path.write_bytes(data)
    found = load_checkpoint(tmp_path, "d")
    assert found is not None
    assert found[0].env_steps == 40
    assert torch.equal(found[1]["a"], torch.arange(60.0))


def test_a_damaged_checkpoint_makes_way_for_the_one_before_it(tmp_path: Path) -> None:
    for at in (1, 2):
        save_checkpoint(tmp_path, Progress("d", at, 40, 0, "", 50), {"a": torch.arange(60.0)})
    newest, previous = (tmp_path / name for name in NAMES)
    newest.write_bytes(newest.read_bytes()[:-1])
    found = load_checkpoint(tmp_path, "d")
    assert found is not None and found[0].iteration == 1
    saved = load_sealed(newest)
    assert saved is not None and saved[0].iteration == 1 and not previous.exists()


def test_a_full_disk_is_said_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    said = str(write_error(tmp_path / "a" / "b" / "c", 7, full))
    assert re.search(r"cannot write 7 bytes \(No space left on device, \d+ bytes and \d+ files free\)", said)


def test_a_checkpoint_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    head: dict[str, Any] = {"format": 99, "sha256": "", "new": 1}
    head["sha256"] = hashlib.sha256(json.dumps(head, sort_keys=True).encode() + b"x").hexdigest()
    (tmp_path / NAMES[0]).write_bytes(json.dumps(head, sort_keys=True).encode() + b"\nx")
    with pytest.raises(DataError, match="format 99, this version reads"):
        load_checkpoint(tmp_path, "d")


def test_a_changed_metrics_log_is_refused(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "log")
    log.append(1, 10, {"train/entropy": 1.25})
    size, sha256 = log.size, log.sha256
    log.append(2, 20, {"train/entropy": 1.5})
    assert MetricLog(log.path, size, sha256).rows() == [(1, 10, "train/entropy", 1.25)]
    flip(log.path, size - 4)
    with pytest.raises(DataError, match="damaged"):
        MetricLog(log.path, size, sha256)
    log.path.write_bytes(b"")
    with pytest.raises(DataError, match="damaged"):
        MetricLog(log.path, size, sha256)


def test_a_damaged_kept_policy_never_reaches_the_results(expert_cell: CellConfig, tmp_path: Path) -> None:
    stopped(expert_cell, tmp_path)
    flip(min((tmp_path / "state").glob("policy*")), -50)
    assert wait(start(expert_cell, tmp_path / "out", tmp_path / "state", None)) == 65
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("where", ["metric", "update"])
def test_a_number_that_is_not_finite_ends_the_cell_with_a_report(
    where: str, cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, _ = cells["ippo"]
    real = Dm2.iterate

    def broken(state: Dm2, *args: Any) -> dict[str, float]:
        metrics = real(state, *args)
        if state.iteration == 2 and where == "update":
            raise FloatingPointError("actor loss of agent 1 is nan")
        return metrics | ({"train/value_loss": float("nan")} if state.iteration == 2 else {})

    monkeypatch.setattr(Dm2, "iterate", broken)
    with pytest.raises(NumericError, match="nan") as error:
        train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    assert error.value.exit_code == 70
    report = json.loads((tmp_path / "state" / "failure.json").read_text())
    assert "nan" in report["what"]
    assert report["last_rows"][-1][0] == 1  # nothing of the failed iteration is in the log
    saved = load_checkpoint(tmp_path / "state", cell.digest())
    assert saved is not None
    assert saved[0].iteration == 1


def test_the_manifest_names_the_code_that_started(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(
        [{"commit": "at start", "dm2core_sha256": "a"}, {"commit": "later", "dm2core_sha256": "b"}]
    )
    monkeypatch.setattr(train.provenance, "code_version", lambda: next(answers))
    train_cell(cells["ippo"][0], tmp_path / "out", tmp_path / "state", None)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["code"]["commit"] == "at start"
    assert [attempt["dm2core_sha256"] for attempt in manifest["attempts"]] == ["a"]


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and the one line of a command that fails."""
    code, err = main(argv), capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    return code, err


def test_evaluation_refuses_what_is_not_the_policy(
    experts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = str(experts[0] / "policy.safetensors")
    assert main(["evaluate", "--policy", policy, "--episodes", "4"]) == 0
    assert "win_rate" in capsys.readouterr().out
    code, line = refused(["evaluate", "--policy", policy, "--map", "3s_vs_3z"], capsys)
    assert code == 65
    assert "needs (3, " in line
    for other in ("checkpoints.safetensors", "metrics.parquet", "none.safetensors"):
        assert refused(["evaluate", "--policy", str(experts[0] / other), "--map", "3m"], capsys)[0] == 65
    shutil.copytree(experts[0], tmp_path / "copy")
    flip(tmp_path / "copy" / "policy.safetensors", -50)
    code, line = refused(["evaluate", "--policy", str(tmp_path / "copy" / "policy.safetensors")], capsys)
    assert (code, "damaged" in line) == (65, True)


def test_paths_that_cannot_be_written_are_exit_73(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(config))
    (tmp_path / "file").write_text("")
    base = ["train", "--config", str(tmp_path / "c.yaml"), "--map", "3m", "--method", "ippo", "--seed", "1"]
    taken, free = str(tmp_path / "file"), str(tmp_path / "free")
    assert refused([*base, "--out", taken, "--state", free], capsys)[0] == 73
    assert refused([*base, "--out", free, "--state", taken], capsys)[0] == 73


def test_what_is_not_the_cells_own_is_never_removed(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(config))
    base = ["train", "--config", str(tmp_path / "c.yaml"), "--map", "3m", "--method", "ippo", "--seed", "1"]
    thesis = tmp_path / "mine" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years")
    code, line = refused([*base, "--out", str(tmp_path / "cell"), "--state", str(thesis.parent)], capsys)
    assert (code, "holds thesis.txt" in line) == (2, True)
    code, line = refused([*base, "--out", str(tmp_path / "cell"), "--state", str(tmp_path / "cell")], capsys)
    assert (code, "the folder of the results" in line) == (2, True)
    # Nor what comes there while the cell is trained.
    remove_state(thesis.parent)
    assert thesis.read_text() == "years" and not (tmp_path / "cell").exists()


def test_a_pack_takes_no_folder_twice_and_no_other_cells(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(config))
    base = ["train-pack", "--config", str(tmp_path / "c.yaml"), "--map", "3m", "--device", "cpu"]

    def cells(*places: tuple[str, str]) -> list[str]:
        texts = [f"ippo:none:{n}:{tmp_path / o}:{tmp_path / s}" for n, (o, s) in enumerate(places)]
        return [word for text in texts for word in ("--cell", text)]

    for places, what in (((("a", "s"), ("a", "t")), "output"), ((("a", "s"), ("b", "s")), "state")):
        code, line = refused([*base, *cells(*places)], capsys)
        assert (code, f"two cells have the same {what} folder" in line) == (2, True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({"digest": "another"}))
    code, line = refused([*base, *cells(("a", "s"))], capsys)
    assert (code, "a finished cell of another configuration" in line) == (2, True)


def test_a_set_may_be_named_by_its_file(demo_sets: dict[str, Path], config: Config, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(config))
    file = demo_sets["ippo-q50_joint-concurrent"] / "demos.npz"
    base = ["train", "--config", str(tmp_path / "c.yaml"), "--map", "3m", "--method", "dm2", "--seed", "1"]
    assert main([*base, "--demos", str(file), "--out", str(tmp_path / "cell")]) == 0
    found = read_manifest(tmp_path / "cell" / "manifest.json").inputs
    assert [(tmp_path / "cell" / name).resolve() for name in found] == [file.resolve()]


@pytest.mark.parametrize("content", ["empty", "npy", "damaged"])
def test_files_that_are_no_recordings_are_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.npz"
    if content == "empty":
        path.write_bytes(b"")
    elif content == "npy":
        with path.open("wb") as handle:
            np.save(handle, np.arange(3))
    else:
        np.savez_compressed(path, raw=np.zeros(2000), about=np.array("{}"))
        data = bytearray(path.read_bytes())
        data[60:90] = bytes(30)
        path.write_bytes(data)
    for command in (
        ["replay", "--who", str(path), "--out", str(tmp_path / "x.gif")],
        ["check-update", str(path)],
        ["check-encoding", str(path)],
    ):
        assert refused(command, capsys)[0] == 65


def test_an_evaluation_takes_no_other_files_manifest_and_is_no_larger_than_memory(
    experts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["evaluate", "--policy", str(experts[0]), "--episodes"]
    assert main(["replay", "--who", "kite", "--map", "3m", "--out", str(tmp_path / "b.npz")]) == 0
    before = (tmp_path / "b.manifest.json").read_bytes()
    code, line = refused([*base, "2", "--out", str(tmp_path / "b.json")], capsys)
    assert (code, "is the manifest of b.npz" in line) == (2, True)
    assert (tmp_path / "b.manifest.json").read_bytes() == before
    assert main([*base, "2", "--out", str(tmp_path / "c.json")]) == 0
    capsys.readouterr()
    assert refused([*base, "2", "--out", str(tmp_path / "c.json" / "d.json")], capsys)[0] == 73
    code, line = refused([*base, str(10**12)], capsys)
    assert (code, "not enough memory" in line) == (69, True)


@pytest.mark.parametrize(
    "text", [["ppo.lr=2026-13-45"], ["ppo=1", "ppo.lr=2"], ["ppo={lr: 1, lr: 2}"], ["ppo"]]
)
def test_overrides_that_make_no_sense_are_one_line(
    text: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [word for item in text for word in ("--set", item)]
    code, line = refused(["config", "--config", str(ROOT / "config" / "config.yaml"), *sets], capsys)
    assert (code, text[-1] in line) == (2, True)


def test_demonstrations_that_do_not_fit_are_refused_with_both_values(
    demo_sets: dict[str, Path], cells: Cells, config: Config
) -> None:
    folder = demo_sets["ippo-q50_joint-concurrent"]
    have, need = make_env("3m", 1).spec, make_env("3s_vs_3z", 1).spec
    with pytest.raises(DataError) as error:
        load_demos(folder, None, need)
    for spec in (have, need):
        assert str((spec.map_name, spec.n_agents, spec.obs_size)) in str(error.value)
    cell = cells["dm2"][0]
    greedy = cell.model_copy(
        update={"discriminator": config.discriminator.model_copy(update={"episodes_per_step": 99})}
    )
    with pytest.raises(DataError, match=r"12 episodes per agent, but discriminator\.episodes_per_step is 99"):
        load_demos(folder, greedy)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("obs", lambda a: a[:-1], "its lengths ask for"),
        ("obs", lambda a: a * np.float32("nan"), "not finite"),
        ("obs", lambda a: a.astype(np.float64), "wrong type"),
        ("won", lambda a: a[:-1], "wrong shape"),
        ("lengths", lambda a: -a, "wrong shape"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused_even_with_a_right_hash(
    name: str, change: Callable[[Any], Any], words: str, demo_sets: dict[str, Path], tmp_path: Path
) -> None:
    source = demo_sets["ippo-q50_joint-concurrent"]
    with np.load(source / "demos.npz") as old:
        arrays = dict(old)
    arrays[f"agent1/{name}"] = change(arrays[f"agent1/{name}"])
    np.savez(tmp_path / "demos.npz", **arrays)
    card = json.loads((source / "card.json").read_text())
    card["sha256"] = hashlib.sha256((tmp_path / "demos.npz").read_bytes()).hexdigest()
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=f"agent 1 .*{words}"):
        load_demos(tmp_path)


def test_experts_must_be_whole_and_different(config: Config, experts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"different team for every agent, got the runs of seeds \[1, 2, 1\]"):
        make_demos(config, "3m", "ippo-q50_indep-concurrent", [*experts[:2], experts[0]], tmp_path / "set")
    for name in ("metrics.parquet", "checkpoints.safetensors"):
        copy = tmp_path / name
        shutil.copytree(experts[0], copy)
        flip(copy / name, 200)
        with pytest.raises(DataError, match="damaged"):
            make_demos(config, "3m", "ippo-q50_joint-concurrent", [copy], tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_win_rates_equally_far_from_the_target_tie_whatever_their_last_bit() -> None:
    demos = parse_demos_id("ippo-q50_joint-concurrent")
    assert abs(0.45 - 0.5) < abs(0.55 - 0.5)  # in binary
    assert choose_checkpoint([(100, 0.45), (200, 0.55)], demos) == 200
