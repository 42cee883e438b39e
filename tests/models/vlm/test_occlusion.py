"""What is taken out of a picture, and what stays: by hand, by brute force, and on particles sent through argon."""

import numpy as np
import pandas as pd
import pytest

from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.models.vlm.occlusion import KEPT_MM, Region, occlude, shower_region, track_region
from nuvlm.simulation.final_states import Particle

SIZE, PIXEL_MM = 64, 50.0
VERTEX = (12.0, -31.0, 3020.0)
CORNER = np.floor(np.array(VERTEX) / PIXEL_MM) * PIXEL_MM - SIZE // 2 * PIXEL_MM


def event(track: tuple[float, tuple] | None = None, shower: tuple[float, float, tuple] | None = None) -> pd.DataFrame:
    """A row of the event table with a track of (length, direction) and a shower of (energy, gap, direction)."""
    row = {"shard": "a", "event_id": 7, **dict(zip(("vertex_x_mm", "vertex_y_mm", "vertex_z_mm"), VERTEX, strict=True))}
    row |= {"track_mm": track[0] if track else 0.0, "shower_mev": shower[0] if shower else 0.0}
    row["shower_gap_mm"] = shower[1] if shower else np.nan
    for what, thing in (("track", track), ("shower", shower)):
        direction = np.array(thing[-1]) / np.linalg.norm(thing[-1]) if thing else np.full(3, np.nan)
        row |= {f"{what}_direction_{axis}": value for axis, value in zip("xyz", direction, strict=True)}
    return pd.DataFrame([row])


