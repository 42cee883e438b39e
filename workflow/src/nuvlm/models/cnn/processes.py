"""The processes that train one network: what each computes, and how they come to one result."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nuvlm.base.errors import InputError
from nuvlm.models.devices import choose_device

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """One process and those beside it.

    Attributes:
        rank: number of this one.
        size: how many there are.
        device: that this one computes on.
    """

    rank: int
    size: int
    device: torch.device

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that this process has; they are together all, each once."""
        return rows[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, the same list in each."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag, whether any process has raised it. All processes wait here for one another."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised]

    def wrap(self, network: nn.Module) -> nn.Module:
        """`network`, to be called in training: its gradients are the mean of those in all processes.

        Batch normalisation is made one over the events of all of them, in `network` itself.
        """
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        else:
            _normalise_together(network)
        # Running means are the same everywhere already.
        return DistributedDataParallel(
            network, device_ids=[self.device.index] if self.device.type == "cuda" else None, forward_sync_buffers=False
        )


@contextmanager
def join(processes: int) -> Iterator[Team]:
    """Meet the other processes of a training, which torchrun has started; alone, if `processes` is 1.

    Raises:
        InputError: more processes than GPUs.
    """
    if processes == 1:
        yield Team(0, 1, choose_device())
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus and torch.cuda.device_count() < processes:
        raise InputError(
            f"cnn.processes is {processes}, but the job sees {torch.cuda.device_count()} GPUs: set cnn.gpus to as "
            "many, or take fewer processes."
        )
    # Flags and counts are in main memory: to ask for them must not wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    try:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpus else torch.device("cpu")
        if on_gpus:
            torch.cuda.set_device(device)
        yield Team(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


class _SumOfAll(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _BatchNormOfAll(nn.BatchNorm2d):
    """Batch normalisation over the events of all processes on CPU cores, where torch's SyncBatchNorm does not run."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        # x: (events, channels, h, w), as many events as this process has of the batch
        channels = x.shape[1]
        counted = torch.full((1,), x.numel() / channels, dtype=torch.float64)
        sums: Tensor = _SumOfAll.apply(torch.cat([x.sum(dim=(0, 2, 3), dtype=torch.float64), counted]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x.float() - mean.float().view(1, channels, 1, 1)
        squares: Tensor = _SumOfAll.apply(centred.square().sum(dim=(0, 2, 3), dtype=torch.float64))
        variance = squares / count
        # torch types them as optional, which they are not here
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean.float(), self.momentum)
            self.running_var.lerp_((squares / (count - 1)).float(), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt().float()
        normalised = centred * scale.view(1, channels, 1, 1) + self.bias.view(1, channels, 1, 1)
        return normalised.to(x.dtype)


def _normalise_together(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                shared = _BatchNormOfAll(child.num_features, child.eps, child.momentum)
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared)
