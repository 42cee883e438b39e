"""A voxel shard of simulated neutrinos, and changes of its meaning."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from made_events import MadeEvent
from mutations import Mutation
from numpy.lib import recfunctions

from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import Event, voxelize, write_shard
from nuvlm.simulation.events import particle_rows

FACTORS = (10.0, 0.1, 1000.0, 1e-3, -1.0)
Change = Callable[["Content"], Any]


@dataclass
class Content:
    attributes: dict[str, Any]
    tables: dict[str, np.ndarray]


def content(folder: Path, events: list[MadeEvent]) -> Content:
    detector, path = Detector(), folder / "voxels_of_made_events.h5"
    written = []
    for i, made in enumerate(events):
        voxels, _ = voxelize(detector, made.start, made.end, made.energy)
        state = made.state
        written.append(
            Event(
                900 + i,
                voxels,
                state.nu_pdg,
                state.is_cc,
                state.nu_energy,
                state.inelasticity,
                tuple(made.vertex),
                state.mode,
                {"particles": particle_rows(900 + i, state.particles)},
            )
        )
    write_shard(path, detector, written)
    with h5py.File(path) as file:
        tables: dict[str, np.ndarray] = {}
        file.visititems(lambda name, item: tables.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
        return Content(dict(file.attrs), tables)


def write(path: Path, changed: Content) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs.update(changed.attributes)
        for name, rows in changed.tables.items():
            file.create_dataset(name, data=rows)
    return path


def mutations() -> list[Mutation]:
    return [*_axes(), *_scales(), *_shifts(), *_order(), *_values(), *_structure()]


def _axes() -> list[Mutation]:
    found = []
    sizes = dict(zip("xyz", Detector().shape, strict=True))

    def mirror(axis: str, *what: str) -> Change:
        def apply(changed: Content) -> None:
            if "voxels" in what:
                column = changed.tables[f"voxels/{axis}"]
                changed.tables[f"voxels/{axis}"] = (sizes[axis] - 1 - column).astype(column.dtype)
            if "vertices" in what:
                low, high = Detector().box_mm["xyz".index(axis)]
                places = changed.tables["events"]["vertex_mm"]
                places[:, "xyz".index(axis)] = low + high - places[:, "xyz".index(axis)]
            if "momenta" in what:
                changed.tables["truth/particles"]["momentum_mev"][:, "xyz".index(axis)] *= -1

        return apply

    parts = ("voxels", "vertices", "momenta")
    for axis, n in itertools.product("xyz", (1, 2, 3)):
        for what in itertools.combinations(parts, n):
            reason = "a mirrored file, all of whose tables agree" if n == 3 and axis != "z" else ""
            found.append(Mutation(f"{' + '.join(what)} mirrored in {axis}", mirror(axis, *what), reason))
    for order in itertools.permutations(range(3)):
        for what in ("voxels", "vertices", "momenta", "voxels + vertices"):

            def turn(changed: Content, order=order, what=what) -> None:
                if "voxels" in what:
                    old = {axis: changed.tables[f"voxels/{axis}"] for axis in "xyz"}
                    for i, k in enumerate(order):
                        changed.tables[f"voxels/{'xyz'[i]}"] = old["xyz"[k]]
                if "vertices" in what:
                    changed.tables["events"]["vertex_mm"] = changed.tables["events"]["vertex_mm"][:, list(order)]
                if what == "momenta":
                    momenta = changed.tables["truth/particles"]["momentum_mev"]
                    momenta[:] = momenta[:, list(order)]

            found.append(Mutation(f"{what} as {', '.join('xyz'[k] for k in order)}", turn))
    return found


def _scales() -> list[Mutation]:
    found = []

    def scale(table: str, name: str | None, factor: float) -> Change:
        def apply(changed: Content) -> None:
            values = changed.tables[table] if name is None else changed.tables[table][name]
            new = (values.astype(np.float64) * factor).astype(values.dtype)
            if name is None:
                changed.tables[table] = new
            else:
                changed.tables[table][name] = new

        return apply

    targets = [("voxels/energy", None), *((f"voxels/{axis}", None) for axis in "xyz")]
    targets += [("events", name) for name in ("nu_energy", "inelasticity", "vertex_mm", "nu_pdg", "event_id")]
    targets += [("truth/particles", name) for name in ("kinetic_mev", "momentum_mev", "pdg")]
    for (table, name), factor in itertools.product(targets, FACTORS):
        found.append(Mutation(f"{table} {name or ''} x {factor:g}", scale(table, name, factor)))
    for axis, factor in itertools.product(range(3), FACTORS):

        def one_axis(changed: Content, axis=axis, factor=factor) -> None:
            changed.tables["events"]["vertex_mm"][:, axis] *= factor

        found.append(Mutation(f"vertex {'xyz'[axis]} x {factor:g}", one_axis))
    for factor in FACTORS:

        def energies(changed: Content, factor=factor) -> None:
            for table, name in (("voxels/energy", None), ("events", "nu_energy")):
                scale(table, name, factor)(changed)

        found.append(Mutation(f"voxels' and neutrinos' energies x {factor:g}", energies))
    return found


def _shifts() -> list[Mutation]:
    found = []
    for axis, size in zip("xyz", Detector().shape, strict=True):
        for sign, what in itertools.product((1, -1), ("voxels", "vertices", "both")):

            def shift(changed: Content, axis=axis, size=size, sign=sign, what=what) -> None:
                k = "xyz".index(axis)
                if what != "vertices":
                    column = changed.tables[f"voxels/{axis}"]
                    changed.tables[f"voxels/{axis}"] = (column.astype(np.int64) + sign * size // 2).astype(column.dtype)
                if what != "voxels":
                    changed.tables["events"]["vertex_mm"][:, k] += sign * size / 2 * Detector().voxel_mm[k]

            found.append(Mutation(f"{what} shifted by {sign} half a detector in {axis}", shift))
    return found


def _order() -> list[Mutation]:
    found = []
    names = ("event_id", "nu_pdg", "is_cc", "nu_energy", "inelasticity", "vertex_mm", "mode", "n_voxels", "first_voxel")
    for name in names:
        for by in (1, 5):

            def rolled(changed: Content, name=name, by=by) -> None:
                rows = changed.tables["events"]
                rows[name] = np.roll(rows[name], by, axis=0)

            reason = "the mode is only in its column" if name == "mode" else ""
            found.append(Mutation(f"events.{name} of the event {by} before", rolled, reason))
    for name in ("event_id", "pdg", "kinetic_mev", "momentum_mev"):

        def roll_particles(changed: Content, name=name) -> None:
            rows = changed.tables["truth/particles"]
            rows[name] = np.roll(rows[name], 9, axis=0)

        found.append(Mutation(f"particles.{name} of other rows", roll_particles))
    for name in ("voxels/x", "voxels/y", "voxels/z", "voxels/energy"):
        for by in (1, 1000):

            def roll_voxels(changed: Content, name=name, by=by) -> None:
                changed.tables[name] = np.roll(changed.tables[name], by)

            reason = "each voxel has the energy of another" if name == "voxels/energy" else ""
            found.append(Mutation(f"{name} of {by} rows before", roll_voxels, reason))

    def voxels_backwards(changed: Content) -> None:
        for first, n in zip(changed.tables["events"]["first_voxel"], changed.tables["events"]["n_voxels"], strict=True):
            part = slice(int(first), int(first) + int(n))
            for name in ("x", "y", "z", "energy"):
                changed.tables[f"voxels/{name}"][part] = changed.tables[f"voxels/{name}"][part][::-1].copy()

    def events_backwards(changed: Content) -> None:
        changed.tables["events"] = changed.tables["events"][::-1].copy()

    def particles_shuffled(changed: Content) -> None:
        changed.tables["truth/particles"] = np.random.default_rng(1).permutation(changed.tables["truth/particles"])

    found += [
        Mutation("voxels of each event backwards", voxels_backwards),
        Mutation("events backwards", events_backwards),
        Mutation("particles in any order", particles_shuffled),
    ]
    return found


def _values() -> list[Mutation]:
    found = []
    fields = ("nu_pdg", "is_cc", "nu_energy", "inelasticity", "vertex_mm", "mode", "event_id", "n_voxels")
    for name, value in itertools.product(fields, (0, 1, -1, 7, np.nan)):
        for step in (1, 3):

            def fill(changed: Content, name=name, value=value, step=step) -> None:
                column = changed.tables["events"][name]
                column[::step] = np.array(value).astype(column.dtype)

            reason = "the mode is only in its column" if name == "mode" and value not in (-1, 7) else ""
            found.append(Mutation(f"events.{name} {value} in every {step}. row", fill, reason))
    for value in (np.nan, np.inf, -1.0, 0.0):

        def energies(changed: Content, value=value) -> None:
            changed.tables["voxels/energy"][::3] = value

        found.append(Mutation(f"energy of every third voxel {value}", energies))
    for name in ("voxels/x", "voxels/y", "voxels/z", "voxels/energy", "events"):
        for kind in ("f8", "i8", "u4", "S8"):
            if name == "events":
                continue

            def retype(changed: Content, name=name, kind=kind) -> None:
                changed.tables[name] = changed.tables[name].astype(kind)

            found.append(Mutation(f"{name} as {kind}", retype))
    return found


def _structure() -> list[Mutation]:
    found = []
    for name in ("events", "voxels/x", "voxels/y", "voxels/z", "voxels/energy", "truth/particles"):

        def drop(changed: Content, name=name) -> None:
            del changed.tables[name]

        found.append(Mutation(f"{name} dropped", drop))
        for part in (0.0, 0.5, 0.9):

            def cut(changed: Content, name=name, part=part) -> None:
                changed.tables[name] = changed.tables[name][: int(part * len(changed.tables[name]))]

            partly = name == "truth/particles" and part == 0.9
            reason = "of one event, some particles of the final state are lost" if partly else ""
            found.append(Mutation(f"{name} cut after {part:.0%}", cut, reason))
    for name in ("event_id", "nu_pdg", "is_cc", "nu_energy", "inelasticity", "vertex_mm", "mode"):

        def without(changed: Content, name=name) -> None:
            changed.tables["events"] = recfunctions.drop_fields(changed.tables["events"], name)

        found.append(Mutation(f"events without {name}", without))
    for name, value in {
        "format": "other",
        "version": 2,
        "voxel_mm": [5.0, 1.0, 5.0],
        "origin_mm": [0.0, 0.0, 0.0],
        "shape": [400, 2000, 1400],
    }.items():

        def attribute(changed: Content, name=name, value=value) -> None:
            changed.attributes[name] = value

        def no_attribute(changed: Content, name=name) -> None:
            del changed.attributes[name]

        found += [
            Mutation(f"attribute {name} {value}", attribute),
            Mutation(f"attribute {name} dropped", no_attribute),
        ]

    def twice(changed: Content) -> None:
        changed.tables["events"] = np.concatenate([changed.tables["events"]] * 2)

    found.append(Mutation("events twice", twice))
    return found
