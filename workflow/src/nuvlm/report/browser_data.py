"""Data of the event browser, as the scripts of the page read it: formatted text and colours, no HTML."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_hex

from nuvlm.base.classes import CLASSES
from nuvlm.models.table import title
from nuvlm.report.wording import PLAIN, number, percent, picture, stated

COLOURS = "viridis"
"""Perceptually uniform, and readable with colour vision deficiency."""
DARKEST = 0.15
"""Position of the faintest pixels in the colour map: they must be visible on a dark background."""
GREY_TICKS = (0, 64, 128, 255)


def page_data(collected: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Convert the output of ``collect_events`` for the page.

    Args:
        collected: `available`, `frame`, `scale` and `events`.
        models: order of the models on the page.
    """
    return {
        "available": collected["available"],
        "classes": [{"name": name, "plain": PLAIN[name]} for name in CLASSES],
        "models": [{"name": name, "title": title(name)} for name in models],
        "frame": collected["frame"],
        "scale": _scale(collected),
        "events": [_event(event, models) for event in collected["events"]],
    }


def as_script(data: Mapping[str, Any]) -> Markup:
    """JSON for a script element: `<`, `>` and `&` are escaped, so it cannot end the element or begin a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup("".join(_ESCAPED.get(character, character) for character in text))


_ESCAPED = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def _scale(collected: Mapping[str, Any]) -> dict[str, Any] | None:
    """Colour of each level, and the colour bar: `gradient`, `ticks` (position from 0 to 1, text)."""
    frame, scale = collected["frame"], collected["scale"]
    if frame is None:
        return None
    values, step = np.array(scale["values"]), scale["step"]
    if frame["drawn"] == "display":
        low, bright = values[0], scale["bright"]
        places = np.log(values / low) / np.log(bright / low)
        ticks = [10.0**decade for decade in range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(bright))) + 1)]
        positions = np.log(np.array(ticks) / low) / np.log(bright / low)
        label = f"energy in a {frame['pixel']:g} cm pixel (MeV)"
        note = (
            f"Energies are rounded by at most {percent(scale['rounding'])}. Pixels below {low:g} MeV are hidden, and "
            f"the colour scale ends at {number(bright, 0)} MeV."
        )
        if step > 1:
            note += f" Blocks of {step} × {step} pixels are merged to limit the size of the page."
    else:
        places = np.sqrt(values / values[-1])
        ticks = list(GREY_TICKS)
        positions = np.sqrt(np.array(ticks) / values[-1])
        label = "grey value" if step == 1 else f"grey value, brightest of {step} × {step}"
        note = "Grey values are those of the pixel maps."
    return {
        "label": label,
        "note": note,
        "unit": "MeV" if frame["drawn"] == "display" else "",
        "values": [0, *scale["values"]],
        "colours": [_colour(0), *map(_colour, places)],
        "gradient": list(map(_colour, np.linspace(0, 1, 33))),
        "ticks": [[round(float(at), 4), f"{tick:g}"] for at, tick in zip(positions, ticks, strict=True)],
    }


def _colour(place: float) -> str:
    """The colour at a position of the scale, from 0 to 1 (clipped)."""
    return to_hex(matplotlib.colormaps[COLOURS](DARKEST + (1 - DARKEST) * min(place, 1.0)))


def _event(event: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """One event, with classes as indices. Its id is text: JavaScript numbers are exact only up to 2^53."""
    answers = [event["models"][model] for model in models]
    return {
        "id": str(event["event_id"]),
        "shard": event["shard"],
        "outcome": event["outcome"],
        "truth": None if event["truth"] is None else CLASSES.index(event["truth"]),
        "energy": event["nu_energy_gev"],
        "facts": _facts(event),
        "vertex": event["vertex_cm"],
        "answers": [CLASSES.index(answer["predicted"]) for answer in answers],
        "p": [[round(answer["p"][name], 4) for name in CLASSES] for answer in answers],
        "pixels": event["pixels"],
        "saliency": {model: maps for model, maps in event["saliency"].items() if model in models},
        "explanations": [
            {"model": title(model), "rationales": [_rationale(one) for one in rationales]}
            for model, rationales in event["explanations"].items()
            if rationales
        ],
    }


def _facts(event: Mapping[str, Any]) -> list[list[str]]:
    """Known true quantities of an event: names and values."""
    known = [
        ["Eν", event["nu_energy_gev"], "GeV"],
        ["y", event["inelasticity"], ""],
        ["visible", event["visible_energy_gev"], "GeV"],
    ]
    facts = [[name, f"{number(value, 2)} {unit}".strip()] for name, value, unit in known if value is not None]
    if event["mode"] is not None:
        facts.append(["mode", event["mode"]])
    if event["vertex_cm"][0] is not None:
        facts.append(["vertex", f"({', '.join(number(value, 0) for value in event['vertex_cm'])}) cm"])
    return facts


def _rationale(rationale: Mapping[str, Any]) -> dict[str, Any]:
    """A rationale with its `claims`: statement, whether it is right, and the true value if it is wrong."""
    claims = [
        [
            stated(claim["claimed"], claim["statement"]),
            claim["right"],
            stated(claim["true"], claim["statement"]) if claim["right"] is False else None,
        ]
        for claim in rationale["claims"]
    ]
    shown = {"nominal": "", "text_only": "a black picture"}.get(rationale["picture"], picture(rationale["picture"]))
    return {"picture": shown, "text": rationale["rationale"], "claims": claims}
