"""A larnd-sim file of simulated neutrinos, and changes of its meaning."""

import itertools
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from made_events import MadeEvent
from mutations import Mutation
from numpy.lib import recfunctions

Tables = dict[str, np.ndarray]
ENDS = [f"{axis}_{end}" for end in ("start", "end") for axis in "xyz"]
COORDINATES = [*ENDS, "x", "y", "z"]
MODES = {1: "isQES", 2: "isMEC", 3: "isRES", 4: "isDIS", 5: "isCOH"}
FACTORS = (10.0, 0.1, 1000.0, 1e-3)
HALF = {"x": 100.0, "y": 100.0, "z": 350.0}  # cm


def tables(events: list[MadeEvent]) -> Tables:
    """Spills of two neutrinos each, with the names, types and units of 2x2_sim."""
    segments, header, stack, first = [], [], [], 0
    for i, made in enumerate(events):
        spill, vertex = 500 + i // 2, 1000 + 7 * i
        rows = np.zeros(
            len(made.energy),
            [("event_id", "u4"), ("vertex_id", "u8"), ("segment_id", "u4"), ("traj_id", "u4")]
            + [(name, "f4") for name in (*COORDINATES, "dx", "dE", "dEdx", "t")]
            + [("pdg_id", "i4"), ("n_electrons", "u4")],
        )
        rows["event_id"], rows["vertex_id"], rows["traj_id"] = spill, vertex, made.primary
        rows["segment_id"] = first + np.arange(len(rows))
        first += len(rows)
        for k, axis in enumerate("xyz"):
            rows[f"{axis}_start"], rows[f"{axis}_end"] = made.start[:, k] / 10, made.end[:, k] / 10
            rows[axis] = (made.start[:, k] + made.end[:, k]) / 20
        rows["dx"] = np.linalg.norm(made.end - made.start, axis=1) / 10
        rows["dE"] = made.energy
        rows["dEdx"] = np.where(rows["dx"] > 0, made.energy / np.maximum(rows["dx"], 1e-9), 0)
        segments.append(rows)
        state = made.state
        row = np.zeros(
            1,
            [("event_id", "u4"), ("vertex_id", "u8"), ("x_vert", "f4"), ("y_vert", "f4"), ("z_vert", "f4")]
            + [(name, "?") for name in ("isCC", *MODES.values())]
            + [("nu_pdg", "i4"), ("Enu", "f4"), ("nu_4mom", "f4", (4,)), ("y", "f4")],
        )
        row["event_id"], row["vertex_id"], row["isCC"], row["nu_pdg"] = spill, vertex, state.is_cc, state.nu_pdg
        row["x_vert"], row["y_vert"], row["z_vert"] = made.vertex / 10
        row["Enu"], row["y"] = 1000 * state.nu_energy, state.inelasticity
        row["nu_4mom"] = (0, 0, 1000 * state.nu_energy, 1000 * state.nu_energy)
        if state.mode in MODES:
            row[MODES[state.mode]] = True
        header.append(row)
        particles = np.zeros(
            1 + len(state.particles),
            [
                ("event_id", "u4"),
                ("vertex_id", "u8"),
                ("traj_id", "i4"),
                ("part_4mom", "f4", (4,)),
                ("part_pdg", "i4"),
                ("part_status", "i4"),
            ],
        )
        particles["event_id"], particles["vertex_id"] = spill, vertex
        particles["part_pdg"] = [state.nu_pdg, *(p.pdg for p in state.particles)]
        particles["part_status"][1:] = 1
        particles["part_4mom"] = [row["nu_4mom"][0], *((p.px, p.py, p.pz, p.energy) for p in state.particles)]
        stack.append(particles)
    return {"segments": np.concatenate(segments), "mc_hdr": np.concatenate(header), "mc_stack": np.concatenate(stack)}


def write(path: Path, content: Tables) -> Path:
    with h5py.File(path, "w") as file:
        for name, rows in content.items():
            file.create_dataset(name, data=rows)
    return path


def mutations() -> list[Mutation]:
    """Changes of meaning, each with a name."""
    return [*_axes(), *_scales(), *_shifts(), *_ids(), *_tables(), *_values(), *_types()]


