"""A measured quantity and its reference value."""

import math
from dataclasses import asdict, dataclass
from typing import Any

DEVIATIONS = 3
"""A check passes if it deviates by at most this many combined standard uncertainties."""


@dataclass(frozen=True)
class Check:
    """A measured quantity and its reference value; of a curve, the point that deviates most."""

    quantity: str
    unit: str
    measured: float
    error: float
    """Standard error of the sample; 0 for values that GEANT4 computes."""
    expected: float
    uncertainty: float
    """Standard uncertainty of the expected value."""
    source: str
    points: int = 1

    @property
    def deviation(self) -> float:
        """In combined standard uncertainties."""
        return abs(self.measured - self.expected) / math.hypot(self.error, self.uncertainty)

    @property
    def passed(self) -> bool:
        return self.deviation <= DEVIATIONS

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"deviation": self.deviation, "passed": self.passed}
