"""`dm2 doctor`: what is installed, what is missing, for what it is needed, and what to do about it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.text import Text

from dm2core.env.smac.preflight import preflight
from dm2core.errors import ServiceError
from dm2core.records import provenance

State = Literal["ok", "missing", "broken"]
STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red"}
DISK_GB = 2.0  # a paper-scale cell keeps about 5 MB, its state twice that; room for a grid
DEFAULT, GIT, SC2, GPU, SLURM, MLFLOW = (
    "embedded default",
    "provenance",
    "StarCraft II",
    "GPU",
    "Slurm",
    "MLflow",
)
ASKED = {
    "embedded": DEFAULT,
    "smac": SC2,
    "gpu": GPU,
    "slurm": SLURM,
    "mlflow": MLFLOW,
}  # what one may ask for


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what it is `needed_for`."""

    needed_for: str
    what: str
    state: State
    found: str
    do: str = ""  # where the state is not ok


def doctor(asked: Sequence[str] = (), *, as_json: bool = False) -> None:
    """Look and print; ServiceError names the first step to what was asked for (keys of ASKED), if one is missing.

    Asked for nothing, it looks at everything, and the embedded default alone must be fit.
    """
    wanted = [ASKED[name] for name in asked]
    checks = list(examine(wanted))
    faults = [check for check in checks if check.state != "ok" and check.needed_for in (wanted or [DEFAULT])]
    if as_json:
        print(json.dumps({"fit": not faults, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        _show(checks)
    if faults:
        first = faults[0]
        raise ServiceError(f"{first.needed_for}: {first.what} is {first.state}; {first.do or first.found}")
    if not as_json:
        print(f"{', '.join(wanted) or f'The {DEFAULT}'} can run.")


def _show(checks: Iterable[Check]) -> None:
    """A line per check, and one for what to do about it; never folded, so that it can be copied."""
    console, before = Console(), ""
    for check in checks:
        if check.needed_for != before:
            console.print(Text(check.needed_for, "bold"))
        before = check.needed_for
        state = (f"{check.state:<9}", STYLES[check.state])
        console.print(
            Text.assemble("  ", state, check.what, f": {check.found}" if check.found else ""), soft_wrap=True
        )
        if check.do:
            console.print(Text(f"           -> {check.do}", "italic"), soft_wrap=True)


def examine(wanted: Sequence[str] = ()) -> Iterator[Check]:
    """Every check in order, or those needed for something; one that raises is broken, and the others still run."""
    for needed_for, what, look in CHECKS:
        if wanted and needed_for not in wanted:
            continue
        try:
            yield from look(needed_for, what)
        except Exception as error:  # whatever an installation in disorder throws
            text = (str(error).splitlines() or [""])[0]
            yield Check(needed_for, what, "broken", f"{type(error).__name__}: {text}"[:200], "make setup")


def _python(who: str, what: str) -> Iterator[Check]:
    found = f"{sys.version.split()[0]} in {'a virtual' if sys.prefix != sys.base_prefix else 'the system'} environment"
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Check(who, what, "ok" if good else "broken", found, "" if good else "install Python 3.11 or 3.12")


def _packages(who: str, what: str) -> Iterator[Check]:
    lock = provenance.REPOSITORY / "requirements.txt"
    if not lock.is_file():
        yield Check(who, what, "ok", "installed without the lock; versions are not compared")
        return
    pinned = re.findall(r"^([\w.-]+)==([^\s;#]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    missing, other = [], []
    for name, wanted in pinned:
        try:
            have = version(name).partition("+")[0]  # the CPU build of torch is 2.x+cpu
        except PackageNotFoundError:
            missing.append(name)
            continue
        if have != wanted.partition("+")[0]:
            other.append(f"{name} {have} instead of {wanted}")
    if missing:
        yield Check(who, what, "missing", f"{_few(missing)} of {len(pinned)} locked", "make setup")
    elif other:
        do = "make setup, or expect other bits than the lock's"
        yield Check(who, what, "ok", f"{len(other)} differ from the lock: {_few(other)}", do)
    else:
        yield Check(who, what, "ok", f"{len(pinned)} as in requirements.txt")


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _torch(who: str, what: str) -> Iterator[Check]:
    import torch

    torch.set_num_threads(1)
    good = torch.get_num_threads() == 1
    capability = torch.backends.cpu.get_cpu_capability()
    found = f"torch {torch.__version__}, one thread a cell, {capability}"
    yield Check(who, what, "ok" if good else "broken", found, "" if good else "unset OMP_NUM_THREADS")


def _numba(who: str, what: str) -> Iterator[Check]:
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        yield Check(who, what, "broken", "NUMBA_DISABLE_JIT is set", "unset NUMBA_DISABLE_JIT")
        return
    from dm2core.env import battle
    from dm2core.records.numerics import simulator

    print_of = simulator()
    where = Path(str(battle.advance._cache.cache_path))  # type: ignore[attr-defined]
    kept = any(where.glob("*.nbi"))
    found = f"simulator {print_of}; compiled code is kept in {where}"
    do = "" if kept else f"make {where} writable, or set NUMBA_CACHE_DIR: without it every cell compiles anew"
    yield Check(who, what, "ok" if kept else "broken", found if kept else "compiles, but cannot keep it", do)


def _cores(who: str, what: str) -> Iterator[Check]:
    usable, there = provenance.usable_cores(), os.cpu_count() or 1
    yield Check(who, what, "ok", f"{usable} of {there} may be used: as many cells at once")


def _folders(who: str, what: str) -> Iterator[Check]:
    for name in ("results", "figures", ".cache"):
        folder = Path(name)
        at = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=at):
                pass
        except OSError as error:
            yield Check(who, f"{what} {name}", "broken", str(error.strerror), f"make {at} writable")
            continue
        yield Check(who, f"{what} {name}", "ok", "can be written")


def _disk(who: str, what: str) -> Iterator[Check]:
    folder = Path("results") if Path("results").exists() else Path()
    free = shutil.disk_usage(folder).free / 1e9
    good = free >= DISK_GB
    do = "" if good else f"make room: at least {DISK_GB:g} GB, or set `results` to another disk"
    yield Check(who, what, "ok" if good else "broken", f"{free:.1f} GB free", do)


def _git(who: str, what: str) -> Iterator[Check]:
    code = provenance.code_version()
    if code["commit"] == "unknown":
        do = "install git and work in a clone: manifests cannot name the commit otherwise"
        yield Check(who, what, "missing", "no git, or no clone", do)
        return
    dirty = bool(code["dirty_sha256"])
    do = (
        "commit before the results that count: figures made now are marked not for publication"
        if dirty
        else ""
    )
    yield Check(
        who, what, "ok", f"commit {code['commit'][:12]}{', with uncommitted code' if dirty else ''}", do
    )


def _starcraft(who: str, what: str) -> Iterator[Check]:
    """The backend's own checks, in the order in which they build on each other."""
    for check in preflight():
        yield Check(who, check.what, "ok" if check.ok else "missing", "", check.to_do)


def _gpu(who: str, what: str) -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        yield Check(who, what, "ok", torch.cuda.get_device_name())
        return
    do = "none is needed; packs of cells can use one (docs/packs.md)"
    yield Check(who, what, "missing", "torch finds no NVIDIA GPU", do)


def _slurm(who: str, what: str) -> Iterator[Check]:
    for name in ("sbatch", "squeue"):
        path = shutil.which(name)
        do = "run on a login node of the cluster" if path is None else ""
        yield Check(who, name, "missing" if path is None else "ok", path or "not on PATH", do)
    if shutil.which("squeue"):
        try:
            done = subprocess.run(
                ["squeue", "-h", "-t", "R"], capture_output=True, timeout=20, check=False, text=True
            )
            good, found = done.returncode == 0, done.stderr.strip().splitlines()[:1]
        except (OSError, subprocess.TimeoutExpired) as error:
            good, found = False, [type(error).__name__]
        do = "" if good else "ask the cluster's people: the controller does not answer"
        yield Check(who, "controller", "ok" if good else "broken", "answers" if good else "".join(found), do)
    plugin = importlib.util.find_spec("snakemake_executor_plugin_slurm")
    do = "pip install -e '.[slurm]'" if plugin is None else ""
    text = version("snakemake-executor-plugin-slurm") if plugin is not None else "not installed"
    yield Check(who, "Snakemake's plugin", "missing" if plugin is None else "ok", text, do)


def _mlflow(who: str, what: str) -> Iterator[Check]:
    """Its own import takes seconds; that its command line is registered says as much."""
    if importlib.util.find_spec("mlflow") is None:
        yield Check(who, what, "missing", "not installed", "make setup")
        return
    there = bool(entry_points(group="console_scripts", name="mlflow"))
    yield Check(who, what, "ok" if there else "broken", version("mlflow"), "" if there else "make setup")
    stores = sorted(Path("results").glob("**/mlflow/mlflow.db"))
    for store in stores:
        try:
            with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=2) as connection:
                runs = connection.execute("select count(*) from runs").fetchone()[0]
            yield Check(who, str(store), "ok", f"{runs} runs")
        except sqlite3.Error as error:
            do = "delete it and run dm2 track: everything in it comes from results/"
            yield Check(who, str(store), "broken", str(error), do)
    if not stores:
        yield Check(who, "store", "ok", "none yet; make mlflow makes one from finished cells")


CHECKS: tuple[tuple[str, str, Callable[[str, str], Iterator[Check]]], ...] = (
    (DEFAULT, "Python", _python),
    (DEFAULT, "packages", _packages),
    (DEFAULT, "torch", _torch),
    (DEFAULT, "compiler", _numba),
    (DEFAULT, "cores", _cores),
    (DEFAULT, "folder", _folders),
    (DEFAULT, "disk", _disk),
    (GIT, "git", _git),
    (SC2, "backend", _starcraft),
    (GPU, "CUDA", _gpu),
    (SLURM, "Slurm", _slurm),
    (MLFLOW, "mlflow", _mlflow),
)
