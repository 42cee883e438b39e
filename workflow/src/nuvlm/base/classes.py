"""The event classes: from truth, and as indices."""

import numpy as np
import pandas as pd

CLASSES = ("nue_cc", "numu_cc", "nc")


def classify_truth(nu_pdg: np.ndarray, is_cc: np.ndarray) -> np.ndarray:
    """Class of each event, None where the truth is unknown or not classified here (nu_tau CC).

    Neutral currents look the same for every flavour; antineutrinos go with their neutrinos.
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
    return np.asarray(pd.Categorical(names, categories=list(CLASSES)).codes, dtype=np.int64)
