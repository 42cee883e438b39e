"""Processes that share a batch: the gradient is that of the whole batch, running statistics are those of rank 0."""

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from nuvlm.models.classifier.processes import ProcessGroup, join
from nuvlm.models.cnn.network import NETWORKS

EVENTS = 7


def gradient(group: ProcessGroup) -> dict[str, Any]:
    """Loss and gradient of one step with a batch that two processes cannot share equally.

    Batch normalisation uses its running statistics: on CPUs each process would normalise by its own share.
    """
    torch.manual_seed(0)
    network = NETWORKS["published"](width=0.25, dropout=0.0)
    model = group.wrap(network)
    images, labels = torch.rand(EVENTS, 2, 64, 64), torch.arange(EVENTS) % 3
    mine = torch.from_numpy(group.share(np.arange(EVENTS)))
    model.train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
    loss = cross_entropy(model(images[mine]), labels[mine], reduction="sum") / EVENTS
    (loss * group.size).backward()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    return {"loss": sum(group.gather(loss.item())), "gradients": gradients}


def statistics(group: ProcessGroup) -> torch.Tensor:
    """Running means after a forward pass of other images in each process, then synchronised."""
    torch.manual_seed(group.rank)
    network = NETWORKS["published"](width=0.25).train()
    network(torch.rand(2, 2, 64, 64))
    group.sync_buffers(network)
    return torch.cat([buffer.flatten().double() for buffer in network.buffers()])


def in_process(rank: int, size: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with join(size, "cnn") as group:
        assert group.any(False, rank == 1) == [False, True]
        torch.save({**gradient(group), "statistics": statistics(group)}, folder / f"{rank}.pt")


@pytest.mark.slow
def test_the_gradient_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(in_process, (2, port, tmp_path), nprocs=2)
    with join(1, "cnn") as alone:
        expected = gradient(alone)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first["gradients"], second["gradients"])
    for found in (first, second):
        assert abs(found["loss"] - expected["loss"]) < 1e-5
        difference = (found["gradients"] - expected["gradients"]).norm() / expected["gradients"].norm()
        assert difference < 1e-4
    assert torch.equal(first["statistics"], second["statistics"])
    assert torch.equal(first["statistics"], statistics(ProcessGroup(0, 1, torch.device("cpu"))))


def test_all_processes_together_have_each_event_once() -> None:
    groups = [ProcessGroup(rank, 3, torch.device("cpu")) for rank in range(3)]
    shares = [group.share(np.arange(8)) for group in groups]
    assert sorted(np.concatenate(shares)) == list(range(8))
    assert {len(share) for share in shares} == {2, 3}
