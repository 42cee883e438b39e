"""The classes of the classification, and how truth becomes one of them."""

import numpy as np

CLASSES = ("nue_cc", "numu_cc", "nc")


def classify_truth(nu_pdg: np.ndarray, is_cc: np.ndarray) -> np.ndarray:
    """Class of each event, None where the truth is not known or the class is none of ours (nu_tau CC).

    Neutral currents look the same for every flavour; antineutrinos go with their neutrinos.
    """
    flavour = np.abs(nu_pdg)
    current = is_cc.astype(bool)
    return np.select(
        [(flavour == 12) & current, (flavour == 14) & current, np.isin(flavour, (12, 14, 16)) & ~current],
        np.array(CLASSES, dtype=object),
        default=np.array(None, dtype=object),
    )
