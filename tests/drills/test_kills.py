"""kill -9, signals, races and a full disk, many times; every cell ends once, with the bits of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dm2core.config import Config, cell_config, dump_config
from dm2core.demonstrations import load_demos
from dm2core.demos import make_demos
from dm2core.errors import EXIT_AGAIN
from tests.drills.conftest import Say
from tests.pack.test_kills import made, start_pack
from tests.shell.conftest import outputs
from tests.shell.test_resume import Cells, start, wait

pytestmark = pytest.mark.drill


def killed_after(pid: int, seconds: float) -> int:
    """Exit code of a process that is killed then, unless it ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


@pytest.mark.parametrize(
    ("method", "kills"),
    [("ippo", 60), ("dm2", 60), ("dm2_sil", 20), ("bc_ippo", 15), ("qmix", 15), ("rmappo", 10)],
)
def test_kill_9(
    method: str, kills: int, config: Config, demo_sets: dict[str, Path], tmp_path: Path, say: Say
) -> None:
    """Killed again and again until it is through; then anew, until there were as many kills."""
    folder = demo_sets["ippo-q50_joint-concurrent"] if method in ("dm2", "bc_ippo") else None
    given = {}
    if folder is not None:
        demos = load_demos(folder)
        given = {"demos": demos.demos_id, "demos_sha256": demos.sha256}
    cell = cell_config(config, map_name="3m", method=method, seed=7, **given)
    for name in ("clean", "again"):
        began = time.monotonic()
        assert wait(start(cell, tmp_path / name, tmp_path / f"{name}.state", folder)) == 0
        seconds = time.monotonic() - began
    expected = outputs(tmp_path / "clean")
    assert outputs(tmp_path / "again") == expected
    moments, killed, runs = random.Random(method), 0, 0
    while killed < kills:
        runs += 1
        out, state = tmp_path / f"out{runs}", tmp_path / f"state{runs}"
        while True:
            longest = 0.5 if moments.random() < 0.75 else 1.5  # a cell may have one iteration only
            code = killed_after(start(cell, out, state, folder), moments.uniform(0.02, longest) * seconds)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert outputs(out) == expected
        assert not state.exists()
    say(f"{killed} kills in {runs} runs, all with the bits of 2 undisturbed runs")


def test_kill_9_of_a_pack(pack_config: Config, tmp_path: Path, say: Say) -> None:
    """Three cells in one process, on the CPU."""
    for name in ("clean", "again"):
        began = time.monotonic()
        assert wait(start_pack(pack_config, tmp_path / name)) == 0
        seconds = time.monotonic() - began
    expected = made(pack_config, tmp_path / "clean")
    assert made(pack_config, tmp_path / "again") == expected
    moments, killed, runs = random.Random(11), 0, 0
    while killed < 60:
        runs += 1
        folder = tmp_path / f"run{runs}"
        while True:
            longest = 0.8 if moments.random() < 0.75 else 2.0  # a machine that others use may become slower
            code = killed_after(start_pack(pack_config, folder), moments.uniform(0.02, longest) * seconds)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert made(pack_config, folder) == expected
    say(f"{killed} kills in {runs} runs, all with the bits of 2 undisturbed runs")


def test_kill_9_while_demonstrations_are_written(
    config: Config, experts: list[Path], demo_sets: dict[str, Path], tmp_path: Path, say: Say
) -> None:
    name, moments, killed = "ippo-q50_joint-concurrent", random.Random(5), 0
    expected = {f: (demo_sets[name] / f).read_bytes() for f in ("demos.npz", "card.json", "card.md")}
    while killed < 20:
        pid = os.fork()
        if pid == 0:
            make_demos(config, "3m", name, experts, tmp_path / "set")
            os._exit(0)
        time.sleep(moments.uniform(0.01, 0.4))
        os.kill(pid, signal.SIGKILL)
        killed += wait(pid) != 0
        if (tmp_path / "set" / "manifest.json").exists():
            assert {f: (tmp_path / "set" / f).read_bytes() for f in expected} == expected
    make_demos(config, "3m", name, experts, tmp_path / "set")
    assert {f: (tmp_path / "set" / f).read_bytes() for f in expected} == expected
    say(f"{killed} kills; a set with a manifest was whole each time")


def test_signals_at_random_moments(cells: Cells, config: Config, tmp_path: Path, say: Say) -> None:
    """With the released code's 120 discriminator steps an iteration; the slowest answer is told, not judged."""
    cell, demos = cells["dm2"]
    assert cell.discriminator is not None
    slow = cell.model_copy(
        update={"discriminator": cell.discriminator.model_copy(update={"steps": 120}), "env_steps": 1500}
    )
    began = time.monotonic()
    assert wait(start(slow, tmp_path / "clean", tmp_path / "clean.state", demos)) == 0
    seconds, moments, waits = time.monotonic() - began, random.Random(9), list[float]()
    out, state = tmp_path / "out", tmp_path / "state"
    while len(waits) < 20:
        pid = start(slow, out, state, demos)
        while not (state / "attempts.json").exists():
            time.sleep(0.001)
        time.sleep(0.05 + moments.uniform(0.0, 0.5) * seconds)
        os.kill(pid, moments.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]))
        asked = time.monotonic()
        code = wait(pid)
        if code == 0:
            assert outputs(out) == outputs(tmp_path / "clean")
            continue
        assert code == EXIT_AGAIN
        waits.append(time.monotonic() - asked)
        (state / "starts_without_progress").unlink(
            missing_ok=True
        )  # 20 signals in one place are not the point here
    assert wait(start(slow, out, state, demos)) == 0
    assert outputs(out) == outputs(tmp_path / "clean")
    say(f"{len(waits)} signals, exit 75, slowest answer {max(waits):.2f} s, same bits")


