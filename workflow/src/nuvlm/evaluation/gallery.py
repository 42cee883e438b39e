"""Events worth a look, as they were seen, with the truth and what every model says of them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from nuvlm.classes import CLASSES
from nuvlm.errors import InputError
from nuvlm.evaluation.faithfulness import Explanations, judge, read_explanations
from nuvlm.evaluation.mapview import draw_maps
from nuvlm.evaluation.samples import KEY, Sample, labelled_events, read_sample
from nuvlm.evaluation.style import draw_heat, new_figure, to_svg
from nuvlm.events import read_events
from nuvlm.logs import track
from nuvlm.pixelmaps import open_pixel_maps
from nuvlm.storage import open_store, write_json
from nuvlm.voxels import MODES

WRONG, DISAGREE, CORRECT, NO_TRUTH = "all wrong", "disagreement", "all correct", "no truth"
# Less in a pixel is not drawn: it is the far tail of a Gaussian, not a deposit.
THRESHOLD_MEV = 0.05
# Height of a view over its width; the window around an event keeps it.
ASPECT = 0.42
NARROWEST_CM = 100.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Display:
    """One event in both views, MeV a pixel, and where its pixels lie."""

    xz: np.ndarray
    """(x, z)."""
    yz: np.ndarray
    """(y, z)."""
    origin_cm: tuple[float, float, float]
    pixel_cm: float
    vertex_cm: tuple[float, float, float] | None


def draw_gallery(
    events: Path,
    predictions: Mapping[str, Sequence[str | Path]],
    stores: Mapping[str, Path],
    count: int,
    out: Path,
    *,
    displays: bool = True,
    explanations: Explanations = MappingProxyType({}),
    heat: Sequence[str | Path] = (),
    pixel_maps: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Choose `count` events, those that are explained where there are any, draw them, and write both to `out` (JSON).

    Args:
        events: events.parquet.
        predictions: prediction tables of each model, under the condition that the gallery is about.
        stores: display store of each shard, or pixel-map store.
        count: of events; fewer where there are not so many.
        out: `events`, a list, each with `outcome`, `truth` and its quantities, `models`, `explanations`, `drawn`
            (`display` or `pixel map`), `views`, `heat` (whether it is drawn) and `svg`.
        displays: whether there are displays; pixel maps that were made elsewhere are drawn themselves.
        explanations: tables of rationales of each model that gives any.
        heat: stores of where the CNN looks (docs/formats.md), of all parts.
        pixel_maps: pixel-map store of each shard, which says where those maps lie in a display.

    Raises:
        InputError: naming the file and event that cannot be used.
    """
    table = read_events(events)
    scored = labelled_events(table, "test")
    shown = scored if len(scored) else table[table["class"].isna()].reset_index(drop=True)
    rationales = {model: read_explanations(parts) for model, parts in explanations.items()}
    explained = shown[_isin(shown, rationales.values())].reset_index(drop=True)
    shown = explained if len(explained) else shown
    samples = {model: read_sample(shown, parts) for model, parts in predictions.items()}
    looks = _Looks(heat, pixel_maps)
    chosen = choose(list(samples.values()), count)
    opened: dict[str, Any] = {}
    gallery = []
    for index, outcome in track(chosen, "drawings"):
        event = shown.iloc[index]
        shard = str(event["shard"])
        path = stores[shard]
        if shard not in opened:
            opened[shard] = open_store(path, "nuvlm-displays") if displays else open_pixel_maps(path)
        store, row, name = opened[shard], int(event["row"]), f"{shard}-{event['event_id']}"
        if store["event_id"][row : row + 1].tolist() != [event["event_id"]]:
            raise InputError(f"{path}: row {row} is not event {event['event_id']}. Remove the store and rerun.")
        views = ["xz", "yz"] if displays else list(store.attrs["views"])
        look = looks.of(shard, int(event["event_id"]))
        if displays:
            corner_cm = looks.corner_mm(shard, row) / 10 if look is not None else None
            svg = draw_display(_read_display(store, event), name, look, corner_cm)
        else:
            svg = draw_maps(store["images"][row], views, name, wires=store.attrs["source"] == "cvn", heat=look)
        gallery.append(
            {
                **_describe(event),
                "outcome": outcome,
                "models": {
                    model: {
                        "predicted": CLASSES[sample.predicted[index]],
                        "p": dict(zip(CLASSES, sample.probabilities[index].tolist(), strict=True)),
                    }
                    for model, sample in samples.items()
                },
                "explanations": {model: _explain(of_model, event) for model, of_model in rationales.items()},
                "drawn": "display" if displays else "pixel map",
                "views": views,
                "heat": look is not None,
                "svg": svg,
            }
        )
    write_json(out, {"events": gallery}, sealed=True)


