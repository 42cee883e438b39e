"""Validation of the simulation: particles in the simulated argon against references, the sampler against GENIE.

    python -m nuvlm.simulation.validation --json RESULT.json --figure FIGURE.svg --page PAGE.md

(`make validate`) measures, draws, and writes its tables between two marks in a page. The exit status is 1 if a quantity
is outside its tolerance.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import optimize

from nuvlm.base.files import atomic_path, write_json
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import voxelize
from nuvlm.simulation import expected
from nuvlm.simulation.final_states import (
    ELECTRON,
    MASS_MEV,
    MUON,
    NEUTRON,
    PION_PLUS,
    PION_ZERO,
    PROTON,
    FinalState,
    Particle,
    sample_final_state,
)
from nuvlm.simulation.recorder import Recorded
from nuvlm.simulation.toolkit import DATA
from nuvlm.simulation.transport import Deposits, argon_box

logger = logging.getLogger("nuvlm.simulation.validation")  # it runs as __main__

PHOTON = 22
DETECTOR = Detector()
VERTEX = np.array([0.0, 0.0, 100.0])
BEGIN, END = "<!-- validation: written by make validate -->", "<!-- end of validation -->"

GENIE_BINS = ((0.5, 1.5), (1.5, 3.0), (3.0, 5.0), (5.0, 10.0))
"""Neutrino energy, GeV."""
GENIE_MULTIPLICITY = {
    True: ((1.4, 1.9, 0.28, 0.10), (1.7, 2.0, 0.55, 0.22), (1.7, 2.1, 0.73, 0.36), (1.8, 2.1, 1.2, 0.62)),
    False: ((1.0, 2.3, 0.19, 0.23), (1.4, 2.3, 0.46, 0.37), (1.6, 2.3, 0.71, 0.48), (1.5, 2.1, 1.1, 0.63)),
}
"""Mean number of p (above 20 MeV), n, charged and neutral pions per bin, keyed by is_cc."""
GENIE_INELASTICITY = (0.39, 0.40, 0.41, 0.43)
GENIE_NC_PION_ZERO = ((0.22, 0.05), (0.32, 0.12), (0.39, 0.18), (0.47, 0.28))
"""P(at least one pi0) and P(one above 0.5 GeV) per bin, neutral current."""
GENIE_QUARTILES = (0.18, 0.38, 0.65)
"""Quartiles of the inelasticity. GENIE values are from 15,665 interactions on argon, DUNE flux (docs/physics.md)."""


@dataclass(frozen=True)
class Check:
    """A measured quantity and its reference value."""

    quantity: str
    unit: str
    measured: float
    error: float
    """Standard error of the sample."""
    expected: float
    tolerance: float
    """Relative; absolute if 0 is expected."""
    source: str

    @property
    def passed(self) -> bool:
        return abs(self.measured - self.expected) <= self.tolerance * (abs(self.expected) or 1.0)


@dataclass
class Results:
    checks: list[Check] = field(default_factory=list)
    panels: list[Callable[[Axes], None]] = field(default_factory=list)
    """Each draws one panel of the figure."""

    def add(
        self,
        quantity: str,
        unit: str,
        values: np.ndarray | Sequence[float],
        known: float,
        tolerance: float,
        source: str,
    ) -> None:
        """Compare the mean of `values` with `known`."""
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        check = Check(quantity, unit, float(np.mean(values)), error, known, tolerance, source)
        self.checks.append(check)
        logger.info("%s: %.5g +- %.2g %s, expected %.5g", quantity, check.measured, error, unit, known)


def shoot(pdg: int, kinetic_mev: float, n: int) -> Iterator[Deposits]:
    """Deposits of `n` particles along +z from :data:`VERTEX`."""
    box, particle = argon_box(DETECTOR), _along_z(pdg, kinetic_mev)
    return (box.transport(VERTEX, [particle], np.random.default_rng([1, i])) for i in range(n))


def record(pdg: int, kinetic_mev: float, n: int) -> Iterator[Recorded]:
    """Steps and tracks of `n` particles along +z from :data:`VERTEX`."""
    box, particle = argon_box(DETECTOR), _along_z(pdg, kinetic_mev)
    return (box.record(VERTEX, [particle], np.random.default_rng([1, i])) for i in range(n))


def _along_z(pdg: int, kinetic_mev: float) -> Particle:
    mass = MASS_MEV[abs(pdg)]
    return Particle(pdg, 0.0, 0.0, float(np.sqrt(kinetic_mev * (kinetic_mev + 2 * mass))), kinetic_mev + mass)


def mean_energy_loss(results: Results, n: int) -> None:
    """Mean energy loss of muons: at minimum ionisation and at 1 GeV."""
    for kinetic, length in ((270, 20), (1000, 100)):
        losses = []
        for steps, tracks in record(MUON, kinetic, n):
            muon = steps[: tracks["steps"][0]]
            path = np.cumsum(muon["length"]) / 10
            losses.append((kinetic - np.interp(length, path, muon["post"]["kinetic"])) / length)
        known = expected.bethe_over_mev_cm(kinetic, length)
        source = f"Bethe and Sternheimer (PDG), mean over {length} cm"
        results.add(f"muon of {kinetic} MeV, mean dE/dx", "MeV/cm", losses, known, 0.02, source)


def most_probable_energy_loss(results: Results, n: int) -> None:
    """Most probable deposit of a 1 GeV muon in layers one voxel thick."""
    thickness = DETECTOR.voxel_mm[2] / 10
    layers = []
    for muon in shoot(MUON, 1000, n):
        voxels, _ = voxelize(DETECTOR, muon.start_mm, muon.end_mm, muon.energy_mev)
        # Not all muons cross the first and the last layers.
        layers.append(np.bincount(voxels.z, voxels.energy, 300)[30:230] / thickness)
    loss = np.concatenate(layers)
    counts, edges = np.histogram(loss, bins=np.arange(1.0, 4.0, 0.02))
    centres = (edges[1:] + edges[:-1]) / 2
    # A parabola fitted to the logarithm near the maximum; the range is narrow as the distribution is asymmetric.
    top = counts > 0.75 * counts.max()
    a, b, _ = np.polyfit(centres[top], np.log(counts[top]), 2, w=np.sqrt(counts[top]))
    known = expected.most_probable_mev_cm(1000, thickness)
    source = "Landau, Vavilov and Bichsel (PDG)"
    results.add("muon of 1000 MeV, most probable dE/dx in 5 mm", "MeV/cm", [-b / (2 * a)], known, 0.05, source)

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, alpha=0.4)
        axes.axvline(known, color="k", lw=1, label="most probable, formula")
        axes.set(xlabel="dE/dx in 5 mm (MeV/cm)", ylabel="layers", title="Muon of 1 GeV")
        axes.legend(fontsize="small", frameon=False, loc="upper right")

    results.panels.append(draw)


def ranges(results: Results, n: int) -> None:
    """True path length of stopping muons and protons."""
    found: dict[int, list[tuple[float, float, float]]] = {MUON: [], PROTON: []}
    tables = (
        (MUON, "muon", expected.MUON_RANGE_G_CM2, 0.015, "Groom et al., CSDA"),
        (PROTON, "proton", expected.PROTON_RANGE_G_CM2, 0.02, "NIST PSTAR, CSDA"),
    )
    for pdg, name, table, tolerance, source in tables:
        for kinetic, grams in table.items():
            known = grams / expected.DENSITY
            lengths = np.array([float(d.length_mm[0]) / 10 for d in shoot(pdg, kinetic, n) if not d.leaves[0]])
            # Excludes particles that interact or decay in flight.
            stopped = lengths[lengths > 0.9 * known]
            results.add(f"{name} of {kinetic} MeV, range", "cm", stopped, known, tolerance, source)
            found[pdg].append((kinetic, float(stopped.mean()), known))

    def draw(axes: Axes) -> None:
        for pdg, name, *_ in tables:
            kinetic, measured, known = np.array(found[pdg]).T
            axes.plot(kinetic, known, lw=1, label=f"{name}, table")
            axes.plot(kinetic, measured, "k.")
        axes.set(xlabel="kinetic energy (MeV)", ylabel="range (cm)", xscale="log", yscale="log", title="Range")
        axes.legend(fontsize="small", frameon=False)

    results.panels.append(draw)


def photons(results: Results, n: int) -> None:
    """Distance to the first interaction of photons."""
    compton = [float(d.photon_gap_mm[0]) / 10 for d in shoot(PHOTON, 1, 5 * n)]
    known = expected.compton_length_cm(1)
    results.add("photon of 1 MeV, first interaction", "cm", compton, known, 0.05, "Klein and Nishina")
    pair = np.array([float(d.photon_gap_mm[0]) / 10 for d in shoot(PHOTON, 2000, n)])
    source = "9/7 X0, X0 = 14.0 cm (PDG), the limit of high energy"
    results.add("photon of 2000 MeV, conversion", "cm", pair, expected.pair_length_cm(), 0.10, source)

    def draw(axes: Axes) -> None:
        depth = np.linspace(0, 100, 200)
        counts, edges = np.histogram(pair, bins=np.arange(0, 101, 5))
        axes.stairs(counts / len(pair) / 5, edges, fill=True, alpha=0.4)
        axes.plot(
            depth, np.exp(-depth / expected.pair_length_cm()) / expected.pair_length_cm(), "k", lw=1, label="9/7 X0"
        )
        axes.set(xlabel="gap before the pair (cm)", ylabel="share per cm", title="Photon of 2 GeV")
        axes.legend(fontsize="small", frameon=False)

    results.panels.append(draw)


def showers(results: Results, n: int) -> None:
    """Length, width and energy balance of showers of 1 GeV electrons."""
    depth_edges, radius_edges = np.arange(0, 351, 7.0), np.arange(0, 61, 1.0)
    along, across = np.zeros(len(depth_edges) - 1), np.zeros(len(radius_edges) - 1)
    held, sharing = [], 0.0
    for shower in shoot(ELECTRON, 1000, n):
        middle = ((shower.start_mm + shower.end_mm) / 2 - VERTEX) / 10
        radius = np.hypot(middle[:, 0], middle[:, 1])
        along += np.histogram(middle[:, 2], depth_edges, weights=shower.energy_mev)[0]
        across += np.histogram(radius, radius_edges, weights=shower.energy_mev)[0]
        held.append(float(shower.energy_mev[radius < expected.MOLIERE_RADIUS_CM].sum() / shower.energy_mev.sum()))
        voxels, outside = voxelize(DETECTOR, shower.start_mm, shower.end_mm, shower.energy_mev)
        total = shower.energy_mev.sum()
        sharing = max(sharing, abs(voxels.energy.sum(dtype=np.float64) + outside - total) / total)
    depth = (depth_edges[1:] + depth_edges[:-1]) / 2

    def profile(t: np.ndarray, scale: float, a: float, b: float) -> np.ndarray:
        """A gamma distribution (PDG)."""
        value: np.ndarray = scale * (b * t) ** (a - 1) * np.exp(-b * t)
        return value

    (scale, a, b), _ = optimize.curve_fit(profile, depth, along / along.max(), p0=(1, 3, 0.04))
    known = expected.shower_maximum_cm(1000)
    results.add(
        "electron of 1000 MeV, depth of the maximum",
        "cm",
        [(a - 1) / b],
        known,
        0.20,
        "ln(E / E_c) - 1/2 radiation lengths (PDG)",
    )
    source = "90 % in the Moliere radius of 9.04 cm (PDG)"
    results.add("electron of 1000 MeV, energy within 9.04 cm", "", held, 0.90, 0.08, source)
    source = "energy conservation"
    results.add("energy of steps - energy of voxels, maximum", "", [sharing], 0.0, 1e-6, source)
    losses = [_unbalanced(recorded, 1000) for recorded in record(ELECTRON, 1000, n)]
    results.add("electron energy - deposits - leaving energy, maximum", "", [max(losses)], 0.0, 1e-6, source)

    def draw_along(axes: Axes) -> None:
        axes.stairs(along / n / 7, depth_edges, fill=True, alpha=0.4)
        axes.plot(depth, profile(depth, scale, a, b) * along.max() / n / 7, lw=1, label="gamma distribution, fitted")
        axes.axvline(known, color="k", lw=1, label="maximum (PDG)")
        axes.set(xlabel="depth (cm)", ylabel="MeV/cm", title="Electron of 1 GeV")
        axes.legend(fontsize="small", frameon=False, loc="upper right")

    def draw_across(axes: Axes) -> None:
        axes.plot(radius_edges[1:], np.cumsum(across) / across.sum())
        axes.plot([expected.MOLIERE_RADIUS_CM], [0.9], "k.", label="Moliere radius (PDG)")
        axes.set(xlabel="radius (cm)", ylabel="share of the energy within", ylim=(0, 1.02), title="Electron of 1 GeV")
        axes.legend(fontsize="small", frameon=False)

    results.panels += [draw_along, draw_across]


def _unbalanced(recorded: Recorded, kinetic_mev: float) -> float:
    """Share of an electron's kinetic energy that is neither deposited nor leaves the box."""
    steps = recorded.steps
    leaving = steps[steps["post"]["status"] == 0]  # fWorldBoundary
    # A positron that leaves takes the energy of its annihilation with it.
    mass = 2 * MASS_MEV[ELECTRON] * (leaving["pre"]["charge"] > 0).sum()
    found = steps["energy"].sum() + leaving["post"]["kinetic"].sum() + mass
    return float(abs(found - kinetic_mev) / kinetic_mev)


