"""Engineered features of each view of a pixel map: extent, charge, straightness, width and others.

They are computed from the images only, for a batch of events at once. Lengths are in cm and charge in MeV if the
settings of the maps give pixel size and transfer; for maps made elsewhere, in pixels and grey values (1 is white).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nuvlm.detector.grayscale import energy_of_grey

MIP_MEV_CM = 2.1
"""dE/dx of a minimum-ionising particle in liquid argon (PDG: 1.508 MeV cm2/g x 1.396 g/cm3)."""
LIT = 0.05
"""Threshold of a lit pixel, relative to a minimum-ionising particle crossing it along its side; suppresses
diffusion."""
CORRIDOR, START, CORE = 1.5, 3.0, 0.1
"""Half width of the corridor around the axis and length of the track start, in pixels of 5 cm; fraction of lit pixels
in the core."""
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
"""For each view:

- `charge`: sum over all pixels; `pixels`: number of lit pixels. The other features use lit pixels only.
- `extent_beam`, `extent_across`: along the beam and across it.
- The axis is the principal axis of the charge about the vertex, in the direction of more charge. `reach`: distance
  along it from the vertex to the last pixel in its corridor; `unbroken`: the same up to the first gap;
  `straightness`: fraction of the charge in the corridor; `width`: root mean square distance of the charge from the
axis. - `start_dedx`, `track_dedx`: charge per length in the corridor, at its start and up to the first gap;
  `fluctuation`: root mean square of the latter over its mean, from pixel to pixel.
- `core`: fraction of the charge in the brightest tenth of the pixels.
- `isolated`: fraction of the charge not connected to the pixel nearest to the vertex; `clusters`: number of connected
  components.
- `edge`: fraction of the charge in the outermost pixels of the window.
- `forward`: (downstream - upstream) / (downstream + upstream) charge; `direction`: cosine of the angle between axis
and beam.
"""


@dataclass(frozen=True)
class Scale:
    """Physical size of a pixel and charge of a grey value."""

    size: int
    """Side of the maps in pixels; images of half the size have pixels twice as large."""
    pixel_cm: float | None
    charge: np.ndarray
    """(256,) charge of each grey value: MeV, or the grey value divided by 255."""
    centred: bool
    """Whether the vertex is at the centre of the window; otherwise it is estimated as the start of the charge."""

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
    """Compute :data:`FEATURES` for each view.

    Args:
        images: uint8 (events, views, size, size), at full or lower resolution.
        scale: of the images at full resolution.

    Returns:
        float64 (events, views * features); without lit pixels all features of a view but the charge are 0.
    """
    events, views, size, _ = images.shape
    maps = events * views
    factor = round(scale.size / size)
    pixel = factor * (scale.pixel_cm or 1.0)
    cell = np.flatnonzero(images)
    # A pixel at half the resolution is the mean of four pixels: the sum of their charges is four times as large.
    charge = factor**2 * scale.charge[images.reshape(-1)[cell]]
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
    """Features (features, maps) from the lit pixels.

    Args:
        cell: (pixels,) ascending, index into the flattened maps.
        charge: (pixels,).
        maps, size: number of maps, and their side in pixels.
        pixel: side of a pixel in cm, or 1.
        scale: of the maps at full resolution.
    """
    which, row, column = cell // size**2, cell // size % size, cell % size

    def sum_of(values: np.ndarray) -> np.ndarray:
        """Sum of `values` (pixels,) over each map: (maps,)."""
        return np.bincount(which, values, maps)

    def ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Minimum and maximum of `values` (pixels,) in each map, 0 without lit pixels."""
        low, high = np.full(maps, np.inf), np.full(maps, -np.inf)
        np.minimum.at(low, which, values)
        np.maximum.at(high, which, values)
        empty = np.isinf(low)
        return np.where(empty, 0, low), np.where(empty, 0, high)

    pixels = sum_of(np.ones(len(cell)))
    share = charge / sum_of(charge)[which]  # fraction of the charge of its map
    vertex_row, vertex_column = _vertices(which, row, column, share, maps, size, scale.centred)
    # distance from the vertex, transverse to and along the beam
    y, z = pixel * (row - vertex_row[which]), pixel * (column - vertex_column[which])

    # The principal axis diagonalises the second moments of the charge about the vertex.
    yy, zz, yz = (sum_of(share * product) for product in (y * y, z * z, y * z))
    angle = 0.5 * np.arctan2(2 * yz, zz - yy)
    cosine, sine = np.cos(angle), np.sin(angle)
    sign = np.where(sum_of(share * (z * cosine[which] + y * sine[which])) < 0, -1.0, 1.0)
    cosine, sine = sign * cosine, sign * sine
    along = z * cosine[which] + y * sine[which]
    across = y * cosine[which] - z * sine[which]

    # Charge along the corridor, starting at the vertex, one bin per pixel: (maps, bins).
    unit = 1.0 if scale.pixel_cm is None else PIXEL_CM
    inside = np.abs(across) <= CORRIDOR * max(unit, pixel)
    ahead = inside & (along >= -0.5 * pixel)
    step = np.maximum(np.rint(along[ahead] / pixel), 0).astype(np.int64)
    bins = int(1.5 * size) + 2  # the diagonal, and two bins that stay empty
    profile = np.bincount(which[ahead] * bins + step, charge[ahead], maps * bins).reshape(maps, bins)
    # A single bin may be empty where the axis passes between two pixels; two empty bins are a gap.
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
    """Row and column (maps,) of each vertex: the centre, or the upstream end of the charge."""
    if centred:
        centre = np.full(maps, float(size // 2))
        return centre, centre
    first = np.full(maps, size)
    np.minimum.at(first, which, column)
    # mean row of the charge in the first three columns from there
    near = share * (column < first[which] + 3)
    weight = np.bincount(which, near, maps)
    rows = np.bincount(which, near * row, maps)
    return np.divide(rows, weight, out=np.zeros(maps), where=weight > 0), first.astype(np.float64)


def _brightest(which: np.ndarray, charge: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Whether each pixel is in the brightest fraction :data:`CORE` of its map."""
    order = np.lexsort((-charge, which))
    begin = np.cumsum(pixels) - pixels
    rank = np.empty(len(which))
    rank[order] = np.arange(len(which)) - begin[which[order]]
    return rank < np.ceil(CORE * pixels[which])


def _pieces(which: np.ndarray, cell: np.ndarray, size: int) -> np.ndarray:
    """Label of the connected component of each pixel (8-connectivity).

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
    """Whether each pixel is in the same component as the pixel nearest to the vertex of its map."""
    order = np.lexsort((distance, which))
    first = order[np.flatnonzero(np.diff(which[order], prepend=-1))]
    nearest = np.zeros(which.max() + 1, dtype=np.int64)
    nearest[which[first]] = first
    return piece == piece[nearest[which]]
