"""The interaction point of an event, found from the charge in its displays and nothing else.

The views are summed to cells of about 5 cm. Each lit cell of a view is a candidate, and gets a score that is a
weighted sum of six terms (:data:`TERMS`): a point is likely where much charge is near, where the charge lies in few
directions as seen from there, as particles that leave it do, and where little charge is upstream. Scores of candidates
from energy, directions and the beam are how Pandora selects vertices, too (arXiv 1708.03135). Both views have the same
z: the point lies in the column where the best score in XZ plus the best one in YZ is highest.

The terms depend only on differences of positions, so a shifted event has a shifted point, and no detector wall enters.
"""

from functools import lru_cache

import numpy as np

from nuvlm.base.kernels import cached_njit
from nuvlm.base.sparse import SparseEvents, as_sparse
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

ROUNDING = 1e-9
"""More than the rounding of a sum of charge, as a fraction of it."""

_NOWHERE = -1
Views = SparseEvents | np.ndarray
"""Displays of one view: without their zeros, or dense (events, rows, columns)."""


def find_points(xz: Views, yz: Views, *, pixel_mm: float, size: int) -> np.ndarray:
    """Find the pixel of the interaction point of each event.

    A point is chosen only where the window around it holds HALF of what a window of its size can hold, in both views.

    Args:
        xz, yz: event displays, (events, x, z) and (events, y, z), MeV.
        pixel_mm: side of a pixel.
        size: side of the window, pixels.

    Returns:
        int64 (events, 3), pixel along x, y, z; -1 for an event without charge, or without a window that holds enough.
    """
    return find_windows(xz, yz, pixel_mm=pixel_mm, size=size)[0]


