"""From charge that was read out to visible energy."""

import numpy as np

from nuvlm.detector.readout import MIP_MEV_PER_CM, Recombination

IONISATION_MEV = 23.6e-6
"""Energy for one pair of electron and ion in liquid argon, MeV (M. Miyajima et al., Phys. Rev. A 9 (1974) 1438)."""


def mev_per_electron(field_kv_cm: float) -> float:
    """Visible energy of one electron that was read out, MeV.

    It is calibrated with minimum-ionising particles, as in :meth:`Recombination.visible_energy`: W / R(2.1 MeV/cm),
    with the recombination factor R of Birks' law (S. Amoruso et al., NIM A 523 (2004) 275).

    Args:
        field_kv_cm: drift field.
    """
    survival = Recombination(model="birks", field_kv_cm=field_kv_cm).survival(np.array([MIP_MEV_PER_CM]))
    return IONISATION_MEV / float(survival[0])
