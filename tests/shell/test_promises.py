"""Short forms of the drills: named crash points, a lost lock, useless starts, wrong configurations, odd places."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from dm2core.cli import main
from dm2core.config import CellConfig, Config, ConfigError, dump_config, load_config
from dm2core.demonstrations import load_demos
from dm2core.errors import EXIT_AGAIN, EXIT_DATA, EXIT_SERVICE, DataError
from dm2core.records import starts
from dm2core.records.checkpoint import NAMES, load_checkpoint, load_tensors
from dm2core.records.crash import POINTS
from dm2core.records.metrics import MetricLog
from dm2core.strict import validated
from dm2core.train import train_cell
from tests.shell.conftest import ROOT, outputs
from tests.shell.mutations import VALUES, changed, paths, spoilt_text
from tests.shell.test_resume import Cells, at_first_checkpoint, start, wait

CRASHES = [
    *(f"{point}:checkpoint:2" for point in POINTS if point.startswith("write-")),
    *(f"{point}:manifest.json" for point in ("write-half", "write-renamed")),
    *(point for point in POINTS if not point.startswith("write-")),
]


@pytest.mark.parametrize("crash", CRASHES)
def test_death_at_a_named_point_leaves_the_same_bits(
    crash: str, cells: Cells, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, _ = cells["ippo"]
    with monkeypatch.context() as patch:
        patch.setenv("DM2_CRASH_AT", crash)
        assert wait(start(cell, tmp_path / "out", tmp_path / "state", None)) == -signal.SIGKILL
    assert wait(start(cell, tmp_path / "out", tmp_path / "state", None)) == 0
    assert outputs(tmp_path / "out") == undisturbed
    assert not (tmp_path / "state").exists() and not list((tmp_path / "out").glob(".*.tmp"))


@pytest.mark.parametrize("crash", ["manifest-written", "checkpoints-removed"])
def test_death_after_the_manifest_and_results_that_a_scheduler_took_away(
    crash: str, cells: Cells, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake deletes the outputs of a job that was killed, finished or not."""
    cell, _ = cells["ippo"]
    with monkeypatch.context() as patch:
        patch.setenv("DM2_CRASH_AT", crash)
        assert wait(start(cell, tmp_path / "out", tmp_path / "state", None)) == -signal.SIGKILL
    shutil.rmtree(tmp_path / "out")
    assert wait(start(cell, tmp_path / "out", tmp_path / "state", None)) == 0
    assert outputs(tmp_path / "out") == undisturbed and not (tmp_path / "state").exists()