class _Looks:
    """Where the CNN looks in the events that are explained."""

    def __init__(self, paths: Sequence[str | Path], pixel_maps: Mapping[str, Path]) -> None:
        self._pixel_maps = pixel_maps
        self._corners: dict[str, np.ndarray] = {}
        self._where: dict[tuple[str, int], tuple[Any, int]] = {}
        for path in paths:
            store = open_store(path, "nuvlm-cam")
            events = zip(store.attrs["shard"], store["event_id"][:].tolist(), strict=True)
            self._where |= {event: (store, row) for row, event in enumerate(events)}

    def of(self, shard: str, event_id: int) -> np.ndarray | None:
        """uint8 (views, size, size), 255 where it looks most; None of an event that is not explained."""
        if (shard, event_id) not in self._where:
            return None
        store, row = self._where[shard, event_id]
        return np.asarray(store["maps"][row])

    def corner_mm(self, shard: str, row: int) -> np.ndarray:
        """(3,) low corner of an event's pixel map in the detector."""
        if shard not in self._corners:
            self._corners[shard] = open_pixel_maps(self._pixel_maps[shard])["corner_mm"][:]
        corner: np.ndarray = self._corners[shard][row]
        return corner


def _isin(events: pd.DataFrame, tables: Iterable[pd.DataFrame]) -> np.ndarray:
    """(n,) whether there is a rationale of an event."""
    explained = {key for table in tables for key in zip(*(table[column] for column in KEY), strict=True)}
    return np.array([key in explained for key in zip(*(events[column] for column in KEY), strict=True)], dtype=bool)


def _explain(table: pd.DataFrame, event: "pd.Series[Any]") -> list[dict[str, Any]]:
    """The rationales of an event, that of the picture as it is first, each with its claims judged."""
    rows = table[(table["shard"] == event["shard"]) & (table["event_id"] == event["event_id"])]
    rows = rows.sort_values("picture", key=lambda names: names != "nominal", kind="stable")
    return [
        {"picture": row["picture"], "rationale": row["rationale"], "claims": judge(row)} for _, row in rows.iterrows()
    ]


