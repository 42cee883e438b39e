"""Rationales: a few sentences from fixed phrasings that describe an event; written from truth and parsed.

Writing and parsing use the same phrasings (resources/rationales.yaml), so each claim of a model can be checked. Free text
of other models is read with the same phrasings and more (docs/faithfulness.md).
"""

import hashlib
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import pandas as pd
from pydantic import Field, PrivateAttr, model_validator

from nuvlm.base.settings import Settings
from nuvlm.models.vlm.free_text import NUMBER_WORDS, sentences, spell_alike
from nuvlm.models.vlm.prompts import read_texts

def _any_of(phrases: Iterable[str]) -> str:
    """A regular expression for any of `phrases`, the longest first."""
    return "|".join(map(_literally, sorted(phrases, key=len, reverse=True)))


def _literally(text: str) -> str:
    """A regular expression for `text` with any whitespace between words."""
    return re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(text))


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


@dataclass(frozen=True)
class Reading:
    """What a text states, and how much of it was understood."""

    claims: Claims
    """Of several statements about one thing, the first."""
    contradicted: frozenset[str] = frozenset()
    """Names of claims of which the text also states something else."""
    sentences: int = 0
    understood: int = 0
    """Sentences in which a statement was read."""
    denied: int = 0
    hedged: int = 0
    """Sentences in which a statement was not read as it is denied in words that are not known, or not asserted."""

    @property
    def agreed(self) -> Claims:
        """The claims without those that are contradicted."""
        return replace(self.claims, **dict.fromkeys(self.contradicted))


SUBJECTS = ("track", "shower", "another")
"""Names of the words that a statement may be about."""
THINGS = {"track": "track", "no_track": "track", "shower": "shower", "no_shower": "shower", "gap": "shower", "no_gap": "shower"}
"""What each kind of sentence is about."""
DETAILS = {"track": ("track_cm", "leaves"), "shower": ("shower_mev", "gap"), "gap": ("gap_cm",)}
"""Claims about each thing."""
PLACEHOLDERS = ("length", "energy", "count")
_JOINED = r"(?:to|or|and|x|×|\*|\^|±|\+/?-|-)"
PART_OF_NUMBER = re.compile(
    rf"(?:\d\s*(?:[a-z]+\s*)?{_JOINED}\s*|\d\s+|\d[.,]|[-^±/]|(?<!\w)(?:{_any_of(NUMBER_WORDS)})\s+{_JOINED}\s+)$",
    re.IGNORECASE,
)
"""Text before digits that are not a number for themselves, but part of a range, a product, a power or an uncertainty."""
CONTINUED = re.compile(rf"\s*(?:[a-z]+\s*)?{_JOINED}\s*[~≈]?\d", re.IGNORECASE)
"""Text after such digits."""
SAME = 1.25
"""Largest ratio of two lengths or energies that do not contradict each other."""


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


