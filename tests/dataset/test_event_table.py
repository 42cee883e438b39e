"""The event table: classes, splits that never move, parts, and events without truth."""

import h5py
import numpy as np
import pandas as pd
import pytest
from test_pixelmaps import make_pixel_maps

from nuvlm.base.classes import classify_truth
from nuvlm.base.errors import InputError
from nuvlm.dataset.event_table import as_simulated, is_changed, read_events
from nuvlm.dataset.list_events import assign_split, limit_training, list_events, take_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.dataset.store_list import read_made_with, read_store_list, write_store_list
from nuvlm.dataset.topology import TOPOLOGY_COLUMNS, TOPOLOGY_TYPES
from nuvlm.dataset.validation import LEAST_VALIDATION
from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Diffusion
from nuvlm.detector.voxels import PARTICLE_DTYPE, Event, Voxels, write_shard
from nuvlm.models.predictions import Cost, read_costs, read_predictions, write_predictions
from nuvlm.simulation.counterfactuals import DTYPE, NAMES
from nuvlm.simulation.events import DEPOSIT_DTYPE
from nuvlm.sources.ready_maps import PixelMap, PixelMapWriter
from stores import read_pixel_maps

SPLIT = {"validation": 0.3, "test": 0.3, "seed": 1}
COST = Cost("CPU", 1, 2, 0.5, 0.1, 100.0)


def tabulate(shards, detector, tmp_path, **changes):
    stores = {name: make_pixel_maps(path, detector) for name, path in shards.items()}
    list_events(
        shards,
        stores,
        tmp_path / "events.parquet",
        detector=detector,
        **(SPLIT | {"parts": 3, "train": True} | changes),
    )
    return read_events(tmp_path / "events.parquet")


def test_classes_from_truth():
    pdg = np.array([12, -12, 14, -14, 16, 12, 14, -16, 0])
    cc = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0])
    expected = ["nue_cc", "nue_cc", "numu_cc", "numu_cc", None, "nc", "nc", "nc", None]
    assert classify_truth(pdg, cc).tolist() == expected


def test_shares_of_the_splits_and_their_independence_of_other_events():
    splits = pd.Series([assign_split("a", i, seed=7, validation=0.1, test=0.2) for i in range(20_000)])
    share = splits.value_counts(normalize=True)
    assert share["test"] == pytest.approx(0.2, abs=0.01)
    assert share["validation"] == pytest.approx(0.1, abs=0.01)
    moved = pd.Series([assign_split("a", i, seed=8, validation=0.1, test=0.2) for i in range(20_000)])
    assert (moved != splits).mean() > 0.3, "another seed, another split"


def test_table_has_every_event_once_with_its_truth(make_shard, make_voxels, detector, tmp_path):
    table = tabulate({"a": make_shard("a", 60), "b": make_shard("b", 30, first=100)}, detector, tmp_path)
    assert len(table) == 90
    assert table.columns[:6].tolist() == ["shard", "row", "event_id", "class", "split", "part"]
    row = table[(table["shard"] == "b") & (table["row"] == 5)].iloc[0]
    assert (row["event_id"], row["class"], row["nu_energy"]) == (105, "nue_cc", 106.0)
    assert row["visible_energy"] == pytest.approx(make_voxels(105).energy.sum(), rel=1e-6)
    assert (table[table["split"] == "train"]["part"] == -1).all()
    others = table[table["split"] != "train"]["part"]
    assert sorted(set(others)) == [0, 1, 2]
    assert others.value_counts().max() - others.value_counts().min() <= 1


def test_what_there_is_to_see_stands_behind_the_other_truth(make_shard, detector, tmp_path):
    plain, known = make_shard("a", 6), make_shard("b", 6)
    particles = np.array([(i, 13, 500.0, (0, 0, 600)) for i in range(6)], dtype=PARTICLE_DTYPE)
    deposits = np.array([(i, 13, 100.0 * i, 300.0, 0.0, np.nan, 1) for i in range(6)], dtype=DEPOSIT_DTYPE)
    with h5py.File(known, "r+") as file:
        file["truth/particles"], file["truth/deposits"] = particles, deposits
    table = tabulate({"a": plain, "b": known}, detector, tmp_path, train=False)
    begin = table.columns.get_loc("pi0_energy") + 1
    assert table.columns[begin:].tolist() == TOPOLOGY_COLUMNS
    assert {name: str(table[name].dtype) for name in TOPOLOGY_COLUMNS} == TOPOLOGY_TYPES
    of_a, of_b = (table[table["shard"] == shard] for shard in "ab")
    assert of_a[TOPOLOGY_COLUMNS].isna().all(axis=None)
    assert of_b["track_mm"].tolist() == [0, 100, 200, 300, 400, 500]
    assert of_b["charged"].tolist() == [0, 1, 1, 1, 1, 1]
    with h5py.File(known, "r+") as file:
        del file["truth/deposits"]
        file["truth/deposits"] = deposits[1:]
    with pytest.raises(InputError, match=r"b\.h5: the rows of /truth/particles and /truth/deposits are not the same"):
        tabulate({"b": known}, detector, tmp_path, train=False)


