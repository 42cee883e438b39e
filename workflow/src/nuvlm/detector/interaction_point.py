"""The interaction point of an event, found from the charge in its displays and nothing else.

The views are summed to cells of about 5 cm. Each lit cell of a view is a candidate, and gets a score that is a
weighted sum of six terms (:data:`TERMS`): a point is likely where much charge is near, where the charge lies in few
directions as seen from there, as particles that leave it do, and where little charge is upstream. Scores of candidates
from energy, directions and the beam are how Pandora selects vertices, too (arXiv 1708.03135). Both views have the same
z: the point lies in the column where the best score in XZ plus the best one in YZ is highest.

The terms depend only on differences of positions, so a shifted event has a shifted point, and no detector wall enters.
"""

import numpy as np

from nuvlm.base.kernels import cached_njit
from nuvlm.detector.geometry import HALF

CELL_MM = 50.0
"""Side of a cell, approximately: pixels are summed to the multiple of their side that is nearest, or kept if larger."""
LIT_MEV_MM = 0.01
"""Threshold of a lit cell per side: 5 % of a minimum-ionising particle (2.1 MeV/cm) through it; above diffusion."""
MOST_CELLS = 2000
"""Maximum number of lit cells of a view: the brightest. Bounds the time, which grows with the square."""
NEAR, AROUND = 1.5, 6.0
"""Radii of terms, in cells."""
SECTORS = 32
"""Number of directions for the term `directions`."""
SMALLEST_SHARE = 1e-3
"""Added to the share in the term `near`, which is a logarithm."""

TERMS = ("near", "directions", "connected", "upstream", "upstream_around", "distance")
"""Terms of the score of a cell, from the lit cells of its view:

- `near`: logarithm of the fraction of the charge within NEAR, plus SMALLEST_SHARE;
- `directions`: sum over SECTORS of the squared fraction in each, where a cell weighs the root of its charge; 1 if all
  charge is in one direction;
- `connected`: fraction of the charge in the component of the cell (8-connectivity);
- `upstream`: fraction of the charge more than one cell upstream;
- `upstream_around`: fraction of the charge within AROUND that is upstream;
- `distance`: mean distance of the charge, m.
"""
WEIGHTS = np.array([0.72, 15.5, 3.9, -4.6, -3.4, -2.9])
"""Weights of TERMS: a softmax over the cells of a view, fitted to the true vertices of the demo's training events
(``benchmarks/vertex.py --fit``)."""

_NOWHERE = -1


