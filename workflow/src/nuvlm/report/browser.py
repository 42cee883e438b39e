"""The events of the report as the page's scripts take them: every word and colour ready, and nothing that is HTML."""

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
"""Perceptually uniform, and told apart with every kind of colour vision."""
DARKEST = 0.15
"""Where in it the faintest pixels begin: they must show on a dark ground."""
GREY_TICKS = (0, 64, 128, 255)


def page_data(collected: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """What the page draws from, made of what ``collect_events`` wrote.

    Args:
        collected: `available`, `frame`, `scale` and `events`.
        models: in the order of the page.
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
    """JSON that may stand in a script element: no `<`, `>` or `&` is left that could end it or begin a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup("".join(_ESCAPED.get(character, character) for character in text))


_ESCAPED = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def _scale(collected: Mapping[str, Any]) -> dict[str, Any] | None:
    """The colour of each level, and the bar that explains colours: `gradient`, `ticks` (place from 0 to 1, text)."""
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
            f"Energies are rounded by {percent(scale['rounding'])} at most, less than {low:g} MeV is left out, and "
            f"from {number(bright, 0)} MeV on colours are the same."
        )
        if step > 1:
            note += f" {step} × {step} pixels are put together, to keep this page small."
    else:
        places = np.sqrt(values / values[-1])
        ticks = list(GREY_TICKS)
        positions = np.sqrt(np.array(ticks) / values[-1])
        label = "grey value" if step == 1 else f"grey value, brightest of {step} × {step}"
        note = "Grey values are as in the pixel maps."
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
    """The colour at a place of the scale, from 0 to 1; beyond, that of its end."""
    return to_hex(matplotlib.colormaps[COLOURS](DARKEST + (1 - DARKEST) * min(place, 1.0)))


def _event(event: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """One event, with classes as numbers. Its id is text: JavaScript's numbers end at 2^53, those of events at 2^64."""
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
        "heat": {model: maps for model, maps in event["heat"].items() if model in models},
        "told": [
            {"model": title(model), "rationales": [_rationale(one) for one in told]}
            for model, told in event["explanations"].items()
            if told
        ],
    }


def _facts(event: Mapping[str, Any]) -> list[list[str]]:
    """What is known of an event: names and values."""
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


def _rationale(told: Mapping[str, Any]) -> dict[str, Any]:
    """A rationale with its `claims`: what is stated, whether that is right, and what is true where it is not."""
    claims = [
        [
            stated(claim["claimed"], claim["statement"]),
            claim["right"],
            stated(claim["true"], claim["statement"]) if claim["right"] is False else None,
        ]
        for claim in told["claims"]
    ]
    shown = {"nominal": "", "text_only": "a black picture"}.get(told["picture"], picture(told["picture"]))
    return {"picture": shown, "text": told["rationale"], "claims": claims}
