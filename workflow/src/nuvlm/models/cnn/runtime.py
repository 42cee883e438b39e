"""Inference with the exported CNN in onnxruntime, on CPU cores."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from nuvlm.base.errors import InputError
from nuvlm.base.files import sha256
from nuvlm.base.manifest import verify_manifest

MODEL = "model.onnx"
INPUT, OUTPUT = "images", "logits"
WEIGHTS_DIGEST = "weights_sha256"
"""Metadata key: SHA-256 of the exported weights."""


def load_exported(export: Path, weights: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Load the network written by :func:`nuvlm.models.cnn.export.export_cnn`.

    Args:
        export: the folder.
        weights: model.safetensors that it must have been exported from.
        threads: number of CPU threads.

    Returns:
        see :func:`open_session`.

    Raises:
        InputError: a file is missing or altered, or was exported from other weights.
    """
    verify_manifest(export)
    try:
        session = _session(export / MODEL, threads)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        remedy = f"Remove {export} and rerun: the workflow exports it again."
        raise InputError(f"{export / MODEL}: unreadable ONNX file ({error}). {remedy}") from error
    if session.get_modelmeta().custom_metadata_map.get(WEIGHTS_DIGEST) != sha256(weights):
        raise InputError(f"{export / MODEL}: was not exported from {weights}. Remove it and rerun export_cnn.")
    return _logits_of(session)


def open_session(path: Path, threads: int, optimise: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 images (events, views, height, width) to float32 logits (events, classes).

    Args:
        path: ONNX file of :func:`nuvlm.models.cnn.export.write_onnx`.
        threads: number of CPU threads.
        optimise: fuse layers and use blocked memory layouts.
    """
    return _logits_of(_session(path, threads, optimise))


def _logits_of(session: onnxruntime.InferenceSession) -> Callable[[np.ndarray], np.ndarray]:
    def logits(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run([OUTPUT], {INPUT: images})[0]
        return found

    return logits


def _session(path: Path, threads: int, optimise: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads sleep: spinning is no faster here and slows other jobs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
