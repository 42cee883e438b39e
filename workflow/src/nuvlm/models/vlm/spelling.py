"""Free text before phrasings are looked for in it: one spelling of each thing, numbers in digits, sentences."""

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise

UNITS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
UNITS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBER_WORDS = {word: value for value, word in enumerate(UNITS)} | {"zero": 0, "single": 1}
NUMBER_WORDS |= {word: 10 * value for value, word in enumerate(TENS, start=2)}
POWERS = {"hundred": 100, "thousand": 1000}
_WORD = rf"(?:{'|'.join([*UNITS[1:], *TENS, *POWERS])})"
_SPELT = rf"(?:a\s+(?={'|'.join(POWERS)}))?{_WORD}(?:(?:\s+and)?\s+{_WORD})*"
SPELLINGS = (
    (r"[’‘`´]", "'"),
    (r"[−‐‑]", "-"),
    (r"(?<=\d)\s*[–—]\s*(?=\d)", "-"),
    (r"\s*[–—]\s*", " ; "),
    (r"[*#|\"“”]", ""),
    (r"_", " "),
    (r"\s*\(\s*", ", "),
    (r"\s*\)", ","),
    (r"\bcan'?t\b|\bcannot\b", "can not"),
    (r"\bwon't\b", "will not"),
    (r"n't\b", " not"),
    (r"\b(is|are|was|were|does|do|did|has|have|had|would|could|should)nt\b", r"\1 not"),
    (r"\b(?:approx|ca)\.", "about"),
    (r"\b(?:e\.g|i\.e|cf|fig)\.", ""),
    (r"(?<=[a-z])-(?=\w)|(?<=\w)-(?=[a-z])", " "),
)
"""Patterns and what they become, in this order."""


def spell_alike(text: str, units: Iterable[str]) -> str:
    """`text` with one kind of quotes, dashes and negation, without markup, and with lengths and energies in digits.

    Args:
        text: any text.
        units: of lengths and energies; numbers in words are put in digits only before one of them.
    """
    text = unicodedata.normalize("NFKC", text)
    for pattern, replacement in SPELLINGS:
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
    unit = "|".join(sorted(units, key=len, reverse=True))
    text = re.sub(
        rf"(?<!\w)({_SPELT})(\s+and\s+a\s+half)?(?=\s+(?:{unit})(?!\w))", _to_digits, text, flags=re.IGNORECASE
    )
    return re.sub(rf"(?<!and )\bhalf\s+an?(?=\s+(?:{unit})(?!\w))", "0.5", text, flags=re.IGNORECASE)


def _to_digits(match: re.Match[str]) -> str:
    return f"{value_of(match[1]) + (0.5 if match[2] else 0):g}"


def value_of(words: str) -> int:
    """The number that `words` spell, below a million: "two hundred and forty", "twelve hundred".

    Raises:
        KeyError: a word is not part of a number.
    """
    total, current = 0, 0
    for word in words.lower().split():
        if word in ("and", "a"):
            continue
        if word in POWERS:
            current = max(current, 1) * POWERS[word]
            if word == "thousand":
                total, current = total + current, 0
        else:
            current += NUMBER_WORDS[word]
    return total + current


def sentences(text: str) -> list[tuple[int, int]]:
    """Begin and end of each sentence of `text`, its closing mark included. Items of a list are sentences."""
    ends = [match.end() for match in re.finditer(r"[.!?]+(?=\s|$)|;|\n\s*\n|\n\s*(?=-\s)", text)]
    bounds = [0, *ends, len(text)]
    return [(begin, end) for begin, end in pairwise(bounds) if re.search(r"\w", text[begin:end])]
