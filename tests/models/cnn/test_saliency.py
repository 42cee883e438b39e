"""Where the CNN looks: that the maps find what decides, lie where it lies, and are checked."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.stores import open_store
from nuvlm.models.classifier.network import ImageClassifier, to_float
from nuvlm.models.classifier.saliency import probability_drop
from nuvlm.models.cnn.classify import classify_cnn
from nuvlm.models.cnn.mobilenet import SqueezeExcitation
from nuvlm.models.cnn.network import NETWORKS, load_cnn
from nuvlm.models.cnn.saliency import cell_pixels, hires_cam
from nuvlm.models.cnn.saliency import run as explain_cnn
from nuvlm.models.cnn.settings import Recipe, TrainSettings
from nuvlm.models.cnn.training import train_cnn
from nuvlm.models.jobs import ExplanationJob
from stores import write_pixel_maps

pytestmark = pytest.mark.slow

SIZE = 96
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A CNN that classifies bars by direction; a ring left or right of the bar carries no information."""
    folder = tmp_path_factory.mktemp("attribution")
    rng = np.random.default_rng(5)
    n = 150
    images = np.zeros((n, 2, SIZE, SIZE), dtype=np.uint8)
    side = rng.integers(0, 2, n)  # of the bar
    for i, image in enumerate(images):
        height, width = ((32, 4), (4, 32), (12, 12))[i % 3]
        for view in image:
            row, column = rng.integers(4, SIZE - 40), rng.integers(2, 10)
            left = column + side[i] * SIZE // 2
            view[row : row + height, left : left + width] = rng.integers(150, 255)
            row, left = rng.integers(4, SIZE - 40), column + (1 - side[i]) * SIZE // 2
            view[row : row + 24, left : left + 24] = 200
            view[row + 4 : row + 20, left + 4 : left + 20] = 0
    ids = write_pixel_maps(folder / "a.zarr", images)
    events = pd.DataFrame({"shard": "a", "row": np.arange(n), "event_id": ids})
    events["class"] = pd.Series([CLASSES[i % 3] for i in range(n)], dtype="string")
    events["split"] = pd.Series(["train"] * 108 + ["validation"] * 12 + ["test"] * 30, dtype="string")
    events["centred_by"] = "charge"
    events["part"] = [-1] * 108 + [0] * 42
    events.to_parquet(folder / "events.parquet")
    recipe = Recipe(learning_rate=3e-3, batch_size=12, max_epochs=20, patience=20, flip=True)
    settings = TrainSettings(width=0.25, dropout=0, recipe=recipe)
    stores = {"a": folder / "a.zarr"}
    train_cnn(
        folder / "events.parquet", stores, folder / "cnn", folder / "checkpoint.pt", folder / "tensorboard",
        settings=settings, threads=1,
    )  # fmt: skip
    classify_cnn(
        folder / "cnn", folder / "events.parquet", stores, {"nominal": folder / "0.parquet"}, part=0,
        batch_size=8, threads=1,
    )  # fmt: skip
    return folder, images, side


def explain(folder: Path, name: str, predictions: str = "0.parquet", **changes) -> Path:
    keywords = {"part": 0, "count": 30} | changes
    explain_cnn(
        ExplanationJob(
            model="cnn", events=folder / "events.parquet", stores={"a": folder / "a.zarr"}, inputs={}, settings={},
            threads=1, folder=folder / "cnn", out=folder / name, predictions={"cnn": folder / predictions},
            condition="nominal", seed=7, **keywords,
        )
    )  # fmt: skip
    return folder / name


