"""Rationales: a few sentences from fixed phrasings that describe an event; written from truth and parsed.

Writing and parsing use the same phrasings (resources/rationales.yaml), so each claim of a model can be checked.
"""

import hashlib
import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import pandas as pd
from pydantic import Field, PrivateAttr, model_validator

from nuvlm.base.settings import Settings
from nuvlm.models.vlm.prompts import read_texts

GAP_MM = 50.0
"""Smallest gap between vertex and shower that is stated, mm: one pixel of 5 cm."""
CLAIM_TYPES = {
    "charged": "Int16",
    "track": "boolean",
    "track_cm": "float32",
    "leaves": "boolean",
    "shower": "boolean",
    "shower_mev": "float32",
    "gap": "boolean",
    "gap_cm": "float32",
}
"""Column types of the claims; column names have the prefix `claim_` or `true_`."""
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CM = {"mm": 0.1, "cm": 1.0, "m": 100.0, "centimetres": 1.0, "centimeters": 1.0, "metres": 100.0, "meters": 100.0}
MEV = {"kev": 1e-3, "mev": 1.0, "gev": 1e3}
APPROXIMATELY = r"(?:(?:about|around|roughly|approximately|some|nearly)\s+|~\s*)?"
NUMBER = r"\d{1,3}(?:,\d{3})|\d{1,6}(?:\.\d+)?"
Phrase = Annotated[str, Field(min_length=1)]
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Claims:
    """The claims of a rationale; None if it makes no statement."""

    charged: int | None = None
    """Charged particles at the vertex."""
    track: bool | None = None
    """Whether there is a track."""
    track_cm: float | None = None
    """Length of the longest track."""
    leaves: bool | None = None
    """Whether the longest track leaves the detector."""
    shower: bool | None = None
    """Whether there is an electromagnetic shower."""
    shower_mev: float | None = None
    """Energy of the largest shower."""
    gap: bool | None = None
    """Whether the largest shower starts after a gap instead of at the vertex."""
    gap_cm: float | None = None


class _Kind(NamedTuple):
    """A kind of sentence: the claims that it always makes, and the claim of each placeholder."""

    fixed: dict[str, bool]
    placeholders: dict[str, str]


KINDS = {
    "track": _Kind({"track": True}, {"length": "track_cm", "leaves": "leaves"}),
    "no_track": _Kind({"track": False}, {}),
    "shower": _Kind({"shower": True}, {"energy": "shower_mev"}),
    "no_shower": _Kind({"shower": False}, {}),
    "gap": _Kind({"gap": True}, {"length": "gap_cm"}),
    "no_gap": _Kind({"gap": False}, {}),
    "charged": _Kind({}, {"count": "charged"}),
}
"""In the order of writing."""
SAMPLES = (
    Claims(charged=3, track=True, track_cm=120.0, leaves=True, shower=True, shower_mev=1500.0, gap=True, gap_cm=8.0),
    Claims(charged=0, track=True, track_cm=15.0, leaves=False, shower=True, shower_mev=50.0, gap=False),
    Claims(charged=11, track=False, shower=False),
)
"""Claims that a vocabulary must be able to write and parse; checked when it is loaded."""


class Phrasings(Settings):
    """Phrasings of one kind of sentence."""

    write: Phrases
    """Phrasings that are written and parsed."""
    read: tuple[Phrase, ...] = ()
    """Further phrasings that are only parsed."""


