"""Nothing that happens to a process changes a cell's numbers: kill -9, signals, damage, a second process."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dm2core import train
from dm2core.config import CellConfig, Config, ConfigError, cell_config, dump_config
from dm2core.errors import EXIT_AGAIN, DataError, Dm2Error, TryAgain, WriteError
from dm2core.records.checkpoint import NAMES, save_checkpoint
from dm2core.records.interrupt import catch_signals
from dm2core.records.lock import cell_lock
from dm2core.train import train_cell
from tests.shell.conftest import outputs

Cells = dict[str, tuple[CellConfig, Path | None]]


def start(cell: CellConfig, out: Path, state: Path, demos: Path | None) -> int:
    """Train in a forked child; returns its pid. The child's exit status is the command's."""
    pid = os.fork()
    if pid == 0:
        try:
            train_cell(cell, out, state, demos)
            os._exit(0)
        except Dm2Error as error:
            os._exit(error.exit_code)
        except BaseException:
            os._exit(99)
    return pid


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def undisturbed(
    cells: Cells, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, str], float]]:
    """Results of runs that nothing disturbed, and how long they took."""
    found = {}
    for method, (cell, demos) in cells.items():
        root, began = tmp_path_factory.mktemp(method), time.monotonic()
        train_cell(cell, root / "out", root / "state", demos)
        found[method] = outputs(root / "out"), time.monotonic() - began
        assert not (root / "state").exists()
    return found


@pytest.mark.parametrize(("method", "kills"), [("ippo", 2), ("dm2", 10)])
def test_kill_9_at_random_moments_leaves_the_same_bits(
    method: str,
    kills: int,
    cells: Cells,
    undisturbed: dict[str, tuple[dict[str, str], float]],
    tmp_path: Path,
) -> None:
    cell, demos = cells[method]
    expected, seconds = undisturbed[method]
    moments, killed, finished = random.Random(method), 0, False
    while killed < kills:
        out, state = tmp_path / f"out{killed}", tmp_path / f"state{killed}"
        pid = start(cell, out, state, demos)
        time.sleep(moments.uniform(0.02, 0.9) * seconds)
        os.kill(pid, signal.SIGKILL)
        finished = wait(pid) == 0
        assert wait(start(cell, out, state, demos)) == 0
        assert outputs(out) == expected
        assert not state.exists()
        killed += not finished
        seconds *= 0.7 if finished else 1.0  # the machine has become faster since


def at_first_checkpoint(pid: int, state: Path) -> None:
    """Return when the cell has saved an iteration; it has more to do."""
    while not (state / NAMES[0]).exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the cell ended before it saved anything"
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_exits_75(
    number: int, cells: Cells, undisturbed: dict[str, tuple[dict[str, str], float]], tmp_path: Path
) -> None:
    cell, demos = cells["dm2"]
    pid = start(cell, tmp_path / "out", tmp_path / "state", demos)
    at_first_checkpoint(pid, tmp_path / "state")
    os.kill(pid, number)
    asked = time.monotonic()
    assert wait(pid) == EXIT_AGAIN
    assert time.monotonic() - asked < 10
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert wait(start(cell, tmp_path / "out", tmp_path / "state", demos)) == 0
    assert outputs(tmp_path / "out") == undisturbed["dm2"][0]


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with catch_signals():
            (tmp_path / "listening").touch()
            while True:  # a loop that never polls
                time.sleep(0.01)
    while not (tmp_path / "listening").exists():
        time.sleep(0.002)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.05)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid) == EXIT_AGAIN


def stopped(cell: CellConfig, folder: Path) -> None:
    """Leave a cell unfinished, right after its second checkpoint."""
    pid = os.fork()
    if pid == 0:
        saved = 0

        def save_and_die(*args: Any) -> None:
            nonlocal saved
            save_checkpoint(*args)
            saved += 1
            if saved == 2:
                os._exit(9)

        train.save_checkpoint = save_and_die  # type: ignore[assignment]
        train_cell(cell, folder / "out", folder / "state", None)
        os._exit(0)
    assert wait(pid) == 9
    assert all((folder / "state" / name).exists() for name in NAMES)


def test_damage_falls_back_one_generation_and_never_loads(
    cells: Cells,
    undisturbed: dict[str, tuple[dict[str, str], float]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cell, _ = cells["ippo"]
    stopped(cell, tmp_path)
    newest, previous = (tmp_path / "state" / name for name in NAMES)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    assert "damaged" in capsys.readouterr().err
    assert outputs(tmp_path / "out") == undisturbed["ippo"][0]
    stopped(cell, tmp_path)
    for path in (newest, previous):
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="damaged"):
        train_cell(cell, tmp_path / "out", tmp_path / "state", None)


def test_another_configurations_checkpoint_is_not_used(cells: Cells, config: Config, tmp_path: Path) -> None:
    other = cell_config(config, map_name="3m", method="ippo", seed=8)
    stopped(other, tmp_path)
    cell, _ = cells["ippo"]
    train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    train_cell(cell, tmp_path / "clean", tmp_path / "state2", None)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "clean")
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["attempts"]) == 1


def test_what_a_cell_did_after_its_scheduler_was_killed_is_not_done_again(
    cells: Cells,
    undisturbed: dict[str, tuple[dict[str, str], float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Snakemake, started again, deletes the results that it has not seen finished."""
    cell, _ = cells["ippo"]
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    wait(pid)
    monkeypatch.setenv("DM2_SCHEDULER", str(pid))
    train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    assert (tmp_path / "state" / NAMES[0]).is_file()
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setenv("DM2_SCHEDULER", str(os.getpid()))
    monkeypatch.setattr(train, "log_iteration", lambda *_: pytest.fail("an iteration was made again"))
    train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    assert outputs(tmp_path / "out") == undisturbed["ippo"][0] and not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("there", "refused"), [('{"name": "a web app"}', True), ("no JSON", True), ("{", False)]
)
def test_a_manifest_that_is_no_cells_is_not_replaced(
    there: str, refused: bool, cells: Cells, tmp_path: Path
) -> None:
    """A damaged one of a cell's is: its results lie beside it."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(there)
    if not refused:
        (out / "metrics.parquet").write_bytes(b"")
        train_cell(cells["ippo"][0], out, tmp_path / "state", None)
        assert train.is_finished(cells["ippo"][0], out)
        return
    with pytest.raises(ConfigError, match=r"its manifest.json is no cell's; give another folder"):
        train_cell(cells["ippo"][0], out, tmp_path / "state", None)
    assert (out / "manifest.json").read_text() == there


def test_demonstrations_that_were_exchanged_while_the_cell_waited_are_refused(
    cells: Cells, tmp_path: Path
) -> None:
    cell, demos = cells["dm2"]
    asked = cell.model_copy(update={"demos_sha256": "0" * 64})
    with pytest.raises(DataError, match="exchanged while this cell waited"):
        train_cell(asked, tmp_path / "out", tmp_path / "state", demos)


def test_an_experts_policies_that_were_exchanged_are_refused(config: Config, tmp_path: Path) -> None:
    expert = cell_config(config, map_name="3m", method="ippo", seed=1, expert=True)
    cell = expert.model_copy(update={"eval_every": 100})
    stopped(cell, tmp_path)
    kept = sorted((tmp_path / "state").glob("policy*"))
    shutil.copy(kept[0], kept[-1])
    assert len(kept) > 1
    with pytest.raises(DataError, match=f"{kept[-1].name}: damaged"):
        train_cell(cell, tmp_path / "out", tmp_path / "state", None)


def test_a_finished_cell_is_not_lost_to_another_nor_to_a_refusal(
    cells: Cells, config: Config, tmp_path: Path
) -> None:
    cell, demos = cells["dm2"]
    assert demos is not None
    out, state = tmp_path / "out", tmp_path / "state"
    train_cell(cell, out, state, demos)
    before = outputs(out)
    with pytest.raises(ConfigError, match="a finished cell of another configuration lies there"):
        train_cell(cell_config(config, map_name="3m", method="ippo", seed=8), out, state, None)
    (shutil.copytree(demos, tmp_path / "demos") / "demos.npz").write_bytes(b"")
    with pytest.raises(DataError, match="demos"):
        train_cell(cell, out, state, tmp_path / "demos")
    assert outputs(out) == before and train.is_finished(cell, out)
    assert not state.exists(), "what was never begun leaves no state"


def test_one_process_per_cell(cells: Cells, tmp_path: Path) -> None:
    cell, _ = cells["ippo"]
    began = time.monotonic()
    with (
        cell_lock(tmp_path / "state"),
        pytest.raises(TryAgain, match=f"in use by process {os.getpid()} since 20"),
    ):
        train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    assert time.monotonic() - began < 2
    assert TryAgain("").exit_code == EXIT_AGAIN


def test_a_folder_that_its_last_holder_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = tmp_path / "state", []

    def mkdir(path: Path, **how: bool) -> None:
        os.mkdir(path)
        made.append(path)
        if len(made) == 1:  # between making the folder and the lock in it
            path.rmdir()

    monkeypatch.setattr("dm2core.records.lock.Path.mkdir", mkdir)
    with cell_lock(folder) as lock:
        lock.check()
    assert made == [folder, folder]
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "lock").symlink_to(tmp_path / "gone" / "lock")
    monkeypatch.undo()
    with pytest.raises(WriteError, match="cannot be created"), cell_lock(tmp_path / "nowhere"):
        pass


def test_a_file_system_without_locks_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a Lustre that is mounted without `flock` answers."""

    def unsupported(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("dm2core.records.lock.fcntl.flock", unsupported)
    with pytest.raises(WriteError, match="this file system has no locks"), cell_lock(tmp_path, wait=True):
        pass


def test_under_a_scheduler_a_second_job_waits_and_does_not_train_again(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An orphan goes on after its Snakemake was killed; the job of the next Snakemake queues behind it."""
    cell, _ = cells["ippo"]
    monkeypatch.setenv("SLURM_JOB_ID", "4")
    code = (
        "import sys; from pathlib import Path; from dm2core.records.lock import cell_lock\n"
        "with cell_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "state")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    train_cell(cell, tmp_path / "made", tmp_path / "elsewhere", None)

    def orphan_ends() -> None:
        shutil.copytree(tmp_path / "made", tmp_path / "out")
        shutil.rmtree(tmp_path / "state")
        holder.communicate("\n")

    end = threading.Timer(1.5, orphan_ends)
    end.start()
    train_cell(cell, tmp_path / "out", tmp_path / "state", None)
    end.join()
    manifest = "manifest.json"
    assert (tmp_path / "out" / manifest).read_bytes() == (tmp_path / "made" / manifest).read_bytes()
    assert "waiting for process" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_the_command_gives_the_same_bits_in_a_fresh_process(
    cells: Cells, config: Config, undisturbed: dict[str, tuple[dict[str, str], float]], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(config))
    base = "-m dm2core train --config c.yaml --map 3m --method ippo --seed 7 --out out"
    env = os.environ | {"PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, *base.split()], cwd=tmp_path, env=env, check=True, capture_output=True)
    assert outputs(tmp_path / "out") == undisturbed["ippo"][0]