def test_maps_find_what_decides(run):
    folder, images, side = run
    network, held_out = load_cnn(folder / "cnn", CPU), slice(108, None)
    pixels = to_float(torch.from_numpy(images[held_out]), CPU)
    classes = network(pixels).argmax(dim=1)
    n = len(pixels)
    maps = hires_cam(network, pixels, classes).numpy()
    # (n, views, rows, left and right, columns) -> (n, left and right)
    halves = maps.reshape(n, 2, SIZE, 2, SIZE // 2).sum(axis=(1, 2, 4))
    share = halves[np.arange(n), side[held_out]] / halves.sum(axis=1)
    assert share.mean() > 0.65, "one half by chance"


def test_the_maps_of_a_run_are_checked(run):
    folder, _, _ = run
    store = open_store(explain(folder, "checked.zarr"), "nuvlm-cam")
    lost = dict(zip(store.attrs["fall"], store["fall"][:].mean(axis=0), strict=True))
    assert lost["map"] > lost["random"] + 0.1


def test_the_store_says_what_is_explained(run):
    folder, _, _ = run
    store = open_store(explain(folder, "described.zarr"), "nuvlm-cam")
    table = pd.read_parquet(folder / "0.parquet").set_index("event_id")
    ids = store["event_id"][:]
    assert len(set(ids.tolist())) == len(ids) >= 15
    assert store.attrs["shard"] == ["a"] * len(ids)
    assert store.attrs["predicted"] == table.loc[ids, "predicted"].tolist()
    assert set(store.attrs["chosen"]) <= {"sample", "mistake"}
    assert (store["maps"][:].max(axis=(1, 2, 3)) == np.where(store["peak"][:] > 0, 255, 0)).all()


@pytest.mark.parametrize(("name", "first", "pitch", "side"), [("published", 1, 4, 19), ("mobilenet", 0, 16, 5)])
def test_maps_are_their_definition(name, first, pitch, side):
    torch.manual_seed(1)
    network = NETWORKS[name](width=0.25).eval()
    images, classes = torch.rand(3, 2, 75, 75), torch.tensor([2, 0, 1])
    assert cell_pixels(network) == (first, pitch)
    views = network.white * images.reshape(6, 1, 75, 75)
    cells = network.branch(network.stem(views)).detach().requires_grad_()  # (6, c, side, side)
    logits = network.classify(network.head(network.trunk(cells.reshape(3, -1, side, side))).mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), cells)
    expected = (gradient * cells).sum(dim=1).clamp(min=0).detach().reshape(3, 2, side, side)
    found = hires_cam(network, images, classes)
    assert found.shape == images.shape
    torch.testing.assert_close(found[:, :, first::pitch, first::pitch][:, :, :side, :side], expected)
    assert (found.flatten(2).amin(dim=2) >= 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_cells_are_centred_where_the_map_has_them(name):
    network = NETWORKS[name](width=0.25).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()  # so that nothing is cut off, and every pixel that can be seen counts
        for module in network.modules():
            if isinstance(module, SqueezeExcitation):
                for parameter in module.parameters():
                    parameter.zero_()  # it sees the whole image
    image = torch.full((1, 1, 400, 400), 1e-3, requires_grad=True)
    cells = network.branch(network.stem(image))
    cells[0, :, 12, 13].sum().backward()
    seen = image.grad[0, 0].nonzero().float()
    centre = (seen.amin(dim=0) + seen.amax(dim=0)) / 2
    first, pitch = cell_pixels(network)
    assert centre.tolist() == pytest.approx([first + 12 * pitch, first + 13 * pitch], abs=0.5)


def test_what_is_blackened_is_what_is_foremost():
    class Brightness(ImageClassifier):
        """The logit of class 0 is the sum of the pixels."""

        def forward(self, images):
            total = images.sum(dim=(1, 2, 3))
            return torch.stack([total, torch.zeros_like(total)], dim=1)

    grey = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    grey.view(-1)[3:13] = 25 * torch.arange(1, 11)
    classes, order = torch.tensor([0]), grey.float()
    whole = 25 * 55 / 255
    before, after = torch.tensor(whole).sigmoid(), torch.tensor(whole - 25 * 19 / 255).sigmoid()
    lost = probability_drop(Brightness(), grey, classes, order)
    torch.testing.assert_close(lost, (before - after)[None])  # a fifth of ten pixels, the brightest
    after = torch.tensor(whole - 25 * 3 / 255).sigmoid()
    torch.testing.assert_close(probability_drop(Brightness(), grey, classes, -order), (before - after)[None])


@pytest.mark.parametrize("changes", [{"count": 0}, {"part": 9}])
def test_nothing_to_explain_gives_an_empty_store(run, changes):
    folder, _, _ = run
    store = open_store(explain(folder, "empty.zarr", **changes), "nuvlm-cam")
    assert store["maps"][:].shape == (0, 2, SIZE, SIZE)
    assert store["event_id"][:].shape == (0,)


def test_predictions_that_say_nothing_of_an_event_are_refused(run):
    folder, _, _ = run
    table = pd.read_parquet(folder / "0.parquet")
    table.assign(predicted="tau").to_parquet(folder / "tau.parquet")
    with pytest.raises(InputError, match=r"tau\.parquet: unknown class of event \d+ of shard a"):
        explain(folder, "other.zarr", predictions="tau.parquet")
    table.head(20).to_parquet(folder / "fewer.parquet")
    with pytest.raises(InputError, match=r"event \d+ of shard a"):
        explain(folder, "other.zarr", predictions="fewer.parquet")
    assert not (folder / "other.zarr").exists()