def _permute(rows: np.ndarray, columns: Callable[[str], str], order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    old = rows.copy()
    for i, (k, sign) in enumerate(zip(order, signs, strict=True)):
        rows[columns("xyz"[i])] = sign * old[columns("xyz"[k])]


def _segment_axes(content: Tables, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    for end in ("{}_start", "{}_end", "{}"):
        _permute(content["segments"], end.format, order, signs)


def _vertex_axes(content: Tables, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    _permute(content["mc_hdr"], "{}_vert".format, order, signs)


def _momentum_axes(content: Tables, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    for table, name in (("mc_stack", "part_4mom"), ("mc_hdr", "nu_4mom")):
        values = content[table][name]
        values[:, :3] = np.array(signs) * values[:, list(order)]


def _axes() -> list[Mutation]:
    found = []
    for order, signs in itertools.product(
        itertools.permutations(range(3)), ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
    ):
        if order == (0, 1, 2) and min(signs) > 0:
            continue
        name = ",".join(("-" if s < 0 else "") + "xyz"[i] for i, s in zip(order, signs, strict=True))
        parts = {"segments": _segment_axes, "vertices": _vertex_axes, "momenta": _momentum_axes}
        for chosen in (("segments",), ("vertices",), ("segments", "vertices"), tuple(parts)):
            everything = len(chosen) == 3

            def change(content: Tables, chosen=chosen, order=order, signs=signs, parts=parts) -> None:
                for part in chosen:
                    parts[part](content, order, signs)

            # Along z in either sense the beam shows an exchange; across it, a mirrored event is as good as the other.
            along = order[2] == 2 and signs[2] > 0
            reason = "a mirrored or turned file, all of whose tables agree" if everything and along else ""
            found.append(Mutation(f"{' + '.join(chosen)} as {name}", change, reason))
    return found


def _times(table: str, names: list[str], factor: float) -> Callable[[Tables], None]:
    def change(content: Tables) -> None:
        for name in names:
            rows = content[table]
            rows[name] = (rows[name].astype(np.float64) * factor).astype(rows.dtype[name].base)

    return change


def _scales() -> list[Mutation]:
    vertex = ["x_vert", "y_vert", "z_vert"]
    targets: dict[str, list[tuple[str, list[str]]]] = {
        "all coordinates of segments": [("segments", COORDINATES)],
        "all lengths of segments": [("segments", [*COORDINATES, "dx"])],
        "vertices": [("mc_hdr", vertex)],
        "all lengths": [("segments", [*COORDINATES, "dx"]), ("mc_hdr", vertex)],
        "dE": [("segments", ["dE"])],
        "dE and dEdx": [("segments", ["dE", "dEdx"])],
        "dx": [("segments", ["dx"])],
        "dEdx": [("segments", ["dEdx"])],
        "Enu": [("mc_hdr", ["Enu"])],
        "nu_4mom": [("mc_hdr", ["nu_4mom"])],
        "Enu and nu_4mom": [("mc_hdr", ["Enu", "nu_4mom"])],
        "part_4mom": [("mc_stack", ["part_4mom"])],
        "all energies of the truth": [("mc_hdr", ["Enu", "nu_4mom"]), ("mc_stack", ["part_4mom"])],
        "y": [("mc_hdr", ["y"])],
        "deposits and truth energies": [
            ("segments", ["dE", "dEdx"]),
            ("mc_hdr", ["Enu", "nu_4mom"]),
            ("mc_stack", ["part_4mom"]),
        ],
    }
    for axis in "xyz":
        targets[f"{axis} of segments"] = [("segments", [f"{axis}_start", f"{axis}_end", axis])]
        targets[f"{axis} of vertices"] = [("mc_hdr", [f"{axis}_vert"])]
        targets[f"{axis} of both"] = [*targets[f"{axis} of segments"], *targets[f"{axis} of vertices"]]
    targets |= {name: [("segments", [name])] for name in ENDS}
    found = []
    for (name, parts), factor in itertools.product(targets.items(), (*FACTORS, -1.0)):

        def change(content: Tables, parts=parts, factor=factor) -> None:
            for table, names in parts:
                _times(table, names, factor)(content)

        found.append(Mutation(f"{name} x {factor:g}", change))
    return found


def _shifts() -> list[Mutation]:
    found = []
    for axis, sign, what in itertools.product("xyz", (1, -1), ("segments", "vertices", "both", "starts", "ends")):
        by = sign * HALF[axis]
        parts = {
            "segments": [("segments", [f"{axis}_start", f"{axis}_end", axis])],
            "vertices": [("mc_hdr", [f"{axis}_vert"])],
            "starts": [("segments", [f"{axis}_start"])],
            "ends": [("segments", [f"{axis}_end"])],
        }
        chosen = [*parts["segments"], *parts["vertices"]] if what == "both" else parts[what]

        def change(content: Tables, chosen=chosen, by=by) -> None:
            for table, names in chosen:
                for name in names:
                    content[table][name] += by

        found.append(Mutation(f"{what} shifted by {by:g} cm in {axis}", change))
    return found


def _ids() -> list[Mutation]:
    found = []
    for table, name in itertools.product(("segments", "mc_hdr", "mc_stack"), ("event_id", "vertex_id")):
        for by in (1, 7, 1000, 10**6):

            def offset(content: Tables, table=table, name=name, by=by) -> None:
                content[table][name] += np.array(by, dtype=content[table].dtype[name])

            found.append(Mutation(f"{name} of {table} + {by}", offset))

        def exchange(content: Tables, table=table, name=name) -> None:
            """The first and the last number change places."""
            column = content[table][name]
            first, last = column.min(), column.max()
            at_first, at_last = column == first, column == last
            column[at_first], column[at_last] = last, first

        def reverse(content: Tables, table=table, name=name) -> None:
            column = content[table][name]
            column[:] = column.max() + column.min() - column

        def constant(content: Tables, table=table, name=name) -> None:
            content[table][name] = content[table][name][0]

        found += [
            Mutation(f"{name} of {table}: first and last exchanged", exchange),
            Mutation(f"{name} of {table} reversed", reverse),
            Mutation(f"{name} of {table} all the same", constant),
        ]
    for by in (1, 1000):

        def everywhere(content: Tables, by=by) -> None:
            for rows in content.values():
                rows["event_id"] += np.uint32(by)
                rows["vertex_id"] += np.uint64(by)

        found.append(Mutation(f"all numbers + {by}", everywhere))

    def within_the_event(content: Tables) -> None:
        for table in ("mc_hdr", "mc_stack"):
            rows = content[table]
            for event in np.unique(rows["event_id"]):
                mine = rows["event_id"] == event
                rows["vertex_id"][mine] = np.unique(rows["vertex_id"][mine], return_inverse=True)[1]

    found.append(Mutation("vertex_id of the truth counts within the event", within_the_event))
    return found


def _tables() -> list[Mutation]:
    found = []
    for table in ("segments", "mc_hdr", "mc_stack"):

        def drop(content: Tables, table=table) -> None:
            del content[table]

        def empty(content: Tables, table=table) -> None:
            content[table] = content[table][:0]

        found += [Mutation(f"{table} dropped", drop), Mutation(f"{table} empty", empty)]
        for part in (0.25, 0.5, 0.75):

            def cut(content: Tables, table=table, part=part) -> None:
                content[table] = content[table][: int(part * len(content[table]))]

            def cut_front(content: Tables, table=table, part=part) -> None:
                content[table] = content[table][int(part * len(content[table])) :]

            found += [
                Mutation(f"{table} cut after {part:.0%}", cut),
                Mutation(f"{table} without its first {part:.0%}", cut_front),
            ]
        for seed in (1, 2):

            def shuffle(content: Tables, table=table, seed=seed) -> None:
                content[table] = np.random.default_rng(seed).permutation(content[table])

            found.append(Mutation(f"{table} in any order {seed}", shuffle))

        def backwards(content: Tables, table=table) -> None:
            content[table] = content[table][::-1].copy()

        def twice(content: Tables, table=table) -> None:
            content[table] = np.concatenate([content[table]] * 2)

        def repeated(content: Tables, table=table) -> None:
            rows = content[table]
            content[table] = np.concatenate([rows, rows[rows["vertex_id"] == rows["vertex_id"][0]]])

        found += [
            Mutation(f"{table} backwards", backwards),
            Mutation(f"{table} twice", twice),
            Mutation(f"the first event of {table} again at its end", repeated),
        ]

    def merged(content: Tables) -> None:
        for table in content:
            content[table] = np.concatenate([content[table]] * 2)

    found.append(Mutation("the file merged with itself", merged))
    return found


COLUMNS = {
    "segments": [*COORDINATES, "dx", "dE", "dEdx", "event_id", "vertex_id", "segment_id", "t"],
    "mc_hdr": ["event_id", "vertex_id", "x_vert", "y_vert", "z_vert", "isCC", "nu_pdg", "Enu", "nu_4mom", "y"],
    "mc_stack": ["event_id", "vertex_id", "part_4mom", "part_pdg", "part_status"],
}
ROUNDED = ("x_vert", "y_vert", "z_vert", "part_4mom", "Enu", "nu_4mom")
UNCHECKED = {"t": "nothing uses it", "segment_id": "nothing uses it where events are not repeated"}


def _values() -> list[Mutation]:
    found = []
    for table, names in COLUMNS.items():
        for name in names:

            def drop(content: Tables, table=table, name=name) -> None:
                content[table] = recfunctions.drop_fields(content[table], name)

            def zero(content: Tables, table=table, name=name) -> None:
                content[table][name] = 0

            def rolled(content: Tables, table=table, name=name) -> None:
                content[table][name] = np.roll(content[table][name], len(content[table]) // 3, axis=0)

            def unknown(content: Tables, table=table, name=name) -> None:
                rows = content[table]
                rows[name][::2] = (
                    np.nan if rows.dtype[name].base.kind == "f" else np.array(-999).astype(rows[name].dtype)
                )

            found += [
                Mutation(f"{table}.{name} dropped", drop),
                Mutation(f"{table}.{name} all zero", zero),
                Mutation(f"{table}.{name} of other rows", rolled),
                Mutation(f"{table}.{name} NaN or -999 in every second row", unknown),
            ]
    for mode in MODES.values():

        def flag(content: Tables, mode=mode) -> None:
            for name in MODES.values():
                content["mc_hdr"][name] = name == mode

        found.append(Mutation(f"all interactions are {mode}", flag, "the mode is only in its flags"))
    for pdg in (12, 14, 16, -12, -14):

        def flavour(content: Tables, pdg=pdg) -> None:
            content["mc_hdr"]["nu_pdg"] = pdg

        found.append(Mutation(f"all neutrinos are {pdg}", flavour))

    def inverted(content: Tables) -> None:
        content["mc_hdr"]["isCC"] = ~content["mc_hdr"]["isCC"]

    def antiparticles(content: Tables) -> None:
        content["mc_hdr"]["nu_pdg"] *= -1

    found += [Mutation("isCC inverted", inverted), Mutation("nu_pdg negated", antiparticles)]
    return found


def _types() -> list[Mutation]:
    found = []
    for table, names in COLUMNS.items():
        for name, kind in itertools.product(names, ("f8", "f4", "i8", "u2", "S8")):

            def retype(content: Tables, table=table, name=name, kind=kind) -> None:
                old = content[table]
                types = [
                    (field, kind, old.dtype[field].shape) if field == name else (field, old.dtype[field])
                    for field in old.dtype.names
                ]
                rows = np.zeros(len(old), types)
                for field in old.dtype.names:
                    rows[field] = old[field].astype(rows.dtype[field].base)
                content[table] = rows

            if name in UNCHECKED:
                continue
            rounds = kind in ("i8", "u2") and name in ROUNDED
            reason = "rounding to whole numbers, by half a cm or MeV" if rounds else ""
            found.append(Mutation(f"{table}.{name} as {kind}", retype, reason))
    return found
