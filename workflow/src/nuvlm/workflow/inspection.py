"""What a file is and how it would be read: ``python -m nuvlm.workflow.inspection FILE``, as ``make inspect`` runs it.

The first events go through the reader, the writer and the stages that a run would use, into a temporary folder. So what
is shown is what a run would see.
"""

import argparse
import logging
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import h5py
import numpy as np
import pandas as pd
import uproot
from pydantic import PrivateAttr

from nuvlm.base.classes import CLASSES, classify_truth
from nuvlm.base.conclusions import Conclusion, Conclusions
from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import hdf5_file
from nuvlm.base.stores import open_store
from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.voxels import open_shard
from nuvlm.report.pictures import charged_region, draw_events, terminal_picture
from nuvlm.simulation.generator_evidence import GeneratorEvidence
from nuvlm.simulation.generator_trees import open_final_states
from nuvlm.simulation.genie import read_genie
from nuvlm.sources.ready_maps import BadEvent, MapAxes, PixelMap, PixelMapWriter
from nuvlm.sources.shard_writer import AnyEvent, DriftedShardWriter, VoxelShardWriter
from nuvlm.sources.table import SOURCES
from nuvlm.sources.voxel_shards import check_voxel_shard
from nuvlm.workflow.config import Config, parse_config, read_overlays

SAMPLE = 100
"""Events that are read, unless asked otherwise."""
PICTURES = 6
"""Events that are drawn."""
MOST_TABLES = 40
"""Tables that are listed."""


class _StepSample(VoxelShardWriter):
    """Writes the first events, and counts what the reader delivers."""

    events: int
    _seen: "Seen" = PrivateAttr()

    def write(self, path: Path, interactions: Iterable[AnyEvent], total: int) -> None:
        self._seen.total = total
        super().write(path, self._count(islice(interactions, self.events)), min(total, self.events))

    def _count(self, interactions: Iterable[AnyEvent]) -> Iterator[AnyEvent]:
        for interaction in interactions:
            truth = interaction.truth
            self._seen.add(_class_of(truth.nu_pdg, truth.is_cc), bool(np.isfinite(truth.vertex_mm).all()))
            self._seen.energy_mev += float(np.nansum(interaction.energy_mev))
            yield interaction


class _DriftedSample(_StepSample, DriftedShardWriter):
    """The same for charge that has drifted already."""


