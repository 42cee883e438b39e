"""Ready pixel maps, a CVN file and a folder of PNG images, and changes of their meaning."""

import io
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from mutations import Mutation, doubts
from PIL import Image

from nuvlm.dataset.pixelmaps import open_pixel_maps
from nuvlm.sources.cvn import convert_cvn
from nuvlm.sources.png import convert_png
from nuvlm.sources.ready_maps import PixelMapWriter

SIZE, N = 24, 12
CLASSES = ("nue", "numu", "nutau", "nc")
CvnTables = dict[str, np.ndarray]
Files = dict[str, bytes]
UNSEEN = "a picture does not tell"


def _images(seed: int, views: int) -> np.ndarray:
    """Mostly dark images of a track and a few blobs, uint8 (N, views, SIZE, SIZE)."""
    rng = np.random.default_rng(seed)
    images = np.zeros((N, views, SIZE, SIZE), dtype=np.uint8)
    for event, view in itertools.product(range(N), range(views)):
        row = rng.integers(3, SIZE - 3)
        images[event, view, row, 3 : rng.integers(8, SIZE)] = rng.integers(40, 250)
        images[event, view, rng.integers(0, SIZE, 9), rng.integers(0, SIZE, 9)] = rng.integers(1, 250, 9)
    return images


def converted(
    reader: Callable[[Path, PixelMapWriter], None], path: Path, **settings: Any
) -> tuple[list[dict[str, Any]], Counter[str]]:
    out = path.parent / "out"
    reader(path, PixelMapWriter(store=out / "maps.zarr", truth=out / "maps.parquet", **settings))
    store, truth = open_pixel_maps(out / "maps.zarr"), pd.read_parquet(out / "maps.parquet")
    columns = truth[["nu_pdg", "is_cc", "nu_energy", "inelasticity", "mode"]].to_numpy(np.float64)
    kinds = truth["class"].fillna("none").map({"nue_cc": 0, "numu_cc": 1, "nc": 2, "none": 3}).to_numpy(np.float64)
    events = []
    for image, row, kind in zip(store["images"][:].astype(np.float64), columns, kinds, strict=True):
        key = [[image.sum(), (image * np.arange(image.size).reshape(image.shape)).sum(), kind]]
        events.append({"voxels": np.array(key), "energy": image, "truth": np.append(row, kind)})
    return sorted(events, key=lambda e: tuple(e["voxels"][0])), doubts(store.attrs["conclusions"])


def cvn_content() -> CvnTables:
    rng = np.random.default_rng(4)
    flavour = np.arange(N) % 4
    interaction = rng.integers(0, 4, N)
    label = np.where(flavour == 3, 13, 4 * np.array([1, 0, 2, 0])[flavour] + interaction)
    energy, sign = rng.uniform(2, 6, N), np.where(flavour == 3, 1, rng.choice([-1, 1], N))
    return {
        "images": _images(1, 3),
        "class": np.array(CLASSES, "S8")[flavour],
        "truth/label": label.astype("f4"),
        "truth/nu_pdg": (np.array([12, 14, 16, 1])[flavour] * sign).astype("f4"),
        "truth/e_nu": energy.astype("f4"),
        "truth/e_lep": (energy * rng.uniform(0.2, 0.9, N)).astype("f4"),
    }


def convert_cvn_content(folder: Path) -> Callable[[CvnTables], tuple[list[dict[str, Any]], Counter[str]]]:
    def convert(content: CvnTables) -> tuple[list[dict[str, Any]], Counter[str]]:
        with h5py.File(folder / "a.h5", "w") as file:
            for name, values in content.items():
                file[name] = values
        return converted(convert_cvn, folder / "a.h5")

    return convert


