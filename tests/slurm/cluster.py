"""A real Slurm on this machine, as root: one node for CPU jobs, one with four GPUs, all below one folder.

Its limits are those of ordinary clusters: nodes of 256 GB, partitions of 24 hours that accept what exceeds them and let
it wait for ever, and a partition whose jobs preempt those of the others.

``python tests/slurm/cluster.py`` installs Debian's packages, starts it in a new folder and says how to use it, until
it is interrupted; ``... install`` only installs. The GPUs are character devices: Slurm counts them, hands them out and
sets CUDA_VISIBLE_DEVICES, and nothing can compute on them.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
NODES = ("cpu01", "gpu01")

# On a machine of any size: Slurm takes the numbers as they are.
CONFIGURATION = """
ClusterName=test
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
SwitchType=switch/none
MpiDefault=none
ReturnToService=0
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
DefMemPerCPU=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000,batch_sched_delay=0
KillWait=2
MinJobAge=7200
OverTimeLimit=0
SlurmdTimeout=10
PropagateResourceLimits=NONE
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
NodeName=cpu01 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=256000
NodeName=gpu01 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=256000 Gres=gpu:a100:4
PartitionName=cpu Nodes=cpu01 Default=YES DefaultTime=10 MaxTime=1440
PartitionName=gpu Nodes=gpu01 DefaultTime=10 MaxTime=1440
PartitionName=urgent Nodes=cpu01 DefaultTime=10 MaxTime=60 PriorityTier=9
"""


def install() -> None:
    """Install what is missing of Slurm with apt-get.

    Raises:
        subprocess.CalledProcessError: apt-get has failed.
    """
    if all(map(shutil.which, PROGRAMS)):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "--quiet", *command], env=environment, check=True)


class Cluster:
    """Slurm's daemons, as children of this process, from ``with Cluster(folder) as cluster`` to its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        # The wrappers come first: a job's own srun finds the cluster by them, as Snakemake strips SLURM_CONF.
        self.environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def __enter__(self) -> Self:
        for name in ("etc", "run", "log", "state", "dev", "bin", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "etc" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        for number in range(4):
            # what stands for a GPU must be a character device: another /dev/null
            os.mknod(self.folder / "dev" / f"gpu{number}", 0o20666, os.makedev(1, 3))
        conf = self.folder / "etc" / "slurm.conf"
        host = socket.gethostname().split(".")[0]
        # processes are found by the number of their job: a second cluster on this machine needs different numbers
        first_job = random.randrange(10_000, 60_000_000)
        conf.write_text(CONFIGURATION.format(folder=self.folder, host=host, ports=_free_ports(3), first_job=first_job))
        conf.with_name("gres.conf").write_text(f"NodeName=gpu01 Name=gpu Type=a100 File={self.folder}/dev/gpu[0-3]\n")
        for command in COMMANDS:
            wrapper = self.folder / "bin" / command
            wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which(command)} "$@"\n')
            wrapper.chmod(0o755)
        try:
            munge = [f"--{name}-file={self.folder}/{path}" for name, path in
                     (("key", "etc/munge.key"), ("pid", "run/munged.pid"), ("log", "log/munged.log"),
                      ("seed", "run/munged.seed"))]  # fmt: skip
            self._start("munged", "--foreground", "--force", f"--socket={self.folder}/run/munge.socket", *munge)
            wait_for((self.folder / "run" / "munge.socket").exists, 20, "munged")
            self._start("slurmctld", "-D", "-f", str(conf))
            for node in NODES:
                self.start_node(node)
            wait_for(lambda: self.idle() == set(NODES), 60, "the nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        jobs = []
        with contextlib.suppress(subprocess.CalledProcessError):  # where it has not come up
            jobs = self.jobs()
            self.command("scancel", "--user=root", "--full")
        for name in [*NODES, "slurmctld", "munged"]:
            if name in self.daemons:
                self._stop(name)
        for job in jobs:  # processes that ignored Slurm's signal
            _kill(step_daemons(job["JobId"]) + processes_of(job["JobId"]))

    def command(self, *arguments: str) -> str:
        """The output of one of Slurm's commands.

        Raises:
            subprocess.CalledProcessError: it has failed.
        """
        return subprocess.run(
            arguments, env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout  # fmt: skip

    def state(self, job: str) -> str:
        return next(found["JobState"] for found in self.jobs() if found["JobId"] == job)

    def idle(self) -> set[str]:
        """The nodes that wait for work."""
        return set(self.command("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").split())

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-f", f"{self.folder}/etc/slurm.conf", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and its jobs at once: as a machine that loses power, it reports nothing."""
        jobs = [job["JobId"] for job in self.jobs() if job.get("NodeList") == node and job["JobState"] == "RUNNING"]
        self._stop(node, signal.SIGKILL)
        for job in jobs:
            # first the daemons, which would report the end of the others
            _kill(step_daemons(job) + processes_of(job))

    def jobs(self) -> list[dict[str, str]]:
        """What ``scontrol show job`` says of all jobs, finished ones too, in the order of submission."""
        lines = self.command("scontrol", "--oneliner", "show", "job").splitlines()
        fields = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return sorted((job for job in fields if "JobId" in job), key=lambda job: int(job["JobId"]))

    def _start(self, program: str, *arguments: str, name: str | None = None) -> None:
        with (self.folder / "log" / f"{name or program}.out").open("a") as log:
            # A new session, so that Ctrl-C reaches the daemons only through this process; where that is killed,
            # they end too.
            self.daemons[name or program] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", program, *arguments],
                env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _stop(self, name: str, number: int = signal.SIGTERM) -> None:
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def processes_of(job: str) -> list[int]:
    """Process ids of a running Slurm job: of all that carry its number in their environment."""
    mark = f"SLURM_JOB_ID={job}\0"
    return [int(entry.name) for entry in _processes() if mark in _read(entry / "environ")]


def step_daemons(job: str) -> list[int]:
    """Process ids of the daemons that a node runs above the steps of a job."""
    title = f"slurmstepd: [{job}."
    return [int(entry.name) for entry in _processes() if _read(entry / "cmdline").startswith(title)]


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until `condition` holds.

    Raises:
        TimeoutError: it does not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended meanwhile
        return ""


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    install()
    if sys.argv[1:] == ["install"]:
        return
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, Cluster(Path(folder)) as cluster:
        print(cluster.command("sinfo", "-o", "%N %G %P"))
        print(f"In another terminal: export PATH={folder}/bin:$PATH\nCtrl-C ends it.")
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping")


if __name__ == "__main__":
    main()