class _MapSample(PixelMapWriter):
    """Writes the first events, and counts what the reader delivers."""

    events: int
    _seen: "Seen" = PrivateAttr()

    def write(
        self,
        path: Path,
        events: Iterable[PixelMap | BadEvent],
        total: int,
        *,
        source: str,
        views: Sequence[str],
        axes: MapAxes = MapAxes(),  # noqa: B008  (immutable)
        geometry: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        self._seen.total = total
        sample, n = islice(events, self.events), min(total, self.events)
        table = super().write(path, sample, n, source=source, views=views, axes=axes, geometry=geometry)
        for name in table["class"]:
            self._seen.add("unknown" if pd.isna(name) else name, False)
        return table


@dataclass
class Seen:
    """Counts over the events that a reader delivered."""

    total: int = 0
    """Events in the file."""
    classes: Counter[str] = field(default_factory=Counter)
    n_vertices: int = 0
    energy_mev: float = 0.0
    """Deposited; in the file's events, inside or outside the detector."""

    @property
    def n(self) -> int:
        return self.classes.total()

    def add(self, name: str, has_vertex: bool) -> None:
        self.classes[name] += 1
        self.n_vertices += has_vertex


@dataclass
class Inspection:
    """All that is known about a file without a run."""

    path: Path
    kinds: dict[str, str]
    """Source -> description, for the sources that recognise the file."""
    contents: list[str]
    """One line per table, tree or kind of file in a folder."""
    source: str | None = None
    """The source that read it."""
    offset_mm: tuple[float, ...] = (0, 0, 0)
    """Added to the file's coordinates."""
    seen: Seen = field(default_factory=Seen)
    conclusions: list[Conclusion] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: str | None = None
    """The error that a run would stop with, with its remedy."""
    inside_mev: float | None = None
    """Visible energy inside the detector."""
    images: np.ndarray | None = None
    """uint8 (events, views, size, size), as the models see them."""
    pixel_mm: float | None = None
    """Side of their pixels; None if unknown."""
    views: tuple[str, ...] = ()
    names: list[str] = field(default_factory=list)
    """Event ids of `images`."""

    @property
    def is_usable(self) -> bool:
        """Whether a run can use the file. Final states of a generator are not simulated here and have no images."""
        return not self.refused and (self.images is not None or (self.source == "simulate" and self.seen.n > 0))


def recognise(path: Path) -> dict[str, str]:
    """Source -> description of the file, for every source that recognises it by its content."""
    found = {}
    for name, row in SOURCES.items():
        if row.recognise is not None:
            description = resolve_name(row.recognise)(path)
            if description is not None:
                found[name] = description
    return found


def list_contents(path: Path) -> list[str]:
    """The tables of an HDF5 file, the trees of a ROOT file, or the kinds of files of a folder, with their sizes.

    Raises:
        InputError: there is no such file.
    """
    if path.is_dir():
        kinds = Counter(file.suffix or "no suffix" for file in path.iterdir())
        return [f"{n} files {suffix}" for suffix, n in kinds.most_common()]
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder. Check the path.")
    try:
        if h5py.is_hdf5(path):
            with hdf5_file(path) as file:
                return _hdf5_tables(file)
        with path.open("rb") as opened:
            magic = opened.read(4)
        if magic == b"root":
            with uproot.open(path) as file:
                return [
                    f"{name.split(';')[0]} ({kind}{_entries(file, name, kind)})"
                    for name, kind in file.classnames(recursive=True).items()
                ][:MOST_TABLES]
    except Exception as error:
        # A damaged or foreign file may raise anything; the reader's own message follows.
        return [f"cannot be listed ({type(error).__name__}: {error})"]
    return [f"neither HDF5 nor ROOT: begins with {magic!r}"]


def _hdf5_tables(file: h5py.File) -> list[str]:
    lines: list[str] = []

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and len(lines) < MOST_TABLES:
            columns = item.dtype.names
            kind = f"{len(columns)} columns: {', '.join(columns[:8])}" if columns else str(item.dtype)
            lines.append(f"{name} {item.shape} {kind}{', ...' if columns and len(columns) > 8 else ''}")

    file.visititems(visit)
    return lines


def _entries(file: uproot.ReadOnlyDirectory, name: str, kind: str) -> str:
    return f", {file[name].num_entries} entries" if kind.startswith(("TTree", "ROOT::")) else ""


def only_source(path: Path) -> str:
    """The source that reads a file, judged by its content.

    Raises:
        InputError: none does, or several do; or there is no such file.
    """
    contents, kinds = list_contents(path), recognise(path)
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds:
        described = "; ".join(f"{text} (SOURCE={name})" for name, text in kinds.items())
        raise InputError(f"{path}: can be read in several ways: {described}. Choose one with SOURCE=.")
    raise InputError(
        f"{path}: no source recognises it; it holds: {'; '.join(contents[:8]) or 'nothing'}. Formats that are read: "
        f"{', '.join(SOURCES)} (docs/formats.md). Name one with SOURCE= if it should be readable."
    )


def inspect_file(
    path: Path,
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str | None = None,
    offset_mm: Sequence[float] = (0, 0, 0),
    events: int = SAMPLE,
) -> Inspection:
    """Read the first events of a file as a run would.

    Args:
        path: the file or folder.
        values: the configuration; of ``input``, what belongs to the file is replaced.
        folder: for temporary files.
        source: a value of ``input.source``; None for the one that recognises the file.
        offset_mm: added to the file's coordinates.
        events: the most to read.

    Raises:
        InputError: there is no such file, no such source, or the configuration cannot be used.
    """
    found = Inspection(path, recognise(path) if path.exists() else {}, list_contents(path))
    found.source, found.offset_mm = source or next(iter(found.kinds), None), tuple(offset_mm)
    if found.source is None:
        return found
    config = _config(values, path, found.source, offset_mm)
    found.pixel_mm = config.display.pixel_mm if config.input.has_voxels else None
    row = SOURCES[found.source]
    with _warnings(found.warnings):
        try:
            if row.kind == "maps":
                _read_maps(found, config, folder, events)
            elif found.source == "simulate":
                _read_final_states(found, config, events)
            else:
                _read_steps(found, config, folder, events)
        except InputError as error:
            found.refused = str(error)
    return found


def _config(values: Mapping[str, Any], path: Path, source: str, offset_mm: Sequence[float]) -> Config:
    settings = SOURCES[source].settings if source in SOURCES else frozenset()
    section = {name: value for name, value in values.get("input", {}).items() if name in settings}
    section |= {"source": source, "files": [str(path)]}
    if source == "simulate":
        section["simulate"] = {"final_states": "genie"}
    elif any(offset_mm):
        section["offset_mm"] = list(offset_mm)
    return parse_config({**values, "input": section})


def _read_final_states(found: Inspection, config: Config, events: int) -> None:
    """The interactions of a generator, which are not simulated here."""
    with open_final_states(found.path) as tree:
        found.seen.total = len(tree)
    evidence = GeneratorEvidence(config.detector, np.array(found.offset_mm, dtype=np.float64), uses_vertices=True)
    conclusions, defects = Conclusions(), []
    try:
        for entry in read_genie([found.path], 0, min(events, found.seen.total)):
            evidence.add(entry)
            if entry.state is None:
                defects.append(f"{entry.name} {entry.defect}")
                continue
            found.seen.add(_class_of(entry.state.nu_pdg, entry.state.is_cc), bool(np.isfinite(entry.vertex_mm).all()))
        if defects:
            conclusions.add(found.path, "events left out", f"{len(defects)}", f"the first: {defects[0]}", doubt=True)
        if not found.seen.n:
            raise InputError(f"{found.path}: no interaction can be used; the first: {defects[0]}.")
        evidence.conclude(found.path, conclusions.add)
    finally:
        found.conclusions = list(conclusions)


def _read_maps(found: Inspection, config: Config, folder: Path, events: int) -> None:
    assert found.source is not None
    row = SOURCES[found.source]
    assert row.reader is not None
    settings = {name: getattr(config.input, name) for name in row.settings}
    writer = _MapSample(
        store=folder / "maps.zarr", truth=folder / "truth.parquet", on_bad_event="skip", events=events, **settings
    )
    writer._seen = found.seen
    try:
        resolve_name(row.reader)(found.path, writer)
    finally:
        found.conclusions = list(writer._conclusions)
    _read_images(found, folder / "maps.zarr")


def _read_steps(found: Inspection, config: Config, folder: Path, events: int) -> None:
    assert found.source is not None
    row, shard = SOURCES[found.source], folder / "voxels.h5"
    if row.reader is None:
        shutil.copy(found.path, shard)
        found.conclusions = list(check_voxel_shard(shard, config.detector, "skip"))
    else:
        settings = {name: getattr(config.input, name) for name in row.settings}
        kind = _DriftedSample if row.kind == "drifted" else _StepSample
        writer = kind(shard=shard, detector=config.detector, on_bad_event="skip", events=events, **settings)
        writer._seen = found.seen
        try:
            resolve_name(row.reader)(found.path, writer)
        finally:
            found.conclusions = list(writer._conclusions)
    with open_shard(shard, config.detector, "skip") as opened:
        if row.reader is None:
            found.seen.total = len(opened.events)
            for event in opened.events:
                name = _class_of(int(event["nu_pdg"]), bool(event["is_cc"]))
                found.seen.add(name, bool(np.isfinite(event["vertex_mm"]).all()))
    smear_and_downsample(
        shard,
        folder / "displays.zarr",
        detector=config.detector,
        diffusion=config.display.diffusion,
        readout=config.display.readout,
        on_bad_event="skip",
        pixel_mm=config.display.pixel_mm,
    )
    energy = open_store(folder / "displays.zarr", "nuvlm-displays")["visible_energy"]
    found.inside_mev = float(np.asarray(energy[:]).sum())
    crop_displays(folder / "displays.zarr", folder / "maps.zarr", **config.pixelmap.of_maps)
    _read_images(found, folder / "maps.zarr")


def _read_images(found: Inspection, store: Path) -> None:
    opened = open_store(store, "nuvlm-pixelmaps")
    found.images = np.asarray(opened["images"][:PICTURES])
    found.names = [f"event {number}" for number in np.asarray(opened["event_id"][:PICTURES]).tolist()]
    found.views = tuple(opened.attrs["views"])


def _class_of(nu_pdg: int, is_cc: bool) -> str:
    name = classify_truth(np.array([nu_pdg]), np.array([is_cc]))[0]
    return str(name or ("other" if nu_pdg else "unknown"))


@contextmanager
def _warnings(found: list[str]) -> Iterator[None]:
    """Collect the warnings of readers and stages."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    package, handler = logging.getLogger("nuvlm"), Collect(logging.WARNING)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


def render(found: Inspection, pictures: Path | None) -> str:
    """The inspection as text for a terminal."""
    lines = [f"{found.path}"]
    lines += [f"  kind      {text} (source {name})" for name, text in found.kinds.items()]
    if not found.kinds:
        lines.append("  kind      not recognised by any source; known: " + ", ".join(SOURCES))
    lines += [f"  {'contents' if i == 0 else '':<10}{line}" for i, line in enumerate(found.contents)]
    lines += [f"  concluded {c.subject}: {c.value} ({c.evidence})" for c in found.conclusions]
    seen = found.seen
    if seen.n:
        classes = ", ".join(f"{n} {name}" for name in (*CLASSES, "other", "unknown") if (n := seen.classes[name]))
        lines.append(f"  events    {seen.total}; of the first {seen.n}: {classes}; {seen.n_vertices} with a vertex")
    if seen.energy_mev:
        inside = f", {found.inside_mev:.1f} MeV of them visible in the detector" if found.inside_mev is not None else ""
        lines.append(f"  charge    {seen.energy_mev:.1f} MeV deposited{inside}")
    if found.images is not None:
        black = int((~found.images.any(axis=(1, 2, 3))).sum())
        lines.append(f"  pictures  views {', '.join(found.views)}; {found.images.shape[-1]} pixels a side"
                     + (f"; {black} of {len(found.images)} are black" if black else ""))  # fmt: skip
    lines += [f"  warning   {text}" for text in dict.fromkeys(found.warnings)]
    if found.refused:
        lines.append(f"  refused   {found.refused}")
    if pictures is not None:
        lines.append(f"  drawn     {pictures}")
    if found.is_usable:
        lines += ["", *_commands(found)]
    return "\n".join(lines)


def _commands(found: Inspection) -> list[str]:
    """How to use the file: the command that classifies it, and the YAML of a run."""
    if found.source == "simulate":
        return [f"input: {{source: simulate, files: [{found.path}], simulate: {{final_states: genie}}}}"]
    offset = ",".join(f"{value:g}" for value in found.offset_mm)
    shifted = any(found.offset_mm)
    return [
        f"make classify SOURCE={found.source} FILE={found.path}{f' OFFSET={offset}' if shifted else ''}",
        f"input: {{source: {found.source}, files: [{found.path}]{f', offset_mm: [{offset}]' if shifted else ''}}}",
    ]


def _offset(text: str) -> tuple[float, ...]:
    """Three numbers separated by commas."""
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y,z")
    return numbers


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.workflow.inspection", description=__doc__)
    parser.add_argument("path", type=Path, help="a file, or a folder of pixel maps")
    parser.add_argument("--config", nargs="+", type=Path, default=[Path("config/config.yaml")], help="and overlays")
    parser.add_argument("--source", help="a value of input.source, instead of the one that recognises the file")
    parser.add_argument("--offset", type=_offset, default=(0, 0, 0), help="x,y,z in mm, added to coordinates")
    parser.add_argument("--events", type=int, default=SAMPLE, help="the most to read")
    parser.add_argument("--out", type=Path, default=Path("results/inspect"), help="folder for the picture")
    parser.add_argument("--print-source", action="store_true", help="only print the source that reads the file")
    options = parser.parse_args(arguments)
    try:
        if options.print_source:
            print(only_source(options.path))
            return
        with tempfile.TemporaryDirectory() as folder:
            found = inspect_file(
                options.path,
                read_overlays(options.config),
                Path(folder),
                source=options.source,
                offset_mm=options.offset,
                events=options.events,
            )
        pictures = None
        if found.images is not None:
            pictures = options.out / f"{options.path.stem}.png"
            pictures.parent.mkdir(parents=True, exist_ok=True)
            draw_events(pictures, found.images, found.names, found.views, found.pixel_mm)
    except InputError as error:
        sys.exit(str(error))
    print(render(found, pictures))
    if found.images is not None and sys.stdout.isatty():
        rows, columns = charged_region(found.images[0])
        print(f"\n{found.names[0]}, view {found.views[0]}:")
        print(terminal_picture(found.images[0, 0, rows, columns], shutil.get_terminal_size().columns - 1))
    if not found.is_usable:
        sys.exit(1)


if __name__ == "__main__":
    main()
