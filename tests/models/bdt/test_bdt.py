"""The boosted tree: features of shapes that are known, trees that say what scikit-learn says, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from nuvlm.base.errors import InputError
from nuvlm.detector.grayscale import grayscale
from nuvlm.models.bdt.classify import classify_bdt
from nuvlm.models.bdt.features import FEATURES, Scale, feature_names, features
from nuvlm.models.bdt.model import Trees, load_trees
from nuvlm.models.bdt.settings import BdtSettings
from nuvlm.models.bdt.training import train_bdt
from nuvlm.models.predictions import read_costs, read_predictions
from stores import write_pixel_maps

SIZE = 64
IMAGES = {"views": ["xz"], "size": SIZE, "pixel_mm": 50.0, "transfer": "log", "white_mev": 200.0, "knee_mev": 1.0}
LABELS = ("nue_cc", "numu_cc", "nc")


def grey(mev: np.ndarray) -> np.ndarray:
    return grayscale(mev, transfer="log", white_mev=200.0, knee_mev=1.0)


def measure(view: np.ndarray, **changes: object) -> dict[str, float]:
    """Features of one view, uint8 (size, size), by name."""
    return dict(zip(FEATURES, features(view[None, None], Scale.of(IMAGES | changes))[0], strict=True))


def track(pixels: int = 20, mev: float = 10.5) -> np.ndarray:
    """A track along the beam from the vertex on, MeV."""
    view = np.zeros((SIZE, SIZE))
    view[32, 32 : 32 + pixels] = mev
    return view


def test_a_track_along_the_beam():
    found = measure(grey(track()))
    assert found["charge"] == pytest.approx(210, rel=0.02)  # in 20 pixels of 8 bits each
    assert found["pixels"] == 20
    assert (found["extent_beam"], found["extent_across"]) == (95, 0)
    assert found["reach"] == 95
    assert found["unbroken"] == 100
    assert found["start_dedx"] == found["track_dedx"] == pytest.approx(2.1, rel=0.02)  # MeV/cm, as it was drawn
    assert found["straightness"] == pytest.approx(1)
    assert found["width"] == pytest.approx(0, abs=1e-9)
    assert found["fluctuation"] == pytest.approx(0, abs=1e-6)
    assert found["core"] == pytest.approx(0.1)
    assert (found["isolated"], found["clusters"], found["edge"]) == (0, 1, 0)
    assert found["forward"] == pytest.approx(0.95)  # the vertex pixel is on neither side
    assert found["direction"] == pytest.approx(1)


def test_turned_and_mirrored_tracks_keep_what_has_no_direction():
    straight = measure(grey(track()))
    across, backward = measure(grey(track()).T.copy()), measure(np.roll(grey(track())[:, ::-1], 1, axis=1))
    for name in ("charge", "pixels", "reach", "unbroken", "straightness", "start_dedx", "track_dedx", "clusters"):
        assert straight[name] == pytest.approx(across[name]) == pytest.approx(backward[name]), name
    assert (across["extent_beam"], across["extent_across"]) == (0, 95)
    assert across["direction"] == pytest.approx(0, abs=1e-9)
    assert backward["direction"] == pytest.approx(-1)
    assert backward["forward"] == pytest.approx(-0.95)


def test_a_track_at_an_angle_has_its_length():
    view = np.zeros((SIZE, SIZE))
    view[32 + np.arange(20), 32 + np.arange(20)] = 15
    found = measure(grey(view))
    assert found["reach"] == pytest.approx(19 * 5 * np.sqrt(2))
    assert found["direction"] == pytest.approx(np.sqrt(0.5))
    assert found["straightness"] == pytest.approx(1)
    assert found["clusters"] == 1, "corners touch"


def test_gaps_isolated_charge_and_the_edge():
    view = track()
    view[32, 40:43] = 0
    found = measure(grey(view))
    assert found["unbroken"] == 40
    assert found["reach"] == 95
    assert found["clusters"] == 2
    assert found["isolated"] == pytest.approx(9 / 17)
    bright = track()
    bright[32, 35] = 150
    assert measure(grey(bright))["core"] > 0.4
    assert measure(grey(bright))["fluctuation"] > 1
    assert measure(grey(track(32)))["edge"] == pytest.approx(1 / 32)


def test_a_shower_is_wider_than_a_track():
    rng = np.random.default_rng(0)
    view = np.zeros((SIZE, SIZE))
    rows, columns = 32 + np.rint(rng.normal(0, 3, 300)).astype(int), 32 + rng.integers(0, 20, 300)
    np.add.at(view, (rows, columns), 10)
    found = measure(grey(view))
    assert found["width"] == pytest.approx(15, rel=0.15)  # 3 pixels of 5 cm
    assert found["straightness"] < 0.6


def test_at_half_the_resolution_pixels_are_twice_as_large():
    full, half = measure(np.full((SIZE, SIZE), 100, np.uint8)), measure(np.full((SIZE // 2, SIZE // 2), 100, np.uint8))
    assert half["charge"] == pytest.approx(full["charge"])
    assert half["pixels"] == full["pixels"] / 4
    assert half["extent_beam"] == full["extent_beam"] - 5, "from centre to centre of the outermost pixels"


def test_maps_made_elsewhere_count_pixels_and_grey_values_from_where_the_charge_begins():
    view = np.zeros((SIZE, SIZE), np.uint8)
    view[10, 5:25] = 51
    unknown = {"pixel_mm": None, "transfer": None, "white_mev": None, "knee_mev": None, "source": "cvn"}
    found = measure(view, **unknown)
    assert found["charge"] == pytest.approx(20 * 51 / 255)
    assert found["start_dedx"] == pytest.approx(0.2)
    assert found["unbroken"] == 20
    assert found["forward"] == pytest.approx(0.95)


@pytest.mark.parametrize("transfer", ["log", "linear"])
def test_charge_is_what_the_transfer_was_given(transfer):
    energy = np.linspace(1, 199, 100)
    scale = Scale.of(IMAGES | {"transfer": transfer})
    back = scale.charge[grayscale(energy, transfer=transfer, white_mev=200, knee_mev=1)]
    # half a grey value: of 255 between 0 and 200 MeV, or between ln 1 and ln 201
    half = (energy + 1) * np.log(201) / 510 if transfer == "log" else 200 / 510
    assert (np.abs(back - energy) <= 1.02 * half).all()


def test_black_and_faint_views_are_defined_and_events_do_not_touch_each_other():
    rng = np.random.default_rng(1)
    images = (rng.integers(0, 255, (6, 3, 33, 33)) * (rng.random((6, 3, 33, 33)) < 0.05)).astype(np.uint8)
    images[1], images[2, 0] = 0, 0
    images[3] = np.where(images[3] > 0, 1, 0)
    scale = Scale.of(IMAGES | {"size": 33})
    together = features(images, scale)
    assert together.shape == (6, 3 * len(FEATURES)) == (6, len(feature_names("uvz")))
    assert np.isfinite(together).all()
    assert (together[1] == 0).all()
    assert (together[3].reshape(3, -1)[:, 1:] == 0).all(), "below what a track leaves"
    alone = np.concatenate([features(images[i : i + 1], scale) for i in range(6)])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)
    assert features(images[:0], scale).shape == (0, 3 * len(FEATURES))
    np.testing.assert_array_equal(features(images[1:2], scale), np.zeros((1, 3 * len(FEATURES))))


def test_the_stored_trees_say_what_scikit_learn_says(tmp_path):
    rng = np.random.default_rng(2)
    x = np.round(rng.normal(size=(600, 5)), 1)  # ties: values that are thresholds, too
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] * x[:, 2] > 0.2)
    fitted = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=9, learning_rate=0.3).fit(x, y)
    for rounds in (1, 17, 30):
        logits = Trees.of(fitted, rounds).logits(x)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected = list(fitted.staged_predict_proba(x))[rounds - 1]
        np.testing.assert_allclose(p, expected, atol=1e-12)


@pytest.fixture
def data(tmp_path):
    """Tracks (numu_cc), wide showers (nue_cc) and short stubs (nc), and their event table."""
    n = 240
    rng = np.random.default_rng(3)
    images = np.zeros((n, 2, SIZE, SIZE), dtype=np.uint8)
    for i, views in enumerate(images):
        for view in views:
            length, spread = ((12, 4), (25, 1), (5, 1))[i % 3]
            row = 32 + rng.integers(-spread, spread + 1, 40)
            view[row, 32 + rng.integers(0, length, 40)] = rng.integers(80, 200, 40)
    ids = write_pixel_maps(tmp_path / "a.zarr", images)
    events = pd.DataFrame({"shard": "a", "row": np.arange(n), "event_id": ids})
    events["class"] = pd.Series([LABELS[i % 3] for i in range(n)], dtype="string")
    events["split"] = pd.Series(["train"] * 180 + ["validation"] * 30 + ["test"] * 30, dtype="string")
    events["centred_by"] = "charge"
    events["part"] = [-1] * 180 + [0] * 60
    events.to_parquet(tmp_path / "events.parquet")
    return tmp_path


def train(folder, **changes):
    settings = BdtSettings(**({"max_rounds": 40, "patience": 5, "min_events_leaf": 5} | changes))
    train_bdt(folder / "events.parquet", {"a": folder / "a.zarr"}, folder / "tree", settings=settings)
    return json.loads((folder / "tree/training.json").read_text())


def classify(folder, out="0.parquet", **changes):
    condition = changes.pop("condition", "nominal")
    keywords = {"part": 0, "batch_size": 16} | changes
    classify_bdt(
        folder / "tree", folder / "events.parquet", {"a": folder / "a.zarr"}, {condition: folder / out}, **keywords
    )
    return read_predictions([folder / out])


def test_it_learns_writes_its_card_and_classifies(data):
    card = train(data)
    assert card["class_counts"] == {"nue_cc": 60, "numu_cc": 60, "nc": 60}
    losses = [entry["validation_loss"] for entry in card["history"]]
    assert card["best_epoch"] == int(np.argmin(losses)) + 1
    trees = load_trees(data / "tree")
    assert trees.roots.shape == (card["best_epoch"], 3)
    assert card["parameters"] == len(trees.value)
    table = classify(data)
    assert (table["predicted"] == table["class"]).mean() > 0.9
    np.testing.assert_allclose(table[["p_nue_cc", "p_numu_cc", "p_nc"]].sum(axis=1), 1)
    (cost,) = read_costs([data / "0.parquet"])
    assert (cost.events, cost.batch_size) == (60, 16)
    assert cost.seconds == pytest.approx(table["seconds"].sum())
    one = classify(data, "1.parquet", batch_size=1)
    np.testing.assert_allclose(one["p_nc"], table["p_nc"], atol=1e-12)


def test_events_turned_around_the_beam_are_trained_on_if_the_views_are_xz_and_yz(data):
    """All training events have their bars in XZ; the test events are exchanged."""
    images = np.zeros((240, 2, SIZE, SIZE), dtype=np.uint8)
    for i, image in enumerate(images):
        row, length = 32 + i % 2, 6 + 7 * (i % 3) + i % 4
        image[int(i >= 210), row, 32 : 32 + length] = 150
    for views, accuracy in ((("xz", "yz"), 1.0), (("u", "v"), 1 / 3)):
        shutil.rmtree(data / "a.zarr")
        write_pixel_maps(data / "a.zarr", images, views=views)
        card = train(data)
        assert card["events"] == 180
        table = classify(data).tail(30)
        assert (table["predicted"] == table["class"]).mean() == pytest.approx(accuracy), views


def test_conditions_and_empty_parts(data):
    train(data)
    nominal, half = classify(data), classify(data, condition="half_resolution")
    assert not np.allclose(nominal["p_nc"], half["p_nc"])
    assert classify(data, condition="blank")["p_nc"].nunique() == 1
    noisy, one = (classify(data, condition="noise_5000", batch_size=size) for size in (16, 1))
    assert not np.allclose(nominal["p_nc"], noisy["p_nc"])
    np.testing.assert_allclose(one["p_nc"], noisy["p_nc"], atol=1e-12)
    assert len(classify(data, part=7)) == 0


def test_the_same_events_give_the_same_trees(data):
    train(data)
    first = (data / "tree/model.safetensors").read_bytes()
    train(data)
    assert (data / "tree/model.safetensors").read_bytes() == first


def test_it_stops_early(data):
    events = pd.read_parquet(data / "events.parquet")
    events["class"] = events["class"].sample(frac=1, random_state=0).to_numpy()  # nothing to learn
    events.to_parquet(data / "events.parquet")
    card = train(data, max_rounds=500, learning_rate=0.5)
    assert len(card["history"]) < 500
    assert card["best_epoch"] < len(card["history"])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_a_class_is_refused(data, split):
    events = pd.read_parquet(data / "events.parquet")
    events[(events["split"] != split) | (events["class"] != "nc")].to_parquet(data / "events.parquet")
    with pytest.raises(InputError, match=f"the {split} split has no nc event"):
        train(data)


def test_damaged_and_foreign_models_are_refused(data):
    train(data)
    card = data / "tree/training.json"
    weights = data / "tree/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + bytes(8 * [1]))
    with pytest.raises(InputError, match="have changed"):
        load_trees(data / "tree")
    weights.write_bytes(whole)
    write_pixel_maps(data / "b.zarr", np.zeros((240, 2, 32, 32), np.uint8))
    with pytest.raises(InputError, match="trained on other pixel maps"):
        classify_bdt(
            data / "tree", data / "events.parquet", {"a": data / "b.zarr"}, {"nominal": data / "x.parquet"},
            part=0, batch_size=4,
        )  # fmt: skip
    assert json.loads(card.read_text())["features"][0] == "xz_charge"
