"""Pixel maps: a square window of each event display around the interaction, as grayscale images.

A window belongs to the charge of its event: one that would hold less than half of the charge that a window of its size
can hold lies elsewhere, as around the vertex of a neutrino in the rock upstream of the detector. Such an event, or one
without a vertex, is centred by its charge. If that fails too, it is a bad event. With cosmic muons the most charge may
be theirs: a vertex inside the detector, with charge around it, keeps its window.

A counterfactual event (docs/simulation.md) has the window of the event that it was made from, so that nothing else
differs between their pixel maps.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.kernels import cached_njit
from nuvlm.base.logs import track
from nuvlm.base.sparse import SparseEvents, SparseFile, as_sparse
from nuvlm.base.stores import create_store, open_store
from nuvlm.detector.geometry import ARRAYS, CENTRES, HALF, Centre
from nuvlm.detector.grayscale import grayscale
from nuvlm.detector.interaction_point import Views, find_windows, window_charge

logger = logging.getLogger(__name__)

BLOCK_PIXELS = 2**22
"""Number of pixels of a view, lit or not, of the displays that are in memory at the same time: limits the memory."""
VIEWS = ARRAYS[:2]


def crop(view: np.ndarray, row: int, column: int, size: int) -> np.ndarray:
    """Reference for :func:`crop_displays`, which paints only pixels that are not zero.

    A (size, size) window of a (rows, columns) view, with pixel (row, column) at (size // 2, size // 2). Pixels outside
    the view are zero.
    """
    window = np.zeros((size, size), dtype=view.dtype)
    top, left = row - size // 2, column - size // 2
    rows = slice(max(top, 0), min(top + size, view.shape[0]))
    columns = slice(max(left, 0), min(left + size, view.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = view[rows, columns]
    return window


def choose_centres(
    xz: Views,
    yz: Views,
    vertex_mm: np.ndarray,
    *,
    centre: Centre,
    origin_mm: np.ndarray,
    pixel_mm: float,
    size: int,
    with_muons: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixel at the centre of the window of each event.

    An event that has no such pixel, or whose window would hold too little there, is centred by ``charge`` instead.

    Args:
        xz, yz: event displays, (events, x, z) and (events, y, z), MeV.
        vertex_mm: (events, 3), NaN if unknown; used for ``centre="vertex"`` only.
        centre: ``charge``: the interaction point found by :func:`nuvlm.detector.interaction_point.find_points`;
            ``vertex``: the true vertex; ``centroid``: the energy-weighted centroid of the displays.
        origin_mm: (3,), low corner of pixel (0, 0, 0).
        pixel_mm: side of a pixel.
        size: side of the window, pixels.
        with_muons: (events,) bool, events with charge of cosmic muons; None: there are none.

    Returns:
        int64 (events, 3), pixel along x, y, z; uint8 (events,), index into CENTRES of what it was found by; float64
        (events,), the fraction of the event's charge in its window, in the view that has less. The fraction is NaN for
        an event without charge, or if even the charge gives no window that holds enough.
    """
    xz, yz = as_sparse(xz), as_sparse(yz)
    if centre == "charge":
        pixels, charge = find_windows(xz, yz, pixel_mm=pixel_mm, size=size)
    else:
        point = (vertex_mm - origin_mm) / pixel_mm if centre == "vertex" else _centroids(xz, yz)
        # Far outside, the window is empty wherever it lies.
        pixels = np.floor(np.nan_to_num(point, nan=-1e6).clip(-1e6, 1e6)).astype(np.int64)
        charge = _charge_around((xz, yz), pixels, size)
    least = np.full(len(xz), HALF)
    if centre == "vertex" and with_muons is not None:
        shape = (xz.shape[0], yz.shape[0], xz.shape[1])
        least[with_muons & ((pixels >= 0) & (pixels < shape)).all(axis=1)] = 0
    share = _share(charge, least)
    share[share == 0] = np.nan  # a window without charge
    centred_by = np.full(len(xz), CENTRES.index(centre), dtype=np.uint8)
    elsewhere = np.flatnonzero(np.isnan(share))
    if centre != "charge" and len(elsewhere):
        some = xz.select(elsewhere), yz.select(elsewhere)
        pixels[elsewhere], charge = find_windows(*some, pixel_mm=pixel_mm, size=size)
        share[elsewhere] = _share(charge)
        centred_by[elsewhere] = CENTRES.index("charge")
    return pixels, centred_by, share


def _centroids(xz: SparseEvents, yz: SparseEvents) -> np.ndarray:
    """(events, 3) energy-weighted centroid in pixels, NaN without charge."""
    x, y, z = xz.index // xz.shape[1], yz.index // yz.shape[1], xz.index % xz.shape[1]
    means = []
    for view, place in ((xz, x), (yz, y), (xz, z)):
        event = np.repeat(np.arange(len(view)), view.counts)
        total, moment = (np.bincount(event, weight, len(view)) for weight in (view.value, view.value * (place + 0.5)))
        means.append(np.divide(moment, total, out=np.full(len(view), np.nan), where=total != 0))
    return np.stack(means, axis=1)


@cached_njit()
def _paint(index, grey, columns, row, column, image):  # type: ignore[no-untyped-def]
    """Write the lit pixels of a view into its window, see :func:`crop`; return whether one of them is not black."""
    size = len(image)
    top, left = row - size // 2, column - size // 2
    any_grey = False
    i, begin = -top, 0
    for p in range(len(index)):
        while begin + columns <= index[p]:
            i, begin = i + 1, begin + columns
        k = index[p] - begin - left
        if 0 <= i < size and 0 <= k < size:
            image[np.uint64(i), np.uint64(k)] = grey[p]
            any_grey |= grey[p] > 0
    return any_grey


def _charge_around(views: Sequence[SparseEvents], pixels: np.ndarray, size: int) -> np.ndarray:
    """(2, events, 3), see :func:`nuvlm.detector.interaction_point.window_charge`."""
    return np.stack([window_charge(view, pixels[:, axis], pixels[:, 2], size) for axis, view in enumerate(views)])


def _share(charge: np.ndarray, least: np.ndarray | float = HALF) -> np.ndarray:
    """(events,) fraction of the charge in the window, the lower one of both views; NaN if it holds too little.

    Args:
        charge: (2, events, 3), see :func:`nuvlm.detector.interaction_point.window_charge`.
        least: (events,) or for all, what a window must hold, as a fraction of what one of its size can hold.
    """
    inside, most, total = np.moveaxis(charge, 2, 0)
    enough = (total > 0) & (most > 0) & (inside >= least * most)
    share = np.divide(inside, total, out=np.full(inside.shape, np.nan), where=enough)
    return np.minimum(*share)


def _window_of(ids: np.ndarray, originals: Mapping[int, int]) -> np.ndarray:
    """(events,) the row of the event whose window each event has: of a counterfactual event the row of its original,
    which precedes it."""
    rows = {int(event): row for row, event in enumerate(ids)}
    windows = [rows.get(originals.get(event, event), row) for event, row in rows.items()]
    return np.minimum(windows, np.arange(len(ids)))


def crop_displays(
    displays: Path,
    out: Path,
    *,
    size: int,
    centre: Centre,
    transfer: str,
    white_mev: float,
    knee_mev: float,
    on_bad_event: OnBadEvent = "error",
) -> None:
    """Make the pixel-map store `out` (docs/formats.md) from a display store.

    Args:
        displays: the display store.
        out: the pixel-map store.
        size: side of the window, pixels.
        centre: see :func:`choose_centres`.
        transfer, white_mev, knee_mev: see :func:`nuvlm.detector.grayscale.grayscale`.
        on_bad_event: whether an event whose window holds too little, or whose pixel maps are black, is an error, or
            left out and counted in the log.

    Raises:
        InputError: the display store is damaged, or an event is bad, or all are.
    """
    store = open_store(displays, "nuvlm-displays", ARRAYS)
    files = [SparseFile(displays, store[name]) for name in VIEWS]
    vertex = store["vertex_mm"][:].astype(np.float64)
    origin_mm = np.array(store.attrs["origin_mm"], dtype=np.float64)
    pixel_mm = float(store.attrs["pixel_mm"])
    ids = store["event_id"][:]
    n = len(ids)
    at_once = max(1, BLOCK_PIXELS // max(file.pixels for file in files))
    images = np.zeros((1, len(VIEWS), size, size), dtype=np.uint8)
    window_of = _window_of(ids, dict(store.attrs.get("originals", [])))
    with_muons = np.isin(ids, store.attrs.get("with_muons", []))
    chosen_pixels = np.zeros((n, 3), dtype=np.int64)
    attributes = {
        "format": "nuvlm-pixelmaps",
        "version": 1,
        "views": list(VIEWS),
        "size": size,
        "pixel_mm": pixel_mm,
        "centre": centre,
        "centred_by": list(CENTRES),
        "transfer": transfer,
        "white_mev": white_mev,
        "knee_mev": knee_mev,
        "displays": dict(store.attrs),
    }
    kept: list[np.ndarray] = []
    left_out: list[str] = []
    marks: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    with create_store(out, attributes) as maps:

        def events() -> Iterator[int]:
            """Write the pixel maps block by block, and yield the row of each event when it is done."""
            for begin in range(0, n, at_once):
                rows = range(begin, min(begin + at_once, n))
                views = [file.events(begin, rows.stop) for file in files]  # MeV
                pixels, centred_by, share = choose_centres(
                    views[0],
                    views[1],
                    vertex[begin : rows.stop],
                    centre=centre,
                    origin_mm=origin_mm,
                    pixel_mm=pixel_mm,
                    size=size,
                    with_muons=with_muons[begin : rows.stop],
                )
                chosen_pixels[begin : rows.stop] = pixels
                changed = np.flatnonzero(window_of[begin : rows.stop] != np.arange(begin, rows.stop))
                if len(changed):
                    pixels[changed] = chosen_pixels[window_of[begin + changed]]
                    # Also a window that holds little.
                    of_changed = [view.select(changed) for view in views]
                    share[changed] = _share(_charge_around(of_changed, pixels[changed], size), 0)
                greys = [
                    grayscale(view.value, transfer=transfer, white_mev=white_mev, knee_mev=knee_mev) for view in views
                ]
                good = np.zeros(len(rows), dtype=bool)
                for i in range(len(rows)):
                    images[:] = 0
                    if not np.isnan(share[i]):
                        for view, grey, row, image in zip(views, greys, pixels[i, :2], images[0], strict=True):
                            span = slice(view.begins[i], view.begins[i + 1])
                            good[i] |= _paint(view.index[span], grey[span], view.shape[1], row, pixels[i, 2], image)
                    if good[i]:
                        maps.append("images", images)
                        continue
                    left_out.append(
                        _describe_bad(int(ids[begin + i]), [view.values_of(i) for view in views], share[i], size)
                    )
                    if on_bad_event == "error":
                        raise InputError(
                            f"{displays}: {left_out[0]}. Correct the event, set pixelmap.size to more pixels if the "
                            "window is small, or set input.on_bad_event to skip: such events are then left out and "
                            "counted."
                        )
                maps.append("corner_mm", origin_mm + (pixels[good] - size // 2) * pixel_mm)
                kept.append(begin + np.flatnonzero(good))
                marks.append(centred_by[good])
                shares.append(share[good])
                yield from rows

        for _ in track(events(), "events", n):
            pass
        chosen = np.concatenate(kept)
        if not len(chosen):
            raise InputError(f"{displays}: none of its {n} events can be used; {left_out[0]}.")
        for name in ("event_id", "visible_energy", "edge_energy"):
            maps.append(name, store[name][:][chosen])
        maps.append("centred_by", np.concatenate(marks))
        maps.append("window_share", np.concatenate(shares))
    if left_out:
        logger.warning("%s: %d of %d events left out; the first: %s", displays, len(left_out), n, left_out[0])
    _log_windows(displays, ids[chosen], centre, np.concatenate(marks), np.concatenate(shares), size)


def _describe_bad(event_id: int, views: list[np.ndarray], share: float, size: int) -> str:
    """Why an event has no pixel maps."""
    charge = max(float(view.sum()) for view in views)
    if charge <= 0:
        return f"event {event_id} has no charge in its displays"
    if np.isnan(share):
        return (
            f"no window of {size} pixels around a point of event {event_id} holds half of the charge that a window of "
            "this size can hold"
        )
    return f"the pixel maps of event {event_id} are black: {charge:.3g} MeV is too faint for the grey scale"


def _log_windows(
    displays: Path, ids: np.ndarray, centre: Centre, centred_by: np.ndarray, share: np.ndarray, size: int
) -> None:
    """Count the events that fell back to their charge, and those that the window cuts by more than half."""
    fell_back = np.flatnonzero(centred_by != CENTRES.index(centre))
    if len(fell_back):
        logger.warning(
            "%s: %d of %d events have no usable %s and are centred by their charge (first: event %d)",
            displays, len(fell_back), len(ids), centre, ids[fell_back[0]],
        )  # fmt: skip
    cut = np.flatnonzero(share < HALF)
    if len(cut):
        logger.info(
            "%d of %d events are so long that a window of %d pixels holds less than half of their charge (first: "
            "event %d); pixelmap.size sets it",
            len(cut), len(ids), size, ids[cut[0]],
        )  # fmt: skip
