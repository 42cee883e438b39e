"""Bad input of the CNN is refused before anything is made of it, with the file and a remedy, or does what is stated."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from safetensors.torch import load_file, save_file

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, sha256, write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import SMALLEST, open_pixel_maps
from nuvlm.models.classifier.network import to_float
from nuvlm.models.cnn.classify import classify_cnn
from nuvlm.models.cnn.export import export_cnn
from nuvlm.models.cnn.mobilenet import InvertedResidual
from nuvlm.models.cnn.network import NETWORKS, load_cnn
from nuvlm.models.cnn.settings import TrainSettings
from nuvlm.models.cnn.training import train_cnn
from nuvlm.models.predictions import PROBABILITIES, read_predictions
from stores import write_pixel_maps
from tiny_cnn import train

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LIT = np.random.default_rng(1).integers(0, 256, (96, 2, 64, 64), dtype=np.uint8)
"""Of the shape that the network is trained on."""


@pytest.fixture
def own(exported_cnn: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(exported_cnn, tmp_path / "own"))


def classify(folder: Path, onnx: bool = False, batch_size: int = 24) -> pd.DataFrame:
    out = folder / "predictions.parquet"
    classify_cnn(
        folder / "cnn", folder / "events.parquet", {"a": folder / "a.zarr"}, {"nominal": out}, part=0,
        batch_size=batch_size, threads=1, export=folder / "cnn_onnx" if onnx else None,
    )  # fmt: skip
    return read_predictions([out])


def assert_nobody_takes(folder: Path, message: str) -> None:
    """Neither torch nor onnxruntime classifies; nothing is written."""
    for onnx in (False, True):
        with pytest.raises(InputError, match=message):
            classify(folder, onnx)
    assert not (folder / "predictions.parquet").exists()


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    """Change training.json, as a whole file with the digests that it has to have."""
    card = read_json(folder / "training.json")
    change(card)
    write_json(folder / "training.json", card, sealed=True)
    renew(folder)


def renew(folder: Path) -> None:
    """A manifest of the files as they are now."""
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    renew(folder)


@pytest.mark.parametrize(
    ("images", "views", "message"),
    [
        (LIT[..., :48, :48], ["xz", "yz"], "size is 48, the model was trained with 64"),
        (np.repeat(np.repeat(LIT, 2, axis=2), 2, axis=3), ["xz", "yz"], "size is 128, the model was trained with 64"),
        (LIT[:, :1], ["xz"], r"views is \['xz'\], the model was trained with \['xz', 'yz'\]"),
        (LIT[:, [0, 1, 1]], ["u", "v", "z"], r"views is \['u', 'v', 'z'\], the model was trained with \['xz', 'yz'\]"),
        (LIT, ["yz", "xz"], r"views is \['yz', 'xz'\], the model was trained with \['xz', 'yz'\]"),
    ],
)
def test_maps_of_another_size_or_other_views_are_refused(own, images, views, message):
    shutil.rmtree(own / "a.zarr")
    write_pixel_maps(own / "a.zarr", images, views=views)
    assert_nobody_takes(own, rf"/cnn: trained on other pixel maps than these \(.*a\.zarr\): {message}\..*train again")


def test_shards_that_are_not_alike_train_nothing(own):
    ids = write_pixel_maps(own / "b.zarr", LIT[:, :, :32, :32], first_event=500)
    events = read_events(own / "events.parquet")
    pd.concat([events, events.assign(shard="b", event_id=ids)]).to_parquet(own / "events.parquet")
    with pytest.raises(InputError, match=r"b\.zarr.*32"):
        train_cnn(
            own / "events.parquet", {"a": own / "a.zarr", "b": own / "b.zarr"}, own / "other", own / "checkpoint.pt",
            own / "tensorboard", settings=TrainSettings(), threads=1,
        )  # fmt: skip
    assert not (own / "other").exists()


def float_images(store: Path) -> None:
    shutil.rmtree(store)
    write_pixel_maps(store, LIT.astype(np.float32) / 255)


def other_than_told(store: Path) -> None:
    """A store whose attributes are those that the model knows, and whose images are not."""
    shutil.rmtree(store)
    write_pixel_maps(store, LIT[:, [0, 1, 1]])


def one_pixel(store: Path) -> None:
    shutil.rmtree(store)
    write_pixel_maps(store, LIT[..., :1, :1])


def without_settings(store: Path) -> None:
    zarr.open_group(store, mode="r+").attrs.pop("transfer")
    content = json.loads((store / "zarr.json").read_text())
    content["attributes"].pop("transfer", None)
    (store / "zarr.json").write_text(json.dumps(content))
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").unlink()
    write_manifest(store, shapes=manifest["shapes"])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (float_images, r"a\.zarr: its images are float32 .* that is uint8 \(events, 2, 64, 64\)"),
        (other_than_told, r"a\.zarr: its images are uint8 \(96, 3, 64, 64\), but its attributes give 2 views"),
        (one_pixel, rf"a\.zarr: pixel maps with 1 pixels a side are too small; {SMALLEST} is the minimum"),
        (without_settings, r"a\.zarr: not pixel maps; transfer.*missing.*correct the program that wrote it"),
    ],
)
def test_a_store_that_holds_no_pixel_maps_is_refused(own, harm, message):
    harm(own / "a.zarr")
    assert_nobody_takes(own, message)
    # Where events are listed, long before a training.
    with pytest.raises(InputError, match=message):
        open_pixel_maps(own / "a.zarr")
    with pytest.raises(InputError, match=message):
        train(own, "other")
    assert not (own / "other").exists()


def test_black_maps_all_get_the_same_answer(own):
    images = np.zeros_like(LIT)
    images[74] = LIT[74]
    shutil.rmtree(own / "a.zarr")
    write_pixel_maps(own / "a.zarr", images)
    for onnx in (False, True):
        found = classify(own, onnx, batch_size=1)[list(PROBABILITIES)].to_numpy()
        assert np.isfinite(found).all()
        black = np.delete(found, 2, axis=0)
        np.testing.assert_array_equal(black, np.broadcast_to(black[0], black.shape))
        assert (found[2] != black[0]).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_black_maps_gives_a_finite_loss_and_finite_gradients(name):
    torch.manual_seed(0)
    network = NETWORKS[name](width=0.25).train()
    for size in (SMALLEST, 64):
        images = to_float(torch.zeros(4, 2, size, size, dtype=torch.uint8), CPU)
        loss = torch.nn.functional.cross_entropy(network(images), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_trained_on_black_maps_it_learns_how_frequent_the_classes_are(own):
    """All that can be learnt from them; half of these events are nu_e."""
    shutil.rmtree(own / "a.zarr")
    write_pixel_maps(own / "a.zarr", np.zeros_like(LIT[..., :16, :16]))
    events = read_events(own / "events.parquet")
    events["class"] = pd.Series([CLASSES[max(i % 4 - 1, 0)] for i in range(len(events))], dtype="string")
    events.to_parquet(own / "events.parquet")
    shutil.rmtree(own / "cnn")
    card = train(own, max_epochs=25, patience=25, learning_rate=1e-2, dropout=0, batch_size=12)
    assert np.isfinite([entry["train_loss"] + entry["validation_loss"] for entry in card["history"]]).all()
    found = classify(own)[list(PROBABILITIES)].to_numpy()
    np.testing.assert_allclose(found[0], [0.5, 0.25, 0.25], atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("views"), "no usable value of views"),
        (lambda card: card.update(views="two"), "no usable value of views"),
        (lambda card: card.pop("settings"), "no usable value of settings"),
        (lambda card: card["settings"].pop("width"), r"no usable value of settings\.width"),
        (
            lambda card: card["settings"].update(width=-1),
            "does not fit the network in training.json, which is 'published' and has width -1",
        ),
        (lambda card: card["settings"].update(dropout=7), "not the settings of a network"),
        (lambda card: card.update(views=-2), "not the settings of a network"),
        (lambda card: card.update(network="alexnet"), "the network is 'alexnet'; known are published, mobilenet"),
        (lambda card: card.update(network=["published"]), r"the network is \['published'\]"),
        (lambda card: card.update(classes=["nue_cc", "numu_cc", "nutau_cc"]), "the classes are .*'nutau_cc'"),
    ],
)
def test_a_card_without_what_the_network_needs_is_refused(own, change, message):
    rewrite(own / "cnn", change)
    with pytest.raises(InputError, match=rf"/cnn/.*{message}.*Remove .*/cnn and rerun"):
        load_cnn(own / "cnn", CPU)
    with pytest.raises(InputError, match=message):
        export_cnn(own / "cnn", own / "export")
    assert not (own / "export").exists()


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\x00\x01", b"null"])
def test_a_card_that_is_no_json_is_refused(own, content):
    (own / "cnn/training.json").write_bytes(content)
    renew(own / "cnn")
    assert_nobody_takes(own, r"training\.json: not a JSON mapping .*Remove")


def test_a_card_that_says_nothing_of_the_maps_is_refused(own):
    rewrite(own / "cnn", lambda card: card.pop("images"))
    assert_nobody_takes(own, r"training\.json: has no settings of the pixel maps .*Remove .*/cnn and rerun")


def test_weights_of_another_width_are_refused_with_both(own):
    """As where files of two trainings came together."""
    train(own, "wide", max_epochs=1, width=0.5)
    shutil.copy(own / "wide/model.safetensors", own / "cnn")
    renew(own / "cnn")
    message = r"width 0\.25 and 2 views: the weights have width 0\.5,.*Remove .*/cnn and rerun"
    with pytest.raises(InputError, match=message):
        classify(own)
    with pytest.raises(InputError, match=message):
        export_cnn(own / "cnn", own / "export")
    with pytest.raises(InputError, match="was not exported from"):
        classify(own, onnx=True)


def test_weights_of_the_other_network_are_refused_by_name(own):
    train(own, "other", max_epochs=1, network="mobilenet")
    shutil.copy(own / "other/model.safetensors", own / "cnn")
    renew(own / "cnn")
    with pytest.raises(InputError, match=r"which is 'published' .*: the weights are those of 'mobilenet'.*Remove "):
        load_cnn(own / "cnn", CPU)
    # Versions with this network only did not name it.
    rewrite(own / "cnn", lambda card: card.pop("network"))
    assert isinstance(load_cnn(own / "cnn", CPU).branch[0], InvertedResidual)


def test_weights_of_a_network_for_other_views_or_of_none_are_refused(own):
    rewrite(own / "cnn", lambda card: card.update(views=3))
    with pytest.raises(InputError, match=r"3 views: the weights have width 0\.25, and trunk\.1.* is \("):
        load_cnn(own / "cnn", CPU)
    reweigh(own / "cnn", lambda weights: (weights.clear(), weights.update(hello=torch.zeros(2))))
    with pytest.raises(InputError, match=r"model\.safetensors: does not fit the network"):
        load_cnn(own / "cnn", CPU)
    (own / "cnn/model.safetensors").write_bytes(b"\xff" * 100)
    renew(own / "cnn")
    with pytest.raises(InputError, match=r"model\.safetensors: unreadable weights"):
        load_cnn(own / "cnn", CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(own, value):
    reweigh(own / "cnn", lambda weights: weights["stem.0.weight"][3].fill_(value))
    message = r"model\.safetensors: 1 of \d+ weight arrays \(first: stem\.0\.weight\).*lower learning rate"
    with pytest.raises(InputError, match=message):
        classify(own)
    with pytest.raises(InputError, match=message):
        export_cnn(own / "cnn", own / "export")
    assert not (own / "predictions.parquet").exists()
    assert not (own / "export").exists()


def test_weights_in_half_precision_classify_as_they_would_in_full(own):
    expected = classify(own)[list(PROBABILITIES)]

    def halve(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: value.half() for name, value in weights.items() if value.is_floating_point()})

    reweigh(own / "cnn", halve)
    np.testing.assert_allclose(classify(own)[list(PROBABILITIES)], expected, atol=1e-2)


def test_an_onnx_file_of_other_weights_or_of_none_is_refused(own):
    reweigh(own / "cnn", lambda weights: weights["stem.0.weight"].mul_(1.01))
    with pytest.raises(InputError, match=r"model\.onnx: was not exported from .*rerun export_cnn"):
        classify(own, onnx=True)
    (own / "cnn_onnx/model.onnx").write_bytes(b"no ONNX")
    renew(own / "cnn_onnx")
    with pytest.raises(InputError, match=r"model\.onnx: unreadable ONNX file .*Remove .*cnn_onnx and rerun"):
        classify(own, onnx=True)
    assert not (own / "predictions.parquet").exists()


def test_a_checkpoint_of_another_width_is_refused(own):
    # Where a file is in the way of the model's folder, training ends with its checkpoint and no model.
    (own / "blocked").touch()
    with pytest.raises(OSError, match="blocked"):
        train(own, "blocked/cnn", max_epochs=1)
    (checkpoint,) = own.rglob("checkpoint.pt")
    before = sha256(checkpoint)
    with pytest.raises(InputError, match=rf"{re.escape(str(checkpoint))}: .*other settings or data.*Remove "):
        train(own, "other", max_epochs=1, width=0.5)
    assert sha256(checkpoint) == before
    assert not (own / "other").exists()