def find_windows(xz: Views, yz: Views, *, pixel_mm: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The points of :func:`find_points`, and (2, events, 3) the charge of the window around each in XZ and in YZ, as
    :func:`window_charge` gives it."""
    xz, yz = as_sparse(xz), as_sparse(yz)
    side = cells_per_side(pixel_mm)
    tables = _tables(*(-(-n // side) for n in (max(xz.shape[0], yz.shape[0]), xz.shape[1])))
    points = np.full((len(xz), 3), _NOWHERE, dtype=np.int64)
    charge = np.empty((2, len(xz), 3))
    _find(*_parts(xz), *_parts(yz), side, pixel_mm, size, *tables, WEIGHTS, points, charge)
    return points, charge


def cells_per_side(pixel_mm: float) -> int:
    """Pixels along the side of a cell."""
    return max(1, round(CELL_MM / pixel_mm))


def window_charge(view: Views, rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """Charge of the window around one pixel of each event, and what the window could hold.

    Args:
        view: (events, rows, columns), MeV.
        rows, columns: (events,), the pixel at (size // 2, size // 2) of the window.
        size: side of the window, pixels.

    Returns:
        float64 (events, 3): charge in the window, the most in any window of that size, all charge; MeV.
    """
    charge = np.empty((len(view), 3))
    _window_charge(*_parts(as_sparse(view)), rows, columns, size, charge)
    return charge


def _parts(view: SparseEvents) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
    return view.shape, view.begins, view.index, view.value


def view_terms(view: np.ndarray, pixel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of one view and their terms.

    Args:
        view: (rows, columns), MeV.
        pixel_mm: side of a pixel.

    Returns:
        int64 (cells, 2), row and column of each lit cell in units of cells; float64 (cells, TERMS).
    """
    side = cells_per_side(pixel_mm)
    event = SparseEvents.of(view[None])
    cells = _sum_to_cells(event.shape, event.index, event.value, side)
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


@lru_cache(maxsize=1)
def _tables(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance in cells and sector of each offset, (2 rows - 1, 2 columns - 1), that of (0, 0) in the middle."""
    down, along = np.ogrid[-(rows - 1) : rows, -(columns - 1) : columns]
    sector = np.floor((np.arctan2(down, along) / (2 * np.pi) + 0.5) * SECTORS + 0.5).astype(np.int64) % SECTORS
    return np.hypot(down, along), sector.astype(np.uint8)


@cached_njit()
def _sum_to_cells(shape, index, value, side):  # type: ignore[no-untyped-def]
    """(rows, columns) charge of cells of side x side pixels; the last ones may have fewer."""
    cells = np.zeros((-(-shape[0] // side), -(-shape[1] // side)))
    cell_of_column = np.arange(shape[1]).astype(np.uint64) // np.uint64(side)
    row, begin, of_row = 0, 0, cells[0]
    for p in range(len(index)):
        if begin + shape[1] <= index[p]:
            while begin + shape[1] <= index[p]:
                row, begin = row + 1, begin + shape[1]
            of_row = cells[row // side]
        of_row[cell_of_column[np.uint64(index[p] - begin)]] += value[p]
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
    """(n, TERMS) of the lit cells `lit` (n, 2), which are in order; see :func:`view_terms_reference`."""
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
    # The difference of two cells' places, plus that of `middle`, is the place of their offset in the flat tables.
    width = distances.shape[1]
    distance, sector = distances.ravel(), sectors.ravel()
    place = np.empty(n, dtype=np.uint64)
    for p in range(n):
        place[p] = row[p] * width + column[p]
    middle = np.uint64(distances.shape[0] // 2 * width + width // 2)
    first_of_row = np.searchsorted(row, np.arange(cells.shape[0] + 1))
    upstream = np.full(cells.shape[1], -1.0)  # of each column of cells
    reach = np.int64(np.ceil(AROUND))
    terms = np.empty((n, 6))
    seen = np.empty(SECTORS)
    for p in range(n):
        mean = 0.0
        seen[:] = 0.0
        here = middle - place[p]
        for q in range(n):
            there = place[q] + here
            mean += charge[q] * distance[there]
            seen[sector[there]] += root[q]
        seen[sector[middle]] -= root[p]  # the cell itself has no direction
        square = whole = 0.0
        for s in range(SECTORS):
            square += seen[s] ** 2
            whole += seen[s]
        if upstream[column[p]] < 0:
            charge_upstream = 0.0
            for q in range(n):
                charge_upstream += charge[q] * (column[q] < column[p] - 1)
            upstream[column[p]] = charge_upstream
        near = around = upstream_around = 0.0
        for q in range(first_of_row[max(row[p] - reach, 0)], first_of_row[min(row[p] + reach + 1, cells.shape[0])]):
            there = place[q] + here
            e = charge[q] * (distance[there] < AROUND)
            around += e
            upstream_around += e * (column[q] < column[p])
            near += e * (distance[there] < NEAR)
        terms[p, 0] = np.log(near / total + SMALLEST_SHARE)
        terms[p, 1] = square / whole**2 if n > 1 else 0.0
        terms[p, 2] = in_component[component[p]] / total
        terms[p, 3] = upstream[column[p]] / total
        terms[p, 4] = upstream_around / around
        terms[p, 5] = mean / total * cell_m
    return terms


@cached_njit()
def _corners(shape, row, column, size):  # type: ignore[no-untyped-def]
    """First and end row, first and end column inside the view of the window with (row, column) at size // 2."""
    top, left = row - size // 2, column - size // 2
    bottom, right = min(max(top + size, 0), shape[0]), min(max(left + size, 0), shape[1])
    return min(max(top, 0), shape[0]), bottom, min(max(left, 0), shape[1]), right


@cached_njit()
def _inside(shape, index, value, row, column, size):  # type: ignore[no-untyped-def]
    """Charge of the window with pixel (row, column) at (size // 2, size // 2), and all charge.

    The former is the difference of the sums of all pixels above and left of its corners, in the order of :func:`_sums`.
    """
    top, bottom, left, right = _corners(shape, row, column, size)
    above_left = above_right = to_left = to_right = total = 0.0
    bottom_left = bottom_right = 0.0
    here, begin, p = 0, 0, 0
    while here < shape[0] and p < len(index):
        if here == top:
            above_left, above_right = to_left, to_right
        if here == bottom:
            bottom_left, bottom_right = to_left, to_right
        of_left = of_right = of_row = 0.0
        while p < len(index) and index[p] < begin + shape[1]:
            of_left += value[p] * (index[p] < begin + left)
            of_right += value[p] * (index[p] < begin + right)
            of_row += value[p]
            p += 1
        to_left += of_left
        to_right += of_right
        total += of_row
        here, begin = here + 1, begin + shape[1]
    if here <= top:
        above_left, above_right = to_left, to_right
    if here <= bottom:
        bottom_left, bottom_right = to_left, to_right
    return bottom_right - above_right - bottom_left + above_left, total


@cached_njit()
def _sums(shape, index, value, space):  # type: ignore[no-untyped-def]
    """Sum of all pixels above and left of each corner; between rows and columns without charge they are the same.

    Args:
        space: memory for the sums, (rows + 1) * (columns + 1) of a view.

    Returns:
        (lit rows + 1, lit columns + 1) sums; (rows + 1,) and (columns + 1,), the row and the column of the sums of each
        corner of the view.
    """
    of_row, of_column = np.zeros(shape[0] + 1, dtype=np.int64), np.zeros(shape[1] + 1, dtype=np.int64)
    row, begin = 0, 0
    for p in range(len(index)):
        while begin + shape[1] <= index[p]:
            row, begin = row + 1, begin + shape[1]
        of_row[row + 1] = of_column[index[p] - begin + 1] = 1
    for i in range(shape[0]):
        of_row[i + 1] += of_row[i]
    for k in range(shape[1]):
        of_column[k + 1] += of_column[k]
    width = of_column[-1] + 1
    sums = space[: (of_row[-1] + 1) * width].reshape(of_row[-1] + 1, width)
    sums[0] = 0.0
    begin, i, p = 0, 0, 0
    while p < len(index):
        while begin + shape[1] <= index[p]:
            begin += shape[1]
        left, k = 0.0, 0
        while p < len(index) and index[p] < begin + shape[1]:
            corner = of_column[index[p] - begin] + 1
            for between in range(k, corner):
                sums[i + 1, between] = sums[i, between] + left
            left += value[p]
            k = corner
            p += 1
        for between in range(k, width):
            sums[i + 1, between] = sums[i, between] + left
        i += 1
    return sums, of_row, of_column


@cached_njit()
def _most(shape, index, value, size, space):  # type: ignore[no-untyped-def]
    """The highest charge of all windows."""
    sums, of_row, of_column = _sums(shape, index, value, space)
    most = 0.0
    last_top, last_bottom = -1, -1
    for first_row in range(max(shape[0] + 1 - size, 1)):
        top, bottom = of_row[first_row], of_row[min(first_row + size, shape[0])]
        if (top, bottom) == (last_top, last_bottom):
            continue
        last_top, last_bottom = top, bottom
        for first_column in range(max(shape[1] + 1 - size, 1)):
            left, right = of_column[first_column], of_column[min(first_column + size, shape[1])]
            charge = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            most = max(most, charge)
    return most


@cached_njit()
def _most_nearly(shape, index, value, size, space):  # type: ignore[no-untyped-def]
    """As :func:`_most`, but for rounding: a window as high as the view is a range of columns."""
    if size < shape[0]:
        return _most(shape, index, value, size, space)
    up_to = np.zeros(shape[1] + 1)
    begin = 0
    for p in range(len(index)):
        while begin + shape[1] <= index[p]:
            begin += shape[1]
        up_to[np.uint64(index[p] - begin + 1)] += value[p]
    for k in range(shape[1]):
        up_to[k + 1] += up_to[k]
    most = 0.0
    for left in range(max(shape[1] + 1 - size, 1)):
        most = max(most, up_to[min(left + size, shape[1])] - up_to[left])
    return most


@cached_njit()
def _charge(view, inside, total, most, size, space):  # type: ignore[no-untyped-def]
    """A row of :func:`window_charge`, from the result of :func:`_inside` and that of :func:`_most_nearly`."""
    if abs(inside - HALF * most) <= ROUNDING * total:  # it matters
        most = _most(*view, size, space)
    return inside, most, total


@cached_njit()
def _window_charge(shape, begins, index, value, rows, columns, size, charge):  # type: ignore[no-untyped-def]
    space = np.empty((shape[0] + 1) * (shape[1] + 1))
    for event in range(len(begins) - 1):
        span = slice(begins[event], begins[event + 1])
        view = (shape, index[span], value[span])
        inside, total = _inside(*view, rows[event], columns[event], size)
        charge[event] = _charge(view, inside, total, _most_nearly(*view, size, space), size, space)


@cached_njit()
def _sums_of_cells(cells):  # type: ignore[no-untyped-def]
    """(rows + 1, columns + 1) sum of all cells above and left of each corner."""
    sums = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1))
    for i in range(cells.shape[0]):
        of_row = 0.0
        for k in range(cells.shape[1]):
            of_row += cells[i, k]
            sums[i + 1, k + 1] = sums[i, k + 1] + of_row
    return sums


@cached_njit()
def _holds(view, sums, side, row, column, size, most, space):  # type: ignore[no-untyped-def]
    """Whether the window about a pixel holds enough.

    Decided from cell sums; the exact sum only near the threshold.
    """
    top, bottom, left, right = _corners(view[0], row, column, size)
    enough, margin = HALF * most, ROUNDING * sums[-1, -1]
    i, j, k, m = top // side, -(-bottom // side), left // side, -(-right // side)
    if sums[j, m] - sums[i, m] - sums[j, k] + sums[i, k] < enough - margin:
        return False
    i, j, k, m = -(-top // side), bottom // side, -(-left // side), right // side
    # The last cells may have fewer pixels.
    j, m = len(sums) - 1 if bottom == view[0][0] else j, sums.shape[1] - 1 if right == view[0][1] else m
    if i < j and k < m and sums[j, m] - sums[i, m] - sums[j, k] + sums[i, k] > enough + margin:
        return True
    inside, most, _ = _charge(view, *_inside(*view, row, column, size), most, size, space)
    return inside >= HALF * most


@cached_njit()
def _best_in_columns(  # type: ignore[no-untyped-def]
    view, cells, most, lit, side, cell_m, size, space, distances, sectors, weights
):
    """Best score and its row in each column of cells; -inf without a candidate."""
    terms = _terms(cells, lit, cell_m, distances, sectors)
    sums = _sums_of_cells(cells)
    best = np.full(cells.shape[1], -np.inf)
    rows = np.full(cells.shape[1], _NOWHERE)
    for p in range(len(lit)):
        i, k = lit[p]
        score = 0.0
        for t in range(len(weights)):
            score += weights[t] * terms[p, t]
        row, column = i * side + side // 2, k * side + side // 2
        if score > best[k] and _holds(view, sums, side, row, column, size, most, space):
            best[k], rows[k] = score, i
    return best, rows


@cached_njit()
def _find(  # type: ignore[no-untyped-def]
    shape_xz, begins_xz, index_xz, value_xz, shape_yz, begins_yz, index_yz, value_yz,
    side, pixel_mm, size, distances, sectors, weights, points, charge,
):  # fmt: skip
    cell_m = side * pixel_mm / 1000
    space = np.empty((max(shape_xz[0], shape_yz[0]) + 1) * (shape_xz[1] + 1))
    for event in range(len(points)):
        span_xz = slice(begins_xz[event], begins_xz[event + 1])
        span_yz = slice(begins_yz[event], begins_yz[event + 1])
        xz, yz = (shape_xz, index_xz[span_xz], value_xz[span_xz]), (shape_yz, index_yz[span_yz], value_yz[span_yz])
        cells_xz, cells_yz = _sum_to_cells(*xz, side), _sum_to_cells(*yz, side)
        most_xz, most_yz = _most_nearly(*xz, size, space), _most_nearly(*yz, size, space)
        x = y = z = _NOWHERE
        # Faint events: no column may be lit in both views, but where one has charge, so has the other.
        for threshold in (LIT_MEV_MM * side * pixel_mm, 0.0):
            lit_xz, lit_yz = _lit(cells_xz, threshold), _lit(cells_yz, threshold)
            best_xz, rows_xz = _best_in_columns(
                xz, cells_xz, most_xz, lit_xz, side, cell_m, size, space, distances, sectors, weights
            )
            best_yz, rows_yz = _best_in_columns(
                yz, cells_yz, most_yz, lit_yz, side, cell_m, size, space, distances, sectors, weights
            )
            column = np.argmax(best_xz + best_yz)
            if best_xz[column] + best_yz[column] > -np.inf:
                row_xz, row_yz = rows_xz[column], rows_yz[column]
                cell_xz = _pixels_of_cell(*xz, row_xz, column, side)
                cell_yz = _pixels_of_cell(*yz, row_yz, column, side)
                u, v, w = _refine(cell_xz, cell_yz, min(side, shape_xz[1] - column * side))
                x, y, z = row_xz * side + u, row_yz * side + v, column * side + w
                break
        charge[0, event] = _charge(xz, *_inside(*xz, x, z, size), most_xz, size, space)
        charge[1, event] = _charge(yz, *_inside(*yz, y, z, size), most_yz, size, space)
        # A window about another pixel of the cell may hold too little where one about its middle does not.
        if z >= 0 and (charge[:, event, 0] < HALF * charge[:, event, 1]).any():
            x, y, z = x // side * side + side // 2, y // side * side + side // 2, z // side * side + side // 2
            charge[0, event] = _charge(xz, *_inside(*xz, x, z, size), most_xz, size, space)
            charge[1, event] = _charge(yz, *_inside(*yz, y, z, size), most_yz, size, space)
        points[event] = (x, y, z)


@cached_njit()
def _pixels_of_cell(shape, index, value, row, column, side):  # type: ignore[no-untyped-def]
    """(side, side) pixels of a cell; those beyond the end of the view are zero."""
    pixels = np.zeros((side, side))
    for u in range(min(side, shape[0] - row * side)):
        begin = (row * side + u) * shape[1]
        first, end = begin + column * side, begin + min((column + 1) * side, shape[1])
        for p in range(np.searchsorted(index, first), len(index)):
            if index[p] >= end:
                break
            pixels[u, index[p] - first] = value[p]
    return pixels


@cached_njit()
def _refine(xz, yz, columns):  # type: ignore[no-untyped-def]
    """Pixel along x, y, z within a cell: the upstream end of its charge, and the mean row of the charge there."""
    side = len(xz)
    for k in range(columns):
        charge, moment = np.zeros(2), np.zeros(2)
        for u in range(side):
            charge += np.array((xz[u, k], yz[u, k]))
            moment += np.array((xz[u, k], yz[u, k])) * u
        if charge.min() > 0:
            return int(moment[0] / charge[0] + 0.5), int(moment[1] / charge[1] + 0.5), k
    return side // 2, side // 2, side // 2