def michel_electrons(results: Results, n: int) -> None:
    """Positrons from antimuons decaying at rest."""
    energies = []
    for steps, tracks in record(-MUON, 20, n):
        first = np.cumsum(tracks["steps"]) - tracks["steps"]
        start = steps["pre"][first]
        positron = (tracks["parent"] == 1) & (start["charge"] > 0) & (abs(start["mass"] - MASS_MEV[ELECTRON]) < 0.01)
        energies.extend((start["kinetic"] + start["mass"])[positron])
    end_point = expected.michel_end_point_mev()
    source = "kinematics, (m_mu^2 + m_e^2) / (2 m_mu)"
    results.add("Michel positron, highest energy", "MeV", [max(energies)], end_point, 0.005, source)
    source = "spectrum x^2 (3 - 2 x) of the decay at rest"
    results.add("Michel positron, mean energy", "MeV", energies, expected.michel_mean_mev(), 0.02, source)

    def draw(axes: Axes) -> None:
        counts, edges = np.histogram(energies, bins=np.arange(0, 57, 2.0))
        x = np.linspace(0, 1, 100)
        axes.stairs(counts / len(energies) / 2, edges, fill=True, alpha=0.4)
        axes.plot(x * end_point, 2 * x**2 * (3 - 2 * x) / end_point, "k", lw=1, label="x$^2$ (3 - 2 x)")
        axes.set(xlabel="energy (MeV)", ylabel="share per MeV", title="Michel positron")
        axes.legend(fontsize="small", frameon=False)

    results.panels.append(draw)


