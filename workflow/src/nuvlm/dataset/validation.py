"""How many validation events a smaller training set keeps.

Nothing heavy is imported: the plan of a run reckons with it before anything is read.
"""

LEAST_VALIDATION = 500
"""Validation events that a smaller training set keeps at least, if there are so many."""


def kept_validation(validation: float, train: float, count: float) -> float:
    """Validation events kept with `count` of `train` training events: the same fraction, at least LEAST_VALIDATION.

    Args:
        validation: all validation events.
        train: all training events, more than 0.
        count: training events that stay, at most `train`.
    """
    return min(validation, max(round(validation * count / train), LEAST_VALIDATION))
