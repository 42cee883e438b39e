"""Rationales: what is to be seen of an event, in a few sentences of a fixed vocabulary, written from truth and read.

The same phrasings serve for both (resources/rationales.yaml), so that what a model says can be checked claim by claim.
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
"""Gap between vertex and shower from which on it is stated, mm: one pixel of 5 cm."""
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
"""The columns that claims become, after `claim_` or `true_`, and their types."""
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CM = {"mm": 0.1, "cm": 1.0, "m": 100.0, "centimetres": 1.0, "centimeters": 1.0, "metres": 100.0, "meters": 100.0}
MEV = {"kev": 1e-3, "mev": 1.0, "gev": 1e3}
APPROXIMATELY = r"(?:(?:about|around|roughly|approximately|some|nearly)\s+|~\s*)?"
NUMBER = r"\d{1,3}(?:,\d{3})|\d{1,6}(?:\.\d+)?"
Phrase = Annotated[str, Field(min_length=1)]
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Claims:
    """What a rationale states; None where it states nothing."""

    charged: int | None = None
    """Charged particles at the vertex."""
    track: bool | None = None
    """Whether there is a track."""
    track_cm: float | None = None
    """Length of the longest."""
    leaves: bool | None = None
    """Whether that one leaves the detector."""
    shower: bool | None = None
    """Whether there is an electromagnetic shower."""
    shower_mev: float | None = None
    """Energy of the largest."""
    gap: bool | None = None
    """Whether that one starts after a gap, rather than at the vertex."""
    gap_cm: float | None = None


class _Kind(NamedTuple):
    """A kind of sentence: what it states by itself, and the claim behind each of its gaps."""

    meaning: dict[str, bool]
    holes: dict[str, str]


KINDS = {
    "track": _Kind({"track": True}, {"length": "track_cm", "leaves": "leaves"}),
    "no_track": _Kind({"track": False}, {}),
    "shower": _Kind({"shower": True}, {"energy": "shower_mev"}),
    "no_shower": _Kind({"shower": False}, {}),
    "gap": _Kind({"gap": True}, {"length": "gap_cm"}),
    "no_gap": _Kind({"gap": False}, {}),
    "charged": _Kind({}, {"count": "charged"}),
}
"""In the order in which they are written."""
SAMPLES = (
    Claims(charged=3, track=True, track_cm=120.0, leaves=True, shower=True, shower_mev=1500.0, gap=True, gap_cm=8.0),
    Claims(charged=0, track=True, track_cm=15.0, leaves=False, shower=True, shower_mev=50.0, gap=False),
    Claims(charged=11, track=False, shower=False),
)
"""What a vocabulary must be able to say and to understand."""


class Phrasings(Settings):
    """How a sentence may be put."""

    write: Phrases
    """Phrasings that are written, and understood."""
    read: tuple[Phrase, ...] = ()
    """Further ones that are understood."""


class Rationales(Settings):
    """The vocabulary, see resources/rationales.yaml."""

    numbers: Annotated[tuple[Annotated[int, Field(ge=10, le=99)], ...], Field(min_length=1)]
    """What lengths and energies are rounded to, times a power of ten."""
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
                    told = {*KINDS[name].meaning, *KINDS[name].holes.values()}
                    expected = Claims(**{field: value for field, value in vars(claims).items() if field in told})
                    for end in self.leaves if claims.leaves else self.stays:
                        text = _fill(phrase, name, claims, end)
                        if self.parse(text) != expected:
                            raise ValueError(f"{name}: {phrase!r} is not understood as it is meant, as in {text!r}")
        return self

    def round(self, value: float) -> float:
        """`value`, above 0, as it is stated: the nearest of `numbers` times a power of ten, by their ratio."""
        power = math.floor(math.log10(value))
        stated = [float(f"{number}e{p - 1}") for p in (power - 1, power, power + 1) for number in self.numbers]
        return min(stated, key=lambda number: abs(math.log(number / value)))

    def state(self, event: Mapping[Hashable, Any]) -> Claims:
        """What is to be said of an event, as far as its truth is known.

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
        """The sentences that state `claims`, each in one of its phrasings; nothing where nothing is stated."""
        ends = self.leaves if claims.leaves else self.stays
        return " ".join(
            _fill(str(rng.choice(self._phrasings(name).write)), name, claims, str(rng.choice(ends)))
            for name in _sentences(claims)
        )

    def parse(self, text: str) -> Claims:
        """What `text` states.

        The first statement about a thing counts, whatever is said after it. Lengths and energies of a track or shower
        that there is not, by what is said of it, do not count. What cannot be read states nothing.
        """
        found = [
            (match.start(), -len(match[0]), kind.meaning | _read(match, kind))
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
        """All phrasings that are written, without their numbers, and all numbers: what a tokenizer should know."""
        units = {"{length}": "cm", "{energy}": "MeV", "{count}": "", "{leaves}": ""}
        texts = [*self.leaves, *self.stays]
        for name in KINDS:
            for phrase in self._phrasings(name).write:
                texts.append(re.sub(r"\{\w+\}", lambda hole: units[hole[0]], phrase))
        texts += [_decimal(float(f"{number}e{power}")) for number in self.numbers for power in (-1, 0, 1, 2)]
        return [f" {text}" for text in texts]

    def _phrasings(self, name: str) -> Phrasings:
        phrasings: Phrasings = getattr(self, name)
        return phrasings

    def _expression(self, phrase: str) -> str:
        """The regular expression that reads a phrasing."""
        holes = {
            "{length}": rf"{APPROXIMATELY}(?P<length>{NUMBER})\s*(?P<length_unit>{'|'.join(CM)})",
            "{energy}": rf"{APPROXIMATELY}(?P<energy>{NUMBER})\s*(?P<energy_unit>{'|'.join(MEV)})",
            "{count}": rf"(?P<count>\d{{1,3}}|{'|'.join(COUNTS)})",
            "{leaves}": rf"(?:(?P<leaves>{_any_of(self.leaves)})|{_any_of(self.stays)})",
        }
        parts = re.split(r"(\{\w+\})", phrase.strip().rstrip("."))
        expression = "".join(holes.get(part) or _literally(part) for part in parts)
        return rf"(?<!\w)(?<!\d[.,]){expression}(?!\w)"


def load_rationales(path: Path) -> Rationales:
    """Read and check a vocabulary.

    Raises:
        InputError: naming the file, and the key to mend.
    """
    return read_texts(path, Rationales, "resources/rationales.yaml")


def grounded_rationales(events: pd.DataFrame, vocabulary: Rationales) -> list[str]:
    """The rationale of each event by its truth, empty where nothing is known; an event's is the same in every run.

    Args:
        events: rows of the event table.
    """
    return [
        vocabulary.write(vocabulary.state(event), _rng(event["shard"], event["event_id"]))
        for event in events.to_dict("records")
    ]


def claims_table(prefix: str, claims: list[Claims]) -> pd.DataFrame:
    """A column for each claim, its name after `prefix`, null where nothing is claimed."""
    columns = {
        name: [np.nan if kind == "float32" and vars(each)[name] is None else vars(each)[name] for each in claims]
        for name, kind in CLAIM_TYPES.items()
    }
    return pd.DataFrame({prefix + name: pd.Series(columns[name], dtype=kind) for name, kind in CLAIM_TYPES.items()})


def _sentences(claims: Claims) -> list[str]:
    """Which kinds of sentences state `claims`, in order."""
    stated = {name for name, value in vars(claims).items() if value is not None}
    return [
        name
        for name, kind in KINDS.items()
        if stated.issuperset({*kind.meaning, *kind.holes.values()})
        and all(getattr(claims, field) is value for field, value in kind.meaning.items())
    ]


def _fill(phrase: str, name: str, claims: Claims, end: str) -> str:
    """A phrasing of the kind `name` with what `claims` has for its gaps."""
    for hole, field in KINDS[name].holes.items():
        value = getattr(claims, field)
        if hole == "leaves":
            text = end
        elif hole == "count":
            text = str(value)
        else:
            text = f"{_decimal(value)} {'cm' if hole == 'length' else 'MeV'}"
        phrase = phrase.replace(f"{{{hole}}}", text)
    return phrase


def _decimal(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def _read(match: re.Match[str], kind: _Kind) -> dict[str, Any]:
    """What stands in the gaps of a phrasing."""
    found = match.groupdict()
    claims: dict[str, Any] = {}
    for hole, field in kind.holes.items():
        if hole not in match.re.groupindex:
            continue
        text = found[hole]
        if hole == "leaves":
            claims[field] = text is not None
        elif hole == "count":
            claims[field] = COUNTS.index(text.lower()) if text.lower() in COUNTS else int(text)
        else:
            unit = (CM if hole == "length" else MEV)[found[f"{hole}_unit"].lower()]
            claims[field] = float(f"{float(text.replace(',', '')) * unit:.6g}")
    return claims


def _any_of(phrases: Phrases) -> str:
    return "|".join(map(_literally, phrases))


def _literally(text: str) -> str:
    """A regular expression for `text` with any spaces between its words."""
    return re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(text))


def _rng(shard: str, event_id: int) -> np.random.Generator:
    """Random numbers of an event, the same wherever it stands."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{shard}/{event_id}".encode()).digest()[:8], "big"))