def test_events_without_a_row_among_counterfactuals_are_as_simulated(make_shard, detector, tmp_path):
    plain, changed = make_shard("a", 6), make_shard("b", 6)
    with h5py.File(changed, "r+") as file:
        file["truth/counterfactuals"] = np.array([(4, 3, 2), (1, 0, 1), (0, 0, 0)], dtype=DTYPE)
    table = tabulate({"a": plain, "b": changed}, detector, tmp_path, train=False)
    assert str(table["original"].dtype) == "uint64"
    assert table["original"].tolist() == [*range(6), 0, 0, 2, 3, 3, 5]
    assert table["counterfactual"].tolist()[6:] == [NAMES[kind] for kind in (0, 1, 0, 0, 2, 0)]
    assert (table["counterfactual"][:6] == NAMES[0]).all()
    assert np.flatnonzero(is_changed(table)).tolist() == [7, 10]
    assert len(as_simulated(table)) == 10


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(99, 0, 1)], "event 99 is not in /events"),
        ([(1, 0, 1), (1, 0, 1)], "event 1 has two rows"),
        ([(1, 0, len(NAMES))], f"event 1 is of kind {len(NAMES)}; known are 0 to {len(NAMES) - 1}"),
        ([(1, 1, 1)], "event 1 is changed"),
        ([(1, 0, 0)], "event 1 is changed"),
    ],
)
def test_counterfactuals_of_a_file_that_cannot_be_are_refused(rows, message, make_shard, detector, tmp_path):
    path = make_shard("a", 6)
    maps = make_pixel_maps(path, detector)
    with h5py.File(path, "r+") as file:
        file["truth/counterfactuals"] = np.array(rows, dtype=DTYPE)
    with pytest.raises(InputError, match=rf"a\.h5: /truth/counterfactuals: {message}"):
        list_events({"a": path}, {"a": maps}, tmp_path / "e", detector=detector, **SPLIT, parts=1, train=False)


def test_energy_at_the_edge_and_of_pions(detector, tmp_path):
    # Voxels of 1 x 5 x 5 mm: their centres are 49.5 and 50.5 mm from a wall in x, 47.5 and 52.5 mm in y and z.
    def event(number, *voxels):
        x, y, z = (np.array(axis, dtype=np.uint16) for axis in zip(*voxels, strict=True))
        return Event(number, Voxels(x, y, z, 2.0 ** np.arange(len(voxels), dtype=np.float32)), 14, True, 2.0)

    inside = (50, 10, 10)
    write_shard(
        tmp_path / "a.h5",
        detector,
        [
            event(0, inside, (1949, 389, 1389)),
            event(1, inside, (49, 10, 10), (1950, 10, 10)),
            event(2, (50, 9, 10), inside, (50, 390, 10)),
            event(3, (50, 10, 9), inside, (50, 10, 1390)),
        ],
    )
    table = tabulate({"a": tmp_path / "a.h5"}, detector, tmp_path, train=False)
    assert table["edge_energy"].tolist() == [0, 6, 5, 5]
    assert table["visible_energy"].tolist() == [3, 7, 7, 7]
    assert table["pi0_energy"].isna().all(), "no table of particles"


