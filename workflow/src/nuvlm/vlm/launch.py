"""Start a fine-tuning in as many processes as it asks for."""

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from nuvlm.storage import atomic_path
from nuvlm.vlm.training import Job, finetune

logger = logging.getLogger(__name__)

SECONDS_TO_STOP = 270
"""What the processes have to end a step and write a checkpoint. torchrun's own 30 s are short for a large model; the
Slurm profile sends its signal 300 s before the time limit."""


def launch(job: Job) -> None:
    """Run the job in this process, or in as many as it asks for with torchrun.

    Raises:
        InputError: from the job in this process.
        SystemExit: with status 143 where it was stopped by SIGTERM, 1 where a process failed, after that has said why.
    """
    settings = job.settings
    # One process that sees several GPUs would become nn.DataParallel: torchrun, for one too.
    alone = settings.strategy == "balanced" or torch.cuda.device_count() <= 1
    if settings.processes == 1 and settings.strategy != "deepspeed" and alone:
        finetune(job)
        return
    path = job.checkpoints / "job.json"
    with atomic_path(path) as partial:
        partial.write_text(job.model_dump_json(indent=1))
    # The processes find the package where this one did, installed or not.
    source = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    if settings.nodes == 1:
        _run_here(torchrun_arguments(path, settings.processes))
    else:
        _run_on_nodes(path, settings.processes, settings.nodes)


def torchrun_arguments(job: Path, processes: int, nodes: int = 1, rendezvous: str | None = None) -> list[str]:
    """The arguments of torchrun, the same on every node.

    Args:
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
        "nuvlm.vlm.training",
        str(job),
    ]


def _run_here(arguments: list[str]) -> None:
    """torchrun, in this process: of two, each would get Slurm's SIGTERM, and the second one that torchrun gets, passed
    on by the first, would make it leave its processes before they have written their checkpoint."""
    logger.info("torchrun %s", " ".join(arguments))
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    previous = {number: signal.getsignal(number) for number in handled}
    try:
        torchrun.run(torchrun.parse_args(arguments))
    except SignalException as stopped:
        raise SystemExit(128 + stopped.sigval) from None
    except ChildFailedError as failed:
        stopped_at = {failure.exitcode for failure in failed.failures.values()}
        raise SystemExit(128 + signal.SIGTERM if stopped_at == {128 + signal.SIGTERM} else 1) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_on_nodes(job: Path, processes: int, nodes: int) -> None:
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
    command += torchrun_arguments(job, processes, nodes, rendezvous)
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