def interaction_lengths(results: Results, n: int) -> None:
    """Path length of fast hadrons to an inelastic interaction; some leave the box before."""
    for pdg, name in ((PION_PLUS, "pi+"), (PROTON, "proton")):
        paths, reacted = [], 0
        for hadron in shoot(pdg, 8000, n):
            paths.append(float(hadron.length_mm[0]) / 10)
            reacted += not hadron.leaves[0]
        # Mean of a truncated exponential distribution.
        length = sum(paths) / reacted
        known = expected.INTERACTION_LENGTH_CM[pdg]
        check = Check(
            f"{name} of 8 GeV, interaction length",
            "cm",
            length,
            float(length / np.sqrt(reacted)),
            known,
            0.15,
            "PDG, limit of high energy",
        )
        results.checks.append(check)


@dataclass(frozen=True)
class SamplerRow:
    """Sampler and GENIE for one current and energy bin."""

    current: str
    energy_gev: tuple[float, float]
    pairs: dict[str, tuple[float, float]]
    """Quantity -> (sampler, GENIE)."""


def sampler_table(n: int) -> list[SamplerRow]:
    """Compare the sampler with GENIE, `n` interactions per current and energy bin."""
    rows = []
    for is_cc in (True, False):
        for b, (low, high) in enumerate(GENIE_BINS):
            rng = np.random.default_rng(1)
            states = [sample_final_state(rng, energy_gev=(low, high), cc_fraction=float(is_cc)) for _ in range(n)]
            genie = dict(zip(("p", "n", "pi+-", "pi0"), GENIE_MULTIPLICITY[is_cc][b], strict=True))
            pairs = {name: (_multiplicity(states, name), value) for name, value in genie.items()}
            pairs["mean y"] = (float(np.mean([state.inelasticity for state in states])), GENIE_INELASTICITY[b])
            if not is_cc:
                hardest = np.array([_hardest_pion(state) for state in states])
                some, hard = GENIE_NC_PION_ZERO[b]
                pairs["P(pi0)"] = (float(np.mean(hardest > 0)), some)
                pairs["P(pi0 > 0.5 GeV)"] = (float(np.mean(hardest > 500)), hard)
            rows.append(SamplerRow("CC" if is_cc else "NC", (low, high), pairs))
    return rows


