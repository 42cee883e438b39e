"""Training by a recipe: that it learns, does what the recipe says, goes on exactly, and refuses what it should."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from nuvlm.base.errors import InputError
from nuvlm.models.classifier import trainer
from nuvlm.models.classifier.recipes import draw_epoch, flip, halve, learning_rate, make_optimizer, peak_rate
from nuvlm.models.cnn.network import NETWORKS
from nuvlm.models.cnn.settings import Recipe
from nuvlm.models.cnn.training import check_shares
from nuvlm.models.degradations import degrade
from nuvlm.models.predictions import read_costs
from signals import all_of_its_processes
from tiny_cnn import classify, job, settings, train, write_data

FULL = {
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "max_grad_norm": 1.0,
    "label_smoothing": 0.1,
    "flip": True,
    "balanced": True,
    "half_resolution": 0.3,
}
"""All that a recipe can ask for."""
STEPS = 72 // 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def losses(card: dict[str, Any]) -> list[tuple[float, ...]]:
    """All of the history that does not depend on the clock."""
    return [tuple(value for name, value in entry.items() if "seconds" not in name) for entry in card["history"]]


def read_card(folder: Path, name: str) -> dict[str, Any]:
    """What the model's card says."""
    return json.loads((folder / name / "training.json").read_text())


def weights(folder: Path, name: str) -> bytes:
    return (folder / name / "model.safetensors").read_bytes()


# What a recipe means


def test_an_epoch_draws_every_event_once_in_batches_of_nearly_one_size() -> None:
    batches = draw_epoch(np.zeros(33), Recipe(batch_size=16), seed=3, epoch=0)
    assert [len(batch.rows) for batch in batches] == [11, 11, 11]
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(33))


def test_order_and_resolutions_follow_from_seed_and_epoch() -> None:
    labels, recipe = np.arange(60) % 3, Recipe(batch_size=8, balanced=True, half_resolution=0.5)

    def drawn(seed: int, epoch: int) -> list[tuple[list[int], bool]]:
        return [(batch.rows.tolist(), batch.halved) for batch in draw_epoch(labels, recipe, seed, epoch)]

    assert drawn(3, 1) == drawn(3, 1)
    assert drawn(3, 1) != drawn(3, 2)
    assert drawn(3, 1) != drawn(4, 1)
    assert drawn(-3, 1) == drawn(-3, 1)


def test_a_balanced_epoch_draws_each_class_equally_often_and_no_event_much_oftener_than_another() -> None:
    labels = np.repeat([0, 1, 2], [70, 25, 5])
    rows = np.concatenate([b.rows for b in draw_epoch(labels, Recipe(balanced=True), seed=3, epoch=0)])
    assert sorted(np.bincount(labels[rows])) == [33, 33, 34]
    times = np.bincount(rows, minlength=100)
    assert set(times[:70]) == {0, 1}
    assert set(times[70:95]) == {1, 2}
    assert set(times[95:]) <= {6, 7}
    again = np.concatenate([b.rows for b in draw_epoch(labels, Recipe(balanced=True), seed=3, epoch=1)])
    assert set(rows) != set(again), "other events of the frequent class are left out"


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 1.0])
def test_the_batches_at_half_the_resolution_are_spread_evenly(share: float) -> None:
    recipe = Recipe(batch_size=2, half_resolution=share)
    halved = [batch.halved for batch in draw_epoch(np.zeros(80), recipe, seed=3, epoch=0)]
    assert sum(halved) in (np.floor(40 * share), np.ceil(40 * share))
    for begin in range(0, 40, 10):
        assert abs(sum(halved[begin : begin + 10]) - 10 * share) <= 1


@pytest.mark.parametrize("size", [8, 7])
def test_half_the_resolution_is_that_of_the_condition(size: int) -> None:
    images = np.random.default_rng(3).integers(0, 256, (5, 2, size, size), dtype=np.uint8)
    events = pd.DataFrame({"shard": "a", "event_id": range(5)})
    expected = degrade("half_resolution", images, events, {})
    np.testing.assert_array_equal(halve(torch.from_numpy(images)).numpy(), expected)