def test_races_for_one_cell(cells: Cells, tmp_path: Path, say: Say) -> None:
    cell, _ = cells["ippo"]
    assert wait(start(cell, tmp_path / "clean", tmp_path / "clean.state", None)) == 0
    refused = 0
    for race in range(20):
        out, state = tmp_path / f"out{race}", tmp_path / f"state{race}"
        codes = [wait(pid) for pid in [start(cell, out, state, None) for _ in range(2)]]
        assert set(codes) <= {0, EXIT_AGAIN} and 0 in codes
        refused += codes.count(EXIT_AGAIN)
        assert outputs(out) == outputs(tmp_path / "clean")
    assert refused >= 10  # they did meet
    say(f"20 races of 2 processes, {refused} refused with 75, none mixed")


def test_a_cell_that_never_gets_anywhere_stops(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    cell, _ = cells["ippo"]
    codes = []
    with monkeypatch.context() as patch:
        patch.setenv("DM2_CRASH_AT", "log-appended")
        for _ in range(21):
            codes.append(wait(start(cell, tmp_path / "out", tmp_path / "state", None)))
    assert codes == [-9] * 20 + [69]
    say("20 deaths, then exit 69")


FULL_DISK = """
import hashlib, json, os, subprocess, sys
from contextlib import suppress
from pathlib import Path
from dm2core import train
from dm2core.records.metrics import MetricLog
from dm2core.config import cell_config, load_config
from dm2core.demos import make_demos
from dm2core.errors import WriteError
from dm2core.train import train_cell
folder, config, expert = Path(sys.argv[1]), load_config(sys.argv[2]), Path(sys.argv[3])
cell = cell_config(config, map_name="3m", method="ippo", seed=1, expert=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], check=True)
lines, where = [], set()
for free in [int(word) for word in sys.argv[4:]]:
    filler = folder / "filler"
    filler.write_bytes(bytes(max(0, os.statvfs(folder).f_bavail * 4096 - free * 4096)))
    for what, action in (
        ("cell", lambda: train_cell(cell, folder / "out", folder / "state", None)),
        ("set", lambda: make_demos(config, "3m", "ippo-q50_joint-concurrent", [expert], folder / "set")),
    ):
        try:
            action()
        except WriteError as error:
            assert "\\n" not in str(error)
            lines.append(str(error))
            where.add(Path(str(error).split(":")[0]).name)
    filler.unlink()
    assert not list(folder.glob("*/.*.tmp"))
append, reach = MetricLog.append, train.reach
def full(action, *args):
    with open(folder / "filler", "ab", buffering=0) as filler:
        with suppress(OSError):
            while True:
                filler.write(bytes(4096))
    action(*args)
for MetricLog.append, train.reach in (
    (lambda *args: full(append, *args), reach),
    (append, lambda point: full(reach, point) if point == "results-written" else reach(point)),
):
    try:
        train_cell(cell, folder / "out", folder / "state", None)
    except WriteError as error:
        lines.append(str(error))
        where.add(Path(str(error).split(":")[0]).name)
    (folder / "filler").unlink()
MetricLog.append, train.reach = append, reach
train_cell(cell, folder / "out", folder / "state", None)
make_demos(config, "3m", "ippo-q50_joint-concurrent", [expert], folder / "set")
cell = json.loads((folder / "out/manifest.json").read_text())["outputs"]
demos = hashlib.sha256((folder / "set/demos.npz").read_bytes()).hexdigest()
print(json.dumps({"refused": len(lines), "where": sorted(where), "cell": cell, "set": demos}))
"""


def test_a_full_disk(
    config: Config, experts: list[Path], demo_sets: dict[str, Path], tmp_path: Path, say: Say
) -> None:
    """A 32 MB tmpfs in a mount namespace, which needs no root where user namespaces are allowed."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace here; tests/shell shows a limit on file sizes instead")
    (tmp_path / "disk").mkdir()
    (tmp_path / "c.yaml").write_text(dump_config(config))
    pages = [0, 1, 2, 3, 8, 30, 100, 300, 500, 600, 800, 1000, 1250, 1500, 1800, 2200]
    command = [
        "unshare",
        "-rm",
        sys.executable,
        "-c",
        FULL_DISK,
        tmp_path / "disk",
        tmp_path / "c.yaml",
        experts[0],
    ]
    done = subprocess.run(
        [*map(str, command), *map(str, pages)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cell"] == outputs(experts[0])
    expected = json.loads((demo_sets["ippo-q50_joint-concurrent"] / "card.json").read_text())["sha256"]
    assert found["set"] == expected
    assert found["refused"] >= 10
    assert {"checkpoint", "metrics.jsonl", "manifest.json", "demos.npz"} <= set(found["where"])
    say(
        f"{found['refused']} refusals (73) at {', '.join(found['where'])}; no temporary file; same bits after"
    )