def test_a_bad_event_of_a_shard_is_missing_from_stores_and_table_alike(make_shard, detector, tmp_path):
    shard, store = make_shard("a", 60), tmp_path / "a.zarr"
    with h5py.File(shard, "r+") as file:
        first = int(file["events"]["first_voxel"][7])
        file["voxels/energy"][first] = np.nan
    before = shard.read_bytes()
    smear_and_downsample(
        shard, tmp_path / "d", detector=detector, diffusion=Diffusion(), pixel_mm=50, on_bad_event="skip"
    )
    crop_displays(tmp_path / "d", store, size=64, centre="vertex", transfer="log", white_mev=200, knee_mev=1)
    arguments = {**SPLIT, "parts": 1, "train": True, "detector": detector}
    list_events({"a": shard}, {"a": store}, tmp_path / "e.parquet", **arguments, on_bad_event="skip")
    table = read_events(tmp_path / "e.parquet")
    assert table["event_id"].tolist() == [event for event in range(60) if event != 7]
    assert table["row"].tolist() == list(range(59))
    assert table["nu_energy"].tolist() == [1.0 + event for event in table["event_id"]]
    assert len(read_pixel_maps({"a": store}, table)) == 59, "which checks the ids"
    with pytest.raises(InputError, match=r"a\.zarr: holds other events than"):
        list_events({"a": shard}, {"a": store}, tmp_path / "f.parquet", **arguments)
    with pytest.raises(InputError, match=r"event 7 has an energy that is not a number .*input.on_bad_event to skip"):
        smear_and_downsample(shard, tmp_path / "f", detector=detector, diffusion=Diffusion(), pixel_mm=50)
    assert shard.read_bytes() == before


def test_no_voxels_and_no_images_are_read(make_shard, detector, tmp_path):
    shard = make_shard("a", 60)
    store = make_pixel_maps(shard, detector)
    with h5py.File(shard, "r+") as file:
        file["voxels/energy"][:] = np.nan
    (store / "images/c/0/0/0/0").write_bytes(b"damaged")
    list_events({"a": shard}, {"a": store}, tmp_path / "e", detector=detector, parts=1, train=True, **SPLIT)
    assert read_events(tmp_path / "e")["visible_energy"].gt(0).all()


def test_splits_stay_when_data_is_added(make_shard, detector, tmp_path):
    a, b = make_shard("a", 60), make_shard("b", 60)
    alone = tabulate({"a": a}, detector, tmp_path)
    both = tabulate({"b": b, "a": a}, detector, tmp_path)
    pd.testing.assert_series_equal(both[both["shard"] == "a"]["split"].reset_index(drop=True), alone["split"])


def split_table(n: int) -> pd.DataFrame:
    events = pd.DataFrame({"shard": np.where(np.arange(n) % 2, "a", "b"), "event_id": np.arange(n).astype(np.uint64)})
    names = zip(events["shard"], events["event_id"].tolist(), strict=True)
    split = [assign_split(shard, event, seed=7, validation=0.2, test=0.1) for shard, event in names]
    events["split"] = pd.Series(split, dtype="string")
    events.loc[::50, "split"] = None
    return events


def test_smaller_training_sets_are_parts_of_larger_ones():
    events = split_table(12_000)
    sizes = events["split"].value_counts(dropna=False).to_dict()
    assert limit_training(events, None, 7) is events
    before: set[tuple[str, str, int]] = set()
    for count in (1000, 4000, sizes["train"]):
        table = limit_training(events, count, 7)
        kept = table["split"].value_counts(dropna=False).to_dict()
        validation = max(LEAST_VALIDATION, round(sizes["validation"] * count / sizes["train"]))
        assert kept == sizes | {"train": count, "validation": validation}
        pd.testing.assert_frame_equal(table, events.merge(table[["shard", "event_id"]]), check_like=True)
        rows = {*table.dropna()[["split", "shard", "event_id"]].itertuples(index=False, name=None)}
        assert before <= rows
        before = rows
    assert len(table) == len(events)
    shuffled = limit_training(events.sample(frac=1, random_state=1), 1000, 7)
    assert {*shuffled["event_id"]} == {*limit_training(events, 1000, 7)["event_id"]}, "whatever the order of the table"


def test_a_small_training_set_is_no_choice_of_easy_events():
    events = limit_training(split_table(12_000), 1000, 7).query("split == 'train'")
    assert (events["shard"] == "a").mean() == pytest.approx(0.5, abs=0.06)
    assert events["event_id"].mean() == pytest.approx(6000, rel=0.06)


def test_more_training_events_than_there_are_is_an_error(make_shard, detector, tmp_path):
    there = int((split_table(300)["split"] == "train").sum())
    message = (
        rf"asks for 3,000 training events, but of all 300 events {there} are for training. Lower it, set it to null"
    )
    with pytest.raises(InputError, match=message):
        limit_training(split_table(300), 3000, 7)
    with pytest.raises(InputError, match="asks for 58 training events, but of all 60 events"):
        tabulate({"a": make_shard("a", 60)}, detector, tmp_path, train_events=58)
    assert not (tmp_path / "events.parquet").exists()


