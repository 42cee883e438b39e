"""How figures look: one style, one set of colours and names, one way to write them, SVG for a page, PDF for a paper."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from nuvlm.base.files import SEAL, atomic_path, seal

# Okabe and Ito's colours, told apart with every kind of colour vision and on light and dark pages.
COLOURS = {"nue_cc": "#0072b2", "numu_cc": "#d55e00", "nc": "#009e73"}
MODEL_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#d55e00")
MARKERS = {"nue_cc": "o", "numu_cc": "s", "nc": "^"}
LABELS = {"nue_cc": r"$\nu_e$ CC", "numu_cc": r"$\nu_\mu$ CC", "nc": "NC"}

# Lines and text are written in this colour. An SVG has currentColor in its place, that of the page's text; a PDF black.
INK = "#010203"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "mathtext.fontset": "dejavusans",
    "pdf.compression": 0,  # to_pdf() looks for the ink in it
    "pdf.fonttype": 42,  # TrueType, whole outlines: journals refuse Type 3
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Figure, Any]]:
    """Give a figure of `width` x `height` inches in the project's style, with its axes, and close it afterwards."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), **options)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element, to be put into a page as it is.

    The same figure gives the same bytes, and `name` keeps its internal names from meeting those of another.
    """
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={key: None for key in ("Creator", "Date", "Format", "Type")})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # A page sets the width; only the viewBox is kept. Ids that nothing refers to go: a page may have each once.
    svg = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    referred = set(re.findall(r"#(\w+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in referred else "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # A style element would apply to the whole page.
    svg = re.sub(r"<style[^>]*>.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"^<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', svg)
    return svg.replace(INK, "currentColor")


def to_pdf(figure: Figure, name: str) -> bytes:
    """The figure as a PDF for print: vectors, its fonts embedded, lines and text black, the ground left open.

    The same figure gives the same bytes, as no date is in them. Its keywords have room for a digest
    (:func:`nuvlm.base.files.seal`).
    """
    buffer = io.BytesIO()
    about = {"Title": name, "Keywords": SEAL.decode(), "Creator": None, "Producer": None, "CreationDate": None}
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="pdf", metadata=about)
    ink = rb"\s".join(f"{part:.10f}".encode() for part in to_rgb(INK))
    # As long as before: a PDF says at which byte each of its parts begins.
    return re.sub(ink, lambda found: b"0 0 0".ljust(len(found[0])), buffer.getvalue())


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure to `path` as an SVG, and beside it as a PDF; each whole or not at all, with a digest in it."""
    with atomic_path(path) as partial:
        partial.write_text(f"{to_svg(figure, path.stem)}<!-- {SEAL.decode()} -->\n", encoding="utf-8")
        seal(partial)
    figure.set_layout_engine("none")  # what the SVG was laid out to stays
    with atomic_path(path.with_suffix(".pdf")) as partial:
        partial.write_bytes(to_pdf(figure, path.stem))
        seal(partial)