def find_points(xz: np.ndarray, yz: np.ndarray, *, pixel_mm: float, size: int) -> np.ndarray:
    """Find the pixel of the interaction point of each event.

    A point is chosen only where the window around it holds HALF of what a window of its size can hold, in both views.

    Args:
        xz, yz: event displays, (events, x, z) and (events, y, z), MeV.
        pixel_mm: side of a pixel.
        size: side of the window, pixels.

    Returns:
        int64 (events, 3), pixel along x, y, z; -1 for an event without charge, or without a window that holds enough.
    """
    side = cells_per_side(pixel_mm)
    shape = [-(-n // side) for n in (max(xz.shape[1], yz.shape[1]), xz.shape[2])]
    tables = _tables(*shape)
    points = np.full((len(xz), 3), _NOWHERE, dtype=np.int64)
    _find(xz, yz, side, pixel_mm, size, *tables, WEIGHTS, points)
    return points


def cells_per_side(pixel_mm: float) -> int:
    """Pixels along the side of a cell."""
    return max(1, round(CELL_MM / pixel_mm))


def window_charge(view: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """Charge of the window around one pixel of each event, and what the window could hold.

    Args:
        view: (events, rows, columns), MeV.
        rows, columns: (events,), the pixel at (size // 2, size // 2) of the window.
        size: side of the window, pixels.

    Returns:
        float64 (events, 3): charge in the window, the most in any window of that size, all charge; MeV.
    """
    charge = np.empty((len(view), 3))
    _window_charge(view, rows, columns, size, charge)
    return charge


def view_terms(view: np.ndarray, pixel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of one view and their terms.

    Args:
        view: (rows, columns), MeV.
        pixel_mm: side of a pixel.

    Returns:
        int64 (cells, 2), row and column of each lit cell in units of cells; float64 (cells, TERMS).
    """
    side = cells_per_side(pixel_mm)
    cells = _sum_to_cells(view, side)
    lit = _lit(cells, LIT_MEV_MM * side * pixel_mm)
    return lit, _terms(cells, lit, side * pixel_mm / 1000, *_tables(*cells.shape))


def view_terms_reference(view: np.ndarray, pixel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Reference for :func:`view_terms`: simple and slow."""
    from scipy.ndimage import label

    side = cells_per_side(pixel_mm)
    rows, columns = (-(-n // side) for n in view.shape)
    padded = np.zeros((rows * side, columns * side))
    padded[: view.shape[0], : view.shape[1]] = view
    cells = padded.reshape(rows, side, columns, side).sum(axis=(1, 3))
    mask = cells > LIT_MEV_MM * side * pixel_mm
    if not mask.any():
        mask = cells > 0
    if mask.sum() > MOST_CELLS:
        mask = cells >= np.sort(cells[mask])[-MOST_CELLS]
    components, _ = label(mask, np.ones((3, 3)))
    lit = np.argwhere(mask)
    charge = cells[mask]
    total = charge.sum()
    terms = []
    for row, column in lit:
        down, along = lit[:, 0] - row, lit[:, 1] - column
        distance = np.hypot(down, along)
        near, around = distance < NEAR, distance < AROUND
        angle = np.arctan2(down, along)
        sector = np.floor((angle / (2 * np.pi) + 0.5) * SECTORS + 0.5).astype(int) % SECTORS
        others = distance > 0
        seen = np.bincount(sector[others], np.sqrt(charge[others]), SECTORS)
        connected = components[mask] == components[row, column]
        terms.append(
            [
                np.log(charge[near].sum() / total + SMALLEST_SHARE),
                (seen**2).sum() / seen.sum() ** 2 if others.any() else 0.0,
                charge[connected].sum() / total,
                charge[along < -1].sum() / total,
                charge[around & (along < 0)].sum() / charge[around].sum(),
                (charge * distance).sum() / total * side * pixel_mm / 1000,
            ]
        )
    return lit, np.array(terms).reshape(-1, len(TERMS))


def _tables(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance in cells and sector of each offset, (2 rows - 1, 2 columns - 1), that of (0, 0) in the middle."""
    down, along = np.ogrid[-(rows - 1) : rows, -(columns - 1) : columns]
    sector = np.floor((np.arctan2(down, along) / (2 * np.pi) + 0.5) * SECTORS + 0.5).astype(np.int64) % SECTORS
    return np.hypot(down, along), sector


@cached_njit()
def _sum_to_cells(view, side):  # type: ignore[no-untyped-def]
    """(rows, columns) charge of cells of side x side pixels; the last ones may have fewer."""
    cells = np.zeros((-(-view.shape[0] // side), -(-view.shape[1] // side)))
    for i in range(view.shape[0]):
        for k in range(view.shape[1]):
            cells[i // side, k // side] += view[i, k]
    return cells


@cached_njit()
def _lit(cells, threshold):  # type: ignore[no-untyped-def]
    """(n, 2) row and column of the lit cells; without any, of all cells with charge."""
    flat = cells.ravel()
    lit = np.flatnonzero(flat > threshold)
    if len(lit) == 0:
        lit = np.flatnonzero(flat > 0)
    if len(lit) > MOST_CELLS:
        faintest = np.sort(flat[lit])[-MOST_CELLS]
        lit = lit[flat[lit] >= faintest]
    return np.stack((lit // cells.shape[1], lit % cells.shape[1]), axis=1)


@cached_njit()
def _components(shape, lit):  # type: ignore[no-untyped-def]
    """Component (8-connectivity) of each lit cell."""
    place = np.full((shape[0] + 2, shape[1] + 2), -1)
    for p in range(len(lit)):
        place[lit[p, 0] + 1, lit[p, 1] + 1] = p
    component = np.full(len(lit), -1)
    stack = np.empty(len(lit), dtype=np.int64)
    for first in range(len(lit)):
        if component[first] >= 0:
            continue
        component[first], stack[0], waiting = first, first, 1
        while waiting:
            waiting -= 1
            p = stack[waiting]
            for u in range(lit[p, 0], lit[p, 0] + 3):
                for v in range(lit[p, 1], lit[p, 1] + 3):
                    q = place[u, v]
                    if q >= 0 and component[q] < 0:
                        component[q], stack[waiting] = first, q
                        waiting += 1
    return component


@cached_njit()
def _terms(cells, lit, cell_m, distances, sectors):  # type: ignore[no-untyped-def]
    """(n, TERMS) of the lit cells `lit` (n, 2); see :func:`view_terms_reference`."""
    n = len(lit)
    row, column = lit[:, 0].copy(), lit[:, 1].copy()
    charge, root = np.empty(n), np.empty(n)
    for p in range(n):
        charge[p] = cells[row[p], column[p]]
        root[p] = np.sqrt(charge[p])
    total = charge.sum()
    component = _components(cells.shape, lit)
    in_component = np.zeros(n)
    for p in range(n):
        in_component[component[p]] += charge[p]
    middle_row, middle_column = distances.shape[0] // 2, distances.shape[1] // 2
    terms = np.empty((n, 6))
    seen = np.empty(SECTORS)
    for p in range(n):
        near = upstream = around = upstream_around = mean = 0.0
        seen[:] = 0.0
        from_row, from_column = middle_row - row[p], middle_column - column[p]
        for q in range(n):
            i, k = row[q] + from_row, column[q] + from_column
            distance, e = distances[i, k], charge[q]
            mean += e * distance
            seen[sectors[i, k]] += root[q]
            if k < middle_column - 1:
                upstream += e
            if distance < AROUND:
                around += e
                if k < middle_column:
                    upstream_around += e
                if distance < NEAR:
                    near += e
        seen[sectors[middle_row, middle_column]] -= root[p]  # the cell itself has no direction
        square = whole = 0.0
        for s in range(SECTORS):
            square += seen[s] ** 2
            whole += seen[s]
        terms[p, 0] = np.log(near / total + SMALLEST_SHARE)
        terms[p, 1] = square / whole**2 if n > 1 else 0.0
        terms[p, 2] = in_component[component[p]] / total
        terms[p, 3] = upstream / total
        terms[p, 4] = upstream_around / around
        terms[p, 5] = mean / total * cell_m
    return terms


@cached_njit()
def _sums(view):  # type: ignore[no-untyped-def]
    """(rows + 1, columns + 1) sum of all pixels above and left of each corner."""
    sums = np.zeros((view.shape[0] + 1, view.shape[1] + 1))
    for i in range(view.shape[0]):
        of_row = 0.0
        for k in range(view.shape[1]):
            of_row += view[i, k]
            sums[i + 1, k + 1] = sums[i, k + 1] + of_row
    return sums


@cached_njit()
def _inside(sums, row, column, size):  # type: ignore[no-untyped-def]
    """Charge of the window with pixel (row, column) at (size // 2, size // 2)."""
    rows, columns = sums.shape[0] - 1, sums.shape[1] - 1
    top, left = row - size // 2, column - size // 2
    bottom, right = min(max(top + size, 0), rows), min(max(left + size, 0), columns)
    top, left = min(max(top, 0), rows), min(max(left, 0), columns)
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]


@cached_njit()
def _most(sums, size):  # type: ignore[no-untyped-def]
    """The highest charge of all windows."""
    most = 0.0
    for top in range(max(sums.shape[0] - size, 1)):
        for left in range(max(sums.shape[1] - size, 1)):
            most = max(most, _inside(sums, top + size // 2, left + size // 2, size))
    return most


@cached_njit()
def _window_charge(view, rows, columns, size, charge):  # type: ignore[no-untyped-def]
    for event in range(len(view)):
        sums = _sums(view[event])
        charge[event, 0] = _inside(sums, rows[event], columns[event], size)
        charge[event, 1] = _most(sums, size)
        charge[event, 2] = sums[-1, -1]


@cached_njit()
def _best_in_columns(cells, sums, lit, side, cell_m, size, distances, sectors, weights):  # type: ignore[no-untyped-def]
    """Best score and its row in each column of cells; -inf without a candidate."""
    terms = _terms(cells, lit, cell_m, distances, sectors)
    enough = HALF * _most(sums, size)
    best = np.full(cells.shape[1], -np.inf)
    rows = np.full(cells.shape[1], _NOWHERE)
    for p in range(len(lit)):
        i, k = lit[p]
        score = 0.0
        for t in range(len(weights)):
            score += weights[t] * terms[p, t]
        if score > best[k] and _inside(sums, i * side + side // 2, k * side + side // 2, size) >= enough:
            best[k], rows[k] = score, i
    return best, rows


@cached_njit()
def _find(xz, yz, side, pixel_mm, size, distances, sectors, weights, points):  # type: ignore[no-untyped-def]
    cell_m = side * pixel_mm / 1000
    for event in range(len(xz)):
        cells_xz, cells_yz = _sum_to_cells(xz[event], side), _sum_to_cells(yz[event], side)
        sums_xz, sums_yz = _sums(xz[event]), _sums(yz[event])
        # Faint events: no column may be lit in both views, but where one has charge, so has the other.
        for threshold in (LIT_MEV_MM * side * pixel_mm, 0.0):
            lit_xz, lit_yz = _lit(cells_xz, threshold), _lit(cells_yz, threshold)
            best_xz, rows_xz = _best_in_columns(
                cells_xz, sums_xz, lit_xz, side, cell_m, size, distances, sectors, weights
            )
            best_yz, rows_yz = _best_in_columns(
                cells_yz, sums_yz, lit_yz, side, cell_m, size, distances, sectors, weights
            )
            column = np.argmax(best_xz + best_yz)
            if best_xz[column] + best_yz[column] > -np.inf:
                x, y, z = _refine(xz[event], yz[event], rows_xz[column], rows_yz[column], column, side)
                points[event] = (x, y, z)
                # A window about another pixel of the cell may hold too little where one about its middle does not.
                if _inside(sums_xz, x, z, size) < HALF * _most(sums_xz, size) or _inside(
                    sums_yz, y, z, size
                ) < HALF * _most(sums_yz, size):
                    middle = side // 2
                    points[event] = (
                        rows_xz[column] * side + middle,
                        rows_yz[column] * side + middle,
                        column * side + middle,
                    )
                break


@cached_njit()
def _refine(xz, yz, row_xz, row_yz, column, side):  # type: ignore[no-untyped-def]
    """Pixel along x, y, z within a cell: the upstream end of its charge, and the mean row of the charge there."""
    rows = np.array((row_xz * side, row_yz * side))
    x_or_y = rows + side // 2
    first = column * side
    for k in range(first, min(first + side, xz.shape[1])):
        charge, moment = np.zeros(2), np.zeros(2)
        for u in range(side):
            for view in range(2):
                row = rows[view] + u
                image = xz if view == 0 else yz
                if row < len(image):
                    charge[view] += image[row, k]
                    moment[view] += image[row, k] * u
        if charge.min() > 0:
            for view in range(2):
                x_or_y[view] = rows[view] + int(moment[view] / charge[view] + 0.5)
            return x_or_y[0], x_or_y[1], k
    return x_or_y[0], x_or_y[1], first + side // 2
