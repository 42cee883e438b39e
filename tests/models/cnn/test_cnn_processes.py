"""Processes that share a batch: gradient and batch normalisation are those of one that has all of it."""

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from nuvlm.models.cnn.network import SiameseCnn
from nuvlm.models.cnn.processes import Team, join

EVENTS = 7


def gradient(team: Team) -> dict[str, Any]:
    """Of one step with a batch that no two or three processes can share equally, and what it leaves in the network."""
    torch.manual_seed(0)
    network = SiameseCnn(width=0.25, dropout=0.0)
    model = team.wrap(network)
    images, labels = torch.rand(EVENTS, 2, 64, 64), torch.arange(EVENTS) % 3
    mine = torch.from_numpy(team.share(np.arange(EVENTS)))
    loss = cross_entropy(model.train()(images[mine]), labels[mine], reduction="sum") / EVENTS
    (loss * team.size).backward()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    return {"loss": sum(team.gather(loss.item())), "gradients": gradients, "state": network.state_dict()}


def in_process(rank: int, size: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with join(size) as team:
        assert team.any(False, rank == 1) == [False, True]
        torch.save(gradient(team), folder / f"{rank}.pt")


@pytest.mark.slow
def test_the_gradient_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(in_process, (2, port, tmp_path), nprocs=2)
    with join(1) as alone:
        expected = gradient(alone)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first["gradients"], second["gradients"])
    for found in (first, second):
        assert abs(found["loss"] - expected["loss"]) < 1e-5
        difference = (found["gradients"] - expected["gradients"]).norm() / expected["gradients"].norm()
        assert difference < 1e-4
        assert found["state"].keys() == expected["state"].keys()
        for name, value in expected["state"].items():
            torch.testing.assert_close(found["state"][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_all_processes_together_have_each_event_once() -> None:
    teams = [Team(rank, 3, torch.device("cpu")) for rank in range(3)]
    shares = [team.share(np.arange(8)) for team in teams]
    assert sorted(np.concatenate(shares)) == list(range(8))
    assert {len(share) for share in shares} == {2, 3}
