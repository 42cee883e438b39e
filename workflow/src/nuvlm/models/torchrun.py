"""Trainings in several processes: starting them with torchrun, and what each of them does first."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from nuvlm.base.errors import InputError
from nuvlm.base.logs import setup_logging
from nuvlm.base.settings import Settings

logger = logging.getLogger(__name__)

SECONDS_TO_STOP = 270
"""Time for the processes to finish a step and write a checkpoint. torchrun's default of 30 s is too short for a large
model; the Slurm profile sends SIGTERM 300 s before the time limit."""


class ProcessJob(Settings):
    """What a training passes to each of its processes, as JSON."""

    log: Path | None = None
    """Log file of the job."""


J = TypeVar("J", bound=ProcessJob)


def run_process(kind: type[J], train: Callable[[J], None], arguments: list[str]) -> None:
    """Entry point of one process: train as `arguments`, the path of the job's JSON file, say.

    Raises:
        InputError: the file is not a job of this kind.
    """
    path = Path(arguments[0])
    try:
        job = kind.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: not a readable training job ({error}).") from error
    if job.log is not None:
        setup_logging(job.log)
    train(job)


def torchrun(module: str, job: Path, processes: int, nodes: int = 1) -> None:
    """Run ``python -m module job`` in `processes` processes, started and connected by torchrun.

    Args:
        module: of this package; its argument is the path of the job's file.
        job: JSON file of the job.
        processes: total on all nodes.
        nodes: number of nodes, of the Slurm job that this process runs in.

    Raises:
        SystemExit: status 143 after SIGTERM, 1 if a process failed (which logs its error).
    """
    # The processes import the package from the same place, also if it is not installed.
    source = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    if nodes == 1:
        _run_here(torchrun_arguments(module, job, processes))
    else:
        _run_on_nodes(module, job, processes, nodes)


def torchrun_arguments(
    module: str, job: Path, processes: int, nodes: int = 1, rendezvous: str | None = None
) -> list[str]:
    """Arguments of torchrun; the same on every node.

    Args:
        module: run by each process.
        job: JSON file of the job.
        processes: total on all nodes.
        nodes: number of nodes.
        rendezvous: ``host:port`` on the first node; None on a single node.
    """
    connection = ["--standalone"]
    if rendezvous is not None:
        # The port separates two jobs on a node; the id separates an earlier attempt on the same port.
        name = os.environ.get("SLURM_JOB_ID", "nuvlm")
        connection = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={rendezvous}", f"--rdzv-id={name}"]
    return [
        *connection,
        f"--nproc-per-node={processes // nodes}",
        f"--shutdown-timeout={SECONDS_TO_STOP}",
        "-m",
        module,
        str(job),
    ]


def _run_here(arguments: list[str]) -> None:
    """Run torchrun in-process. As a child it would get SIGTERM twice, from Slurm and from this process; the second
    would kill the workers before they checkpoint."""
    logger.info("torchrun %s", " ".join(arguments))
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    previous = {number: signal.getsignal(number) for number in handled}
    try:
        run.run(run.parse_args(arguments))
    except SignalException as stopped:
        raise SystemExit(128 + stopped.sigval) from None
    except ChildFailedError as failed:
        statuses = {failure.exitcode for failure in failed.failures.values()}
        raise SystemExit(128 + signal.SIGTERM if statuses == {128 + signal.SIGTERM} else 1) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_on_nodes(module: str, job: Path, processes: int, nodes: int) -> None:
    """Start one torchrun per node of this Slurm job with srun."""
    # A free port on this node: the batch script runs on the first node of the job.
    with socket.socket() as free:
        free.bind(("", 0))
        rendezvous = f"{socket.gethostname()}:{free.getsockname()[1]}"
    # Overlap: this process already occupies the first node with its job step.
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
        # srun forwards SIGTERM to its tasks.
        previous = signal.signal(signal.SIGTERM, lambda number, _: srun.send_signal(number))
        try:
            status = srun.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
    if status:
        raise SystemExit(status)