class Rationales(Settings):
    """The vocabulary, see resources/rationales.yaml."""

    numbers: Annotated[tuple[Annotated[int, Field(ge=10, le=99)], ...], Field(min_length=1)]
    """Lengths and energies are rounded to these, times a power of ten."""
    leaves: Phrases
    stays: Phrases
    track: Phrasings
    no_track: Phrasings
    shower: Phrasings
    no_shower: Phrasings
    gap: Phrasings
    no_gap: Phrasings
    charged: Phrasings
    _patterns: list[tuple[re.Pattern[str], _Kind]] = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._patterns = [
            (re.compile(self._expression(phrase), re.IGNORECASE), kind)
            for name, kind in KINDS.items()
            for phrase in (*self._phrasings(name).write, *self._phrasings(name).read)
        ]
        for claims in SAMPLES:
            for name in _sentences(claims):
                for phrase in self._phrasings(name).write:
                    stated = {*KINDS[name].fixed, *KINDS[name].placeholders.values()}
                    expected = Claims(**{field: value for field, value in vars(claims).items() if field in stated})
                    for end in self.leaves if claims.leaves else self.stays:
                        text = _fill(phrase, name, claims, end)
                        if self.parse(text) != expected:
                            raise ValueError(f"{name}: {phrase!r} does not parse to its own claims, as in {text!r}")
        return self

    def round(self, value: float) -> float:
        """Round `value` > 0 to the nearest of `numbers` times a power of ten, by ratio."""
        power = math.floor(math.log10(value))
        stated = [float(f"{number}e{p - 1}") for p in (power - 1, power, power + 1) for number in self.numbers]
        return min(stated, key=lambda number: abs(math.log(number / value)))

    def state(self, event: Mapping[Hashable, Any]) -> Claims:
        """The true claims of an event, as far as truth is known.

        Args:
            event: with the columns of :mod:`nuvlm.dataset.topology`.
        """
        claims: dict[str, Any] = {}
        if not pd.isna(event["track_mm"]):
            claims["track"] = bool(event["track_mm"] > 0)
            if claims["track"]:
                claims |= {"track_cm": self.round(event["track_mm"] / 10), "leaves": bool(event["track_leaves"])}
        if not pd.isna(event["shower_mev"]):
            claims["shower"] = bool(event["shower_mev"] > 0)
            if claims["shower"]:
                claims |= {"shower_mev": self.round(event["shower_mev"]), "gap": bool(event["shower_gap_mm"] >= GAP_MM)}
                if claims["gap"]:
                    claims["gap_cm"] = self.round(event["shower_gap_mm"] / 10)
        if not pd.isna(event["charged"]):
            claims["charged"] = int(event["charged"])
        return Claims(**claims)

    def write(self, claims: Claims, rng: np.random.Generator) -> str:
        """The sentences that state `claims`, each in a random phrasing; empty without claims."""
        ends = self.leaves if claims.leaves else self.stays
        return " ".join(
            _fill(str(rng.choice(self._phrasings(name).write)), name, claims, str(rng.choice(ends)))
            for name in _sentences(claims)
        )

    def parse(self, text: str) -> Claims:
        """The claims in `text`.

        The first statement about an object counts; later ones are ignored. Lengths and energies of an object that the
        text says is absent are ignored. Text that matches no phrasing makes no claim.
        """
        found = [
            (match.start(), -len(match[0]), kind.fixed | _read(match, kind))
            for pattern, kind in self._patterns
            for match in pattern.finditer(text)
        ]
        claims: dict[str, Any] = {}
        for *_, stated in sorted(found, key=lambda item: item[:2]):
            claims = stated | claims
        for thing, details in (
            ("track", ("track_cm", "leaves")),
            ("shower", ("shower_mev", "gap")),
            ("gap", ("gap_cm",)),
        ):
            if claims.get(thing) is False:
                claims |= dict.fromkeys(details)
        if claims.get("gap") is None:
            claims["gap_cm"] = None
        return Claims(**claims)

    def texts(self) -> list[str]:
        """All written phrasings without numbers, and all numbers: training text of the tokenizer."""
        units = {"{length}": "cm", "{energy}": "MeV", "{count}": "", "{leaves}": ""}
        texts = [*self.leaves, *self.stays]
        for name in KINDS:
            for phrase in self._phrasings(name).write:
                texts.append(re.sub(r"\{\w+\}", lambda match: units[match[0]], phrase))
        texts += [_decimal(float(f"{number}e{power}")) for number in self.numbers for power in (-1, 0, 1, 2)]
        return [f" {text}" for text in texts]

    def _phrasings(self, name: str) -> Phrasings:
        phrasings: Phrasings = getattr(self, name)
        return phrasings

    def _expression(self, phrase: str) -> str:
        """The regular expression of a phrasing."""
        patterns = {
            "{length}": rf"{APPROXIMATELY}(?P<length>{NUMBER})\s*(?P<length_unit>{'|'.join(CM)})",
            "{energy}": rf"{APPROXIMATELY}(?P<energy>{NUMBER})\s*(?P<energy_unit>{'|'.join(MEV)})",
            "{count}": rf"(?P<count>\d{{1,3}}|{'|'.join(COUNTS)})",
            "{leaves}": rf"(?:(?P<leaves>{_any_of(self.leaves)})|{_any_of(self.stays)})",
        }
        parts = re.split(r"(\{\w+\})", phrase.strip().rstrip("."))
        expression = "".join(patterns.get(part) or _literally(part) for part in parts)
        return rf"(?<!\w)(?<!\d[.,]){expression}(?!\w)"


