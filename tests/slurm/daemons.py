"""A real Slurm on this machine for the tests: controller, one node, munge; as root, without systemd or cgroups.

    python -m tests.slurm.daemons     # by hand; packages: slurm-wlm munge; up until Ctrl-C or the end of its input

This process keeps the daemons and takes them down when its input ends, so that they do not outlive a test that was
killed. Everything lies in one folder, except links in /etc/slurm where there are none: the executor's job step drops
SLURM_CONF from the environment of the `srun` inside a job.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sinfo", "sbatch")
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
LINKS = (Path("/etc/slurm/slurm.conf"), Path("/etc/slurm/gres.conf"))
PREFIX = "dm2-slurm-"
MARK = "DM2_TEST_CLUSTER"  # in the environment of every daemon and job
PORT = 26917
CPUS = 4
CONF = Path(__file__).with_name("slurm.conf")


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]
    if absent:
        return f"no Slurm: {', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "starting a Slurm of our own needs root"
    clean_up_after_a_killed_keeper()
    there = [str(link) for link in LINKS if link.is_symlink() or link.exists()]
    return f"{', '.join(there)} exists: this machine has a Slurm of its own" if there else ""


def environment_of(folder: Path) -> dict[str, str]:
    """For every program that talks to the cluster in `folder`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    return {**kept, "PATH": SBIN, "SLURM_CONF": str(folder / "slurm.conf"), MARK: str(folder)}


def up(folder: Path) -> None:
    """Start munged, slurmctld and slurmd; RuntimeError if one does not start."""
    host = socket.gethostname().split(".")[0]
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    for name in ("ctld", "node"):
        (folder / name).mkdir()
    (folder / "gpu0").touch()
    gpu = f"NodeName={host} Name=gpu Type=test File={folder}/gpu0\n"
    (folder / "gres.conf").write_text(gpu)
    text = CONF.read_text().format(host=host, port=PORT, node_port=PORT + 1, folder=folder, cpus=CPUS)
    (folder / "slurm.conf").write_text(text)
    for link in LINKS:
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(folder / link.name)
    start(folder, "munged", "--force", "--num-threads=2", f"--key-file={folder}/munge.key",
          f"--socket={folder}/munge.socket", f"--seed-file={folder}/munge.seed",
          f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log")  # fmt: skip
    start(folder, "slurmctld")
    start(folder, "slurmd")
    for _ in range(200):
        said = subprocess.run(
            ["sinfo", "-h", "-o", "%T"],
            env=environment_of(folder),
            capture_output=True,
            text=True,
            check=False,
        )
        if said.stdout.split() and set(said.stdout.split()) == {"idle"}:
            return
        time.sleep(0.1)
    raise RuntimeError(f"no idle node: {said.stdout}{said.stderr}{last_words(folder)}")


def start(folder: Path, *command: str) -> None:
    done = subprocess.run(
        command,
        env=environment_of(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}{last_words(folder)}")


def last_words(folder: Path) -> str:
    """The end of every daemon's log."""
    return "".join(f"\n{path.name}: {path.read_text()[-800:]}" for path in sorted(folder.glob("*.log")))


def down(folder: Path) -> None:
    """Stop what belongs to the cluster, jobs included, and take the links and the folder away."""
    mine = b"%s=%s" % (MARK.encode(), os.fsencode(folder))
    for number, seconds in ((signal.SIGTERM, 2), (signal.SIGKILL, 10)):
        end = time.monotonic() + seconds
        while (left := list(processes(mine))) and time.monotonic() < end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.2)
    for link in LINKS:
        if link.is_symlink() and Path(os.readlink(link)).parent == folder:
            link.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def processes(*entries: bytes, named: str = "") -> Iterator[int]:
    """Processes that were started with all these entries in their environment; by name, if one is given."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
            name = (path / "comm").read_text().strip()
        except OSError:  # gone, or a zombie
            continue
        found = all(any(item.startswith(entry) for item in environment) for entry in entries)
        if found and (not named or name.startswith(named)) and int(path.name) != os.getpid():
            yield int(path.name)


def clean_up_after_a_killed_keeper() -> None:
    """A keeper that was itself killed leaves links to a folder that nobody locks."""
    for link in LINKS:
        folder = Path(os.readlink(link)).parent if link.is_symlink() else None
        if folder is not None and folder.name.startswith(PREFIX) and not locked(folder):
            down(folder)
            link.unlink(missing_ok=True)


def locked(folder: Path) -> bool:
    """Whether a living keeper holds the folder."""
    try:
        with open(folder / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def keep(folder: Path, ready: Callable[[], object]) -> None:
    """Up, `ready`, and down when this process's input ends or a signal comes."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            up(folder)
            ready()
            sys.stdin.read()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            down(folder)


def main() -> int:
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))  # short: sockets have short names
    try:
        keep(folder, lambda: print(f"export SLURM_CONF={folder}/slurm.conf", flush=True))
    except RuntimeError as error:
        print(f"Slurm did not start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