def choose(samples: Sequence[Sample], count: int) -> list[tuple[int, str]]:
    """Which events to show, and why: the index of each and its outcome.

    Half of them are events that every model gets wrong, the most confidently wrong first; a quarter are
    disagreements, the strongest first; the rest are right for every model, the surest of each class in turn.
    Where one kind runs out the others fill its place, in this order. Without truth, the least sure come first.

    Args:
        samples: of each model, the same n events.
        count: of events.
    """
    truth = samples[0].truth
    if not len(truth) or count == 0:
        return []
    p = np.stack([sample.probabilities for sample in samples])  # (models, n, classes)
    if (truth < 0).any():
        order = np.argsort(p.max(axis=2).mean(axis=0), kind="stable")
        return [(int(i), NO_TRUTH) for i in order[:count]]
    right = np.stack([sample.correct for sample in samples])  # (models, n)
    of_truth = np.take_along_axis(p, truth[None, :, None], axis=2)[..., 0]  # (models, n)
    mean = of_truth.mean(axis=0)
    votes = right.sum(axis=0)
    wrong = _sorted(votes == 0, mean)
    disagree = _sorted((votes > 0) & (votes < len(samples)), of_truth.min(axis=0) - of_truth.max(axis=0))
    by_class = [_sorted((votes == len(samples)) & (truth == k), -mean) for k in range(len(CLASSES))]
    correct = [queue[i] for i in range(max(map(len, by_class))) for queue in by_class if i < len(queue)]
    queues = {WRONG: wrong, DISAGREE: disagree, CORRECT: correct}
    quota = {WRONG: (count + 1) // 2, DISAGREE: (count + 1) // 4}
    quota[CORRECT] = count - quota[WRONG] - quota[DISAGREE]
    taken = {outcome: min(quota[outcome], len(queue)) for outcome, queue in queues.items()}
    for outcome, queue in queues.items():
        taken[outcome] += min(count - sum(taken.values()), len(queue) - taken[outcome])
    return [(index, outcome) for outcome, queue in queues.items() for index in queue[: taken[outcome]]]


def draw_display(
    display: Display, name: str, heat: np.ndarray | None = None, corner_cm: np.ndarray | None = None
) -> str:
    """Both views of an event as an SVG: axes in cm, colour in MeV a pixel, the vertex marked.

    The window is the smallest one of a fixed shape that holds all the charge and the vertex, within the detector where
    it fits, the same scale in both views and along both axes.

    Args:
        display: the event.
        name: of the figure.
        heat: uint8 (2, size, size), where a model looks in its pixel map, drawn as contours.
        corner_cm: (3,), the low corner of that map.
    """
    low, high = _window(display)
    width = high[2] - low[2]
    top = max(float(display.xz.max()), float(display.yz.max()), 10 * THRESHOLD_MEV)
    norm = LogNorm(THRESHOLD_MEV, top)
    with new_figure(5.2, 4.2, rows=2, sharex=True) as (figure, axes):
        for ax, image, axis, label in zip(axes, (display.xz, display.yz), (0, 1), "xy", strict=True):
            mesh = _draw_view(ax, image, display, axis, norm)
            if heat is not None and corner_cm is not None:
                side = len(heat[axis]) * display.pixel_cm
                z0, x0 = corner_cm[2], corner_cm[axis]
                draw_heat(ax, heat[axis], (z0, z0 + side, x0, x0 + side))
            ax.set(ylabel=f"{label} (cm)", xlim=(low[2], low[2] + width), ylim=(low[axis], high[axis]), aspect="equal")
        axes[0].set_title("XZ view, from above", loc="left")
        axes[1].set_title("YZ view, from the side", loc="left")
        axes[1].set_xlabel("z (cm), along the beam")
        figure.colorbar(mesh, ax=axes, label=f"energy in a {display.pixel_cm:g} cm pixel (MeV)", shrink=0.8, pad=0.02)
        return to_svg(figure, name)


def _draw_view(ax: Axes, image: np.ndarray, display: Display, axis: int, norm: LogNorm) -> Any:
    rows, columns = image.shape
    x0, y0 = display.origin_cm[2], display.origin_cm[axis]
    wide, high = columns * display.pixel_cm, rows * display.pixel_cm
    mesh = ax.imshow(
        np.ma.masked_less(image, THRESHOLD_MEV),
        extent=(x0, x0 + wide, y0, y0 + high),
        origin="lower",
        cmap="viridis",
        norm=norm,
        interpolation="none",
    )
    # Displays are dark on every page: faint deposits show, and the colours mean the same everywhere.
    ax.set_facecolor("#101418")
    ax.grid(False)
    ax.add_patch(Rectangle((x0, y0), wide, high, fill=False, edgecolor="#9aa4ad", linewidth=0.8))
    if display.vertex_cm is not None:
        vertex = (display.vertex_cm[2], display.vertex_cm[axis])
        ax.plot(*vertex, "+", color="white", markersize=11, markeredgewidth=1.3, label="vertex")
    return mesh


def _window(display: Display) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner (x, y, z) of what is shown, cm."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for image, axis in ((display.xz, 0), (display.yz, 1)):
        filled = np.argwhere(image >= THRESHOLD_MEV)  # (pixels, 2): row, column
        if len(filled):
            axes = [axis, 2]
            corner = np.array(display.origin_cm)[axes]
            low[axes] = np.minimum(low[axes], corner + filled.min(axis=0) * display.pixel_cm)
            high[axes] = np.maximum(high[axes], corner + (filled.max(axis=0) + 1) * display.pixel_cm)
    if display.vertex_cm is not None:
        low, high = np.minimum(low, display.vertex_cm), np.maximum(high, display.vertex_cm)
    origin, margin = np.array(display.origin_cm), 2 * display.pixel_cm
    # An empty display has a window all the same.
    low = np.where(np.isfinite(low), low, origin) - margin
    high = np.where(np.isfinite(high), high, origin) + margin
    width = max(high[2] - low[2], *(high - low)[:2] / ASPECT, NARROWEST_CM)
    size = width * np.array([ASPECT, ASPECT, 1])
    box = np.array([display.xz.shape[0], *display.yz.shape]) * display.pixel_cm
    # Rather more of the detector on one side of the event than what lies outside it.
    start = (low + high - size) / 2
    start = np.where(size < box + 2 * margin, np.clip(start, origin - margin, origin + box + margin - size), start)
    return start, start + size


def _read_display(store: Any, event: "pd.Series[Any]") -> Display:
    row = int(event["row"])
    vertex = np.array([event[f"vertex_{axis}_mm"] for axis in "xyz"], dtype=np.float64)
    x, y, z = (float(value) / 10 for value in store.attrs["origin_mm"])
    return Display(
        xz=store["xz"][row],
        yz=store["yz"][row],
        origin_cm=(x, y, z),
        pixel_cm=float(store.attrs["pixel_mm"]) / 10,
        vertex_cm=(vertex[0] / 10, vertex[1] / 10, vertex[2] / 10) if np.isfinite(vertex).all() else None,
    )


def _describe(event: "pd.Series[Any]") -> dict[str, Any]:
    """The identity and the truth of an event; None for what is not known."""
    modes = {code: name for name, code in MODES.items()}
    return {
        "shard": str(event["shard"]),
        "event_id": int(event["event_id"]),
        "truth": None if pd.isna(event["class"]) else str(event["class"]),
        "mode": modes[int(event["mode"])] if int(event["mode"]) else None,
        "nu_energy_gev": _known(event["nu_energy"]),
        "inelasticity": _known(event["inelasticity"]),
        "visible_energy_gev": _known(event["visible_energy"] / 1000),
        "vertex_cm": [_known(event[f"vertex_{axis}_mm"] / 10) for axis in "xyz"],
    }


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _sorted(mask: np.ndarray, key: np.ndarray) -> list[int]:
    """Indices where `mask` holds, lowest `key` first."""
    indices = np.flatnonzero(mask)
    return [int(i) for i in indices[np.argsort(key[indices], kind="stable")]]
