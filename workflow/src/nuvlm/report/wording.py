"""Numbers and classes as the report writes them."""

from collections.abc import Sequence

from markupsafe import Markup, escape

PLAIN = {"nue_cc": "\N{GREEK SMALL LETTER NU}e CC", "numu_cc": "\N{GREEK SMALL LETTER NU}μ CC", "nc": "NC"}
RICH = {"nue_cc": Markup("&nu;<sub>e</sub> CC"), "numu_cc": Markup("&nu;<sub>&mu;</sub> CC"), "nc": Markup("NC")}
MINUS = "\N{MINUS SIGN}"
SIGNIFICANT = 0.05
"""p-value below which a difference is called significant."""
MISSING = "\N{EN DASH}"


def label(name: str | None) -> Markup:
    """A class as HTML."""
    return RICH.get(name or "", escape(name or "unknown"))


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals and thousands apart; a dash where there is none."""
    return MISSING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def significant(value: float | None) -> str:
    """A quantity to three significant digits, without an exponent."""
    if value is None:
        return MISSING
    magnitude = abs(value)
    return number(value, 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """A 95 % interval."""
    return "" if ends is None else f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"


def p_value(value: float) -> str:
    """``p = 0.03``, or ``p < 0.0001`` below that."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return MISSING
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