def load_rationales(path: Path) -> Rationales:
    """Read and check a vocabulary.

    Raises:
        InputError: naming the file, and the key to mend.
    """
    return read_texts(path, Rationales, "resources/rationales.yaml")


def grounded_rationales(events: pd.DataFrame, vocabulary: Rationales) -> list[str]:
    """The true rationale of each event, empty if no truth is known. Phrasings depend only on the event's identity.

    Args:
        events: rows of the event table.
    """
    return [
        vocabulary.write(vocabulary.state(event), _rng(event["shard"], event["event_id"]))
        for event in events.to_dict("records")
    ]


def claims_table(prefix: str, claims: list[Claims]) -> pd.DataFrame:
    """A column ``{prefix}{claim}`` for each claim, null where nothing is claimed."""
    columns = {
        name: [np.nan if kind == "float32" and vars(each)[name] is None else vars(each)[name] for each in claims]
        for name, kind in CLAIM_TYPES.items()
    }
    return pd.DataFrame({prefix + name: pd.Series(columns[name], dtype=kind) for name, kind in CLAIM_TYPES.items()})


def _sentences(claims: Claims) -> list[str]:
    """Kinds of sentences that state `claims`, in order."""
    stated = {name for name, value in vars(claims).items() if value is not None}
    return [
        name
        for name, kind in KINDS.items()
        if stated.issuperset({*kind.fixed, *kind.placeholders.values()})
        and all(getattr(claims, field) is value for field, value in kind.fixed.items())
    ]


def _fill(phrase: str, name: str, claims: Claims, end: str) -> str:
    """A phrasing of the kind `name` with its placeholders filled from `claims`."""
    for placeholder, field in KINDS[name].placeholders.items():
        value = getattr(claims, field)
        if placeholder == "leaves":
            text = end
        elif placeholder == "count":
            text = str(value)
        else:
            text = f"{_decimal(value)} {'cm' if placeholder == 'length' else 'MeV'}"
        phrase = phrase.replace(f"{{{placeholder}}}", text)
    return phrase


def _decimal(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def _read(match: re.Match[str], kind: _Kind) -> dict[str, Any]:
    """The claims in the placeholders of a matched phrasing."""
    found = match.groupdict()
    claims: dict[str, Any] = {}
    for placeholder, field in kind.placeholders.items():
        if placeholder not in match.re.groupindex:
            continue
        text = found[placeholder]
        if placeholder == "leaves":
            claims[field] = text is not None
        elif placeholder == "count":
            claims[field] = COUNTS.index(text.lower()) if text.lower() in COUNTS else int(text)
        else:
            unit = (CM if placeholder == "length" else MEV)[found[f"{placeholder}_unit"].lower()]
            claims[field] = float(f"{float(text.replace(',', '')) * unit:.6g}")
    return claims


def _any_of(phrases: Phrases) -> str:
    return "|".join(map(_literally, phrases))


def _literally(text: str) -> str:
    """A regular expression for `text` with any whitespace between words."""
    return re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(text))


def _rng(shard: str, event_id: int) -> np.random.Generator:
    """Random number generator that depends only on the event's identity."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{shard}/{event_id}".encode()).digest()[:8], "big"))
