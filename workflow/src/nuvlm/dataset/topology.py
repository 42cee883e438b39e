"""Topology of an event from simulation truth: the longest track, the largest shower, the gap before the shower.

The thresholds are chosen so that each feature is visible in pixels of 5 cm; docs/formats.md lists them.
"""

import numpy as np
import pandas as pd

from nuvlm.simulation.stdhep import NEUTRINOS

TRACK_MM = 100.0
"""Minimum path of a charged particle that counts as a track, mm: two pixels."""
SHOWER_MEV = 50.0
"""Minimum energy deposited by electrons, positrons and photons that counts as a shower, MeV: above the critical energy
of argon (32.8 MeV), so that the shower multiplies."""
ELECTRON, NEUTRON, NUCLEI = 11, 2112, 1_000_000_000
PION_ZERO, PION_ZERO_MEV = 111, 134.98
"""PDG code and mass of the neutral pion."""
PARTICLE_COLUMNS = {"event_id", "pdg", "momentum_mev"}
DEPOSIT_COLUMNS = {"event_id", "pdg", "length_mm", "electromagnetic_mev", "photon_gap_mm", "leaves"}
"""Columns of /truth/particles and /truth/deposits that are used here."""
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
    """Whether particles are charged, from their PDG codes.

    The digits of a hadron's code are its quarks (PDG, "Monte Carlo particle numbering scheme").
    """
    code = np.abs(np.asarray(pdg, dtype=np.int64))
    up = [code // 10**place % 10 for place in (1, 2, 3)]  # digits of the quarks, in reverse order
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
        particles: /truth/particles of a voxel shard, None without that table.
        deposits: /truth/deposits, with the same rows.

    Returns:
        Table of n rows and TOPOLOGY_COLUMNS, see docs/formats.md; null where the truth is unknown.

    Raises:
        ValueError: the rows of the two tables are not the same particles.
    """
    empty = pd.DataFrame({name: pd.Series(index=range(len(event_ids)), dtype=t) for name, t in TOPOLOGY_TYPES.items()})
    if not (_has(particles, PARTICLE_COLUMNS) and _has(deposits, DEPOSIT_COLUMNS)):
        return empty
    assert particles is not None
    assert deposits is not None
    if any(not np.array_equal(particles[name], deposits[name]) for name in ("event_id", "pdg")):
        raise ValueError("the rows of /truth/particles and /truth/deposits are not the same particles")
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
    # Electrons start at the vertex, except in counterfactual events.
    rows["gap"] = np.where(electron & np.isnan(gap), 0.0, gap)
    rows[list("xyz")] = direction
    track = charged & ~electron & (length >= TRACK_MM)
    # Photons of neutrons leave isolated blips. Showers of a charged hadron start at its end and belong to its track.
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
    """Total energy of the most energetic neutral pion in the final state of each event.

    Args:
        event_ids: (n,) of the events.
        particles: /truth/particles of a voxel shard, None without that table.

    Returns:
        (n,) GeV; 0 without a neutral pion; NaN if the final state is unknown.
    """
    if not _has(particles, {"event_id", "pdg", "kinetic_mev"}):
        return np.full(len(event_ids), np.nan)
    assert particles is not None
    kinetic = particles["kinetic_mev"].astype(np.float64)
    energy = np.where(particles["pdg"] == PION_ZERO, (kinetic + PION_ZERO_MEV) / 1e3, 0.0)
    # The maximum in pandas ignores NaN, but one pion of unknown energy makes the result of its event unknown.
    known = pd.Series(np.where(np.isfinite(energy), energy, np.inf)).groupby(particles["event_id"]).max()
    found: np.ndarray = known.reindex(event_ids).to_numpy(dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def count_particles(
    event_ids: np.ndarray, particles: np.ndarray | None, pdg: int, kinetic_mev: float = 0
) -> np.ndarray:
    """Number of particles of a kind, and of their antiparticles, in the final state of each event.

    Args:
        event_ids: (n,) of the events.
        particles: /truth/particles of a voxel shard, None without that table.
        pdg: code of the particle.
        kinetic_mev: minimum kinetic energy, MeV.

    Returns:
        (n,), float64; NaN if the final state is unknown.
    """
    if not _has(particles, {"event_id", "pdg", "kinetic_mev"}):
        return np.full(len(event_ids), np.nan)
    assert particles is not None
    counted = (np.abs(particles["pdg"].astype(np.int64)) == pdg) & (particles["kinetic_mev"] >= kinetic_mev)
    found: np.ndarray = pd.Series(counted).groupby(particles["event_id"]).sum().reindex(event_ids).to_numpy(np.float64)
    return found


def _has(table: np.ndarray | None, columns: set[str]) -> bool:
    return table is not None and columns <= set(table.dtype.names or ())


def _first(rows: pd.DataFrame, events: pd.Index) -> pd.DataFrame:
    """The first row of each event, null if it has none."""
    return rows.drop_duplicates("event_id").set_index("event_id").reindex(events)
