"""Start a training in as many processes as it asks for, with torchrun."""

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

logger = logging.getLogger(__name__)

SECONDS_TO_STOP = 270
"""What the processes have to end a step and write a checkpoint. torchrun's own 30 s are short for a large model; the
Slurm profile sends its signal 300 s before the time limit."""


def torchrun(module: str, job: Path, processes: int, nodes: int = 1) -> None:
    """Run ``python -m module job`` in `processes` processes, which torchrun starts and connects.

    Args:
        module: of this package; told the path of the job's file.
        job: file of the job.
        processes: of all nodes together.
        nodes: of the Slurm job that this process is in.

    Raises:
        SystemExit: with status 143 where it was stopped by SIGTERM, 1 where a process failed, after that has said why.
    """
    # The processes find the package where this one did, installed or not.
    source = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    if nodes == 1:
        _run_here(torchrun_arguments(module, job, processes))
    else:
        _run_on_nodes(module, job, processes, nodes)


def torchrun_arguments(
    module: str, job: Path, processes: int, nodes: int = 1, rendezvous: str | None = None
) -> list[str]:
    """The arguments of torchrun, the same on every node.

    Args:
        module: that each process runs.
        job: the file of the job.
        processes: of all nodes together.
        nodes: how many torchruns meet.
        rendezvous: ``host:port`` on the first node where they do; one alone needs none.
    """
    meet = ["--standalone"]
    if rendezvous is not None:
        # The port tells apart two jobs on a node; the name is for what remains of an earlier attempt on that port.
        name = os.environ.get("SLURM_JOB_ID", "nuvlm")
        meet = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={rendezvous}", f"--rdzv-id={name}"]
    return [
        *meet,
        f"--nproc-per-node={processes // nodes}",
        f"--shutdown-timeout={SECONDS_TO_STOP}",
        "-m",
        module,
        str(job),
    ]


def _run_here(arguments: list[str]) -> None:
    """torchrun, in this process: of two, each would get Slurm's SIGTERM, and the second one that torchrun gets, passed
    on by the first, would make it leave its processes before they have written their checkpoint."""
    logger.info("torchrun %s", " ".join(arguments))
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    previous = {number: signal.getsignal(number) for number in handled}
    try:
        run.run(run.parse_args(arguments))
    except SignalException as stopped:
        raise SystemExit(128 + stopped.sigval) from None
    except ChildFailedError as failed:
        stopped_at = {failure.exitcode for failure in failed.failures.values()}
        raise SystemExit(128 + signal.SIGTERM if stopped_at == {128 + signal.SIGTERM} else 1) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_on_nodes(module: str, job: Path, processes: int, nodes: int) -> None:
    """One torchrun a node of the Slurm job that this process is in, started with srun."""
    # A port that is free here, on the node where the batch script runs, which is the first of the job.
    with socket.socket() as free:
        free.bind(("", 0))
        rendezvous = f"{socket.gethostname()}:{free.getsockname()[1]}"
    # Overlapping: this process is itself in a step of the job, which holds the first node.
    command = [
        "srun",
        "--overlap",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=0",
    ]
    command += [sys.executable, "-m", "torch.distributed.run"]
    command += torchrun_arguments(module, job, processes, nodes, rendezvous)
    logger.info("starting %s", " ".join(command))
    with subprocess.Popen(command) as srun:
        # srun passes SIGTERM on to its tasks.
        previous = signal.signal(signal.SIGTERM, lambda number, _: srun.send_signal(number))
        try:
            status = srun.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
    if status:
        raise SystemExit(status)
