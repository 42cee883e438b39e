"""The boosted trees as plain arrays, without pickle; classification needs only NumPy."""

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
    """Boosted trees, with the nodes of all trees concatenated.

    Attributes:
        baseline: (classes,) float64, initial logits.
        roots: (rounds, classes) int64, root node of each tree.
        feature: (nodes,) int64, feature tested at a node.
        threshold: (nodes,) float64; events with feature <= threshold go left.
        left, right: (nodes,) int64, child nodes; a leaf points to itself.
        value: (nodes,) float64, logit added by a leaf.
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
        """The first `rounds` of a scikit-learn classifier that was fitted on finite features."""
        nodes, roots = [], np.zeros((rounds, len(fitted.classes_)), dtype=np.int64)
        size = 0
        # scikit-learn has no public access to its trees; training checks the result against it.
        for i, of_round in enumerate(fitted._predictors[:rounds]):
            for k, tree in enumerate(of_round):
                node = tree.nodes
                own = size + np.arange(len(node))
                leaf = node["is_leaf"].astype(bool)
                nodes.append(
                    (
                        node["feature_idx"].astype(np.int64) * ~leaf,
                        node["num_threshold"].astype(np.float64) * ~leaf,
                        np.where(leaf, own, size + node["left"].astype(np.int64)),
                        np.where(leaf, own, size + node["right"].astype(np.int64)),
                        node["value"].astype(np.float64) * leaf,
                    )
                )
                roots[i, k] = size
                size += len(node)
        arrays = [np.concatenate(column) for column in zip(*nodes, strict=True)]
        return cls(fitted._baseline_prediction.ravel().astype(np.float64), roots, *arrays)

    def logits(self, table: np.ndarray) -> np.ndarray:
        """Logits (events, classes) of features (events, features)."""
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
    """Load the trees written by :func:`nuvlm.models.bdt.training.train_bdt`.

    Raises:
        InputError: a file is missing or altered, or the trees use other features than this version computes.
    """
    verify_manifest(model)
    card = read_json(model / "training.json")
    if card["features"] != feature_names(card["images"]["views"]):
        raise InputError(f"{model}: was trained on other features than this version computes. Train it again.")
    return Trees(**load_file(model / WEIGHTS))
