"""A real Slurm on this machine for the tests: controller, one node, munge; as root, without systemd or cgroups.

    python -m tests.slurm.cluster up | down     # by hand; packages: slurm-wlm munge

Everything lies in one folder, except a link /etc/slurm/slurm.conf where there is none: the executor's job step drops
SLURM_CONF from the environment of the `srun` inside a job.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sinfo", "sbatch")
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
LINKED = Path("/etc/slurm/slurm.conf")
PORT = 26917
CONF = """\
ClusterName=dm2test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,requeue_delay=1
DefMemPerCPU=200
MinJobAge=600
SlurmdTimeout=60
KillWait=5
JobRequeue=1
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory={memory} Gres=gpu:test:1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]
    if absent:
        return (
            f"{', '.join(absent)} not installed: apt-get install -y --no-install-recommends slurm-wlm munge"
        )
    if os.geteuid() != 0:
        return "starting a Slurm of our own needs root"
    if LINKED.exists():
        return f"{LINKED} exists: this machine has a Slurm of its own"
    return ""


class Cluster:
    """Up between `up` and `down`. Raises RuntimeError with the daemon's last words if it does not come up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().split(".")[0]
        self.environment = {**os.environ, "PATH": SBIN, "SLURM_CONF": str(folder / "slurm.conf")}

    def up(self) -> None:
        """Start munged, slurmctld and slurmd; wait for an idle node."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for name in ("ctld", "node"):
            (self.folder / name).mkdir(exist_ok=True)
        gpu = self.folder / "gpu0"
        gpu.touch()
        (self.folder / "gres.conf").write_text(f"NodeName={self.host} Name=gpu Type=test File={gpu}\n")
        memory = int(Path("/proc/meminfo").read_text().split()[1]) * 9 // 10240
        text = CONF.format(host=self.host, port=PORT, node_port=PORT + 1, folder=self.folder, memory=memory)
        (self.folder / "slurm.conf").write_text(text)
        LINKED.parent.mkdir(exist_ok=True)
        LINKED.symlink_to(self.folder / "slurm.conf")
        (LINKED.parent / "gres.conf").unlink(missing_ok=True)
        (LINKED.parent / "gres.conf").symlink_to(self.folder / "gres.conf")
        at = self.folder
        files = [
            f"--{option}={at}/munged.{end}" for option, end in (("pid-file", "pid"), ("log-file", "log"))
        ]
        files += [f"--key-file={key}", f"--socket={at}/munge.socket", f"--seed-file={at}/munge.seed"]
        self.call("munged", "--force", "--num-threads=2", *files)
        self.call("slurmctld")
        self.start_node()

    def start_node(self) -> None:
        """Start slurmd and wait until jobs may run."""
        self.call("slurmd")

        def idle() -> bool:
            said = self.call("sinfo", "-h", "-o", "%T", check=False)
            return said.strip() in ("idle", "mixed", "allocated")

        self.wait(idle, 60, "the node")

    def kill_node(self) -> None:
        """kill -9 slurmd; its jobs go on."""
        os.kill(int((self.folder / "slurmd.pid").read_text()), signal.SIGKILL)

    def down(self) -> None:
        """Cancel what runs, stop the daemons, take the links away."""
        self.call("scancel", "--user=root", check=False)
        for name in ("slurmd", "slurmctld", "munged"):
            try:
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGTERM)
            except (OSError, ValueError):
                continue
        for link in (LINKED, LINKED.parent / "gres.conf"):
            if link.is_symlink() and Path(os.readlink(link)).parent == self.folder:
                link.unlink()

    def jobs(self) -> list[dict[str, str]]:
        """Jobs that Slurm remembers: id, state, rule and cell."""
        said = self.call("squeue", "-h", "--states=all", "-o", "%i|%T|%k|%r")
        rows = [line.split("|") for line in said.splitlines()]
        return [dict(zip(("id", "state", "comment", "reason"), row, strict=True)) for row in rows]

    def call(self, *command: str, check: bool = True) -> str:
        """Standard output of one of Slurm's commands."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def wait(self, ready: Callable[[], object], seconds: float, what: str) -> None:
        """Until `ready`; RuntimeError after so many seconds."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = [path.read_text()[-800:] for path in sorted(self.folder.glob("slurm*.log"))]
                raise RuntimeError(f"{what}: not within {seconds:g} s\n" + "\n".join(logs))
            time.sleep(0.3)


def main() -> int:
    cluster = Cluster(Path("/var/tmp/dm2-slurm"))
    if sys.argv[1:] == ["down"]:
        cluster.down()
        return 0
    if sys.argv[1:] != ["up"] or missing():
        print(missing() or "usage: python -m tests.slurm.cluster up | down", file=sys.stderr)
        return 2
    cluster.up()
    print(f"export SLURM_CONF={cluster.folder}/slurm.conf")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
