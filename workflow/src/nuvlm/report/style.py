"""Style of the figures (colours, labels, fonts), and how they are written: SVG for the page, PDF for papers."""

import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from fontTools import subset
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nuvlm.base.files import SEAL, atomic_path, seal

# The colours of Okabe and Ito: distinguishable with colour vision deficiency, on light and dark pages.
COLOURS = {"nue_cc": "#0072b2", "numu_cc": "#d55e00", "nc": "#009e73"}
MODEL_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#d55e00", "#0072b2")
MARKERS = {"nue_cc": "o", "numu_cc": "s", "nc": "^"}
LABELS = {"nue_cc": r"$\nu_e$ CC", "numu_cc": r"$\nu_\mu$ CC", "nc": "NC"}

# Placeholder colour of lines and text: replaced by currentColor (the page's text colour) in SVG, by black in PDF.
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
    "pdf.compression": 0,  # to_pdf() replaces INK in the file
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


CHARACTERS = [*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x370, 0x400), *range(0x2010, 0x2027)]
CHARACTERS += [*range(0x2070, 0x20A0), *range(0x2190, 0x2194), *range(0x2200, 0x2270)]
"""Latin, Greek, punctuation, superscripts, arrows, mathematical operators."""


@cache
def use_reduced_fonts() -> tempfile.TemporaryDirectory[str]:
    """Draw with DejaVu Sans reduced to :data:`CHARACTERS`, kerning included, for the rest of the process.

    Matplotlib parses each font anew for every PDF that embeds it. The complete fonts have 6000 glyphs, and parsing them
    takes 40 % of the time of all figures.
    """
    styles = [f"DejaVu Sans{style}" for style in ("", ":italic", ":bold", ":italic:bold")]
    paths = {Path(findfont(style)) for style in (*styles, "DejaVu Sans Display")}
    options = subset.Options(layout_features=["kern"], glyph_names=True, notdef_outline=True)
    options.drop_tables += ["FFTM"]
    folder = tempfile.TemporaryDirectory()
    for path in sorted(paths):
        font = subset.load_font(path, options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=CHARACTERS)
        subsetter.subset(font)
        subset.save_font(font, Path(folder.name, path.name), options)
        fontManager.addfont(Path(folder.name, path.name))
        fontManager.ttflist.insert(0, fontManager.ttflist.pop())  # findfont() takes the first of equal matches
    return folder


@contextmanager
def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure of `width` x `height` inches in the project's style, and its axes; close it afterwards."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), **options)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def arrange(figure: Figure) -> None:
    """Run matplotlib's constrained layout once; as the figure's layout engine it would run at every draw."""
    ConstrainedLayoutEngine().execute(figure)


def to_svg(figure: Figure, name: str) -> str:
    """Return the figure as an SVG element that can be embedded in a page.

    The same figure gives the same bytes. `name` makes internal ids unique within a page.
    """
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={key: None for key in ("Creator", "Date", "Format", "Type")})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page sets the width, so only the viewBox is kept. Unreferenced ids are removed: they may repeat in a page.
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
    """Return the figure as a PDF for print: vector graphics, embedded fonts, black text, transparent background.

    The same figure gives the same bytes: the file holds no date.
    """
    buffer = io.BytesIO()
    metadata = {"Title": name, "Creator": None, "Producer": None, "CreationDate": None}
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="pdf", metadata=metadata)
    ink = rb"\s".join(f"{part:.10f}".encode() for part in to_rgb(INK))
    # Padded to the same length: the cross-reference table of a PDF holds byte offsets.
    return re.sub(ink, lambda found: b"0 0 0".ljust(len(found[0])), buffer.getvalue())


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure to `path` as SVG, with a digest that ``write_report`` checks, and beside it as PDF."""
    arrange(figure)
    with atomic_path(path) as partial:
        partial.write_text(f"{to_svg(figure, path.stem)}<!-- {SEAL.decode()} -->\n", encoding="utf-8")
        seal(partial)
    with atomic_path(path.with_suffix(".pdf")) as partial:
        partial.write_bytes(to_pdf(figure, path.stem))
