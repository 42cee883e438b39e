"""The Siamese CNN: its size, that it learns, stops, resumes exactly, and refuses what it should."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from nuvlm.cnn.classify import classify_cnn
from nuvlm.cnn.network import SiameseCnn, count_parameters, describe, load_cnn
from nuvlm.cnn.settings import CnnSettings
from nuvlm.cnn.training import train_cnn
from nuvlm.errors import InputError
from nuvlm.predictions import read_costs, read_predictions
from paths import REPOSITORY
from stores import write_pixel_maps

SMALL = {"width": 0.25, "learning_rate": 3e-3, "batch_size": 8, "max_epochs": 3, "dropout": 0.1, "flip": True}
LABELS = ("nue_cc", "numu_cc", "nc")


def write_data(folder):
    """Pixel maps that a glance tells apart: a vertical bar, a horizontal one, a square; and their event table."""
    n = 96
    rng = np.random.default_rng(3)
    images = np.zeros((n, 2, 64, 64), dtype=np.uint8)
    for i, image in enumerate(images):
        a, b = rng.integers(4, 28, 2)
        height, width = ((30, 4), (4, 30), (14, 14))[i % 3]
        image[:, a : a + height, b : b + width] = rng.integers(150, 255)
    ids = write_pixel_maps(folder / "a.zarr", images)
    events = pd.DataFrame({"shard": "a", "row": np.arange(n), "event_id": ids})
    events["class"] = pd.Series([LABELS[i % 3] for i in range(n)], dtype="string")
    events["split"] = pd.Series(["train"] * 72 + ["validation"] * 12 + ["test"] * 12, dtype="string")
    events["part"] = [-1] * 72 + [0] * 24
    events.to_parquet(folder / "events.parquet")
    return folder


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


def train(folder, name="cnn", **changes):
    out = folder / name
    train_cnn(
        folder / "events.parquet",
        {"a": folder / "a.zarr"},
        out,
        folder / "checkpoint.pt",
        folder / "tensorboard",
        settings=CnnSettings(**(SMALL | changes)),
        threads=1,
    )
    return json.loads((out / "training.json").read_text())


def classify(folder, out="0.parquet", **changes):
    keywords = {"condition": "nominal", "part": 0, "batch_size": 1, "threads": 1} | changes
    classify_cnn(folder / "cnn", folder / "events.parquet", {"a": folder / "a.zarr"}, folder / out, **keywords)
    return read_predictions([folder / out])


def test_full_width_has_the_published_number_of_parameters():
    assert count_parameters(SiameseCnn()) == pytest.approx(3.4e6, rel=0.02)


def test_the_table_of_layers_is_that_of_the_docs_and_adds_up():
    command = [sys.executable, "-m", "nuvlm.cnn.network"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert table in (REPOSITORY / "docs" / "cnn.md").read_text(), "put what the command prints into docs/cnn.md"
    *layers, total = (int(row.split("|")[4].replace(",", "") or 0) for row in table.replace(" ", "").splitlines()[2:])
    assert sum(layers) == total == count_parameters(SiameseCnn())


def test_the_table_gives_the_shapes_of_other_networks():
    table = describe(SiameseCnn(views=3, width=0.25), 75)
    # three times 24 channels; 75 pixels halved four times, each time rounded up
    assert "| concatenation | of 3 views | 72 x 5 x 5 |" in table
    assert "320 x 3 x 3" in table


@pytest.mark.parametrize(("views", "size"), [(1, 32), (2, 112), (3, 75), (2, 256)])
def test_any_number_of_views_and_image_size(views, size):
    network = SiameseCnn(views=views, width=0.25).eval()
    assert network(torch.rand(2, views, size, size)).shape == (2, 3)


def test_views_share_their_branch_and_both_matter():
    torch.manual_seed(0)
    network = SiameseCnn(width=0.25)
    images = torch.rand(4, 2, 64, 64)
    network(images).sum().backward()
    # the trunk's first layer takes the channels of the first view, then those of the second
    gradient = next(network.trunk.parameters()).grad
    assert gradient is not None
    for view in gradient.abs().sum(dim=(0, 2, 3)).chunk(2):
        assert (view > 0).any()
    one_view = count_parameters(SiameseCnn(views=1, width=0.25))
    assert count_parameters(network) < 1.5 * one_view, "a branch for each view would double it"


def test_it_learns_writes_its_card_and_classifies(data):
    card = train(data, max_epochs=20, patience=20, learning_rate=2e-3, batch_size=12, dropout=0)
    assert card["history"][-1]["train_loss"] < 0.7 * card["history"][0]["train_loss"]
    assert card["class_counts"] == {"nue_cc": 24, "numu_cc": 24, "nc": 24}
    assert card["events"] == 72
    table = classify(data)
    assert (table["predicted"] == table["class"]).mean() > 0.8
    np.testing.assert_allclose(table[["p_nue_cc", "p_numu_cc", "p_nc"]].sum(axis=1), 1)
    (cost,) = read_costs([data / "0.parquet"])
    assert cost.events == 24
    assert cost.seconds == pytest.approx(table["seconds"].sum())
    assert cost.peak_memory_mb > 50
    assert list((data / "tensorboard").iterdir())
    assert not (data / "checkpoint.pt").exists(), "a finished training leaves no checkpoint"


def test_predictions_do_not_depend_on_the_batch_and_take_half_the_resolution(data):
    train(data)
    one, many = classify(data), classify(data, batch_size=5)
    columns = ["p_nue_cc", "p_numu_cc", "p_nc"]
    np.testing.assert_allclose(one[columns], many[columns], atol=1e-6)
    assert not np.allclose(one[columns], classify(data, condition="half_resolution")[columns])


def test_a_part_without_events_gives_an_empty_table(data):
    train(data)
    assert len(classify(data, part=7)) == 0


class _StopError(Exception):
    pass


def test_a_resumed_training_equals_an_uninterrupted_one(data, monkeypatch):
    whole = train(data, "whole")
    import nuvlm.cnn.training as training

    save = training._save_checkpoint
    calls = []

    def save_and_stop(*arguments):
        save(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise _StopError

    monkeypatch.setattr(training, "_save_checkpoint", save_and_stop)
    with pytest.raises(_StopError):
        train(data, "stopped")
    assert not (data / "stopped").exists()
    monkeypatch.undo()
    resumed = train(data, "stopped")

    def losses(card):
        return [(entry["train_loss"], entry["validation_loss"]) for entry in card["history"]]

    assert losses(resumed) == losses(whole)
    assert (data / "whole/model.safetensors").read_bytes() == (data / "stopped/model.safetensors").read_bytes()


def test_it_stops_early_and_keeps_the_best(data):
    card = train(data, learning_rate=0.5, max_epochs=30, patience=2)
    losses = [entry["validation_loss"] for entry in card["history"]]
    assert len(losses) < 30
    assert card["best_epoch"] == int(np.argmin(losses)) + 1 == len(losses) - 2


def test_a_checkpoint_of_other_settings_or_data_is_refused(data, monkeypatch):
    import nuvlm.cnn.training as training

    def stop(*arguments):
        save(*arguments)
        raise _StopError

    save = training._save_checkpoint
    monkeypatch.setattr(training, "_save_checkpoint", stop)
    with pytest.raises(_StopError):
        train(data)
    monkeypatch.undo()
    with pytest.raises(InputError, match="other settings or data"):
        train(data, dropout=0.3)
    (data / "checkpoint.pt").write_bytes((data / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match="no readable checkpoint"):
        train(data)


def test_a_damaged_model_is_refused(data):
    train(data)
    weights = bytearray((data / "cnn/model.safetensors").read_bytes())
    weights[-100] ^= 1
    (data / "cnn/model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="have changed"):
        load_cnn(data / "cnn", torch.device("cpu"))
