"""Answers, claims and saliency that follow a particle, counted by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multinomial

from explanations_on_disk import rationale_table
from nuvlm.base.classes import CLASSES
from nuvlm.base.stores import write_store
from nuvlm.dataset.event_table import as_simulated
from nuvlm.evaluation.counterfactuals import _of_size, measure_counterfactuals, overlap, pair
from nuvlm.evaluation.intervals import binomial_interval, paired_difference
from nuvlm.models.head.cells import cell_pixels
from nuvlm.models.head.saliency import occlude_cells
from nuvlm.models.predictions import Cost, write_predictions
from nuvlm.simulation.counterfactuals import AS_SIMULATED

ELECTRON, TRACK = {"shower": True, "shower_mev": 500, "gap": False}, {"track": True, "track_cm": 80, "leaves": False}
NO_SHOWER = {"shower": False}
# Event, original, kind, class, answer, statements of the rationale, true statements.
EVENTS = [
    (0, 0, AS_SIMULATED, "nue_cc", "nue_cc", TRACK | ELECTRON, TRACK | ELECTRON),
    (1, 0, "without_electron", None, "nc", TRACK | NO_SHOWER, TRACK | NO_SHOWER),
    (10, 10, AS_SIMULATED, "nue_cc", "nue_cc", TRACK | ELECTRON, TRACK | ELECTRON),
    (11, 10, "without_electron", None, "nue_cc", TRACK | ELECTRON, TRACK | NO_SHOWER),
    (14, 10, "electron_after_gap", None, "nc", TRACK | ELECTRON, TRACK | ELECTRON | {"gap": True, "gap_cm": 20}),
    (20, 20, AS_SIMULATED, "nue_cc", "nc", TRACK | NO_SHOWER, TRACK | ELECTRON),
    (21, 20, "without_electron", None, "nc", TRACK | {"track_cm": 200} | NO_SHOWER, TRACK | NO_SHOWER),
    (30, 30, AS_SIMULATED, "nc", "nc", ELECTRON, ELECTRON | {"gap": True, "gap_cm": 20}),
    (36, 30, "photons_at_vertex", None, "nue_cc", ELECTRON, ELECTRON),
    (46, 40, "photons_at_vertex", None, "nc", ELECTRON, ELECTRON),  # its original was left out
    (17, 10, "electron_again", None, "nue_cc", TRACK | ELECTRON, TRACK | ELECTRON),
    (38, 30, "photons_again", None, "numu_cc", ELECTRON, ELECTRON | {"gap": True, "gap_cm": 20}),
]
ROWS = range(len(EVENTS))


@pytest.fixture
def events() -> pd.DataFrame:
    table = pd.DataFrame([row[:4] for row in EVENTS], columns=["event_id", "original", "counterfactual", "class"])
    table["event_id"] = table["event_id"].astype(np.uint64)
    table["class"], table["counterfactual"] = table["class"].astype("string"), table["counterfactual"].astype("string")
    return table.assign(shard="first", row=list(ROWS), part=0, centred_by="charge")


def measured(folder: Path, events: pd.DataFrame, mistakes: tuple[int, ...] = ()) -> dict:
    answered = np.array([CLASSES.index(row[4]) for row in EVENTS])
    p = np.where(np.arange(3) == answered[:, None], 0.8, 0.1)
    predictions = folder / "0.parquet"
    cost = Cost("cpu", 1, len(EVENTS), 0, 0, 1)
    write_predictions(predictions, events, np.log(p), 1.0, np.zeros(len(EVENTS)), {}, cost)
    texts = folder / "texts.parquet"
    chosen = ["mistake" if row[0] in mistakes else "sample" for row in EVENTS]
    rationales = rationale_table([(row[0], "nominal", *row[5:]) for row in EVENTS]).assign(chosen=chosen)
    rationales.assign(saliency=[[1.0] * 128] * len(EVENTS)).to_parquet(texts)
    images = np.zeros((len(EVENTS), 2, 16, 16), dtype=np.uint8)
    images[:, :, :4, :4] = 100  # a track of 16 pixels
    images[[0, 5], :, 8:12, 8:12] = 100  # an electron, which the others do not have
    images[2, :, 8:12, 8:14] = 100
    store = folder / "maps.zarr"
    write_store(
        store, {"images": images, "event_id": events["event_id"].to_numpy()}, {
            "format": "nuvlm-pixelmaps", "version": 1, "views": ["xz", "yz"], "size": 16, "pixel_mm": 50,
            "centre": "charge", "transfer": "log", "white_mev": 200, "knee_mev": 1,
        },
    )  # fmt: skip
    saliency = np.zeros_like(images)
    saliency[0, :, 8:12, 8:12] = 200  # all on the electron
    saliency[2, :, :4, :4] = 50  # none
    cam = folder / "cam.zarr"
    attributes = {"format": "nuvlm-cam", "version": 1, "shard": ["first"] * len(EVENTS), "chosen": chosen}
    write_store(cam, {"maps": saliency, "event_id": events["event_id"].to_numpy()}, attributes)
    found = measure_counterfactuals(
        events,
        {model: {"nominal": [predictions]} for model in ("cnn", "vlm")},
        {"vlm": [texts]},
        {"cnn": [cam]},
        {"first": store},
        1,
        200,
    )
    assert found is not None
    return found


def test_pairs_are_an_event_and_the_same_changed(events: pd.DataFrame) -> None:
    originals, changed = pair(events)
    assert originals["event_id"].tolist() == [0, 10, 10, 20, 30, 10, 30]
    assert changed["event_id"].tolist() == [1, 11, 14, 21, 36, 17, 38]
    assert as_simulated(events)["event_id"].tolist() == [0, 10, 20, 30]
    without = events.drop(columns=["original", "counterfactual"])
    assert as_simulated(without) is without
    assert measure_counterfactuals(without, {}, {}, {}, {}, 1) is None


def test_answers_claims_and_saliency_by_hand(tmp_path: Path, events: pd.DataFrame) -> None:
    found = measured(tmp_path, events)
    assert found["pairs"]["without_electron"] == 3
    assert found["pairs"]["photons_at_vertex"] == 1
    rows = {(row["kind"], row["truth"]): row for row in found["answers"]["cnn"]}
    electron, vertex = rows["without_electron", "nue_cc"], rows["photons_at_vertex", "nc"]
    assert (electron["before"]["value"], electron["after"]["value"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    # Of the two answers nue CC one has followed.
    assert electron["follows"] == {"value": 0.5, "interval": binomial_interval(1, 2), "n": 2}
    assert electron["answers_after"] == {"nue_cc": 1, "numu_cc": 0, "nc": 1}
    assert electron["changed"]["value"] == pytest.approx(1 / 3)
    assert electron["shift"] == pytest.approx(-0.7 / 3)
    assert electron["shift_interval"][0] <= electron["shift"] <= electron["shift_interval"][1]
    assert (vertex["rises"], vertex["follows"]["value"], vertex["shift"]) == (True, 1, pytest.approx(0.7))
    assert rows["without_muon", "numu_cc"]["follows"] == {"value": None, "interval": None, "n": 0}

    # The control has the events that follow or not, whose shower is also drawn again; event 0 has none.
    gap = rows["electron_after_gap", "nue_cc"]
    assert (gap["follows"]["value"], gap["control"]) == (1, {"value": 0, "interval": binomial_interval(0, 1), "n": 1})
    assert (gap["beyond_control"], gap["beyond_control_interval"][1]) == (1, 1)
    assert (electron["control"]["n"], electron["beyond_control"]) == (1, 0)
    # Another answer is not the one that a closed gap argues for.
    assert (vertex["control"]["value"], vertex["beyond_control"]) == (0, 1)
    muon = rows["without_muon", "numu_cc"]
    assert (muon["control"]["n"], muon["beyond_control"], muon["beyond_control_interval"]) == (0, None, None)

    claims = found["claims"]["vlm"]["without_electron"]
    # The claim of a shower was right twice, and goes with the electron once; the third event was never said to have it.
    assert (claims["shower"]["follows"]["value"], claims["shower"]["follows"]["n"]) == (0.5, 2)
    assert claims["shower_mev"]["follows"]["value"] == 0.5
    # The track stays; in one of three rationales its length changes.
    assert (claims["track"]["stays"]["value"], claims["track_cm"]["stays"]["value"]) == (1, pytest.approx(2 / 3))
    gap = found["claims"]["vlm"]["electron_after_gap"]["gap"]
    assert (gap["follows"]["value"], gap["follows"]["n"]) == (0, 1)
    assert found["claims"]["vlm"]["electron_again"]["shower"]["stays"]["value"] == 1
    gap = found["claims"]["vlm"]["photons_at_vertex"]["gap"]
    assert gap["follows"]["n"] == 0, "the claim was wrong before"

    assert found["saliency"]["cnn"]["difference"] == pytest.approx(0.5 + 24 / 40)
    saliency = found["saliency"]["cnn"]["groups"]
    assert [saliency[group]["n"] for group in ("all", "flips", "stays")] == [2, 1, 1]
    assert (saliency["flips"]["saliency"], saliency["stays"]["saliency"]) == (1, 0)
    assert saliency["flips"]["charge"] == pytest.approx(0.5)
    assert saliency["stays"]["area"] == pytest.approx(24 / 40)
    assert saliency["flips"]["beyond_charge"] == pytest.approx(0.5)


def test_interval_of_a_paired_difference_covers_the_truth() -> None:
    """Exact coverage, from all outcomes of n pairs of which some go up and some go down."""
    for n in (8, 40):
        cells = [(up, down) for up in range(n + 1) for down in range(n + 1 - up)]
        found = []
        for up, down in cells:
            first, second = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
            first[:up], second[up : up + down] = True, True
            found.append(paired_difference(first, second))
            assert found[-1][0] == pytest.approx((up - down) / n)
        assert found[cells.index((0, 0))][1][1] > 0.05, "without a change the difference is not known to be 0"
        low, high = np.array([interval for _, interval in found]).T
        for p, q in [(0.05, 0.05), (0.1, 0.02), (0.3, 0.1), (0.5, 0.2), (0.0, 0.1), (0.4, 0.4)]:
            weights = multinomial.pmf([(up, down, n - up - down) for up, down in cells], n, [p, q, 1 - p - q])
            coverage = weights[(low <= p - q) & (p - q <= high)].sum()
            assert coverage > 0.92, (n, p, q)
            if n == 40 and p and q > 0.05:
                assert coverage < 0.975, "wider than need be"
    assert paired_difference(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)) == (None, None)


def test_the_worst_mistakes_do_not_count(tmp_path: Path, events: pd.DataFrame) -> None:
    found = measured(tmp_path, events, mistakes=(0, 20))
    claims = found["claims"]["vlm"]["without_electron"]
    # Of the pairs 0, 10 and 20 the second remains, in which the claim of a shower does not follow.
    assert (claims["shower"]["follows"]["value"], claims["shower"]["follows"]["n"]) == (0, 1)
    assert claims["track"]["stays"]["n"] == 1
    for model in ("cnn", "vlm"):
        groups = found["saliency"][model]["groups"]
        assert [groups[name]["n"] for name in ("flips", "stays")] == [0, 1], model


def test_overlap_counts_the_removed_part_of_the_charge() -> None:
    before, after = np.array([4.0, 4.0, 2.0, 0.0]), np.array([0.0, 2.0, 2.0, 0.0])
    # All of the first pixel, half of the second, none of the third; the fourth has no charge.
    assert overlap(np.array([1.0, 2.0, 1.0, 9.0]), before, after) == (0.5, 0.6, 0.5)
    assert np.isnan(overlap(np.zeros(4), before, after)).all()


@pytest.mark.parametrize("size", [16, 20, 25, 112])
def test_values_of_cells_lie_where_the_cells_are(size: int) -> None:
    cells = occlude_cells(lambda images, _: torch.zeros(len(images)), torch.ones(1, 2, size, size), torch.zeros(1))
    values = np.arange(cells.numel(), dtype=np.float32)
    found, side = _of_size(values, (2, size, size)), cell_pixels(size)
    row = size - 1
    assert found[1, row, 0] == values.reshape(cells.shape[1:])[1, row // side, 0]
    assert found[0, 0, row] == values.reshape(cells.shape[1:])[0, 0, row // side]
    assert len(np.unique(found)) == cells.numel()
