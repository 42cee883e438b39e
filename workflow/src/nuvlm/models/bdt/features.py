"""A dozen quantities that a physicist would read off a pixel map, of each view: extent, charge, straightness, width.

They are made from the images alone, all events of a block at once. Lengths are in cm and charge in MeV where the
settings of the maps tell pixel and transfer; of maps made elsewhere, in pixels and in grey values (1 is white).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nuvlm.detector.grayscale import energy_of_grey

MIP_MEV_CM = 2.1
"""What a minimum-ionising particle loses in liquid argon (PDG: 1.508 MeV cm2/g x 1.396 g/cm3)."""
LIT = 0.05
"""Least charge of a lit pixel, over what a minimum-ionising particle leaves along its side; below is diffusion."""
CORRIDOR, START, CORE = 1.5, 3.0, 0.1
"""Half the width of the corridor along the axis, and the length of the start: pixels of 5 cm. The share of lit pixels
that are the brightest ones."""
PIXEL_CM = 5.0

FEATURES = (
    "charge",
    "pixels",
    "extent_beam",
    "extent_across",
    "reach",
    "unbroken",
    "straightness",
    "width",
    "start_dedx",
    "track_dedx",
    "fluctuation",
    "core",
    "isolated",
    "clusters",
    "edge",
    "forward",
    "direction",
)
"""Of each view:

- `charge`: sum over all pixels, lit or not; `pixels`: number of lit ones, and the following are about those.
- `extent_beam`, `extent_across`: along the beam and across it.
- The axis is the principal one of the charge about the vertex, pointing to where more of it is. `reach`: distance
  along it from the vertex to the last pixel in its corridor; `unbroken`: the same up to the first gap;
  `straightness`: share of the charge in the corridor; `width`: root mean square distance of the charge from the axis.
- `start_dedx`, `track_dedx`: charge in the corridor per length, in its start and up to the first gap;
  `fluctuation`: root mean square of the latter over its mean, from pixel to pixel.
- `core`: share of the charge in the brightest tenth of the pixels.
- `isolated`: share of the charge that does not hang together with the charge nearest to the vertex; `clusters`: number
  of pieces that do hang together.
- `edge`: share of the charge in the outermost pixels of the window.
- `forward`: charge downstream of the vertex minus that upstream, over both; `direction`: cosine of axis and beam.
"""


@dataclass(frozen=True)
class Scale:
    """What a pixel and a grey value of some maps stand for."""

    size: int
    """Side of the maps, pixels; images of half the size have pixels of twice the side."""
    pixel_cm: float | None
    charge: np.ndarray
    """(256,) of each grey value: MeV, or the grey value over 255."""
    centred: bool
    """Whether the vertex is at the centre of the window; if not, it is taken to be where the charge begins."""

    @classmethod
    def of(cls, images: Mapping[str, Any]) -> Self:
        """From the settings of pixel maps (:func:`nuvlm.dataset.pixelmaps.image_settings`)."""
        transfer = {name: images[name] for name in ("transfer", "white_mev", "knee_mev")}
        if transfer["transfer"] is None:
            transfer = {"transfer": "linear", "white_mev": 1.0, "knee_mev": 1.0}
        charge = energy_of_grey(**transfer)
        pixel_mm = images["pixel_mm"]
        return cls(images["size"], None if pixel_mm is None else pixel_mm / 10, charge, "source" not in images)


def feature_names(views: Sequence[str]) -> list[str]:
    """Names of the columns of :func:`features`."""
    return [f"{view}_{name}" for view in views for name in FEATURES]


def features(images: np.ndarray, scale: Scale) -> np.ndarray:
    """All quantities of :data:`FEATURES`, view by view.

    Args:
        images: uint8 (events, views, size, size), as they are or at a lower resolution.
        scale: of the images as they are.

    Returns:
        float64 (events, views * features); of a view without a lit pixel all but the charge are 0.
    """
    events, views, size, _ = images.shape
    maps = events * views
    coarser = round(scale.size / size)
    pixel = coarser * (scale.pixel_cm or 1.0)
    cell = np.flatnonzero(images)
    # A pixel of half the resolution is the mean of four: their charge is four times as much.
    charge = coarser**2 * scale.charge[images.reshape(-1)[cell]]
    total = np.bincount(cell // size**2, charge, maps)
    if scale.pixel_cm is not None:
        lit = charge >= LIT * MIP_MEV_CM * pixel
        cell, charge = cell[lit], charge[lit]
    table = np.zeros((maps, len(FEATURES)))
    if len(cell):
        table[:] = _of_lit(cell, charge, maps, size, pixel, scale).T
    table[:, 0] = total
    # (events * views, features) -> (events, views * features)
    return table.reshape(events, views * len(FEATURES))


def _of_lit(cell: np.ndarray, charge: np.ndarray, maps: int, size: int, pixel: float, scale: Scale) -> np.ndarray:
    """(features, maps) of lit pixels.

    Args:
        cell: (pixels,) ascending, index into the flattened maps.
        charge: (pixels,).
        maps, size: how many there are, and their side in pixels.
        pixel: side of a pixel, cm or 1.
        scale: of the maps at full resolution.
    """
    which, row, column = cell // size**2, cell // size % size, cell % size

    def sum_of(values: np.ndarray) -> np.ndarray:
        """(pixels,) to (maps,)."""
        return np.bincount(which, values, maps)

    def ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(pixels,) to the least and the greatest value of each map, 0 where none is lit."""
        low, high = np.full(maps, np.inf), np.full(maps, -np.inf)
        np.minimum.at(low, which, values)
        np.maximum.at(high, which, values)
        empty = np.isinf(low)
        return np.where(empty, 0, low), np.where(empty, 0, high)

    pixels = sum_of(np.ones(len(cell)))
    share = charge / sum_of(charge)[which]  # of the charge of its map
    vertex_row, vertex_column = _vertices(which, row, column, share, maps, size, scale.centred)
    # distance from the vertex, across the beam and along it
    y, z = pixel * (row - vertex_row[which]), pixel * (column - vertex_column[which])

    # The principal axis diagonalises the second moments of the charge about the vertex.
    yy, zz, yz = (sum_of(share * product) for product in (y * y, z * z, y * z))
    angle = 0.5 * np.arctan2(2 * yz, zz - yy)
    cosine, sine = np.cos(angle), np.sin(angle)
    sign = np.where(sum_of(share * (z * cosine[which] + y * sine[which])) < 0, -1.0, 1.0)
    cosine, sine = sign * cosine, sign * sine
    along = z * cosine[which] + y * sine[which]
    across = y * cosine[which] - z * sine[which]

    # Charge along the corridor from the vertex on, a bin a pixel: (maps, bins).
    unit = 1.0 if scale.pixel_cm is None else PIXEL_CM
    inside = np.abs(across) <= CORRIDOR * max(unit, pixel)
    ahead = inside & (along >= -0.5 * pixel)
    step = np.maximum(np.rint(along[ahead] / pixel), 0).astype(np.int64)
    bins = int(1.5 * size) + 2  # the diagonal, and two that stay dark
    profile = np.bincount(which[ahead] * bins + step, charge[ahead], maps * bins).reshape(maps, bins)
    # Where the axis passes between two pixels a single bin may be dark; two of them are a gap.
    gap = (profile[:, :-1] + profile[:, 1:] == 0).argmax(axis=1)
    unbroken = np.arange(bins) < gap[:, None]
    mean = (profile * unbroken).sum(axis=1) / np.maximum(gap, 1)
    square = (profile**2 * unbroken).sum(axis=1) / np.maximum(gap, 1)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    start = max(1, round(START * unit / pixel))

    piece = _pieces(which, cell, size)
    attached = _attached(which, piece, y * y + z * z)
    outermost = (np.minimum(row, column) == 0) | (np.maximum(row, column) == size - 1)
    (low_z, high_z), (low_y, high_y) = ends(z), ends(y)
    return np.stack(
        [
            sum_of(charge),
            pixels,
            high_z - low_z,
            high_y - low_y,
            ends(np.where(ahead, along, 0))[1],
            gap * pixel,
            sum_of(share * inside),
            np.sqrt(sum_of(share * across**2)),
            profile[:, :start].sum(axis=1) / (start * pixel),
            mean / pixel,
            np.divide(deviation, mean, out=np.zeros(maps), where=mean > 0),
            sum_of(share * _brightest(which, charge, pixels)),
            sum_of(share * ~attached),
            np.bincount(which[np.unique(piece, return_index=True)[1]], minlength=maps),
            sum_of(share * outermost),
            sum_of(share * np.sign(z)),
            np.where(pixels > 0, cosine, 0),
        ]
    )


