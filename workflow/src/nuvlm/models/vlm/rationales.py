"""Rationales: a few sentences from fixed phrasings that describe an event; written from truth and parsed.

Writing and parsing use the same phrasings (resources/rationales.yaml), so each claim of a model can be checked.
:mod:`nuvlm.models.vlm.free_text` reads the texts of other models.
"""

import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import pandas as pd
from pydantic import Field, PrivateAttr, model_validator

from nuvlm.base.identity import hash_of
from nuvlm.base.settings import Settings
from nuvlm.models.vlm.prompts import read_texts
from nuvlm.models.vlm.spelling import NUMBER_WORDS

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
CM = {f"{prefix}{unit}": factor * value
      for prefix, value in (("milli", 0.1), ("centi", 1.0), ("", 100.0))
      for unit, factor in (("metres", 1.0), ("meters", 1.0), ("metre", 1.0), ("meter", 1.0))}  # fmt: skip
CM |= {"mm": 0.1, "cm": 1.0, "m": 100.0}
MEV = {"kev": 1e-3, "mev": 1.0, "gev": 1e3}
APPROXIMATELY = r"(?:(?:about|around|roughly|approximately|some|nearly|almost|circa)\s+|[~≈]\s*)?"
NUMBER = r"\d{1,3}(?:,\d{3})|\d{1,6}(?:\.\d+)?"
Phrase = Annotated[str, Field(min_length=1)]
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1)]
Words = tuple[Phrase, ...]
Patterns = list[tuple[re.Pattern[str], str]]
"""Regular expressions of phrasings, and the kind of sentence of each."""


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


DETAILS = {"track": ("track_cm", "leaves"), "shower": ("shower_mev", "gap"), "gap": ("gap_cm",)}
"""Claims about each thing."""
PLACEHOLDERS = ("length", "energy", "count")


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


class Match(NamedTuple):
    """A phrasing that was found in a text."""

    start: int
    end: int
    name: str
    """Kind of sentence."""
    stated: dict[str, Any]
    number: tuple[int, int] | None
    """Begin and end of its number."""

    def overlaps(self, other: "Match") -> bool:
        return self.start < other.end and other.start < self.end

    def crosses(self, other: "Match") -> bool:
        """Whether they overlap, and neither contains the other."""
        begin, end = sorted([(self.start, self.end), (other.start, other.end)])
        return begin[0] < end[0] < begin[1] < end[1]


class Phrasings(Settings):
    """Phrasings of one kind of sentence."""

    write: Phrases
    """Phrasings that are written and parsed."""
    read: Words = ()
    """Further phrasings that are only parsed."""
    free: Words = ()
    """Further phrasings of free text."""


class Rationales(Settings):
    """The vocabulary, see resources/rationales.yaml."""

    numbers: Annotated[tuple[Annotated[int, Field(ge=10, le=99)], ...], Field(min_length=1)]
    """Lengths and energies are rounded to these, times a power of ten."""
    leaves: Phrases
    stays: Phrases
    free_leaves: Words = ()
    free_stays: Words = ()
    """Further endings in free text."""
    words: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Name -> words for one thing, for phrasings of free text. With an empty word, up to three words or none.
    Those of `track`, `shower` and `another` decide which thing was named last."""
    neutral: Words = ()
    """They and `words`, except `another`, do not change what is stated beside them. All others do."""
    denials: Words = ()
    """Outside a phrasing they deny their sentence, which is then not read."""
    hedges: Words = ()
    """A sentence with one of them asserts nothing."""
    limits: Words = ()
    """Next to a number they make it a limit, which is no claim."""
    distances: Words = ()
    """After a length, they make it a distance, which is no track's length."""
    retractions: Words = ()
    """Sentences that take back the one before."""
    track: Phrasings
    no_track: Phrasings
    shower: Phrasings
    no_shower: Phrasings
    gap: Phrasings
    no_gap: Phrasings
    charged: Phrasings
    _patterns: Patterns = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        ends = f"(?:(?P<leaves>{any_of(self.leaves)})|{any_of(self.stays)})"
        self._patterns = [
            (phrase_pattern(literally(phrase.strip().rstrip(".")), ends), name)
            for name in KINDS
            for phrase in (*self.phrasings(name).write, *self.phrasings(name).read)
        ]
        for claims in SAMPLES:
            for name in _sentences(claims):
                for phrase in self.phrasings(name).write:
                    stated = {*KINDS[name].fixed, *KINDS[name].placeholders.values()}
                    expected = Claims(**{field: value for field, value in vars(claims).items() if field in stated})
                    for end in self.leaves if claims.leaves else self.stays:
                        text = _fill(phrase, name, claims, end)
                        if self.parse(text) != expected:
                            raise ValueError(f"{name}: {phrase!r} does not parse to its own claims, as in {text!r}")
        return self

    def round(self, value: float) -> float:
        """Round `value` > 0 to the nearest of `numbers` times a power of ten, by ratio."""
        return nearest_number(value, self.numbers)

    def state(self, event: Mapping[Hashable, Any], *, rounded: bool = True) -> Claims:
        """The true claims of an event, as far as truth is known.

        Args:
            event: with the columns of :mod:`nuvlm.dataset.topology`.
            rounded: whether lengths and energies are rounded as they are written.
        """
        number = self.round if rounded else float
        claims: dict[str, Any] = {}
        if not pd.isna(event["track_mm"]):
            claims["track"] = bool(event["track_mm"] > 0)
            if claims["track"]:
                claims |= {"track_cm": number(event["track_mm"] / 10), "leaves": bool(event["track_leaves"])}
        if not pd.isna(event["shower_mev"]):
            claims["shower"] = bool(event["shower_mev"] > 0)
            if claims["shower"]:
                claims |= {"shower_mev": number(event["shower_mev"]), "gap": bool(event["shower_gap_mm"] >= GAP_MM)}
                if claims["gap"]:
                    claims["gap_cm"] = number(event["shower_gap_mm"] / 10)
        if not pd.isna(event["charged"]):
            claims["charged"] = int(event["charged"])
        return Claims(**claims)

    def write(self, claims: Claims, rng: np.random.Generator) -> str:
        """The sentences that state `claims`, each in a random phrasing; empty without claims."""
        ends = self.leaves if claims.leaves else self.stays
        return " ".join(
            _fill(str(rng.choice(self.phrasings(name).write)), name, claims, str(rng.choice(ends)))
            for name in _sentences(claims)
        )

    def parse(self, text: str) -> Claims:
        """The claims in the text of a model that was trained on these phrasings.

        The first statement about an object counts; later ones are ignored. Lengths and energies of an object that the
        text says is absent are ignored. Text that matches no phrasing makes no claim.
        """
        claims: dict[str, Any] = {}
        for match in find_matches(text, self._patterns):
            claims = match.stated | claims
        return settle(claims)

    def texts(self) -> list[str]:
        """All written phrasings without numbers, and all numbers: training text of the tokenizer."""
        units = {"{length}": "cm", "{energy}": "MeV", "{count}": "", "{leaves}": ""}
        texts = [*self.leaves, *self.stays]
        for name in KINDS:
            for phrase in self.phrasings(name).write:
                texts.append(re.sub(r"\{\w+\}", lambda match: units[match[0]], phrase))
        texts += [_decimal(float(f"{number}e{power}")) for number in self.numbers for power in (-1, 0, 1, 2)]
        return [f" {text}" for text in texts]

    @property
    def patterns(self) -> Patterns:
        """What is written or parsed."""
        return self._patterns

    def phrasings(self, name: str) -> Phrasings:
        """The phrasings of one of KINDS."""
        phrasings: Phrasings = getattr(self, name)
        return phrasings


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
        vocabulary.write(vocabulary.state(event), np.random.default_rng(hash_of(event["shard"], event["event_id"])))
        for event in events.to_dict("records")
    ]


