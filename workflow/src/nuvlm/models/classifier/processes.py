"""The processes that train one network together: sharing a batch, collective operations, distributed data parallel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nuvlm.base.errors import InputError
from nuvlm.models.classifier.network import ImageClassifier
from nuvlm.models.devices import choose_device

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """One process and its group.

    Attributes:
        rank: of this process.
        size: number of processes.
        device: that this process computes on.
    """

    rank: int
    size: int
    device: torch.device

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of `rows`. The parts of all processes are disjoint and cover `rows`."""
        return rows[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """The values of all processes in order of rank; every process gets the same list."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process. Synchronises the processes."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised]

    def wrap(self, network: ImageClassifier) -> nn.Module:
        """`network` for training steps: its gradients are averaged over the processes.

        On GPUs batch normalisation uses the statistics of the whole batch (SyncBatchNorm, set in `network` itself). On
        CPUs, where torch has no such layer, each process normalises its share.
        """
        if self.size == 1:
            return network
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        # Training does not use the running statistics: sync_buffers before validation suffices.
        return DistributedDataParallel(
            network,
            device_ids=[self.device.index] if on_gpu else None,
            forward_sync_buffers=False,
            find_unused_parameters=not network.uses_all_parameters,
        )

    def sync_buffers(self, network: nn.Module) -> None:
        """Copy the running statistics of batch normalisation from rank 0 to all processes."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)


def local_device() -> torch.device:
    """The device of this process: the GPU of its local rank, as torchrun sets it."""
    device = choose_device()
    return torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0"))) if device.type == "cuda" else device


@contextmanager
def join(processes: int, section: str) -> Iterator[ProcessGroup]:
    """Join the process group of a training, started by torchrun. With one process there is nothing to join.

    Args:
        section: the family's section of the configuration, for messages.

    Raises:
        InputError: more processes than GPUs.
    """
    if processes == 1:
        yield ProcessGroup(0, 1, choose_device())
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus and torch.cuda.device_count() < processes:
        raise InputError(
            f"{section}.processes is {processes}, but the job sees {torch.cuda.device_count()} GPUs: set "
            f"{section}.gpus to the same number, or use fewer processes."
        )
    # gloo for tensors in main memory (flags, objects): exchanging them does not wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    try:
        device = local_device()
        if on_gpus:
            torch.cuda.set_device(device)
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