def _vertices(
    which: np.ndarray, row: np.ndarray, column: np.ndarray, share: np.ndarray, maps: int, size: int, centred: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (maps,) of each vertex: the centre, or where the charge begins along the beam."""
    if centred:
        centre = np.full(maps, float(size // 2))
        return centre, centre
    first = np.full(maps, size)
    np.minimum.at(first, which, column)
    # the mean row of the first three columns that hold charge
    near = share * (column < first[which] + 3)
    weight = np.bincount(which, near, maps)
    rows = np.bincount(which, near * row, maps)
    return np.divide(rows, weight, out=np.zeros(maps), where=weight > 0), first.astype(np.float64)


def _brightest(which: np.ndarray, charge: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Whether each pixel is among the brightest :data:`CORE` of its map."""
    order = np.lexsort((-charge, which))
    begin = np.cumsum(pixels) - pixels
    rank = np.empty(len(which))
    rank[order] = np.arange(len(which)) - begin[which[order]]
    return rank < np.ceil(CORE * pixels[which])


def _pieces(which: np.ndarray, cell: np.ndarray, size: int) -> np.ndarray:
    """A number for each pixel, the same for all that hang together by sides or corners.

    Args:
        which: (pixels,) map.
        cell: (pixels,) ascending, index into the flattened maps.
        size: side of the maps.
    """
    row, column = cell // size % size, cell % size
    links = []
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        begin = np.flatnonzero((row + down < size) & (column + right >= 0) & (column + right < size))
        neighbour = cell[begin] + down * size + right
        place = np.minimum(np.searchsorted(cell, neighbour), len(cell) - 1)
        links.append(np.stack([begin, place])[:, cell[place] == neighbour])
    first, second = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), (len(cell), len(cell)))
    pieces: np.ndarray = connected_components(graph, directed=False)[1]
    return pieces


def _attached(which: np.ndarray, piece: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Whether each pixel hangs together with the one that is nearest to the vertex of its map."""
    order = np.lexsort((distance, which))
    first = order[np.flatnonzero(np.diff(which[order], prepend=-1))]
    nearest = np.zeros(which.max() + 1, dtype=np.int64)
    nearest[which[first]] = first
    return piece == piece[nearest[which]]
