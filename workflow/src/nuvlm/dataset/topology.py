"""What there is to see of an event, by simulation's truth: the longest track, the largest shower, the gap before it.

All thresholds are such that what is stated can be seen in pixels of 5 cm; docs/formats.md lists them.
"""

import numpy as np
import pandas as pd

from nuvlm.simulation.stdhep import NEUTRINOS

TRACK_MM = 100.0
"""Path from which on a charged particle is a track, mm: two pixels."""
SHOWER_MEV = 50.0
"""Energy in the detector from which on electrons, positrons and photons are a shower, MeV: above the critical energy of
argon (32.8 MeV), so that it multiplies."""
ELECTRON, NEUTRON, NUCLEI = 11, 2112, 1_000_000_000
PION_ZERO, PION_ZERO_MEV = 111, 134.98
"""PDG code and mass of the neutral pion."""
PARTICLE_COLUMNS = {"event_id", "pdg", "momentum_mev"}
DEPOSIT_COLUMNS = {"event_id", "pdg", "length_mm", "electromagnetic_mev", "photon_gap_mm", "leaves"}
"""Of /truth/particles and /truth/deposits, what is read of them here."""
TOPOLOGY_TYPES = {
    "charged": "Int8",
    "track_mm": "float32",
    "track_leaves": "boolean",
    "shower_mev": "float32",
    "shower_gap_mm": "float32",
} | {f"{what}_direction_{axis}": "float32" for what in ("track", "shower") for axis in "xyz"}
"""Columns of the event table, and their types."""
TOPOLOGY_COLUMNS = list(TOPOLOGY_TYPES)


def is_charged(pdg: np.ndarray) -> np.ndarray:
    """Whether particles are charged, by their PDG codes alone.

    A hadron's charge follows from its quarks, which its code names (PDG, "Monte Carlo particle numbering scheme").
    """
    code = np.abs(np.asarray(pdg, dtype=np.int64))
    up = [code // 10**place % 10 for place in (1, 2, 3)]  # quark digits, the first quark's last
    up_type = [(digit > 0) & (digit % 2 == 0) for digit in up]
    meson = (code > 100) & (up[2] == 0)
    baryon = (code > 1000) & (up[2] > 0)
    # A meson is neutral if quark and antiquark are of one type; a baryon if one of its three quarks is up-type.
    hadron = (meson & (up_type[0] != up_type[1])) | (baryon & (sum(kind.astype(int) for kind in up_type) != 1))
    nucleus = (code >= NUCLEI) & (code < 2 * NUCLEI)
    return np.where(nucleus, code // 10_000 % 1000 > 0, np.isin(code, (11, 13, 15)) | ((code < NUCLEI) & hadron))


def find_topology(event_ids: np.ndarray, particles: np.ndarray | None, deposits: np.ndarray | None) -> pd.DataFrame:
    """The topology of events.

    Args:
        event_ids: (n,) of the events.
        particles: /truth/particles of a voxel shard, if it has that table.
        deposits: /truth/deposits, row by row beside it.

    Returns:
        (n rows) of TOPOLOGY_COLUMNS, see docs/formats.md; null where truth does not tell.

    Raises:
        ValueError: the tables are not of the same particles.
    """
    empty = pd.DataFrame({name: pd.Series(index=range(len(event_ids)), dtype=t) for name, t in TOPOLOGY_TYPES.items()})
    if not (_has(particles, PARTICLE_COLUMNS) and _has(deposits, DEPOSIT_COLUMNS)):
        return empty
    assert particles is not None
    assert deposits is not None
    if any(not np.array_equal(particles[name], deposits[name]) for name in ("event_id", "pdg")):
        raise ValueError("the tables /truth/particles and /truth/deposits are not of the same particles, row by row")
    length, energy, gap = (
        deposits[name].astype(np.float64) for name in ("length_mm", "electromagnetic_mev", "photon_gap_mm")
    )
    momentum = particles["momentum_mev"].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        direction = momentum / np.linalg.norm(momentum, axis=1, keepdims=True)
    pdg = np.abs(particles["pdg"].astype(np.int64))
    charged, electron = is_charged(pdg), pdg == ELECTRON
    rows = pd.DataFrame({"event_id": particles["event_id"], "length": length, "energy": energy})
    rows["leaves"] = deposits["leaves"] > 0
    rows["gap"] = np.where(electron, 0.0, gap)
    rows[list("xyz")] = direction
    track = charged & ~electron & (length >= TRACK_MM)
    # What neutrons leave by photons are blips; a charged hadron's showers start where it ends, and belong to it.
    makes_shower = electron | (~charged & (pdg != NEUTRON) & ~np.isin(pdg, list(NEUTRINOS)))
    shower = makes_shower & (energy >= SHOWER_MEV) & np.isfinite(rows["gap"].to_numpy())

    index = pd.Index(event_ids)
    unsound = ~(np.isfinite(length) & np.isfinite(energy) & np.isfinite(momentum).all(axis=1))
    known = index.isin(rows["event_id"]) & ~index.isin(rows["event_id"][unsound])
    longest = _first(rows[track].sort_values("length", ascending=False, kind="stable"), index)
    largest = _first(rows[shower].sort_values("energy", ascending=False, kind="stable"), index)
    prongs = rows["event_id"][track | (shower & electron)].value_counts().reindex(index, fill_value=0)
    table = empty.copy()
    table["charged"] = prongs.clip(upper=127).to_numpy()
    table["track_mm"], table["track_leaves"] = longest["length"].fillna(0).to_numpy(), longest["leaves"].to_numpy()
    table["shower_mev"], table["shower_gap_mm"] = largest["energy"].fillna(0).to_numpy(), largest["gap"].to_numpy()
    for what, found in (("track", longest), ("shower", largest)):
        for axis in "xyz":
            table[f"{what}_direction_{axis}"] = found[axis].to_numpy()
    return table.astype(TOPOLOGY_TYPES).where(pd.Series(known), empty)


def leading_pion_energy(event_ids: np.ndarray, particles: np.ndarray | None) -> np.ndarray:
    """Total energy of the most energetic neutral pion of each event's final state.

    Args:
        event_ids: (n,) of the events.
        particles: /truth/particles of a voxel shard, if it has that table.

    Returns:
        (n,) GeV; 0 without a neutral pion; NaN where the final state is not known.
    """
    if not _has(particles, {"event_id", "pdg", "kinetic_mev"}):
        return np.full(len(event_ids), np.nan)
    assert particles is not None
    kinetic = particles["kinetic_mev"].astype(np.float64)
    energy = np.where(particles["pdg"] == PION_ZERO, (kinetic + PION_ZERO_MEV) / 1e3, 0.0)
    # pandas' maximum passes over NaN: one pion of unknown energy makes the event's unknown.
    known = pd.Series(np.where(np.isfinite(energy), energy, np.inf)).groupby(particles["event_id"]).max()
    found: np.ndarray = known.reindex(event_ids).to_numpy(dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def _has(table: np.ndarray | None, columns: set[str]) -> bool:
    return table is not None and columns <= set(table.dtype.names or ())


def _first(rows: pd.DataFrame, events: pd.Index) -> pd.DataFrame:
    """The first row of each of `events`, null where there is none."""
    return rows.drop_duplicates("event_id").set_index("event_id").reindex(events)