class _Match(NamedTuple):
    """A phrasing that was found in a text."""

    start: int
    end: int
    name: str
    """Kind of sentence."""
    stated: dict[str, Any]
    number: tuple[int, int] | None
    """Begin and end of its number."""

    def overlaps(self, other: "_Match") -> bool:
        return self.start < other.end and other.start < self.end


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
    denials: Words = ()
    """Outside a phrasing they deny their sentence, which is then not read."""
    hedges: Words = ()
    """A sentence with one of them asserts nothing."""
    limits: Words = ()
    """Next to a number they make it a limit, which is no claim."""
    further: Words = ()
    """Introduce a further thing: a smaller number of it contradicts nothing."""
    retractions: Words = ()
    """Sentences that take back the one before."""
    track: Phrasings
    no_track: Phrasings
    shower: Phrasings
    no_shower: Phrasings
    gap: Phrasings
    no_gap: Phrasings
    charged: Phrasings
    _patterns: list[tuple[re.Pattern[str], str]] = PrivateAttr()
    _free: list[tuple[re.Pattern[str], str]] | None = PrivateAttr(None)
    """Compiled when it is needed first: that takes longer than all else that is done with a vocabulary."""
    _lists: dict[str, re.Pattern[str]] = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._patterns = self._compile(lambda phrasings: (*phrasings.write, *phrasings.read), self.leaves, self.stays)
        lists = {thing: self.words.get(thing, ()) for thing in SUBJECTS}
        lists |= {name: getattr(self, name) for name in ("denials", "hedges", "limits", "further", "retractions")}
        self._lists = {name: re.compile(_whole_word(words), re.IGNORECASE) for name, words in lists.items()}
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
        """The claims in the text of a model that was trained on these phrasings.

        The first statement about an object counts; later ones are ignored. Lengths and energies of an object that the
        text says is absent are ignored. Text that matches no phrasing makes no claim.
        """
        claims: dict[str, Any] = {}
        for match in _find(text, self._patterns):
            claims = match.stated | claims
        return _settle(claims)

    def read(self, text: str) -> Reading:
        """What free text states (docs/faithfulness.md).

        As :meth:`parse`, with more phrasings. A sentence that denies or hedges what it says, or asks, makes no claim.
        Statements that contradict each other are noted.
        """
        if self._free is None:
            self._free = self._patterns + self._compile(
                lambda phrasings: phrasings.free, (*self.leaves, *self.free_leaves), (*self.stays, *self.free_stays)
            )
        text = spell_alike(text, (*CM, *MEV))
        usable = self._usable(text, _find(text, self._free))
        asserted: list[list[_Match]] = []
        denied = hedged = 0
        for begin, end in (spans := sentences(text)):
            sentence = text[begin:end].strip(" \n.!,;")
            if asserted and self._lists["retractions"].fullmatch(sentence):
                denied += bool(asserted[-1])
                asserted[-1] = []
            inside = [match for match in usable if begin <= match.start < end]
            hedge = self._lists["hedges"].search(text, begin, end) or text[begin:end].rstrip().endswith("?")
            denial = any(
                not any(match.start <= word.start() and word.end() <= match.end for match in usable)
                for word in self._lists["denials"].finditer(text, begin, end)
            )
            hedged += bool(inside and hedge)
            denied += bool(inside and denial and not hedge)
            asserted.append([] if hedge or denial else inside)
        claims, contradicted = self._merge(text, [match for inside in asserted for match in inside])
        understood = sum(map(bool, asserted))
        return Reading(claims, contradicted, len(spans), understood, denied=denied, hedged=hedged)

    def _usable(self, text: str, found: list[_Match]) -> list[_Match]:
        """The matches whose number, if any, is one number and not a limit, and that are about their own thing."""
        subjects = sorted(
            (word.start(), word.end(), thing) for thing in SUBJECTS for word in self._lists[thing].finditer(text)
        )
        # "muon neutrino" is no muon
        subjects = [one for one in subjects if not any(_contains(other, one) for other in subjects)]
        gaps = {match.number for match in found if match.name == "gap"}
        usable = []
        for match in found:
            if match.number is not None:
                before, after = text[: match.number[0]], text[match.number[1] :]
                if PART_OF_NUMBER.search(before) or CONTINUED.match(after) or self._is_limit(before, after):
                    continue
                if 0 in (match.stated.get(name) for name in ("track_cm", "shower_mev", "gap_cm")):
                    continue
                if match.name != "gap" and match.number in gaps:  # "the track begins 10 cm from the vertex" has no length
                    continue
            if self._is_about(match, subjects) and not _is_qualified(match, found):
                usable.append(match)
        return usable

    def _is_limit(self, before: str, after: str) -> bool:
        """Whether a number between these texts is a limit."""
        before = re.sub(rf"(?:\b(?:an?|the)\s+)?{APPROXIMATELY}$", "", before, flags=re.IGNORECASE).rstrip()
        unit = re.match(r"\s*[a-z]+\s*", after, re.IGNORECASE)
        after = after[unit.end() :] if unit else after.lstrip()
        limits = self._lists["limits"]
        return bool(limits.match(after)) or any(word.end() == len(before) for word in limits.finditer(before))

    def _is_about(self, match: _Match, subjects: Sequence[tuple[int, int, str]]) -> bool:
        """Whether a match names its thing, or else that thing was named last; a gap may have no thing before it."""
        thing = THINGS.get(match.name)
        if thing is None or any(name == thing and match.start <= start < match.end for start, _, name in subjects):
            return True
        last = [name for start, _, name in subjects if start < match.start][-1:]
        return last == [thing] or (not last and match.name in ("gap", "no_gap"))

    def _merge(self, text: str, found: list[_Match]) -> tuple[Claims, frozenset[str]]:
        """The claims of matches in order, and those of which something else is stated later."""
        claims: dict[str, Any] = {}
        contradicted: set[str] = set()
        merged: list[_Match] = []
        aside: list[_Match] = []
        for match in found:
            clash = {name for name, value in match.stated.items() if _differs(claims.get(name), value)}
            if clash and any(match.overlaps(other) and clash & other.stated.keys() for other in merged):
                continue
            if clash and (self._is_further(text, match, claims) or self._is_named_by(aside, match, text)):
                aside.append(match)
                continue
            contradicted |= clash
            claims = match.stated | claims
            merged.append(match)
        for thing, details in DETAILS.items():
            if thing in contradicted:
                contradicted |= {name for name in details if claims.get(name) is not None}
        return _settle(claims), frozenset(contradicted)

    def _is_further(self, text: str, match: _Match, claims: Mapping[str, Any]) -> bool:
        """Whether a match is about a further, smaller thing than the one of `claims`."""
        end = match.end if match.number is None else match.number[0]
        words = text[: match.start].split()[-3:] + text[match.start : end].split()
        marks = [word for word in words if self._lists["further"].fullmatch(word)]
        numbers = [(claims.get(name), match.stated[name]) for name in ("track_cm", "shower_mev") if name in match.stated]
        smaller = all(stated is not None and value < stated for stated, value in numbers)
        return smaller and any(len(mark) > 2 or numbers for mark in marks)

    def _is_named_by(self, others: Iterable[_Match], match: _Match, text: str) -> bool:
        """Whether a match is about the thing that one of `others` named before in its sentence."""
        return any(
            THINGS.get(other.name) == THINGS.get(match.name)
            and other.start <= match.start
            and len(sentences(text[other.start : match.end])) == 1
            and not any(self._lists[thing].search(text, other.end, match.end) for thing in SUBJECTS)
            for other in others
        )

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

    def _compile(
        self, phrases: Callable[[Phrasings], Words], leaves: Words, stays: Words
    ) -> list[tuple[re.Pattern[str], str]]:
        """The regular expressions of some phrasings of every kind, and their kinds."""
        ends = rf"(?:(?P<leaves>{self._any_phrase(leaves)})|{self._any_phrase(stays)})"
        return [
            (
                re.compile(
                    rf"(?<!\w)(?<!\d[.,]){self._expression(phrase.strip().rstrip('.'), ends)}(?!\w)", re.IGNORECASE
                ),
                name,
            )
            for name in KINDS
            for phrase in phrases(self._phrasings(name))
        ]

    def _any_phrase(self, phrases: Iterable[str]) -> str:
        """A regular expression for any of `phrases`, the longest first."""
        return f"(?:{'|'.join(self._expression(phrase) for phrase in sorted(phrases, key=len, reverse=True))})"

    def _expression(self, phrase: str, ends: str = "") -> str:
        """The regular expression of a phrasing. Words that may be left out take their space with them."""
        expression = space = ""
        tokens = re.findall(r"(?:\([^)]*\)|\{\w+\}|[^\s({])+|[({]", phrase)
        for i, token in enumerate(tokens):
            pattern, optional = self._token(token, ends)
            if not optional:
                expression, space = expression + space + pattern, r"\s+"
            elif i + 1 < len(tokens):
                expression, space = rf"{expression}{space}(?:{pattern}\s+){{0,3}}", ""
            else:
                expression += rf"(?:\s+{pattern})?"
        return expression

    def _token(self, token: str, ends: str) -> tuple[str, bool]:
        """The regular expression of one word of a phrasing, and whether it may be left out."""
        words = token[1:-1].split("|") if re.fullmatch(r"\([^)]*\)", token) else self.words.get(token[1:-1])
        if words is not None:
            return self._any_phrase(word for word in words if word), "" in words
        patterns = {
            "{length}": rf"{APPROXIMATELY}(?P<length>{NUMBER})\s*(?P<length_unit>{_any_of(CM)})",
            "{energy}": rf"{APPROXIMATELY}(?P<energy>{NUMBER})\s*(?P<energy_unit>{_any_of(MEV)})",
            "{count}": rf"(?P<count>\d{{1,3}}|{_any_of(NUMBER_WORDS)})",
            "{leaves}": ends,
        }
        patterns |= {f"{{{name}}}": f"(?:{_any_of(filter(None, words))})" for name, words in self.words.items()}
        return "".join(patterns.get(piece) or _literally(piece) for piece in re.split(r"(\{\w+\})", token)), False


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