def inelasticity_quartiles(n: int) -> tuple[float, float, float]:
    """Quartiles of y over the whole beam."""
    rng = np.random.default_rng(1)
    first, second, third = np.quantile([sample_final_state(rng).inelasticity for _ in range(n)], [0.25, 0.5, 0.75])
    return float(first), float(second), float(third)


def _multiplicity(states: list[FinalState], name: str) -> float:
    kinds = {"p": (PROTON,), "n": (NEUTRON,), "pi+-": (PION_PLUS, -PION_PLUS), "pi0": (PION_ZERO,)}[name]
    threshold = 20.0 if name == "p" else 0.0
    return float(np.mean([sum(p.pdg in kinds and p.kinetic > threshold for p in state.particles) for state in states]))


def _hardest_pion(state: FinalState) -> float:
    return max((p.energy for p in state.particles if p.pdg == PION_ZERO), default=0.0)


def validate(n: int) -> Results:
    """All transport checks, with samples of `n` particles, fewer for slow ones."""
    results = Results()
    mean_energy_loss(results, n // 5)
    most_probable_energy_loss(results, n // 5)
    ranges(results, n // 10)
    photons(results, n)
    showers(results, n // 5)
    michel_electrons(results, n)
    interaction_lengths(results, n // 2)
    return results


def figure(results: Results) -> Figure:
    made = Figure(figsize=(10, 6), layout="constrained")
    axes = made.subplots(2, 3)
    for panel, where in zip(results.panels, axes.flat, strict=True):
        panel(where)
    return made


def page(results: Results, sampler: list[SamplerRow], quartiles: Sequence[float]) -> str:
    """The tables as Markdown."""
    lines = ["| quantity | measured | expected | tolerance | | source |", "|---|---|---|---|---|---|"]
    for check in results.checks:
        measured = f"{check.measured:.4g}" + (f" ± {check.error:.1g}" if check.error else "")
        tolerance = f"{100 * check.tolerance:g} %" if check.expected else f"{check.tolerance:g}"
        known = f"{check.expected:.4g} {check.unit}".strip()
        verdict = "pass" if check.passed else "**FAIL**"
        lines.append(f"| {check.quantity} | {measured} | {known} | {tolerance} | {verdict} | {check.source} |")
    lines += ["", "The sampler, and GENIE in brackets:", ""]
    columns = ("p", "n", "pi+-", "pi0", "mean y", "P(pi0)", "P(pi0 > 0.5 GeV)")
    lines += [f"| current, E (GeV) | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in sampler:
        cells = ["{:.2f} ({:.2f})".format(*row.pairs[name]) if name in row.pairs else "" for name in columns]
        low, high = row.energy_gev
        lines.append(f"| {row.current}, {low:g}-{high:g} | {' | '.join(cells)} |")
    pairs = ", ".join(f"{found:.2f} ({genie:.2f})" for found, genie in zip(quartiles, GENIE_QUARTILES, strict=True))
    return "\n".join([*lines, "", f"Quartiles of y over the whole beam: {pairs}."]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, required=True, help="numbers")
    parser.add_argument("--figure", type=Path, required=True, help="SVG or PNG")
    parser.add_argument("--page", type=Path, required=True, help="Markdown page with the two marks")
    parser.add_argument("--sample", type=int, default=1500, help="particles, and interactions of the sampler")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("nuvlm").setLevel(logging.INFO)
    before, found, rest = arguments.page.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        parser.error(f"{arguments.page} has no lines '{BEGIN}' and '{END}' to write the tables between")

    start = time.monotonic()
    n = arguments.sample
    results, sampler, quartiles = validate(n), sampler_table(n), inelasticity_quartiles(4 * n)
    # A fixed salt makes the SVG reproducible.
    with atomic_path(arguments.figure) as partial, rc_context({"svg.hashsalt": "simulation"}):
        figure(results).savefig(partial, format=arguments.figure.suffix.removeprefix("."), metadata={"Date": None})
    tables = page(results, sampler, quartiles)
    with atomic_path(arguments.page) as partial:
        partial.write_text(f"{before}{BEGIN}\n{tables}{END}{after}")
    failed = [check.quantity for check in results.checks if not check.passed]
    value = {
        "versions": {name: version(name) for name in ("geant4-pybind", "nuvlm")} | {"data": DATA},
        "seconds": round(time.monotonic() - start, 1),
        "passed": not failed,
        "checks": [asdict(check) | {"passed": check.passed} for check in results.checks],
        "sampler": [asdict(row) for row in sampler],
        "sampler_y_quartiles": {"sampler": quartiles, "genie": GENIE_QUARTILES},
    }
    write_json(arguments.json, value)
    print(tables)
    if failed:
        print(f"outside tolerance: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