def test_events_of_another_run_with_fewer_to_train_on(make_shard, detector, tmp_path):
    shards = {"a": make_shard("a", 60), "b": make_shard("b", 30, first=100)}
    whole, stores = (
        tabulate(shards, detector, tmp_path),
        {name: make_pixel_maps(shards[name], detector) for name in "ab"},
    )
    few, listed, own = (tmp_path / "few" / name for name in ("events.parquet", "pixelmaps.json", "direct.parquet"))
    write_store_list(tmp_path / "pixelmaps.json", stores)
    choice = {"seed": SPLIT["seed"], "parts": 2, "train_events": 20}
    maps = image_settings(stores)

    def take(**images):
        paths = tmp_path / "events.parquet", tmp_path / "pixelmaps.json", few, listed
        take_events(*paths, images=maps | {"unknown": 1} | images, made_with={"events_from": "all"}, **choice)

    take()
    assert read_store_list(listed) == stores
    assert read_made_with(listed) == {"events_from": "all"}
    table = read_events(few)
    assert table["split"].value_counts().to_dict() == whole["split"].value_counts().to_dict() | {"train": 20}
    assert sorted(table["part"].unique()) == [-1, 0, 1]
    assert len(read_pixel_maps(read_store_list(listed), table)) == len(table), "which checks the ids"
    list_events(shards, stores, own, detector=detector, train=True, **(SPLIT | choice))
    pd.testing.assert_frame_equal(read_events(own), table)
    with pytest.raises(
        InputError, match=r"a\.zarr: pixel maps with size 64, this run has 32\. Finish the run of events_fr"
    ):
        take(size=32)
    (stores["b"] / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"b\.zarr/manifest\.json: missing"):
        take()


def test_events_without_truth_are_classified_but_not_scored(make_shard, detector, tmp_path):
    shards = {"a": make_shard("a", 60), "mine": make_shard("mine", 8, truth=False)}
    mine = tabulate(shards, detector, tmp_path).query("shard == 'mine'")
    assert mine["class"].isna().all()
    assert mine["split"].isna().all()
    assert (mine["part"] >= 0).all()
    assert np.isnan(mine["nu_energy"]).all()


def test_with_models_of_another_run_every_event_is_for_testing(make_shard, detector, tmp_path):
    table = tabulate({"a": make_shard("a", 6)}, detector, tmp_path, train=False)
    assert (table["split"] == "test").all()
    assert sorted(table["part"]) == [0, 0, 1, 1, 2, 2]


def test_too_few_events_of_a_class_are_named_with_the_remedy(make_shard, detector, tmp_path):
    with pytest.raises(InputError, match=r"split has no \w+ event.*dataset\.\w+"):
        tabulate({"a": make_shard("a", 6)}, detector, tmp_path)
    assert not (tmp_path / "events.parquet").exists()


def test_stores_and_shards_that_do_not_belong_together_are_refused(make_shard, detector, tmp_path):
    store = make_pixel_maps(make_shard("a", 6), detector)
    shard = make_shard("b", 6, first=1)
    with pytest.raises(InputError, match="holds other events"):
        list_events({"b": shard}, {"b": store}, tmp_path / "e", detector=detector, parts=1, train=False, **SPLIT)


def made_elsewhere(folder, classes, **columns):
    """A pixel-map store and its table of truth, as a source of ready pixel maps writes them."""
    n = len(classes)
    maps = [PixelMap(str(i), i, np.full((3, 16, 16), i, np.uint8), c, nu_energy=1.5) for i, c in enumerate(classes)]
    store, truth = folder / "a.zarr", folder / "a.parquet"
    PixelMapWriter(store=store, truth=truth).write(folder, maps, n, source="cvn", views=["u", "v", "z"])
    if columns:
        pd.read_parquet(truth).assign(**columns).to_parquet(truth)
    return {"shards": {"a": truth}, "pixel_maps": {"a": store}}


