"""What a reader concluded about its file, and from what evidence: axes, units, numbering, detector."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conclusion:
    """One statement about a file that its reader relies on."""

    subject: str
    """What it is about: "axes", "length unit", "energy unit", "event ids", "truth", ..."""
    value: str
    """Such as "cm", or "x along the drift, z along the beam"."""
    evidence: str
    """From what it follows, such as "dE/dx of 2.1 MeV/cm (median over path length)"."""
    doubt: bool = False
    """Whether the file does not say so itself, says something else, or something was lost: logged as a warning. A file
    with a doubt is called *marked*."""


class Record(Protocol):
    """Takes conclusions, as the writers' method `conclude` does."""

    def __call__(self, path: Path, subject: str, value: str, evidence: str, doubt: bool = False) -> None: ...


class Conclusions:
    """The conclusions about one file, in the order in which they were reached. Each is logged."""

    def __init__(self) -> None:
        self._found: list[Conclusion] = []

    def add(self, path: Path, subject: str, value: str, evidence: str, doubt: bool = False) -> None:
        """Record a conclusion about `path`."""
        self._found.append(Conclusion(subject, value, evidence, doubt))
        logger.log(logging.WARNING if doubt else logging.INFO, "%s: %s: %s (%s)", path, subject, value, evidence)

    def __iter__(self) -> Iterator[Conclusion]:
        return iter(self._found)

    def to_json(self) -> str:
        """A JSON list, for the attributes of the written store; `doubt` is there if it is true."""
        found = [asdict(conclusion) for conclusion in self._found]
        return json.dumps([{name: value for name, value in row.items() if name != "doubt" or value} for row in found])
