"""Which units a file has, from evidence: the energy loss in argon, and the size of the detector."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.sources.consistency import CM, ENERGIES_MEV, LENGTHS_MM, MIP_MEV_CM, EnergyLoss

FITS = 1.1
"""A sample of deposits may be this much larger than the detector, in each direction."""
CLOSE = 3.0
"""Largest factor from the energy loss of minimum-ionising particles, for another unit than that of the format."""
SMALL = 0.02
"""Deposits smaller than this part of the detector are tiny: their unit may be longer than that of the format."""

SMALLEST_MM = 20.0
"""No sample of events is smaller than this, in the right unit."""


@dataclass(frozen=True)
class Units:
    """Units of lengths and energies, and the evidence."""

    length: str
    energy: str
    evidence: str

    @property
    def length_mm(self) -> float:
        return LENGTHS_MM[self.length]

    @property
    def energy_mev(self) -> float:
        return ENERGIES_MEV[self.energy]


def decide_units(
    path: Path, loss: EnergyLoss, size: np.ndarray, box_mm: np.ndarray, assumed: Units, named: frozenset[str]
) -> Units:
    """The units of a file.

    A plausible energy loss confirms `assumed`. Otherwise exactly one other pair of units must give that of
    minimum-ionising particles, and the deposits must fit in the detector with it. Another unit of length needs more,
    because a wrong scale of the energies looks the same: deposits that do not fit in the detector with the assumed
    unit or are tiny in it, or a unit that the file names.

    Args:
        loss: energy loss of a sample in mm and MeV, if the file has the units `assumed`.
        size: (3,), extent of the sample in the file's unit.
        box_mm: (3,), size of the detector.
        assumed: units of the format.
        named: units that the file names; empty if it names none.

    Raises:
        InputError: no units, or several, agree with the evidence; or they contradict those that the file names.
    """
    median = loss.median()
    low, high = loss.limits
    if np.isnan(median):
        return assumed
    evidence = f"dE/dx of {{:.3g}} MeV/cm in {loss.length_mm / assumed.length_mm:.4g} {assumed.length} of path"
    named_length = [unit for unit in LENGTHS_MM if unit in named]
    named_energy = [unit for unit in ENERGIES_MEV if unit in named]
    fits = {unit: bool((size * mm <= FITS * box_mm).all()) for unit, mm in LENGTHS_MM.items()}
    tiny = bool((size * assumed.length_mm < SMALL * box_mm).all())
    point = {unit: bool((size * mm < SMALLEST_MM).all()) for unit, mm in LENGTHS_MM.items()}
    found = []
    for length, energy in itertools.product(LENGTHS_MM, ENERGIES_MEV):
        value = median * (ENERGIES_MEV[energy] / assumed.energy_mev) / (LENGTHS_MM[length] / assumed.length_mm)
        is_assumed = (length, energy) == (assumed.length, assumed.energy)
        plausible = low <= value <= high if is_assumed else MIP_MEV_CM / CLOSE < value < MIP_MEV_CM * CLOSE
        other_length = length != assumed.length and length not in named_length
        if (
            plausible
            and (is_assumed or fits[length])
            and not (other_length and (point[length] or (fits[assumed.length] and not tiny)))
        ):
            found.append(Units(length, energy, evidence.format(value)))
    if assumed.length in [units.length for units in found if units.energy == assumed.energy]:
        found = [units for units in found if (units.length, units.energy) == (assumed.length, assumed.energy)]
    if len(found) != 1:
        raise InputError(
            f"{path}: dE/dx below {median:.3g} MeV/cm over half of the path length, in {assumed.length} and "
            f"{assumed.energy}; about {MIP_MEV_CM} is expected in liquid argon. The deposits span "
            f"{np.round(size * assumed.length_mm / CM, 2).tolist()} cm if they are in {assumed.length}. "
            f"{'No units explain' if not found else 'Several units explain'} this: convert the file to "
            f"{assumed.length} and {assumed.energy}."
        )
    units = found[0]
    for names, unit, what in ((named_length, units.length, "lengths"), (named_energy, units.energy, "energies")):
        if names and unit not in names:
            raise InputError(
                f"{path}: an attribute names {', '.join(names)}, but {what} are in {unit}: {units.evidence}. Correct "
                "the attribute or the columns."
            )
    return units