def test_flips_mirror_rows_of_the_chosen_views_alone() -> None:
    images = torch.arange(2 * 2 * 3 * 3).reshape(2, 2, 3, 3)
    flipped = flip(images, torch.tensor([[True, False], [False, True]]))
    assert flipped[0, 0].tolist() == [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
    assert torch.equal(flipped[0, 1], images[0, 1])
    assert torch.equal(flipped[1, 1], images[1, 1].flip(0))


def test_the_rate_rises_and_falls_as_a_cosine_or_stays() -> None:
    cosine = Recipe(learning_rate=0.1, schedule="cosine", warmup_epochs=0.5, max_epochs=3)
    rates = [learning_rate(cosine, step, 4) for step in range(12)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates[7] == pytest.approx(0.05), "half way between the end of the warm-up and that of training"
    assert rates[11] == pytest.approx(0.1 * (1 + np.cos(np.pi * 0.9)) / 2)
    for steps in (1, 12):
        assert peak_rate(cosine, steps, 4) == max(rates[:steps])
    constant = Recipe(learning_rate=0.1, warmup_epochs=0.5)
    assert [learning_rate(constant, step, 4) for step in range(4)] == pytest.approx([0.05, 0.1, 0.1, 0.1])


def test_neither_biases_nor_normalisations_decay() -> None:
    network = NETWORKS["published"](width=0.25)
    optimizer = make_optimizer(network, Recipe(optimizer="adamw", learning_rate=0.1, weight_decay=0.5))
    before = {name: value.clone() for name, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in network.named_parameters():
        factor = 0.95 if name.endswith("weight") and value.ndim > 1 else 1.0
        torch.testing.assert_close(value, factor * before[name], msg=name)


# Training


def test_it_learns_writes_its_card_and_classifies(data: Path) -> None:
    card = train(data, max_epochs=20, patience=20, learning_rate=2e-3, batch_size=12, dropout=0)
    assert card["history"][-1]["train_loss"] < 0.7 * card["history"][0]["train_loss"]
    assert card["class_counts"] == {"nue_cc": 24, "numu_cc": 24, "nc": 24}
    assert card["events"] == 72
    assert card["steps"] == 20 * 6
    assert card["settings"]["recipe"]["batch_size"] == 12
    assert card["peak_learning_rate"] == 2e-3
    assert 0 < card["loader_share"] < 0.5
    assert card["events_per_second"] == pytest.approx(20 * 72 / card["seconds"])
    table = classify(data)
    assert (table["predicted"] == table["class"]).mean() > 0.8
    np.testing.assert_allclose(table[["p_nue_cc", "p_numu_cc", "p_nc"]].sum(axis=1), 1)
    (cost,) = read_costs([data / "0.parquet"])
    assert cost.events == 24
    assert cost.seconds == pytest.approx(table["seconds"].sum())
    assert cost.peak_memory_mb > 50
    assert list((data / "tensorboard").iterdir())
    assert not list((data / "checkpoints").iterdir()), "a finished training leaves no checkpoint"


def test_the_full_recipe_is_validated_as_events_are_classified(data: Path) -> None:
    """Plain cross-entropy, whatever the smoothing; at half the resolution that of the condition of this name."""
    card = train(data, **FULL, learning_rate=1e-3)
    best = card["history"][card["best_epoch"] - 1]
    validation = pd.read_parquet(data / "events.parquet").query("split == 'validation'")["event_id"]
    for condition, name in (("nominal", ""), ("half_resolution", "half_")):
        table = classify(data, condition=condition)
        table = table[table["event_id"].isin(validation)]
        right = [row[f"p_{row['class']}"] for _, row in table.iterrows()]
        assert best[f"{name}validation_loss"] == pytest.approx(-np.log(right).mean(), rel=1e-4)
        accuracy = (table["predicted"] == table["class"]).mean()
        assert best[f"{name}validation_accuracy"] == pytest.approx(accuracy)


def test_clipped_gradients_move_nothing_where_the_norm_is_tiny(data: Path) -> None:
    """Adam divides by the gradient's size, up to an epsilon of 1e-8, far above these."""
    torch.manual_seed(7)
    begin = NETWORKS["published"](width=0.25, dropout=0.1).state_dict()
    moved = {}
    for norm in (None, 1e-13):
        train(data, max_epochs=1, max_grad_norm=norm)
        end = load_file(data / "cnn" / "model.safetensors")
        moved[norm] = max(float((end[name] - begin[name]).abs().max()) for name in end if name.endswith("weight"))
    assert moved[None] > 3e-3
    assert moved[1e-13] < 1e-5


@pytest.mark.slow
def test_it_stops_early_and_keeps_the_best(data: Path) -> None:
    card = train(data, learning_rate=0.5, max_epochs=30, patience=2)
    found = [entry["validation_loss"] for entry in card["history"]]
    assert len(found) < 30
    assert card["best_epoch"] == int(np.argmin(found)) + 1 == len(found) - 2
    assert card["stopped_early"]


@pytest.mark.slow
def test_mixed_precision_learns_with_float32_weights(data: Path) -> None:
    card = train(data, bf16=True, max_epochs=2)
    assert card["precision"].startswith("bfloat16")
    assert card["history"][1]["train_loss"] < card["history"][0]["train_loss"]
    assert {value.dtype for value in load_file(data / "cnn" / "model.safetensors").values()} == {
        torch.float32, torch.int64
    }  # fmt: skip
    assert losses(card) != losses(train(data, "float32", max_epochs=2))


@pytest.mark.long
def test_a_compiled_network_has_plain_names_and_trains_alike(data: Path) -> None:
    changes = {"max_epochs": 1, "batch_size": 36, "dropout": 0.0, "learning_rate": 1e-5}
    card, plain = train(data, "compiled", compile=True, **changes), train(data, "plain", **changes)
    found, expected = (load_file(data / name / "model.safetensors") for name in ("compiled", "plain"))
    assert found.keys() == expected.keys()
    assert card["history"][0]["train_loss"] == pytest.approx(plain["history"][0]["train_loss"], rel=1e-4)


# Stopping and going on


def stop_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Send this process SIGTERM when the batch of each of these steps is made, counted over all that is trained."""
    made, count = trainer.batches, [0]

    def stopping(images: Any, order: Any, workers: int) -> Iterator[Any]:
        for rows, batch in made(images, order, workers):
            if len(rows) == 8:  # of training, not of validation
                count[0] += 1
                if count[0] in steps:
                    signal.raise_signal(signal.SIGTERM)
            yield rows, batch

    monkeypatch.setattr(trainer, "batches", stopping)


@pytest.mark.slow
@pytest.mark.parametrize(("bf16", "network"), [(False, "published"), (False, "mobilenet"), (True, "published")])
def test_a_stopped_training_ends_as_an_uninterrupted_one(
    data: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool, network: str
) -> None:
    """In the midst of an epoch, twice in another, and after an epoch's last step."""
    changes = {**FULL, "bf16": bf16, "network": network}
    whole = train(data, "whole", **changes)
    stop_at(monkeypatch, 4, STEPS + 2, STEPS + 5, 3 * STEPS)
    for _ in range(4):
        with pytest.raises(SystemExit) as stopped:
            train(data, "stopped", **changes)
        assert stopped.value.code == 128 + signal.SIGTERM
        assert not (data / "stopped").exists()
    resumed = train(data, "stopped", **changes)
    assert losses(resumed) == losses(whole)
    assert len(losses(resumed)) == 3
    assert weights(data, "stopped") == weights(data, "whole")


@pytest.mark.slow
def test_early_stopping_survives_a_stop(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was best, and how long ago, is in the checkpoint."""
    changes = {"learning_rate": 0.5, "max_epochs": 30, "patience": 3}
    whole = train(data, "whole", **changes)
    stop_at(monkeypatch, (whole["best_epoch"] + 1) * STEPS + 1)
    with pytest.raises(SystemExit):
        train(data, "stopped", **changes)
    resumed = train(data, "stopped", **changes)
    assert losses(resumed) == losses(whole)
    assert resumed["best_epoch"] == whole["best_epoch"] == len(whole["history"]) - 3
    assert weights(data, "stopped") == weights(data, "whole")


@pytest.mark.slow
def test_old_checkpoints_are_renewed_within_an_epoch(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = trainer.write_checkpoint

    def note(path: Path, fingerprint: dict[str, Any], state: dict[str, Any]) -> None:
        written.append(len(json.loads(state["progress"])["losses"]))
        write(path, fingerprint, state)

    whole = train(data, "whole")
    monkeypatch.setattr(trainer, "write_checkpoint", note)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    assert losses(train(data, "often")) == losses(whole)
    assert written == [*range(1, STEPS + 1), 0] * 3
    assert weights(data, "often") == weights(data, "whole")


LAUNCH = "import sys; from nuvlm.models.cnn.training import Job, train_cnn; from tiny_cnn import run; "
LAUNCH += "run(Job.model_validate_json(open(sys.argv[1]).read()))"


def kill(process: subprocess.Popen) -> None:
    process.kill()


BY_TWO = {**FULL, "learning_rate": 1e-4, "batch_size": 9, "max_epochs": 3, "dropout": 0.0, "processes": 2}
"""Batches that two processes cannot share equally."""


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training by two processes, in `whole`."""
    data = write_data(tmp_path_factory.mktemp("by_two"))
    train(data, "whole", **BY_TWO)
    return data


@pytest.mark.slow
def test_two_processes_that_are_stopped_go_on_exactly(by_two: Path) -> None:
    assert_goes_on_exactly(by_two, BY_TWO, all_of_its_processes, 128 + signal.SIGTERM)


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_exactly(data: Path) -> None:
    train(data, "whole", **FULL, max_epochs=3)
    assert_goes_on_exactly(data, FULL | {"max_epochs": 3}, kill, -signal.SIGKILL)


def assert_goes_on_exactly(
    data: Path, changes: dict[str, Any], end: Callable[[subprocess.Popen], None], status: int
) -> None:
    """End a training after its first checkpoint; it goes on and ends as `whole` has."""
    stopped = job(data, "stopped", **changes)
    path = data / "job.json"
    path.write_text(stopped.model_dump_json())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", LAUNCH, path], env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not stopped.checkpoint.exists():
            assert process.poll() is None, "the training ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        end(process)
        assert process.wait(60) == status
    assert not stopped.out.exists()
    assert stopped.checkpoint.exists()
    resumed, whole = train(data, "stopped", **changes), read_card(data, "whole")
    assert losses(resumed) == losses(whole)
    assert weights(data, "stopped") == weights(data, "whole")


@pytest.mark.slow
def test_two_processes_train_as_one(by_two: Path) -> None:
    """Each normalises its share of a batch, so losses differ a little."""
    one, two = train(by_two, "one", **BY_TWO | {"processes": 1}), read_card(by_two, "whole")
    assert two["processes"] == 2
    shared, alone = np.array(losses(two)), np.array(losses(one))
    np.testing.assert_allclose(shared[:, 0], alone[:, 0], rtol=3e-2)  # of training
    np.testing.assert_allclose(shared[:, 1:], alone[:, 1:], rtol=2e-3)
    found, expected = (load_file(by_two / name / "model.safetensors") for name in ("whole", "one"))
    assert found.keys() == expected.keys()
    for name in found:
        if "running" in name:  # statistics of the share of one process; test_cnn_processes has their broadcast
            assert torch.isfinite(found[name]).all()
            continue
        torch.testing.assert_close(found[name], expected[name], rtol=2e-2, atol=2e-3, msg=name)


# What is refused


def test_a_checkpoint_of_other_settings_or_data_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 3)
    with pytest.raises(SystemExit):
        train(data)
    with pytest.raises(
        InputError, match=r"other settings or data \(dropout 0\.1, now 0\.3; recipe\.flip True, now False\)"
    ):
        train(data, dropout=0.3, flip=False)
    with pytest.raises(InputError, match=r"\(recipe\.network published, now mobilenet\)"):
        train(data, network="mobilenet")
    checkpoint = data / "checkpoints" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="no readable checkpoint"):
        train(data)


@pytest.mark.slow
def test_how_events_are_read_may_change_before_a_training_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(data, "whole")
    stop_at(monkeypatch, 3)
    with pytest.raises(SystemExit):
        train(data, "stopped")
    assert losses(train(data, "stopped", memory_mb=100, workers=1)) == losses(whole)


def test_a_loss_that_is_no_number_ends_the_training_at_that_step(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's state becomes NaN in the second epoch."""
    step, spoilt = trainer.Training._step, []

    def spoil(self: Any, epoch: int, number: int, *arguments: Any) -> Any:
        if (epoch, number) == (1, 3):
            spoilt.append(self.checkpoint.read_bytes())
            next(self.network.parameters()).data.fill_(torch.nan)
        return step(self, epoch, number, *arguments)

    monkeypatch.setattr(trainer.Training, "_step", spoil)
    with pytest.raises(InputError, match=r"loss is not a number in epoch 2, step 4 .* lower learning_rate"):
        train(data)
    assert (data / "checkpoints" / "checkpoint.pt").read_bytes() == spoilt[0], "the one after the first epoch"
    assert not (data / "cnn").exists()


def test_a_class_without_training_events_is_named(tmp_path: Path) -> None:
    write_data(tmp_path, ["nue_cc", "nc"] * 48)
    with pytest.raises(InputError, match=r"events.parquet: no event of class numu_cc in the split train"):
        train(tmp_path)


def test_a_class_without_validation_events_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_data(tmp_path, ["nue_cc", "numu_cc", "nc"] * 24 + ["nue_cc", "nc"] * 12)
    train(tmp_path, max_epochs=1)
    assert "no event of class numu_cc in the split validation" in caplog.text


def test_events_without_a_class_are_left_out(tmp_path: Path) -> None:
    write_data(tmp_path, [*["nue_cc", "numu_cc", "nc"] * 22, *[None] * 6, *["nue_cc", "numu_cc", "nc"] * 8])
    assert train(tmp_path, max_epochs=1)["events"] == 66


def test_no_validation_event_is_refused(data: Path) -> None:
    events = pd.read_parquet(data / "events.parquet")
    events[events["split"] != "validation"].to_parquet(data / "events.parquet")
    with pytest.raises(InputError, match="no labelled event in the split validation"):
        train(data)


@pytest.mark.parametrize(
    ("events", "batch_size", "processes", "size"),
    [(8, 2, 3, 64), (9, 8, 5, 64), (3, 2, 1, 32), (4, 2, 2, 32)],
)
def test_batches_too_small_to_be_shared_are_refused(events: int, batch_size: int, processes: int, size: int) -> None:
    few = settings(batch_size=batch_size, processes=processes, network="mobilenet")
    with pytest.raises(InputError, match=rf"smallest batch of \d, too few for cnn\.processes {processes}"):
        check_shares(events, few, 2, size)
    check_shares(events, settings(batch_size=2 * events, processes=processes, network="mobilenet"), 2, size + 1)


@pytest.mark.slow
def test_batches_of_one_event_train_where_its_last_layers_have_several_pixels(data: Path) -> None:
    check_shares(3, settings(batch_size=1, network="published"), 2, 16)
    with pytest.raises(InputError, match="'mobilenet' at 32 pixels"):
        check_shares(3, settings(batch_size=1, network="mobilenet", half_resolution=0.1), 2, 64)
    assert train(data, batch_size=1, max_epochs=1, learning_rate=1e-4)["steps"] == 72