def cvn_mutations() -> list[Mutation]:
    found = []
    content = cvn_content()
    names = list(content)
    for name in names:

        def drop(content: CvnTables, name=name) -> None:
            del content[name]

        # Class, label and PDG code say the same; without one of them the others do.
        found.append(Mutation(f"{name} dropped", drop))
        for n in (0, 1, N // 2, N - 1):

            def cut(content: CvnTables, name=name, n=n) -> None:
                content[name] = content[name][:n]

            found.append(Mutation(f"{name} cut to {n}", cut))

        def grow(content: CvnTables, name=name) -> None:
            content[name] = np.concatenate([content[name], content[name][:1]])

        def widen(content: CvnTables, name=name) -> None:
            content[name] = np.stack([content[name]] * 2, axis=1)

        found += [
            Mutation(f"{name} with a row more", grow),
            Mutation(f"{name} in two columns", widen),
        ]
        if content[name].dtype.kind == "f":

            def swap_bytes(content: CvnTables, name=name) -> None:
                content[name] = content[name].astype(">f4")

            found.append(Mutation(f"{name} with the other order of bytes", swap_bytes))
        for by in range(1, 6):

            def roll(content: CvnTables, name=name, by=by) -> None:
                content[name] = np.roll(content[name], by, axis=0)

            same = "of the same class" if by == 4 and name in ("truth/nu_pdg", "truth/label") else ""
            reason = UNSEEN if name == "images" else "a possible energy" if name.startswith("truth/e_") else same
            found.append(Mutation(f"{name} of the event {by} before", roll, reason))
        for kind in ("f8", "f4", "i8", "u1", "S8", "f2"):

            def retype(content: CvnTables, name=name, kind=kind) -> None:
                if content[name].dtype.kind == "S" and kind != "S8":
                    content[name] = np.arange(len(content[name])).astype(kind)
                else:
                    content[name] = content[name].astype(kind)

            rounds = name.startswith("truth/e_") and kind in ("i8", "u1")
            found.append(Mutation(f"{name} as {kind}", retype, "rounding to whole GeV" if rounds else ""))
    for name, factor in itertools.product(names[2:], (10.0, 0.1, 1000.0, 1e-3, -1.0)):

        def scale(content: CvnTables, name=name, factor=factor) -> None:
            content[name] = content[name] * np.float32(factor)

        antineutrinos = name == "truth/nu_pdg" and factor == -1
        found.append(Mutation(f"{name} x {factor:g}", scale, "nothing tells antineutrinos" if antineutrinos else ""))
    for factor in (10.0, 0.1, 1000.0, 1e-3):

        def both(content: CvnTables, factor=factor) -> None:
            for name in ("truth/e_nu", "truth/e_lep"):
                content[name] = content[name] * np.float32(factor)

        found.append(Mutation(f"all energies x {factor:g}", both))
    for name, value, step in itertools.product(names[2:], (np.nan, np.inf, -1.0, 99.0), (1, 3)):

        def fill(content: CvnTables, name=name, value=value, step=step) -> None:
            content[name][::step] = value

        unseen = name.startswith("truth/e_") and value == 99 and step == 3
        found.append(Mutation(f"{name} {value} in every {step}. event", fill, "a possible energy" if unseen else ""))
    for event in range(N):

        def black(content: CvnTables, event=event) -> None:
            content["images"][event] = 0

        def same(content: CvnTables, event=event) -> None:
            content["images"][event] = content["images"][event, 0]

        def again(content: CvnTables, event=event) -> None:
            content["images"][event] = content["images"][(event + 1) % N]

        def relabel(content: CvnTables, event=event) -> None:
            content["class"][event] = CLASSES[(CLASSES.index(content["class"][event].decode()) + 1) % 4]

        found += [
            Mutation(f"images of event {event} black", black),
            Mutation(f"views of event {event} the same", same),
            Mutation(f"images of event {event} those of the next", again),
            Mutation(f"class of event {event} another", relabel),
        ]
    changes: dict[str, tuple[Callable[[CvnTables], Any], str]] = {
        "inverted": (lambda c: c.update(images=255 - c["images"]), ""),
        "black": (lambda c: c.update(images=0 * c["images"]), ""),
        "halved": (lambda c: c.update(images=c["images"] // 2), UNSEEN),
        "doubled": (lambda c: c.update(images=c["images"] * np.uint8(2)), UNSEEN),
        "transposed": (lambda c: c.update(images=c["images"].swapaxes(2, 3).copy()), UNSEEN),
        "views exchanged": (lambda c: c.update(images=c["images"][:, ::-1].copy()), UNSEEN),
        "wires mirrored": (lambda c: c.update(images=c["images"][:, :, ::-1].copy()), UNSEEN),
        "times mirrored": (lambda c: c.update(images=c["images"][..., ::-1].copy()), UNSEEN),
        "two views": (lambda c: c.update(images=c["images"][:, :2]), ""),
        "views last": (lambda c: c.update(images=np.moveaxis(c["images"], 1, 3).copy()), ""),
        "not square": (lambda c: c.update(images=c["images"][:, :, 4:]), ""),
        "flat": (lambda c: c.update(images=c["images"].reshape(N, -1)), ""),
        "small": (lambda c: c.update(images=c["images"][:, :, ::2, ::2]), ""),
    }
    found += [Mutation(f"images {name}", change, reason) for name, (change, reason) in changes.items()]

    def shuffled(content: CvnTables) -> None:
        order = np.random.default_rng(2).permutation(N)
        for name in content:
            content[name] = content[name][order]

    def twice(content: CvnTables) -> None:
        for name in content:
            content[name] = np.concatenate([content[name]] * 2)

    def ids(content: CvnTables) -> None:
        content["event_id"] = np.arange(N)[::-1] + 5

    def repeated_ids(content: CvnTables) -> None:
        content["event_id"] = np.arange(N) // 2

    found += [
        Mutation("events in any order", shuffled),
        Mutation("every event twice", twice),
        Mutation("other event ids", ids),
        Mutation("repeated event ids", repeated_ids),
    ]
    return found


def png_content() -> Files:
    files: Files = {}
    words = ("nuecc", "numucc", "nc")
    for event, images in enumerate(_images(7, 2)):
        for view, image in zip(("xz", "yz"), images, strict=True):
            files[f"{event}_{view}.png"] = _png(Image.fromarray(image))
        files[f"{event}_pid.txt"] = words[event % 3].encode()
    return files


def _png(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def convert_png_content(folder: Path) -> Callable[[Files], tuple[list[dict[str, Any]], Counter[str]]]:
    def convert(content: Files) -> tuple[list[dict[str, Any]], Counter[str]]:
        maps = folder / "maps"
        maps.mkdir(exist_ok=True)
        for file in maps.iterdir():
            file.unlink()
        for name, text in content.items():
            (maps / name).write_bytes(text)
        return converted(convert_png, maps)

    return convert


def png_mutations() -> list[Mutation]:
    def as_image(change: Callable[[Image.Image], Image.Image], form: str = "PNG") -> Callable[[bytes], bytes]:
        return lambda content: _png(change(Image.open(io.BytesIO(content))), form)

    def transparent(image: Image.Image) -> Image.Image:
        image = image.convert("RGBA")
        image.putalpha(100)
        return image

    def coloured(image: Image.Image) -> Image.Image:
        black = Image.new("L", image.size)
        return Image.merge("RGB", (image, black, black))

    of_image: dict[str, tuple[Callable[[bytes], bytes], str]] = {
        "in RGB": (as_image(lambda image: image.convert("RGB")), ""),
        "in RGBA": (as_image(lambda image: image.convert("RGBA")), ""),
        "with a palette": (as_image(lambda image: image.convert("P")), ""),
        "transparent": (as_image(transparent), ""),
        "in colour": (as_image(coloured), ""),
        "of 16 bits": (as_image(lambda image: image.convert("I;16")), ""),
        "smaller": (as_image(lambda image: image.crop((0, 0, 20, 20))), ""),
        "not square": (as_image(lambda image: image.crop((0, 0, 20, 24))), ""),
        "black": (as_image(lambda image: image.point(lambda _: 0)), UNSEEN + ": the other view has charge"),
        "a JPEG": (as_image(lambda image: image, "JPEG"), ""),
        "cut": (lambda content: content[: len(content) // 2], ""),
        "empty": (lambda content: b"", ""),
        "text": (lambda content: b"text", ""),
    }
    of_label: dict[str, tuple[Callable[[bytes], bytes], str]] = {
        "in capitals": (lambda word: word.upper() + b"\n", ""),
        "with an underscore": (lambda word: word[:-2] + b"_" + word[-2:] if word != b"nc" else word, ""),
        "unknown": (lambda word: b"something", ""),
        "of tau neutrinos": (lambda word: b"nutaucc", ""),
        "empty": (lambda word: b"", ""),
        "of another class": (lambda word: {b"nuecc": b"numucc", b"numucc": b"nc"}.get(word, b"nuecc"), UNSEEN),
    }
    found = []
    for event in range(N):
        for name, (change, reason) in of_image.items():

            def image(content: Files, event=event, change=change) -> None:
                content[f"{event}_xz.png"] = change(content[f"{event}_xz.png"])

            found.append(Mutation(f"view xz of event {event} {name}", image, reason))
        for name, (change, reason) in of_label.items():

            def label(content: Files, event=event, change=change) -> None:
                content[f"{event}_pid.txt"] = change(content[f"{event}_pid.txt"])

            found.append(Mutation(f"label of event {event} {name}", label, reason))

        def no_image(content: Files, event=event) -> None:
            del content[f"{event}_yz.png"]

        def no_label(content: Files, event=event) -> None:
            del content[f"{event}_pid.txt"]

        def same(content: Files, event=event) -> None:
            content[f"{event}_yz.png"] = content[f"{event}_xz.png"]

        def again(content: Files, event=event) -> None:
            for view in ("xz", "yz"):
                content[f"{event}_{view}.png"] = content[f"{(event + 1) % N}_{view}.png"]

        found += [
            Mutation(f"event {event} without view yz", no_image),
            Mutation(f"event {event} without a label", no_label),
            Mutation(f"views of event {event} the same", same),
            Mutation(f"images of event {event} those of the next", again),
        ]

    def all_images(change: Callable[[bytes], bytes]) -> Callable[[Files], None]:
        def apply(content: Files) -> None:
            for name in content:
                if name.endswith(".png"):
                    content[name] = change(content[name])

        return apply

    def renamed(change: Callable[[str], str]) -> Callable[[Files], Files]:
        return lambda content: {change(name): text for name, text in content.items()}

    swap = {"xz": "yz", "yz": "xz"}
    found += [
        Mutation("inverted", all_images(as_image(lambda image: image.point(lambda grey: 255 - grey)))),
        Mutation("darker", all_images(as_image(lambda image: image.point(lambda grey: grey // 2))), UNSEEN),
        Mutation("transposed", all_images(as_image(lambda image: image.transpose(Image.Transpose.TRANSPOSE))), UNSEEN),
        Mutation("numbers with zeros", renamed(lambda name: "0" + name)),
        Mutation("names with a prefix", renamed(lambda name: "ev" + name)),
        Mutation("views exchanged", renamed(lambda n: n[:-6] + swap.get(n[-6:-4], n[-6:-4]) + n[-4:]), UNSEEN),
        Mutation("views u and v", renamed(lambda name: name.replace("xz", "u").replace("yz", "v"))),
        Mutation("suffix .PNG", renamed(lambda name: name.replace(".png", ".PNG"))),
        Mutation("labels in .label", renamed(lambda name: name.replace("_pid.txt", ".label"))),
    ]
    return found
