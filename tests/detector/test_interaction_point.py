"""The interaction point from charge alone: synthetic events with a known vertex."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuvlm.detector import interaction_point
from nuvlm.detector.geometry import HALF
from nuvlm.detector.interaction_point import (
    MOST_CELLS,
    find_points,
    view_terms,
    view_terms_reference,
    window_charge,
)

SHAPE = (40, 40, 140)
MIP = 10.5
"""MeV in a pixel of 5 cm."""


class Scene:
    """Displays of one event, drawn with straight lines and cones in units of pixels of 5 cm."""

    def __init__(self, seed: int = 0, scale: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.scale = scale
        self.xz = np.zeros((SHAPE[0] * scale, SHAPE[2] * scale), np.float32)
        self.yz = np.zeros((SHAPE[1] * scale, SHAPE[2] * scale), np.float32)

    def deposit(self, points: np.ndarray, energy: float) -> None:
        """Share `energy` among points (n, 3); those outside are lost."""
        cells = np.floor(points * self.scale).astype(int)
        cells = cells[((cells >= 0) & (cells < np.array(SHAPE) * self.scale)).all(axis=1)]
        np.add.at(self.xz, (cells[:, 0], cells[:, 2]), energy / len(points))
        np.add.at(self.yz, (cells[:, 1], cells[:, 2]), energy / len(points))

    def track(self, start, direction, length: float, mip: float = 1) -> "Scene":
        unit = np.array(direction) / np.linalg.norm(direction)
        steps = np.arange(0.05, length, 0.1)
        self.deposit(np.array(start) + steps[:, None] * unit, mip * MIP * length)
        return self

    def shower(self, start, direction, energy: float) -> "Scene":
        """A cone of 10 degrees whose energy rises and falls over 20 radiation lengths (56 pixels)."""
        unit = np.array(direction) / np.linalg.norm(direction)
        along = self.rng.gamma(2.5, 4.0, 2000)
        across = self.rng.normal(0, 0.08, (2000, 3)) * along[:, None]
        self.deposit(np.array(start) + along[:, None] * unit + across, 0.9 * energy)
        return self.track(start, direction, 4, 0.1 * energy / (4 * MIP))

    def find(self, size: int = 112) -> np.ndarray:
        """The point, in pixels of 5 cm."""
        pixel = find_points(self.xz[None], self.yz[None], pixel_mm=50 / self.scale, size=size * self.scale)[0]
        return (pixel + 0.5) / self.scale

    def miss_cm(self, vertex, size: int = 112) -> float:
        return 5 * float(np.linalg.norm(self.find(size) - np.array(vertex)))


VERTEX = (20.5, 18.5, 40.5)


def muon(scene: Scene, vertex=VERTEX) -> Scene:
    return scene.track(vertex, (0.2, 0.1, 1), 70).track(vertex, (0.7, -0.4, 0.6), 5, 2.5)


def electron(scene: Scene, vertex=VERTEX) -> Scene:
    return scene.shower(vertex, (-0.15, 0.1, 1), 1500).track(vertex, (0.8, 0.3, 0.5), 4, 2.5)


def two_pions(scene: Scene, vertex=VERTEX) -> Scene:
    return scene.track(vertex, (0.5, 0.2, 1), 20).track(vertex, (-0.4, -0.5, 1), 14).track(vertex, (0.6, 0, -1), 3, 3)


def displaced_photon(scene: Scene, vertex=VERTEX) -> Scene:
    scene.track(vertex, (-0.5, 0.4, 0.8), 6, 2.5).track(vertex, (0.6, 0.5, 0.4), 4, 2)
    return scene.shower(np.array(vertex) + 5 * np.array([0.2, -0.1, 0.97]), (0.2, -0.1, 0.97), 400)


KINDS = (muon, electron, two_pions, displaced_photon)


@pytest.mark.parametrize("draw", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_vertex_is_found_to_two_pixels(draw: Callable[..., Scene], seed: int) -> None:
    assert draw(Scene(seed)).miss_cm(VERTEX) < 10


@pytest.mark.parametrize("draw", KINDS)
def test_the_vertex_is_found_next_to_any_wall(draw: Callable[..., Scene]) -> None:
    for vertex in ((1.5, 18.5, 40.5), (38.5, 38.5, 40.5), (20.5, 0.5, 40.5), (20.5, 18.5, 0.5)):
        assert draw(Scene(), vertex).miss_cm(vertex) < 12, vertex


def test_a_muon_that_enters_from_upstream_is_found_where_it_enters() -> None:
    scene = Scene().track((10.5, 30.5, -600), (0.01, -0.02, 1), 800)
    assert scene.miss_cm((10.5 + 6, 30.5 - 12, 0)) < 10


@pytest.mark.parametrize("draw", KINDS)
def test_noise_does_not_move_the_point(draw: Callable[..., Scene]) -> None:
    scene = draw(Scene())
    for view in (scene.xz, scene.yz):
        hits = scene.rng.random(view.shape) < 0.01
        view[hits] += scene.rng.exponential(1.0, hits.sum())
    assert scene.miss_cm(VERTEX) < 12


@pytest.mark.parametrize("draw", KINDS)
def test_dead_strips_do_not_move_the_point(draw: Callable[..., Scene]) -> None:
    scene = draw(Scene())
    for view in (scene.xz, scene.yz):
        view[::9] = 0
        view[:, 4::9] = 0
    assert scene.miss_cm(VERTEX) < 15


def test_a_small_part_upstream_and_apart_does_not_attract_the_point() -> None:
    scene = muon(Scene()).track((33, 6, 12), (0.3, 0.5, 0.5), 1.5, 0.5)
    assert scene.miss_cm(VERTEX) < 10
    # Of two interactions, that with most of the charge counts.
    scene = electron(Scene()).track((5.5, 33.5, 100.5), (0, 0.3, 1), 4)
    assert scene.miss_cm(VERTEX) < 10


def test_both_views_agree_along_the_beam() -> None:
    """The muon is hidden behind itself in XZ; its start there is seen in YZ only."""
    scene = Scene().track(VERTEX, (0, 0.5, 1), 20).track(VERTEX, (0, -1, 0.3), 8)
    point = scene.find()
    assert scene.xz[int(point[0]), int(point[2])] > 0
    assert scene.yz[int(point[1]), int(point[2])] > 0
    assert abs(point[2] - VERTEX[2]) < 2


def test_events_without_charge_or_window_have_no_point() -> None:
    empty = Scene()
    assert find_points(empty.xz[None], empty.yz[None], pixel_mm=50, size=112).tolist() == [[-1, -1, -1]]
    # Charge below the threshold of a lit cell everywhere is still found.
    faint = muon(Scene())
    faint.xz *= 1e-4
    faint.yz *= 1e-4
    assert faint.miss_cm(VERTEX) < 20


@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, 40), st.sampled_from(KINDS), st.sampled_from([112, 32]))
@settings(max_examples=30, deadline=None)
def test_a_shifted_event_has_a_shifted_point(x: int, y: int, z: int, draw: Callable[..., Scene], size: int) -> None:
    scene = draw(Scene(), (12.5, 11.5, 20.5))
    # Charge within the smallest box that stays inside when shifted.
    scene.xz[30:], scene.yz[30:], scene.xz[:, 100:], scene.yz[:, 100:] = 0, 0, 0, 0
    before = scene.find(size)
    scene.xz, scene.yz = np.roll(scene.xz, (x, z), (0, 1)), np.roll(scene.yz, (y, z), (0, 1))
    np.testing.assert_array_equal(scene.find(size), before + np.array([x, y, z]))


@pytest.mark.parametrize("scale", [5, 10])
@pytest.mark.parametrize("draw", KINDS)
def test_smaller_pixels_give_a_point_in_a_cell_with_charge(draw: Callable[..., Scene], scale: int) -> None:
    scene = draw(Scene(scale=scale))
    assert scene.miss_cm(VERTEX) < 10
    x, y, z = (scene.find() * scale).astype(int)
    assert scene.xz[:, z].any()
    assert scene.yz[:, z].any()
    assert scene.xz[max(x - scale, 0) : x + scale, z].any()
    assert scene.yz[max(y - scale, 0) : y + scale, z].any()


def test_pixels_that_do_not_divide_the_cells_and_larger_ones() -> None:
    for pixel_mm, shape in ((30.0, (67, 234)), (100.0, (20, 70)), (7.0, (286, 1000))):
        view = np.zeros((1, *shape), np.float32)
        view[0, shape[0] // 2, shape[1] // 3 :] = 0.2 * pixel_mm
        point = find_points(view, view, pixel_mm=pixel_mm, size=shape[1] + 1 + shape[1] % 2)[0]
        assert abs((point - [shape[0] // 2, shape[0] // 2, shape[1] // 3]) * pixel_mm).max() <= 100


@pytest.mark.parametrize("scale", [1, 5])
def test_the_terms_equal_those_of_the_reference(scale: int) -> None:
    for seed, draw in enumerate(KINDS):
        scene = draw(Scene(seed, scale))
        for view in (scene.xz, scene.yz, 1e-4 * scene.xz, scene.rng.exponential(5.0, scene.xz.shape)):
            lit, terms = view_terms(view, 50 / scale)
            expected_lit, expected = view_terms_reference(view, 50 / scale)
            np.testing.assert_array_equal(lit, expected_lit)
            np.testing.assert_allclose(terms, expected, rtol=1e-9, atol=1e-12)
    assert len(lit) == MOST_CELLS


def test_the_point_is_where_the_sum_of_the_scores_of_both_views_is_highest() -> None:
    for seed, draw in enumerate(KINDS):
        scene = draw(Scene(seed))
        best = []
        for view in (scene.xz, scene.yz):
            lit, terms = view_terms_reference(view, 50)
            scores = np.full(view.shape, -np.inf)
            scores[tuple(lit.T)] = terms @ interaction_point.WEIGHTS
            best.append(scores)
        z = int(np.argmax(best[0].max(axis=0) + best[1].max(axis=0)))
        expected = [best[0][:, z].argmax(), best[1][:, z].argmax(), z]
        np.testing.assert_array_equal(scene.find(), np.array(expected) + 0.5)


@pytest.mark.parametrize("size", [16, 32, 64, 512])
def test_the_charge_of_windows_equals_the_sum_over_them(size: int, rng: np.random.Generator) -> None:
    views = rng.exponential(1.0, (6, 40, 140)) * (rng.random((6, 40, 140)) < 0.05)
    rows, columns = rng.integers(-60, 100, 6), rng.integers(-60, 200, 6)
    found = window_charge(views.astype(np.float32), rows, columns, size)
    padded = np.pad(views.astype(np.float32).astype(float), ((0, 0), (1000, 1000), (1000, 1000)))
    for event, (row, column) in enumerate(zip(rows, columns, strict=True)):

        def inside(top: int, left: int, of: np.ndarray = padded[event]) -> float:
            return float(of[1000 + top : 1000 + top + size, 1000 + left : 1000 + left + size].sum())

        corners = [(top, left) for top in range(-size + 1, 40) for left in range(-size + 1, 140)] if size < 64 else []
        most = max((inside(*corner) for corner in corners), default=None)
        expected = inside(row - size // 2, column - size // 2)
        np.testing.assert_allclose(found[event, [0, 2]], [expected, views[event].sum()], rtol=1e-5, atol=1e-9)
        if most is not None:
            np.testing.assert_allclose(found[event, 1], most, rtol=1e-9)


def corners(view: np.ndarray) -> np.ndarray:
    """Sum of all pixels above and left of each corner, rows first."""
    return np.pad(np.cumsum(np.cumsum(view.astype(np.float64), axis=1), axis=0), ((1, 0), (1, 0)))


def charge_reference(view: np.ndarray, size: int) -> tuple[Callable[[int, int], float], float, float]:
    """Reference for window_charge, to the last bit: the charge about any pixel, the most, and all."""
    sums = corners(view)

    def inside(top: int, left: int) -> float:
        b, r = np.clip(top + size, 0, view.shape[0]), np.clip(left + size, 0, view.shape[1])
        t, s = np.clip(top, 0, view.shape[0]), np.clip(left, 0, view.shape[1])
        return float(sums[b, r] - sums[t, r] - sums[b, s] + sums[t, s])

    tops, lefts = (range(max(n + 1 - size, 1)) for n in view.shape)
    most = max(0.0, *(inside(top, left) for top in tops for left in lefts))
    return lambda row, column: inside(row - size // 2, column - size // 2), most, float(sums[-1, -1])


@pytest.mark.parametrize("size", [15, 32, 60, 512])
def test_the_charge_of_windows_is_that_of_the_dense_view_to_the_last_bit(size: int, rng: np.random.Generator) -> None:
    for lit, shape in ((0.03, (40, 60)), (0.002, (60, 40)), (1, (20, 20)), (0, (20, 20))):
        view = (rng.exponential(10.0, shape) ** 3 * (rng.random(shape) < lit)).astype(np.float32)
        inside, most, total = charge_reference(view, size)
        for _ in range(5):
            row, column = rng.integers(-40, 100, 2)
            found = window_charge(view[None], np.array([row]), np.array([column]), size)[0]
            assert found[[0, 2]].tolist() == [inside(row, column), total]
            assert found[1] == pytest.approx(most, rel=1e-12)
            assert (found[0] >= HALF * found[1]) == (inside(row, column) >= HALF * most)


def find_reference(xz: np.ndarray, yz: np.ndarray, pixel_mm: float, size: int) -> list[int]:
    """Reference for find_points: every candidate, on dense views."""
    side = interaction_point.cells_per_side(pixel_mm)
    best = []
    inside_of, most_of = zip(*(charge_reference(view, size)[:2] for view in (xz, yz)), strict=True)
    for view, inside, most in zip((xz, yz), inside_of, most_of, strict=True):
        cells, terms = view_terms(view, pixel_mm)
        scores = np.full((-(-view.shape[0] // side), -(-view.shape[1] // side)), -np.inf)
        for (i, k), score in zip(cells, terms @ interaction_point.WEIGHTS, strict=True):
            if inside(i * side + side // 2, k * side + side // 2) >= HALF * most:
                scores[i, k] = score
        best.append(scores)
    column = int(np.argmax(best[0].max(axis=0) + best[1].max(axis=0)))
    if best[0][:, column].max() + best[1][:, column].max() == -np.inf:
        return [-1, -1, -1]
    rows = [int(scores[:, column].argmax()) for scores in best]
    point = [row * side + side // 2 for row in (*rows, column)]
    for k in range(column * side, min((column + 1) * side, xz.shape[1])):
        ends = [view[row * side : (row + 1) * side, k].astype(float) for view, row in zip((xz, yz), rows, strict=True)]
        if all(end.sum() > 0 for end in ends):
            refined = [
                row * side + int(end @ np.arange(len(end)) / end.sum() + 0.5)
                for row, end in zip(rows, ends, strict=True)
            ] + [k]
            held = [
                inside(row, k) >= HALF * most for inside, most, row in zip(inside_of, most_of, refined, strict=False)
            ]
            return refined if all(held) else point
    return point


@pytest.mark.parametrize(("scale", "size"), [(1, 112), (1, 24), (3, 30), (3, 130)])
def test_the_point_is_that_of_the_reference(scale: int, size: int) -> None:
    for seed, draw in enumerate(KINDS):
        scene = draw(Scene(seed, scale))
        # A short piece of the view, so that the reference takes seconds; its last cells have fewer pixels.
        xz, yz = (view[: 38 * scale - 1, 30 * scale : 70 * scale - 2] for view in (scene.xz, scene.yz))
        hits = scene.rng.random((2, *xz.shape)) < 0.02
        xz, yz = xz + hits[0] * np.float32(3), yz + hits[1] * np.float32(3)
        found = find_points(xz[None], yz[None], pixel_mm=50 / scale, size=size)[0].tolist()
        assert found == find_reference(xz, yz, 50 / scale, size)
