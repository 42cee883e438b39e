"""Reader of folders of PNG pixel maps: ``<event>_<view>.png``, and the class label in ``<event>_pid.txt``."""

import logging
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nuvlm.base.errors import InputError
from nuvlm.sources.ready_maps import (
    LARGEST,
    BadEvent,
    PixelMap,
    PixelMapWriter,
    class_of,
    event_number,
    is_number,
    require_distinct,
)
from nuvlm.sources.recognition import of_another_kind

logger = logging.getLogger(__name__)

IMAGE = re.compile(r"(?P<event>.+)_(?P<view>[A-Za-z0-9]+)\.png")
TRUTH_SUFFIX = "_pid.txt"
FIRST_VIEWS = ("xz", "yz")
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def convert_png(path: Path, out: PixelMapWriter) -> None:
    """Write the events of a folder to a pixel-map store and a truth table.

    Images are 8-bit grayscale, or have equal channels and no transparency. The event id is the event's name if that is
    a number, else a hash of the name. Without ``_pid.txt`` an event has no truth; with a label of another class
    (nutaucc) it has no class. All views are used by default, xz and yz first.

    Raises:
        InputError: no such folder, no image in it, a missing view, two events with one id, or an event that cannot be
            used.
    """
    images, labels = _list_files(path)
    found = {view for files in images.values() for view in files}
    chosen = out.choose_views(path, sorted(found, key=lambda view: (view not in FIRST_VIEWS, view)))
    names = sorted(images, key=lambda name: (not is_number(name), int(name) if is_number(name) else 0, name))
    ids = [event_number(name) for name in names]
    require_distinct(path, names, ids)
    without_image = sorted(set(labels) - set(images))
    if without_image:
        logger.warning("%s: %d files *%s have no image (first: %s)",
                       path, len(without_image), TRUTH_SUFFIX, without_image[0])  # fmt: skip

    def events() -> Iterator[PixelMap | BadEvent]:
        for name, number in zip(names, ids, strict=True):
            try:
                views_of_event = _read_views(name, images[name], chosen)
                label = _read_label(name, labels[name]) if name in labels else None
            except BadEvent as bad:
                yield bad
                continue
            yield PixelMap(name, number, views_of_event, label, is_cc=class_of(label) in ("nue_cc", "numu_cc"))

    out.write(path, events(), len(names), source="png", views=chosen)


def _list_files(folder: Path) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """Event -> view -> image, and event -> file with its class label."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder. With source 'png', input.files lists folders.{of_another_kind(folder)}"
        )
    images: dict[str, dict[str, Path]] = defaultdict(dict)
    labels: dict[str, Path] = {}
    others = []
    for file in sorted(folder.iterdir()):
        match = IMAGE.fullmatch(file.name)
        if match:
            images[match["event"]][match["view"]] = file
        elif file.name.endswith(TRUTH_SUFFIX):
            labels[file.name.removesuffix(TRUTH_SUFFIX)] = file
        else:
            others.append(file.name)
    if not images:
        raise InputError(
            f"{folder}: there is no image <event>_<view>.png in it ({len(others)} other files). Check the path."
            f"{of_another_kind(folder)}"
        )
    if others:
        logger.warning("%s: %d files are neither <event>_<view>.png nor <event>%s and were left out (first: %s)",
                       folder, len(others), TRUTH_SUFFIX, others[0])  # fmt: skip
    return images, labels


def _read_views(name: str, files: dict[str, Path], views: Sequence[str]) -> np.ndarray:
    """uint8 (views, height, width)."""
    missing = [view for view in views if view not in files]
    if missing:
        files_missing = ", ".join(f"{name}_{view}.png" for view in missing)
        raise BadEvent(name, f"has no image {files_missing} (input.views says which suffixes are views)")
    images = [_read_image(name, files[view]) for view in views]
    if len({image.shape for image in images}) > 1:
        sizes = ", ".join(
            f"{view} {image.shape[0]} x {image.shape[1]}" for view, image in zip(views, images, strict=True)
        )
        raise BadEvent(name, f"has views of different sizes ({sizes})")
    return np.stack(images)


def _read_image(name: str, file: Path) -> np.ndarray:
    """uint8 (height, width)."""
    try:
        # The header first: Pillow silently cuts 16-bit colours to 8, and decodes images of any size.
        with open(file, "rb") as opened:
            header = opened.read(26)
        if len(header) < 26 or not header.startswith(SIGNATURE):
            raise BadEvent(name, f"has {file.name}, which is not a PNG file")
        width, height, depth = struct.unpack(">IIB", header[16:25])
        if max(width, height) > LARGEST:
            raise BadEvent(name, f"has {file.name}, of {height} x {width} pixels; the maximum is {LARGEST}")
        if depth == 16:
            raise BadEvent(name, f"has {file.name}, with 16 bits per pixel; only 8 can be read")
        with Image.open(file, formats=["PNG"]) as image:
            if image.mode == "L":
                return np.asarray(image)
            pixels = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError) as error:
        raise BadEvent(name, f"has {file.name}, which cannot be read ({error})") from error
    if (pixels[..., 3] < 255).any():
        raise BadEvent(name, f"has {file.name}, with transparent pixels")
    if (pixels[..., :3] != pixels[..., :1]).any():
        raise BadEvent(name, f"has {file.name}, in colour: grey values are needed")
    return pixels[..., 0]


def _read_label(name: str, file: Path) -> str:
    try:
        label = file.read_text(errors="replace").strip()
    except OSError as error:
        raise BadEvent(name, f"has {file.name}, which cannot be read ({error})") from error
    if not label:
        raise BadEvent(name, f"has {file.name}, which is empty")
    return label