def test_a_finished_cell_whose_state_was_left_is_not_trained_again(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, _ = cells["ippo"]
    with monkeypatch.context() as patch:
        patch.setenv("DM2_CRASH_AT", "checkpoints-removed")
        assert wait(start(cell, tmp_path / "out", tmp_path / "state", None)) == -signal.SIGKILL
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert wait(start(cell, tmp_path / "out", tmp_path / "state", None)) == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before and not (tmp_path / "state").exists()


def test_no_more_than_one_iteration_is_lost(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after the third iteration's metrics: the second is saved."""
    cell, _ = cells["ippo"]
    monkeypatch.setenv("DM2_CRASH_AT", "log-appended::3")
    assert wait(start(cell, tmp_path / "out", tmp_path / "state", None)) == -signal.SIGKILL
    saved = load_checkpoint(tmp_path / "state", cell.digest())
    assert saved is not None and saved[0].iteration == 2


@pytest.mark.parametrize("how", ["another's name", "removed"])
def test_a_process_that_lost_its_lock_writes_nothing_more(how: str, cells: Cells, tmp_path: Path) -> None:
    """Where locks do nothing, a second process signs the lock file; the first stops at its next iteration's end."""
    cell, _ = cells["ippo"]
    state = tmp_path / "state"
    pid = start(cell, tmp_path / "out", state, None)
    at_first_checkpoint(pid, state)
    os.kill(pid, signal.SIGSTOP)
    if how == "removed":
        (state / "lock").unlink()
    else:
        (state / "lock").write_text("process 1 on another-machine")
    before = {path: path.read_bytes() for path in state.glob("*check*")}
    os.kill(pid, signal.SIGCONT)
    assert wait(pid) == EXIT_AGAIN
    after = {path: path.read_bytes() for path in state.glob("*check*")}
    assert after == before or how == "removed"  # it may have been stopped between its last look and its write
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_rows_of_another_process_in_the_log_never_become_results(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "log")
    log.append(1, 10, {"train/entropy": 1.25})
    with open(tmp_path / "log", "a") as other:
        other.write('[1, 10, "train/entropy", 9.0]\n')
    with pytest.raises(DataError, match="another process"):
        log.rows()


def test_twenty_starts_without_progress_are_enough(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cell, _ = cells["ippo"]
    out, state = tmp_path / "out", tmp_path / "state"
    with monkeypatch.context() as patch:
        patch.setenv("DM2_CRASH_AT", "log-appended")
        assert wait(start(cell, out, state, None)) == -signal.SIGKILL
        counter = state / "starts_without_progress"
        assert counter.read_text() == "1\n"
        counter.write_text(f"{starts.MOST - 1}\n")
        assert wait(start(cell, out, state, None)) == -signal.SIGKILL
    assert wait(start(cell, out, state, None)) == EXIT_SERVICE
    with pytest.raises(Exception, match=f"started {starts.MOST} times.*delete .*starts_without_progress"):
        train_cell(cell, out, state, None)
    counter.unlink()
    assert wait(start(cell, out, state, None)) == 0


def test_progress_starts_the_count_anew(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DM2_CRASH_AT", "log-appended::2")
    for _ in range(3):  # each saves one iteration
        assert wait(start(cells["ippo"][0], tmp_path / "out", tmp_path / "state", None)) == -signal.SIGKILL
        assert not (tmp_path / "state" / "starts_without_progress").exists()


def refused_or_valid(make: Callable[[], object]) -> bool:
    """Whether it was refused; in one line if so, with the key at its beginning."""
    try:
        make()
    except ConfigError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
        return True
    return False


def mutate(config: Config, share: float, seed: int) -> tuple[int, int]:
    """Every key misspelt and dropped, a share of them holding each of VALUES, and spoilt texts; tried and refused."""
    tree = yaml.safe_load(dump_config(config))
    draws, tried, refused = random.Random(seed), 0, 0
    for path in list(paths(tree)):
        kinds: list[tuple[str, object]] = [("misspell", None), ("drop", None)]
        kinds += [("set", value) for value in VALUES if draws.random() < share]
        for kind, value in kinds:
            wrong = changed(tree, path, kind, value)
            tried += 1
            found = refused_or_valid(lambda wrong=wrong: validated(Config, wrong, "config"))  # type: ignore[misc]
            refused += found
            assert found or kind != "misspell" or path[0] in ("profiles", "maps", "figures", "rmappo"), path
    return tried, refused


def mutate_text(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """The shipped file, spoilt; tried and refused."""
    draws, refused = random.Random(seed), 0
    text = (ROOT / "config" / "config.yaml").read_bytes()
    for _ in range(count):
        (folder / "c.yaml").write_bytes(spoilt_text(text, draws))
        refused += refused_or_valid(lambda: load_config(folder / "c.yaml"))
    return count, refused


def test_every_wrong_configuration_is_one_line_or_valid(config: Config, tmp_path: Path) -> None:
    tried, refused = mutate(config, 0.08, 1)
    assert tried > 500 and refused > 0.8 * tried
    _, refused = mutate_text(tmp_path, 15, 1)
    assert refused >= 3


def flip_all(folder: Path, demos: Path, policy: Path, count: int) -> dict[str, int]:
    """`count` bit flips in each kind of file; the number refused."""
    draws = random.Random(count)
    log = MetricLog(folder / "log")
    for k in range(40):
        log.append(k, 10 * k, {"train/entropy": k / 3, "train/value_loss": k / 7})
    (folder / "set").mkdir()
    for name in ("demos.npz", "card.json"):
        (folder / "set" / name).write_bytes((demos / name).read_bytes())
    (folder / "policy").write_bytes(policy.read_bytes())
    sha256 = json.loads((policy.parent / "manifest.json").read_text())["outputs"][policy.name]
    readers: dict[str, tuple[Path, Callable[[], object]]] = {
        "demonstrations": (folder / "set" / "demos.npz", lambda: load_demos(folder / "set")),
        "metrics log": (folder / "log", lambda: MetricLog(folder / "log", log.size, log.sha256)),
        "policy": (folder / "policy", lambda: load_tensors(folder / "policy", sha256)),
    }
    found = {}
    for name, (path, read) in readers.items():
        data = path.read_bytes()
        read()
        for k in range(count):
            bit = draws.randrange(8 * len(data))
            damaged = data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
            path.write_bytes(damaged if k % 50 else data[: bit // 8])
            with pytest.raises(DataError, match=str(path.name)):
                read()
        path.write_bytes(data)
        found[name] = count
    return found


def test_no_bit_flip_in_any_input_is_read(
    demo_sets: dict[str, Path], experts: list[Path], tmp_path: Path
) -> None:
    flip_all(tmp_path, demo_sets["ippo-q50_joint-concurrent"], experts[0] / "policy.safetensors", 150)


@pytest.mark.parametrize("members", [1, 20])
def test_a_demonstration_file_that_unpacks_to_gigabytes_is_refused_first(
    members: int, demo_sets: dict[str, Path], tmp_path: Path
) -> None:
    """With a card that fits it, so that its hash is right."""
    source = demo_sets["ippo-q50_joint-concurrent"]
    rows = 2_000_000 // members
    np.savez_compressed(
        tmp_path / "demos.npz",
        **{f"agent{i}/obs": np.zeros((rows, 30), dtype=np.float32) for i in range(members)},
    )
    card = json.loads((source / "card.json").read_text())
    card["sha256"] = hashlib.sha256((tmp_path / "demos.npz").read_bytes()).hexdigest()
    (tmp_path / "card.json").write_text(json.dumps(card))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="refused, it unpacks from"):
        load_demos(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_headers_that_lie_are_refused(
    tmp_path: Path, experts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """safetensors that promise 80 TB; a pickle under a policy's name."""
    head = json.dumps(
        {"a": {"dtype": "F32", "shape": [20_000_000_000_000], "data_offsets": [0, 80_000_000_000_000]}}
    )
    (tmp_path / "p.safetensors").write_bytes(len(head).to_bytes(8, "little") + head.encode() + bytes(100))
    (tmp_path / "q.safetensors").write_bytes(b"\x80\x03cposix\nsystem\nX\x0c\x00\x00\x00touch canary\x85R.")
    for name in ("p", "q"):
        policy = str(tmp_path / f"{name}.safetensors")
        assert main(["evaluate", "--map", "3m", "--policy", policy]) == EXIT_DATA
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not Path("canary").exists()


@pytest.mark.parametrize("home", ["none", "read-only"])
def test_odd_surroundings_change_no_bit(
    home: str, config: Config, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """A path with spaces and umlauts, the C locale without UTF-8, umask 077, no network; a HOME that takes nothing."""
    folder = tmp_path / "ein Ördner mit 空白"
    folder.mkdir()
    (folder / "c.yaml").write_text(dump_config(config))
    keep = {key: value for key, value in os.environ.items() if key not in ("HOME", "LANG", "LC_ALL")}
    env = keep | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "dm2core",
        "train",
        "--config",
        "c.yaml",
        "--map",
        "3m",
        "--method",
        "ippo",
    ]
    namespaces = subprocess.run(["unshare", "-rmn", "true"], capture_output=True, check=False).returncode == 0
    if home == "read-only":
        (tmp_path / "home").mkdir(mode=0o555)
        env["HOME"] = str(tmp_path / "home")
        locked = (
            'mount -t tmpfs -o ro tmpfs "$HOME" && ' if namespaces else ""
        )  # root may write anywhere else
        command = ["sh", "-c", f'{locked}! touch "$HOME/x" 2>/dev/null && exec "$@"', "sh", *command]
    if namespaces:
        command = ["unshare", "-rmn", *command]
    done = subprocess.run(
        [*command, "--seed", "7", "--out", "aus gabe"],
        cwd=folder, env=env, umask=0o077, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert outputs(folder / "aus gabe") == undisturbed
    assert (folder / "aus gabe" / "manifest.json").stat().st_mode & 0o077 == 0


def test_cells_leave_no_threads_and_no_open_files(cells: Cells, tmp_path: Path) -> None:
    cell: CellConfig = cells["ippo"][0].model_copy(update={"env_steps": 600})

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    train_cell(cell, tmp_path / "out0", tmp_path / "state0", None)
    before = held()
    for k in range(1, 4):
        train_cell(cell, tmp_path / f"out{k}", tmp_path / f"state{k}", None)
    assert held() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_checkpoint_of_the_released_format_loads(tmp_path: Path) -> None:
    """Format 2, written when it was introduced."""
    (tmp_path / NAMES[0]).write_bytes((ROOT / "tests" / "data" / "checkpoint_format2").read_bytes())
    found = load_checkpoint(tmp_path, "golden")
    assert found is not None
    assert (found[0].iteration, found[0].env_steps, found[0].next_eval) == (3, 40, 50)
    assert found[1]["a"].tolist() == [0.0, 0.5, 1.0]