def claims_table(prefix: str, claims: list[Claims]) -> pd.DataFrame:
    """A column ``{prefix}{claim}`` for each claim, null where nothing is claimed."""
    columns = {
        name: [np.nan if kind == "float32" and vars(each)[name] is None else vars(each)[name] for each in claims]
        for name, kind in CLAIM_TYPES.items()
    }
    return pd.DataFrame({prefix + name: pd.Series(columns[name], dtype=kind) for name, kind in CLAIM_TYPES.items()})


def nearest_number(value: float, numbers: Iterable[int]) -> float:
    """The nearest to `value` > 0, by ratio, of `numbers` from 10 to 99 times a power of ten."""
    power = math.floor(math.log10(value))
    stated = [float(f"{number}e{p - 1}") for p in (power - 1, power, power + 1) for number in numbers]
    return min(stated, key=lambda number: abs(math.log(number / value)))


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


def any_of(phrases: Iterable[str]) -> str:
    """A regular expression for any of `phrases`, the longest first."""
    return "|".join(map(literally, sorted(phrases, key=len, reverse=True)))


def literally(text: str) -> str:
    """A regular expression for `text` with any whitespace between words."""
    return re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(text))


def phrase_pattern(expression: str, ends: str) -> re.Pattern[str]:
    """The pattern of a phrasing, from the regular expressions of its words, with placeholders, and of the endings."""
    for placeholder, pattern in (
        ("length", rf"{APPROXIMATELY}(?P<length>{NUMBER})\s*(?P<length_unit>{any_of(CM)})"),
        ("energy", rf"{APPROXIMATELY}(?P<energy>{NUMBER})\s*(?P<energy_unit>{any_of(MEV)})"),
        ("count", rf"(?P<count>\d{{1,3}}|{any_of(NUMBER_WORDS)})"),
        ("leaves", ends),
    ):
        expression = expression.replace(rf"\{{{placeholder}\}}", pattern)
    return re.compile(rf"(?<!\w)(?<!\d[.,]){expression}(?!\w)", re.IGNORECASE)


def find_matches(text: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> list[Match]:
    """Everything in `text` that matches one of `patterns`, in order, of those that begin together the longest first."""
    found = []
    for pattern, name in patterns:
        for match in pattern.finditer(text):
            number = next((match.span(key) for key in PLACEHOLDERS if match.groupdict().get(key)), None)
            stated = KINDS[name].fixed | _read(match, KINDS[name])
            found.append(Match(match.start(), match.end(), name, stated, number))
    return sorted(found, key=lambda match: (match.start, -match.end))


def settle(claims: dict[str, Any]) -> Claims:
    """Claims without those about a thing that is absent."""
    for thing, details in DETAILS.items():
        if claims.get(thing) is False:
            claims |= dict.fromkeys(details)
    if claims.get("gap") is None:
        claims["gap_cm"] = None
    return Claims(**claims)


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
            claims[field] = NUMBER_WORDS[text.lower()] if text.lower() in NUMBER_WORDS else int(text)
        else:
            unit = (CM if placeholder == "length" else MEV)[found[f"{placeholder}_unit"].lower()]
            claims[field] = float(f"{float(text.replace(',', '')) * unit:.6g}")
    return claims