def test_pixel_maps_made_elsewhere_bring_their_own_truth(detector, tmp_path):
    paths = made_elsewhere(tmp_path, ["nue", "numu", "nc", "nutau", None] * 20)
    list_events(**paths, out=tmp_path / "e", detector=detector, parts=2, train=True, **SPLIT)
    table = read_events(tmp_path / "e")
    assert table.columns[:6].tolist() == ["shard", "row", "event_id", "class", "split", "part"]
    assert table["class"].value_counts(dropna=False).to_dict() == {"nue_cc": 20, "numu_cc": 20, "nc": 20, pd.NA: 40}
    assert table["split"].isna().tolist() == table["class"].isna().tolist()
    assert (table[table["class"].isna()]["part"] >= 0).all(), "without class: classified, not scored"
    assert (table["nu_energy"] == 1.5).all()
    assert table[["visible_energy", "vertex_z_mm", "n_voxels", *TOPOLOGY_COLUMNS]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"event_id": np.zeros(3, np.uint64)}, "event 0 occurs twice"),
        ({"event_id": np.arange(1, 4).astype(np.uint64)}, "holds other events"),
        ({"class": ["nue_cc", "nue", "nc"]}, "event 1 is of class 'nue'; known are nue_cc"),
        ({"class": None}, "split has no nue_cc event"),
    ],
)
def test_a_table_of_truth_that_cannot_be_used_is_named(detector, tmp_path, columns, message):
    paths = made_elsewhere(tmp_path, ["nue", "numu", "nc"], **columns)
    with pytest.raises(InputError, match=message):
        list_events(**paths, out=tmp_path / "e", detector=detector, parts=1, train=True, **SPLIT)
    for damaged in (b"", b"PAR1"):
        paths["shards"]["a"].write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.parquet: no readable table of truth"):
            list_events(**paths, out=tmp_path / "e", detector=detector, parts=1, train=True, **SPLIT)


@pytest.fixture
def events() -> pd.DataFrame:
    table = pd.DataFrame({"shard": ["a", "b"], "row": [0, 3], "event_id": [5, 6]})
    table["class"] = pd.Series(["nc", None], dtype="string")
    table["centred_by"] = pd.Series(["vertex", "charge"], dtype="string")
    return table


def test_prediction_table_round_trip(events, tmp_path):
    p = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    path = tmp_path / "0.parquet"
    # A constant in the logarithm of each event's, here a huge one, is no information.
    found = np.log(p) - np.array([[4000.0], [0.0]])
    write_predictions(path, events, found, 5.0, np.array([0.05, 0.05]), {"extra": np.arange(2)}, COST)
    table = read_predictions([path])
    assert table["predicted"].tolist() == ["numu_cc", "nc"]
    sharp = p**5 / (p**5).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(table[["p_nue_cc", "p_numu_cc", "p_nc"]], sharp)
    np.testing.assert_allclose(table[["logp_nue_cc", "logp_numu_cc", "logp_nc"]], np.log(p), rtol=1e-9)
    assert table["class"].isna().tolist() == [False, True]
    assert table["centred_by"].tolist() == ["vertex", "charge"]
    assert read_costs([path]) == [COST]


def test_a_table_without_log_probabilities_is_named(events, tmp_path):
    path = tmp_path / "0.parquet"
    write_predictions(path, events, np.zeros((2, 3)), 1.0, np.zeros(2), {}, COST)
    pd.read_parquet(path).drop(columns="logp_nc").to_parquet(path)
    with pytest.raises(InputError, match=r"0\.parquet: has no column logp_nc"):
        read_predictions([path])


def test_probabilities_that_are_no_numbers_and_events_in_two_parts_are_refused(events, tmp_path):
    bad = np.array([[0.2, 0.5, 0.3], [np.nan, 0.1, 0.8]])
    with pytest.raises(InputError, match="event 6 of shard b"):
        write_predictions(tmp_path / "0.parquet", events, bad, 1.0, np.zeros(2), {}, COST)
    assert not list(tmp_path.iterdir())
    for part in "01":
        write_predictions(tmp_path / f"{part}.parquet", events, np.zeros((2, 3)), 1.0, np.zeros(2), {}, COST)
    with pytest.raises(InputError, match="event 5 of shard a is in two"):
        read_predictions([tmp_path / "0.parquet", tmp_path / "1.parquet"])


def test_damaged_tables_are_named(tmp_path):
    (tmp_path / "0.parquet").write_bytes(b"PAR1 and then nothing")
    for read in (read_events, lambda path: read_predictions([path])):
        for path in (tmp_path / "0.parquet", tmp_path / "none.parquet"):
            with pytest.raises(InputError, match=path.name):
                read(path)