def _find(text: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> list[_Match]:
    """Everything in `text` that matches one of `patterns`, in order, of those that begin together the longest first."""
    found = []
    for pattern, name in patterns:
        for match in pattern.finditer(text):
            number = next((match.span(key) for key in PLACEHOLDERS if match.groupdict().get(key)), None)
            stated = KINDS[name].fixed | _read(match, KINDS[name])
            found.append(_Match(match.start(), match.end(), name, stated, number))
    return sorted(found, key=lambda match: (match.start, -match.end))


def _settle(claims: dict[str, Any]) -> Claims:
    """Claims without those about a thing that is absent."""
    for thing, details in DETAILS.items():
        if claims.get(thing) is False:
            claims |= dict.fromkeys(details)
    if claims.get("gap") is None:
        claims["gap_cm"] = None
    return Claims(**claims)


def _differs(one: Any, other: Any) -> bool:
    """Whether two statements about the same contradict each other; lengths and energies are not that exact."""
    if one is None or other is None:
        return False
    if isinstance(one, float):
        return not max(one, other) <= SAME * min(one, other)
    return bool(one != other)


def _is_qualified(match: _Match, found: list[_Match]) -> bool:
    """Whether a match denies, or is denied, with a qualification: "no track of 80 cm" does not say that there is none."""
    denied = [other for other in found if False in KINDS[other.name].fixed.values()]
    for no in denied:
        thing = THINGS[no.name]
        end = max(other.end for other in denied if other.name == no.name and other.overlaps(no))
        for yes in found:
            detailed = THINGS.get(yes.name) == thing and yes.stated.keys() - KINDS[yes.name].fixed.keys()
            if detailed and yes not in denied and yes.overlaps(no) and yes.end > end and match in (no, yes):
                return True
    return False


def _contains(outer: tuple[int, int, str], inner: tuple[int, int, str]) -> bool:
    return outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]


def _whole_word(words: Iterable[str]) -> str:
    """A regular expression for any of `words`, which may be several words or signs, but no part of a word."""
    return rf"(?<!\w)(?:{_any_of(words) or '(?!)'})(?!\w)"


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


def _rng(shard: str, event_id: int) -> np.random.Generator:
    """Random number generator that depends only on the event's identity."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{shard}/{event_id}".encode()).digest()[:8], "big"))
