"""Free text: what models state that were not trained on the phrasings of the vocabulary (docs/faithfulness.md)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nuvlm.models.vlm.rationales import (
    APPROXIMATELY,
    CM,
    DETAILS,
    KINDS,
    MEV,
    Claims,
    Match,
    Rationales,
    any_of,
    find_matches,
    literally,
    phrase_pattern,
    settle,
)
from nuvlm.models.vlm.spelling import NUMBER_WORDS, sentences, spell_alike

SUBJECTS = ("track", "shower", "another")
"""Names of the words that a statement may be about."""
THINGS = {
    "track": "track",
    "no_track": "track",
    "shower": "shower",
    "no_shower": "shower",
    "gap": "shower",
    "no_gap": "shower",
}
"""What each kind of sentence is about."""
_JOINED = r"(?:to|or|and|x|×|\*|\^|±|\+/?-|-)"
PART_OF_NUMBER = re.compile(
    rf"(?:\d\s*(?:[a-z]+\s*)?{_JOINED}\s*|\d\s+|\d[.,]|[-^±/]|(?<!\w)(?:{any_of(NUMBER_WORDS)})\s+{_JOINED}\s+)$",
    re.IGNORECASE,
)
"""Text before digits that are part of a range, a product, a power or an uncertainty."""
CONTINUED = re.compile(rf"\s*(?:[a-z]+\s*)?{_JOINED}\s*[~≈]?\d", re.IGNORECASE)
"""Text after digits that are."""
SAME = 1.25
"""Largest ratio of two lengths or energies that do not contradict each other."""
UNIT = re.compile(r"\s*[a-z]*\s*", re.IGNORECASE)
WORD = re.compile(r"[^\W\d]+|[^\s,.;:!?'-]")
"""What must be known of the text around a statement; digits one by one."""


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
    unclear: int = 0
    """Sentences in which a statement was not read as it is denied in words that are not known, not asserted, or beside
    other words that are not known."""

    @property
    def agreed(self) -> Claims:
        """The claims without those that are contradicted."""
        return replace(self.claims, **dict.fromkeys(self.contradicted))


class FreeText:
    """Reads free text with the phrasings of a vocabulary."""

    def __init__(self, words: Rationales) -> None:
        self._words = words.words
        ends = rf"(?:(?P<leaves>{self._any_phrase((*words.leaves, *words.free_leaves))})|"
        ends += rf"{self._any_phrase((*words.stays, *words.free_stays))})"
        self._patterns = words.patterns + [
            (phrase_pattern(self._expression(phrase), ends), name)
            for name in KINDS
            for phrase in words.phrasings(name).free
        ]
        lists = {thing: words.words.get(thing, ()) for thing in SUBJECTS}
        lists |= {name: getattr(words, name) for name in ("denials", "hedges", "limits", "distances", "retractions")}
        self._lists = {name: re.compile(_whole_word(listed), re.IGNORECASE) for name, listed in lists.items()}
        known = [words.neutral, *(listed for name, listed in words.words.items() if name != "another")]
        self._known = {word.lower() for phrases in known for phrase in phrases for word in phrase.split()}

    def read(self, text: str) -> Reading:
        """What free text states (docs/faithfulness.md).

        As :meth:`nuvlm.models.vlm.rationales.Rationales.parse`, with more phrasings. A sentence that denies or hedges
        what it says, or asks, makes no claim, and neither does a clause with a word that is not known: it may change
        what the others mean. Statements that contradict each other are noted.
        """
        text = spell_alike(text, (*CM, *MEV))
        found = find_matches(text, self._patterns)
        usable = self._usable(text, found)
        whole = [match for match in found if not _is_qualified(match, found)]
        asserted: list[list[Match]] = []
        denied = hedged = unclear = 0
        for begin, end in (spans := sentences(text)):
            sentence = text[begin:end].strip(" \n.!,;")
            if asserted and self._lists["retractions"].fullmatch(sentence):
                denied += bool(asserted[-1])
                asserted[-1] = []
            inside = [match for match in usable if begin <= match.start < end]
            hedge = self._is_said("hedges", text, begin, end, whole) or text[begin:end].rstrip().endswith("?")
            denial = self._is_said("denials", text, begin, end, whole)
            clear = [match for match in inside if self._is_clear(text, begin, end, match, found)]
            hedged += bool(inside and hedge)
            denied += bool(inside and denial and not hedge)
            unclear += bool(inside and not clear and not denial and not hedge)
            asserted.append([] if hedge or denial else clear)
        claims, contradicted = self._merge(text, [match for inside in asserted for match in inside])
        understood = sum(map(bool, asserted))
        return Reading(claims, contradicted, len(spans), understood, denied, hedged, unclear)

    def _is_said(self, listed: str, text: str, begin: int, end: int, found: list[Match]) -> bool:
        """Whether `text` has one of the words of a list from `begin` to `end`, and not as part of a phrasing."""
        return any(not _is_part(word, found) for word in self._lists[listed].finditer(text, begin, end))

    def _usable(self, text: str, found: list[Match]) -> list[Match]:
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
                if PART_OF_NUMBER.search(before) or CONTINUED.match(after) or self._is_limit(text, match):
                    continue
                if 0 in (match.stated.get(name) for name in ("track_cm", "shower_mev", "gap_cm")):
                    continue
                # "the track begins 10 cm from the vertex" states no length
                if match.name != "gap" and (match.number in gaps or self._follows("distances", text, match)):
                    continue
            if self._is_about(match, subjects) and not _is_qualified(match, found):
                usable.append(match)
        return usable

    def _is_clear(self, text: str, begin: int, end: int, match: Match, found: list[Match]) -> bool:
        """Whether all other words of the clause of a match, in a sentence from `begin` to `end`, are known."""
        begin = max(begin, text.rfind(",", begin, match.start) + 1)
        end = min(end, comma) if (comma := text.find(",", match.end, end)) >= 0 else end
        return all(word[0].lower() in self._known or _is_part(word, found) for word in WORD.finditer(text, begin, end))

    def _is_limit(self, text: str, match: Match) -> bool:
        """Whether the number of a match is a limit, by words that are no part of the phrasing."""
        assert match.number is not None
        before = text[: match.number[0]]
        before = re.sub(rf"(?:\b(?:an?|the)\s+)?{APPROXIMATELY}$", "", before, flags=re.IGNORECASE).rstrip()
        limits = self._lists["limits"].finditer(before)
        return self._follows("limits", text, match, match.end) or any(word.end() == len(before) for word in limits)

    def _follows(self, listed: str, text: str, match: Match, begin: int = 0) -> bool:
        """Whether one of the words of a list, not before `begin`, follows the unit of the number of a match."""
        assert match.number is not None
        unit = UNIT.match(text, match.number[1])
        return bool(unit and unit.end() >= begin and self._lists[listed].match(text, unit.end()))

    def _is_about(self, match: Match, subjects: Sequence[tuple[int, int, str]]) -> bool:
        """Whether a match names its thing, or else that thing was named last; a gap may have no thing before it."""
        thing = THINGS.get(match.name)
        if thing is None or any(name == thing and match.start <= start < match.end for start, _, name in subjects):
            return True
        last = [name for start, _, name in subjects if start < match.start][-1:]
        return last == [thing] or (not last and match.name in ("gap", "no_gap"))

    def _merge(self, text: str, found: list[Match]) -> tuple[Claims, frozenset[str]]:
        """The claims of matches in order, and those of which something else is stated later."""
        claims: dict[str, Any] = {}
        contradicted: set[str] = set()
        merged: list[Match] = []
        aside: list[Match] = []
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
        return settle(claims), frozenset(contradicted)

    def _is_further(self, text: str, match: Match, claims: Mapping[str, Any]) -> bool:
        """Whether a match is about "a" smaller thing than the one of `claims`."""
        end = match.end if match.number is None else match.number[0]
        words = text[: match.start].lower().split()[-3:] + text[match.start : end].lower().split()
        numbers = [
            (claims.get(name), match.stated[name]) for name in ("track_cm", "shower_mev") if name in match.stated
        ]
        smaller = all(stated is not None and value < stated for stated, value in numbers)
        return bool(numbers) and smaller and not {"a", "an"}.isdisjoint(words)

    def _is_named_by(self, others: Iterable[Match], match: Match, text: str) -> bool:
        """Whether a match is about the thing that one of `others` named before in its sentence."""
        return any(
            THINGS.get(other.name) == THINGS.get(match.name)
            and other.start <= match.start
            and len(sentences(text[other.start : match.end])) == 1
            and not any(self._lists[thing].search(text, other.end, match.end) for thing in SUBJECTS)
            for other in others
        )

    def _any_phrase(self, phrases: Iterable[str]) -> str:
        """A regular expression for any of `phrases`, the longest first."""
        return f"(?:{'|'.join(self._expression(phrase) for phrase in sorted(phrases, key=len, reverse=True))})"

    def _expression(self, phrase: str) -> str:
        """The regular expression of a phrasing, with placeholders. Words that may be left out have their space."""
        expression = space = ""
        tokens = re.findall(r"(?:\([^)]*\)|[^\s(])+|\(", phrase)
        for i, token in enumerate(tokens):
            pattern, optional = self._token(token)
            if not optional:
                expression, space = expression + space + pattern, r"\s+"
            elif i + 1 < len(tokens):
                expression, space = rf"{expression}{space}(?:{pattern}\s+){{0,3}}", ""
            else:
                expression += rf"(?:\s+{pattern})?"
        return expression

    def _token(self, token: str) -> tuple[str, bool]:
        """The regular expression of one word of a phrasing, and whether it may be left out."""
        words = token[1:-1].split("|") if re.fullmatch(r"\([^)]*\)", token) else self._words.get(token[1:-1])
        if words is not None:
            return self._any_phrase(word for word in words if word), "" in words
        expression = literally(token)
        for name, listed in self._words.items():
            expression = expression.replace(rf"\{{{name}\}}", f"(?:{any_of(filter(None, listed))})")
        return expression, False


def _differs(one: Any, other: Any) -> bool:
    """Whether two statements about the same contradict each other; lengths and energies are not that exact."""
    if one is None or other is None:
        return False
    if isinstance(one, float):
        return not max(one, other) <= SAME * min(one, other)
    return bool(one != other)


def _is_part(word: re.Match[str], found: list[Match]) -> bool:
    """Whether a word belongs to a phrasing that was found."""
    return any(match.start <= word.start() and word.end() <= match.end for match in found)


def _is_qualified(match: Match, found: list[Match]) -> bool:
    """Whether a match is denied, or denies, with a qualification: "no track of 80 cm" does not deny all tracks."""
    denied = [other for other in found if False in KINDS[other.name].fixed.values()]
    # "no track is not seen"
    if match in denied and any(match.crosses(other) for other in denied if other.name == match.name):
        return True
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
    return rf"(?<!\w)(?:{any_of(words) or '(?!)'})(?!\w)"