def pixels(image: np.ndarray) -> set[tuple[int, int]]:
    """Lit pixels, rows and columns counted from the vertex's."""
    return {(int(row) - SIZE // 2, int(column) - SIZE // 2) for row, column in np.argwhere(image)}


def taken(what: str, row: pd.DataFrame, image: np.ndarray | None = None) -> list[set[tuple[int, int]]]:
    """Which pixels of each view are taken out, of a picture that is white all over or of `image`."""
    images = np.full((1, 2, SIZE, SIZE), 255, np.uint8) if image is None else image
    after = occlude(images, what, row, corner_mm=CORNER[None], pixel_mm=PIXEL_MM)
    assert after is not images
    assert set(np.unique(after[(after > 0)])) <= set(np.unique(images)), "what stays is as it was"
    return [pixels(view & (after[0, i] == 0)) for i, view in enumerate(images[0])]


def test_a_track_along_the_beam_is_taken_out_to_its_end() -> None:
    for view in taken("track", event(track=(1000, (0, 0, 1)))):
        along = {column for row, column in view if row == 0}
        assert along == set(range(1, max(along) + 1))
        assert 20 <= max(along) <= 23, "20 pixels, and the corridor's half-width"
        assert {row for row, column in view if column == 5} == {-1, 0, 1}


def test_a_track_across_a_view_is_a_spot_there_and_a_line_in_the_other() -> None:
    xz, yz = taken("track", event(track=(1000, (0, 1, 0))))
    assert max(abs(row) for row, _ in xz) <= 3
    assert {(row, 0) for row in range(2, 20)} <= yz
    assert not {pixel for pixel in yz if pixel[0] < -1}


def test_what_is_near_the_vertex_stays() -> None:
    row = event(track=(1000, (1, 0, 1)), shower=(2000, 0, (0, 0, 1)))
    for what in ("track", "shower"):
        for axis, view in zip((0, 1), taken(what, row), strict=True):
            assert (0, 0) not in view
            for i, k in view:
                centre = CORNER[[axis, 2]] + (np.array([i, k]) + SIZE // 2 + 0.5) * PIXEL_MM
                assert np.linalg.norm(centre - np.array(VERTEX)[[axis, 2]]) > KEPT_MM


def test_a_pixel_goes_with_one_of_them_and_the_track_inside_a_shower_stays() -> None:
    row = event(track=(1500, (0.3, 0, 1)), shower=(2000, 0, (0, 0, 1)))
    track, shower = taken("track", row)[0], taken("shower", row)[0]
    assert track
    assert shower
    assert not track & shower
    axis = {(round(0.3 * k), k) for k in range(8, 25)}
    assert axis <= track
    assert {(0, k) for k in range(3, 30)} <= shower
    assert taken("shower", event(shower=(2000, 0, (0, 0, 1))))[0] > shower, "without a track all of it is the shower's"


def test_a_shower_after_a_gap_begins_there_and_opens_wider_the_less_energy_it_has() -> None:
    near = taken("shower", event(shower=(3000, 0, (0, 0, 1))))[0]
    far = taken("shower", event(shower=(3000, 400, (0, 0, 1))))[0]
    assert min(column for row, column in near if row == 0) <= 2
    assert 4 <= min(column for row, column in far if row == 0) <= 7
    widths = []
    for energy in (200, 500, 3000):
        region = shower_region(event(shower=(energy, 100, (0, 0, 1))).iloc[0], PIXEL_MM)
        assert region is not None
        widths.append(region.opening)
    assert widths[0] > widths[1] > widths[2]
    assert widths[1] == pytest.approx(np.tan(np.arcsin(134.977 / 500)))


def test_distances_are_those_of_every_disk_tried() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        direction = rng.normal(size=3)
        begin, length = rng.uniform(0, 300), rng.uniform(100, 2000)
        region = Region(direction / np.linalg.norm(direction), begin, begin + length, 50, rng.uniform(0, 0.5))
        points = rng.uniform(-1500, 1500, (40, 2))
        s = np.linspace(region.begin, region.end, 4001)
        for axes in ([0, 2], [1, 2]):
            away = np.linalg.norm(points[:, None] - s[:, None] * region.direction[axes], axis=2)
            tried = (away / (region.width + region.opening * s)).min(axis=1)
            np.testing.assert_allclose(region.distance(points, axes), tried, rtol=1e-3, atol=1e-3)


def test_black_pictures_stay_black_and_an_event_without_the_thing_is_named() -> None:
    black = np.zeros((1, 2, SIZE, SIZE), np.uint8)
    assert not any(taken("track", event(track=(1000, (0, 0, 1))), black))
    row = event(track=(1000, (0, 0, 1)))
    with pytest.raises(InputError, match="event 7 of shard a: it has no true shower"):
        taken("shower", row)
    assert track_region(event().iloc[0], PIXEL_MM) is None


def test_most_of_a_muon_and_of_an_electron_is_taken_out_and_little_of_the_other() -> None:
    from nuvlm.simulation.transport import argon_box

    box = argon_box(Detector())
    muon = Particle.of(13, np.array([0.0, 150.0, 500.0]))
    electron = Particle.of(11, np.array([400.0, 0.0, 1200.0]))
    row = event(track=(2000, (0, 150, 500)), shower=(1200, 0, (400, 0, 1200)))
    shares = []
    for seed in range(5):
        deposits = box.transport(np.array(VERTEX), [muon, electron], np.random.default_rng(seed))
        index = ((deposits.start_mm + deposits.end_mm) / 2 - CORNER) // PIXEL_MM
        inside = ((index >= 0) & (index < SIZE)).all(axis=1)
        energy = np.zeros((2, 2, SIZE, SIZE))  # particle, view, row, column
        for view, axis in enumerate((0, 1)):
            where = (deposits.particle, view, *index.astype(int)[:, [axis, 2]].T)
            np.add.at(
                energy,
                tuple(np.asarray(part)[inside] if np.ndim(part) else part for part in where),
                deposits.energy_mev[inside],
            )
        image = np.where(energy.sum(axis=0) > 0.05, 255, 0).astype(np.uint8)[None]
        for what in ("track", "shower"):
            after = occlude(image, what, row, corner_mm=CORNER[None], pixel_mm=PIXEL_MM)[0]
            gone = (energy * (after == 0)).sum(axis=(1, 2, 3)) / energy.sum(axis=(1, 2, 3))
            shares.append(gone if what == "track" else gone[::-1])
    own, others = np.mean(shares, axis=0)
    assert own > 0.85
    assert others < 0.15
