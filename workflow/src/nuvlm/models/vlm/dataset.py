"""Training conversations about pixel maps, read from the stores on access."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from PIL import Image

from nuvlm.dataset.pixelmaps import open_rows
from nuvlm.models.vlm.prompts import Prompts, conversation
from nuvlm.models.vlm.rationales import Rationales, grounded_rationales
from nuvlm.models.vlm.settings import Background

IN_MEMORY = 2**29
"""Bytes of pixel maps that are read at once and kept."""


def to_pictures(views: np.ndarray, background: Background, zoom: int = 1) -> list[Image.Image]:
    """Convert the views of one event, uint8 (views, size, size), to grayscale images; the processor makes them RGB.

    Args:
        zoom: pixels of a picture, along each axis, that show one of a view.
    """
    shown = views.repeat(zoom, axis=1).repeat(zoom, axis=2) if zoom > 1 else views
    return [Image.fromarray(view if background == "black" else 255 - view) for view in shown]


def conversations(
    events: pd.DataFrame,
    stores: Mapping[str, Path],
    prompts: Prompts,
    vocabulary: Rationales | None = None,
    *,
    background: Background,
    zoom: int = 1,
) -> Dataset:
    """Rows ``{"images": [...], "messages": [...]}`` in TRL's format: all views, and the true answer.

    More than :data:`IN_MEMORY` are read from disk on access: the pixel maps of a full production do not fit in memory.

    Args:
        events: rows of the event table, all of a known class.
        stores: shard name -> pixel-map store.
        prompts: texts of the conversation.
        vocabulary: phrasings of the rationale after each label; without it, answers end with the label.
        background, zoom: of the pictures, see :func:`to_pictures`.

    Raises:
        InputError: a store is damaged or does not hold the events.
    """
    opened = {str(shard): open_rows(stores[str(shard)], group) for shard, group in events.groupby("shard", sort=False)}
    in_memory = sum(len(rows) * math.prod(array.shape[1:]) for array, rows in opened.values()) <= IN_MEMORY
    images: dict[str, Any] = {
        shard: dict(zip(rows.tolist(), array.oindex[rows], strict=True)) if in_memory else array
        for shard, (array, rows) in opened.items()
    }

    def read(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pictures = [
            to_pictures(np.asarray(images[shard][row]), background, zoom)
            for shard, row in zip(batch["shard"], batch["row"], strict=True)
        ]
        answers = [
            prompts.answer(name, rationale) for name, rationale in zip(batch["class"], batch["rationale"], strict=True)
        ]
        return {
            "images": pictures,
            "messages": [
                conversation(prompts, len(views), answer) for views, answer in zip(pictures, answers, strict=True)
            ],
        }

    columns = {name: events[name].tolist() for name in ("shard", "row", "class")}
    columns["rationale"] = [None] * len(events) if vocabulary is None else grounded_rationales(events, vocabulary)
    return Dataset.from_dict(columns).with_transform(read)
