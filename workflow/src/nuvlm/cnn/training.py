"""Training the Siamese CNN: Adam, cross-entropy, early stopping on the validation loss, exact resume."""

import hashlib
import io
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from nuvlm.classes import CLASSES
from nuvlm.cnn.network import SiameseCnn, count_parameters, to_float
from nuvlm.cnn.settings import CnnSettings
from nuvlm.devices import choose_device, device_name, peak_memory_mb
from nuvlm.errors import InputError
from nuvlm.events import read_events
from nuvlm.logs import track
from nuvlm.pixelmaps import SparsePixelMaps, image_settings, read_sparse
from nuvlm.storage import SEAL, atomic_path, seal, sha256, verify, write_json, write_manifest

logger = logging.getLogger(__name__)

VALIDATION_BATCH, VALIDATION_PIXELS = 64, 2**22
"""Events, and their pixels in all views, that are validated at once: large maps would take gigabytes."""


def train_cnn(
    events: Path,
    stores: Mapping[str, Path],
    out: Path,
    checkpoint: Path,
    tensorboard: Path,
    *,
    settings: CnnSettings,
    threads: int,
) -> None:
    """Train on the split ``train``, stop on ``validation``, and write the best network to the folder `out`.

    `out` holds ``model.safetensors``, ``training.json`` (what was trained, on what, and what it took) and a
    manifest. After each epoch `checkpoint` holds all that is needed to go on; it is removed at the end.

    Raises:
        InputError: a checkpoint that is damaged, or of other settings or data; a loss that is not a number.
    """
    torch.set_num_threads(threads)
    device = choose_device()
    table = read_events(events)
    train, validation = (_load(table, stores, split) for split in ("train", "validation"))
    counts = {label: int((train[1] == i).sum()) for i, label in enumerate(CLASSES)}
    logger.info("training on %d events %s, validating on %d", len(train[1]), counts, len(validation[1]))

    torch.manual_seed(settings.seed)
    network = SiameseCnn(views=train[0].shape[0], width=settings.width, dropout=settings.dropout)
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logger.info("%d parameters on %s", count_parameters(network), device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    weight = torch.tensor([len(train[1]) / (len(CLASSES) * counts[label]) for label in CLASSES], device=device)
    loss_function = nn.CrossEntropyLoss(weight=weight.float() if settings.class_weights else None)

    fingerprint = _fingerprint(settings, events, stores)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    if checkpoint.exists():
        state = read_checkpoint(checkpoint, fingerprint, device)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        history, best = json.loads(state["history"]), state["best"]
        logger.info("resuming after epoch %d from %s", len(history), checkpoint)
    with SummaryWriter(str(tensorboard), purge_step=len(history)) as writer:
        for epoch in range(len(history), settings.max_epochs):
            if _epochs_since_best(history) >= settings.patience:
                break
            # Everything random in an epoch follows from its number, so a resumed run repeats it exactly.
            torch.manual_seed(settings.seed * 1_000_003 + epoch)
            start = time.perf_counter()
            train_loss = _train_epoch(network, optimizer, loss_function, train, settings, device)
            seconds = time.perf_counter() - start
            loss, accuracy = validate(network, loss_function, *validation, device)
            if not np.isfinite(train_loss + loss):
                raise InputError(
                    f"the CNN's loss is not a number in epoch {epoch + 1} (training {train_loss}, "
                    f"validation {loss}): lower cnn.learning_rate"
                )
            history.append(
                {"train_loss": train_loss, "validation_loss": loss, "validation_accuracy": accuracy, "seconds": seconds}
            )
            for name, value in history[-1].items():
                writer.add_scalar(name, value, epoch)
            rate = len(train[1]) / seconds
            logger.info("epoch %d of at most %d: loss %.4f, validation loss %.4f, accuracy %.3f, %.0f events/s",
                        epoch + 1, settings.max_epochs, train_loss, loss, accuracy, rate)  # fmt: skip
            if _epochs_since_best(history) == 0:
                best = {name: value.detach().clone() for name, value in network.state_dict().items()}
            _save_checkpoint(checkpoint, fingerprint, network, optimizer, best, history)

    seconds = sum(entry["seconds"] for entry in history)
    card = {
        "model": "SiameseCnn",
        "classes": list(CLASSES),
        "views": train[0].shape[0],
        "settings": settings.model_dump(mode="json"),
        "images": image_settings(stores),
        "parameters": count_parameters(network),
        "class_counts": counts,
        "events": len(train[1]),
        "epochs": len(history),
        "best_epoch": len(history) - _epochs_since_best(history),
        "history": history,
        "seconds": seconds,
        "events_per_second": len(train[1]) * len(history) / seconds,
        "peak_memory_mb": peak_memory_mb(),
        "device": device_name(device),
    }
    with atomic_path(out) as partial:
        partial.mkdir()
        save_file({name: value.contiguous() for name, value in best.items()}, partial / "model.safetensors")
        write_json(partial / "training.json", card, sealed=True)
        write_manifest(partial)
    checkpoint.unlink(missing_ok=True)


def validate(
    network: nn.Module,
    loss_function: nn.Module,
    images: SparsePixelMaps,
    labels: Tensor,
    device: torch.device,
) -> tuple[float, float]:
    """Mean loss and accuracy of `network` on `images` with class indices `labels` (events,)."""
    network.eval()
    batch = max(1, min(VALIDATION_BATCH, VALIDATION_PIXELS // math.prod(images.shape)))
    loss, right = 0.0, 0
    with torch.inference_mode():
        for begin in range(0, len(labels), batch):
            rows = torch.arange(begin, min(begin + batch, len(labels)))
            target = labels[rows].to(device)
            logits = network(to_float(_dense(images, rows), device))
            loss += float(loss_function(logits, target)) * len(target)
            right += int((logits.argmax(dim=1) == target).sum())
    return loss / len(labels), right / len(labels)


def _load(table: pd.DataFrame, stores: Mapping[str, Path], split: str) -> tuple[SparsePixelMaps, Tensor]:
    """Images and class indices (events,) of a split."""
    chosen = table[table["split"] == split]
    labels = pd.Categorical(chosen["class"], categories=list(CLASSES)).codes
    return read_sparse(stores, chosen), torch.from_numpy(labels.astype(np.int64))


def _dense(images: SparsePixelMaps, rows: Tensor) -> Tensor:
    return torch.from_numpy(images.dense(rows.numpy()))


def _batches(labels: Tensor, size: int) -> Iterator[Tensor]:
    order = torch.randperm(len(labels))
    for begin in range(0, len(order), size):
        # A last batch of one event would give batch normalisation no variance.
        if len(order) - begin > 1:
            yield order[begin : begin + size]


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: nn.Module,
    data: tuple[SparsePixelMaps, Tensor],
    settings: CnnSettings,
    device: torch.device,
) -> float:
    network.train()
    images, labels = data
    total, seen = 0.0, 0
    for batch in track(_batches(labels, settings.batch_size), "batches", len(labels) // settings.batch_size):
        x = to_float(_dense(images, batch), device)
        if settings.flip:
            x = _flip(x)
        loss = loss_function(network(x), labels[batch].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(batch)
        seen += len(batch)
    return total / seen


def _flip(images: Tensor) -> Tensor:
    """Mirror the rows (x or y, never the beam) of each view of each event with probability one half."""
    chosen = torch.rand(images.shape[:2]) < 0.5
    return torch.where(chosen[..., None, None].to(images.device), images.flip(2), images)


def _epochs_since_best(history: list[dict[str, float]]) -> int:
    losses = [entry["validation_loss"] for entry in history]
    return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


def _fingerprint(settings: CnnSettings, events: Path, stores: Mapping[str, Path]) -> str:
    """What a checkpoint belongs to: the settings, the event table and the pixel maps."""
    parts = [
        settings.model_dump_json(),
        sha256(events),
        *(sha256(Path(stores[name]) / "manifest.json") for name in sorted(stores)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _save_checkpoint(
    path: Path,
    fingerprint: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    history: list[dict[str, float]],
) -> None:
    state: dict[str, Any] = {
        "fingerprint": fingerprint,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": best,
        "history": json.dumps(history),
    }
    content = io.BytesIO()  # what torch says of a full disk names neither the file nor the reason
    torch.save(state, content)
    with atomic_path(path) as partial:
        # Behind the last byte that torch reads: it does not check what it loads.
        partial.write_bytes(content.getvalue() + SEAL)
        seal(partial)


def read_checkpoint(path: Path, fingerprint: str, device: torch.device) -> dict[str, Any]:
    """What a stopped training has left: the states of ``network`` and ``optimizer``, the ``best`` network, ``history``.

    Args:
        fingerprint: of the settings and data that the training goes on with.

    Raises:
        InputError: it is damaged, holds anything but tensors and plain values, or belongs to another training.
    """
    content = verify(path, "checkpoint", ours=True)[: -len(SEAL)]
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        found = state["fingerprint"]
    except Exception as error:
        raise InputError(
            f"{path}: no readable checkpoint ({error}). Remove it and rerun: training starts anew."
        ) from error
    if found != fingerprint:
        raise InputError(
            f"{path}: the checkpoint was made with other settings or data. Remove it to train anew, or restore the "
            "configuration it was made with."
        )
    return state
