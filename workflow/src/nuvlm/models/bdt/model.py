"""The trees as plain arrays: no pickle to trust, and nothing but NumPy to classify with."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json
from nuvlm.base.manifest import verify_manifest
from nuvlm.models.bdt.features import feature_names

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Trees:
    """Boosted trees; the nodes of all of them in a row.

    Attributes:
        baseline: (classes,) what every event begins with.
        roots: (rounds, classes) int64, the node that each tree begins at.
        feature: (nodes,) int64, what a node asks about.
        threshold: (nodes,) float64; an event whose feature is not greater goes left.
        left, right: (nodes,) int64, the next node; of a leaf the leaf itself.
        value: (nodes,) float64, what a leaf adds to its class.
    """

    baseline: np.ndarray
    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, fitted: "HistGradientBoostingClassifier", rounds: int) -> Self:
        """The first `rounds` of a classifier of scikit-learn, fitted on finite features."""
        nodes, roots = [], np.zeros((rounds, len(fitted.classes_)), dtype=np.int64)
        size = 0
        # scikit-learn has no public view of its trees; training compares the answers with its own.
        for i, of_round in enumerate(fitted._predictors[:rounds]):
            for k, tree in enumerate(of_round):
                node = tree.nodes
                itself = size + np.arange(len(node))
                leaf = node["is_leaf"].astype(bool)
                nodes.append(
                    (
                        node["feature_idx"].astype(np.int64) * ~leaf,
                        node["num_threshold"].astype(np.float64) * ~leaf,
                        np.where(leaf, itself, size + node["left"].astype(np.int64)),
                        np.where(leaf, itself, size + node["right"].astype(np.int64)),
                        node["value"].astype(np.float64) * leaf,
                    )
                )
                roots[i, k] = size
                size += len(node)
        arrays = [np.concatenate(column) for column in zip(*nodes, strict=True)]
        return cls(fitted._baseline_prediction.ravel().astype(np.float64), roots, *arrays)

    def logits(self, table: np.ndarray) -> np.ndarray:
        """(events, classes), log-probabilities up to a constant of each event, of features (events, features)."""
        node = np.broadcast_to(self.roots.ravel(), (len(table), self.roots.size))  # (events, trees)
        events = np.arange(len(table))[:, None]
        while True:
            goes_left = table[events, self.feature[node]] <= self.threshold[node]
            following = np.where(goes_left, self.left[node], self.right[node])
            if np.array_equal(following, node):
                break
            node = following
        # (events, rounds * classes) -> (events, rounds, classes)
        added: np.ndarray = self.value[node].reshape(len(table), *self.roots.shape).sum(axis=1)
        return self.baseline + added

    def save(self, path: Path) -> None:
        save_file({name: np.ascontiguousarray(array) for name, array in asdict(self).items()}, path)


def load_trees(model: Path) -> Trees:
    """The trees of a folder that :func:`nuvlm.models.bdt.training.train_bdt` wrote.

    Raises:
        InputError: a file is missing or altered, or the trees ask about other features than are made here.
    """
    verify_manifest(model)
    card = read_json(model / "training.json")
    if card["features"] != feature_names(card["images"]["views"]):
        raise InputError(f"{model}: was trained on other features than this version makes. Train it anew.")
    return Trees(**load_file(model / WEIGHTS))
