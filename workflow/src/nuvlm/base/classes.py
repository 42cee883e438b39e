"""The event classes: from truth, and as indices."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CLASSES = ("nue_cc", "numu_cc", "nc")


def classify_truth(nu_pdg: np.ndarray, is_cc: np.ndarray) -> np.ndarray:
    """Class of each event; None if its truth is unknown or it is a charged current of a tau neutrino.

    Neutral currents look the same for every flavour. Antineutrinos are in the class of their neutrinos.

    Args:
        nu_pdg: (events,) PDG code of the neutrino, 0 if unknown.
        is_cc: (events,) whether the interaction is a charged current.

    Returns:
        (events,) of type object: names of CLASSES, or None.
    """
    flavour = np.abs(nu_pdg)
    current = is_cc.astype(bool)
    return np.select(
        [(flavour == 12) & current, (flavour == 14) & current, np.isin(flavour, (12, 14, 16)) & ~current],
        np.array(CLASSES, dtype=object),
        default=np.array(None, dtype=object),
    )


def class_codes(names: "pd.Series[str]") -> np.ndarray:
    """Index in :data:`CLASSES` of each class name: (n,) int64, -1 for anything else."""
    import pandas as pd  # not at the top: CLASSES are read while rules are parsed

    return np.asarray(pd.Categorical(names, categories=list(CLASSES)).codes, dtype=np.int64)
