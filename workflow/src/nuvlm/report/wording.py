"""Formatting of numbers, classes and statements."""

from collections.abc import Sequence

from markupsafe import Markup, escape

PLAIN = {"nue_cc": "\N{GREEK SMALL LETTER NU}e CC", "numu_cc": "\N{GREEK SMALL LETTER NU}μ CC", "nc": "NC"}
RICH = {"nue_cc": Markup("&nu;<sub>e</sub> CC"), "numu_cc": Markup("&nu;<sub>&mu;</sub> CC"), "nc": Markup("NC")}
MINUS = "\N{MINUS SIGN}"
STATEMENTS = {
    "track": "there is a track",
    "track_cm": "length of the track",
    "leaves": "the track leaves the detector",
    "shower": "there is a shower",
    "shower_mev": "energy of the shower",
    "gap": "the shower begins after a gap",
    "gap_cm": "length of the gap",
    "charged": "number of charged particles",
}
"""Statements of a rationale."""
PICTURES = {
    "nominal": "as it is",
    "text_only": "black",
}
"""Pictures that rationales are given for."""
YES_NO = {
    "track": ("no track", "a track"),
    "leaves": ("stays in the detector", "leaves the detector"),
    "shower": ("no shower", "a shower"),
    "gap": ("begins at the vertex", "begins after a gap"),
}
SIGNIFICANT = 0.05
"""p-value below which a difference is called significant."""
MISSING = "\N{EN DASH}"


def label(name: str | None) -> Markup:
    """A class as HTML."""
    return RICH.get(name or "", escape(name or "unknown"))


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals and a thousands separator; a dash for None."""
    return MISSING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def significant(value: float | None) -> str:
    """A quantity to three significant digits, without an exponent."""
    if value is None:
        return MISSING
    magnitude = abs(value)
    return number(value, 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return MISSING if value is None else f"{number(100 * value, digits)} %"


def listed(items: Sequence[str]) -> str:
    """``a, b and c``; nothing of nothing."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """A 95 % interval."""
    return "" if ends is None else f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"


def percents(ends: Sequence[float] | None) -> str:
    """The 95 % interval of a share, or of a difference of shares, in percent."""
    return "" if ends is None else f"[{number(100 * ends[0], 1)}, {number(100 * ends[1], 1)}]"


def p_value(value: float) -> str:
    """``p = 0.03``, or ``p < 0.0001`` below that."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def stated(value: float | None, statement: str) -> str:
    """A claimed or true value of one of STATEMENTS in words."""
    if value is None:
        return "there is none"
    if statement in YES_NO:
        return YES_NO[statement][int(value)]
    if statement == "charged":
        return f"{value:.0f} charged"
    return f"{number(value, 0)} {'MeV' if statement == 'shower_mev' else 'cm'}"


def picture(name: str) -> str:
    """A picture in words."""
    return PICTURES.get(name, name)


def duration(seconds: float | None) -> str:
    """A duration in seconds, minutes, hours or days."""
    if seconds is None:
        return MISSING
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
