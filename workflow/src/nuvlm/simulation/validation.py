"""Validation of the simulation: particles in the simulated argon against references, the sampler against GENIE.

    python -m nuvlm.simulation.validation --json RESULT.json --figure FIGURE.svg --page PAGE.md

(`make validate`) measures, draws, and writes its tables between two marks in a page. The exit status is 1 if a quantity
deviates from its reference by more than :data:`DEVIATIONS` combined standard uncertainties.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nuvlm.base.files import atomic_path, write_json
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import ARGON_DENSITY
from nuvlm.detector.voxels import voxelize
from nuvlm.simulation import expected, nist
from nuvlm.simulation.checks import DEVIATIONS, Check
from nuvlm.simulation.final_states import ELECTRON, MASS_MEV, MUON, PHOTON, PROTON, Particle
from nuvlm.simulation.genie_averages import QUANTITIES, SamplerRow, inelasticity_quartiles, sampler_table
from nuvlm.simulation.recorder import Recorded
from nuvlm.simulation.toolkit import DATA, g4
from nuvlm.simulation.transport import MATERIAL, Deposits, argon_box

logger = logging.getLogger("nuvlm.simulation.validation")  # it runs as __main__

DETECTOR = Detector()
VERTEX = np.array([0.0, 0.0, 100.0])
PROCESSES = {"phot": "photoelectric", "compt": "incoherent", "conv": "pair"}
"""GEANT4's names -> those of XCOM."""
SHOWER_DEPTHS_CM = np.arange(28.0, 142.0, 14.0)
"""Two to ten radiation lengths: a gamma distribution starts at 0, while an electron ionises from the start; the last
few per cent vary too much from shower to shower."""
SHOWER_RADII_CM = np.array([1, 2, 3, 5, 7, 9, 12, 15, 20, 25, 30], dtype=float)
"""Up to 3.5 Moliere radii."""
ROUNDING = 1e-7
"""Of single precision."""
BEGIN, END = "<!-- validation: written by make validate -->", "<!-- end of validation -->"

UNCERTAINTY = {
    "XCOM": 0.01,
    "collision": 0.01,
    "collision below 0.1 MeV": 0.05,
    "radiative": 0.02,
    "radiative below 50 MeV": 0.05,
    "Letaw": 0.05,
    "electron path": 0.02,
}
"""Relative standard uncertainties of the references. docs/simulation.md says where each comes from."""


@dataclass(frozen=True)
class Curve:
    """Values measured at several points, and their reference."""

    at: np.ndarray
    """(n,), as are the others."""
    measured: np.ndarray
    error: np.ndarray
    expected: np.ndarray
    uncertainty: np.ndarray

    def draw(self, axes: Axes, label: str) -> None:
        (line,) = axes.plot(self.at, self.expected, lw=1, label=label)
        low, high = self.expected - self.uncertainty, self.expected + self.uncertainty
        axes.fill_between(self.at, low, high, color=line.get_color(), alpha=0.3, lw=0)
        axes.errorbar(self.at, self.measured, self.error, fmt="k.", ms=3, lw=0.8)


@dataclass
class Results:
    checks: list[Check] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    panels: list[Callable[[Axes], None]] = field(default_factory=list)
    """Each draws one panel of the figure."""

    def add(self, quantity: str, unit: str, values: ArrayLike, known: float, uncertainty: float, source: str) -> None:
        """Compare the mean of `values` (n,) with `known`, of absolute `uncertainty`."""
        sample = np.asarray(values)
        error = float(np.std(sample, ddof=1) / np.sqrt(len(sample))) if len(sample) > 1 else 0.0
        self.put(Check(quantity, unit, float(np.mean(sample)), error, known, uncertainty, source))

    def add_curve(self, quantity: str, unit: str, at_unit: str, curve: Curve, source: str) -> Curve:
        """Compare all points of a curve; the one that deviates most stands in the table."""
        points = [
            Check(f"{quantity} at {at:.4g} {at_unit}", unit, measured, error, known, uncertainty, source, len(curve.at))
            for at, measured, error, known, uncertainty in np.transpose(list(vars(curve).values())).tolist()
        ]
        self.put(max(points, key=lambda check: check.deviation))
        self.curves[quantity] = curve
        return curve

    def put(self, check: Check) -> None:
        self.checks.append(check)
        text = "%s: %.5g +- %.2g %s, expected %.5g +- %.2g"
        values = check.quantity, check.measured, check.error, check.unit, check.expected, check.uncertainty
        logger.info(text, *values)


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


def computed_loss(pdg: int, process: str, kinetic_mev: np.ndarray) -> np.ndarray:
    """Mean energy loss by a process as GEANT4's models compute it, MeV cm2/g, at energies (n,)."""
    argon_box(DETECTOR)
    calculator = g4.G4EmCalculator()
    name = {ELECTRON: "e-", MUON: "mu-", PROTON: "proton"}[pdg]
    per_mm = [calculator.ComputeDEDX(energy, name, process, MATERIAL) for energy in kinetic_mev.tolist()]
    return 10 * np.array(per_mm) / ARGON_DENSITY


def computed_barn(process: str, photon_mev: np.ndarray) -> np.ndarray:
    """Cross-section of a photon on an argon atom as GEANT4's models compute it, barn, at energies (n,)."""
    argon_box(DETECTOR)
    calculator = g4.G4EmCalculator()
    per_mm = [
        calculator.ComputeCrossSectionPerVolume(energy, "gamma", process, MATERIAL) for energy in photon_mev.tolist()
    ]
    return 10 * np.array(per_mm) / (expected.ATOMS_CM3 * expected.BARN_CM2)


def _exact(at: np.ndarray, measured: np.ndarray, known: np.ndarray, relative: float | np.ndarray) -> Curve:
    """A curve of values without statistical error, with the relative uncertainty of the reference."""
    return Curve(at, measured, np.zeros_like(measured), known, relative * known)


def photon_cross_sections(results: Results) -> None:
    """GEANT4's photon cross-sections at the energies of XCOM, 5 keV to 10 GeV."""
    table = nist.photons()
    within = (table.energy_mev >= 0.005) & (table.energy_mev <= 1e4)
    energy = table.energy_mev[within]
    parts = {name: computed_barn(name, energy) for name in ("phot", "compt", "conv")}
    curve = _exact(energy, np.sum(list(parts.values()), axis=0), table.total[within], UNCERTAINTY["XCOM"])
    results.add_curve("photon, cross-section", "b", "MeV", curve, "XCOM without coherent scattering")
    soft = energy <= 1
    known = table.photoelectric[within][soft]
    curve = _exact(energy[soft], parts["phot"][soft], known, UNCERTAINTY["XCOM"])
    results.add_curve("photoelectric effect, cross-section", "b", "MeV", curve, "XCOM")

    def draw(axes: Axes) -> None:
        for name, known in (("phot", table.photoelectric), ("compt", table.incoherent), ("conv", table.pair)):
            shown = (known[within] > 1e-3) & (parts[name] > 1e-3)
            (line,) = axes.plot(energy[shown], known[within][shown], lw=1, label=f"XCOM, {PROCESSES[name]}")
            axes.plot(energy[shown], parts[name][shown], ".", ms=3, color=line.get_color())
        axes.set(xlabel="energy (MeV)", ylabel="barn per atom", xscale="log", yscale="log", title="Photon")
        axes.legend(fontsize="x-small", frameon=False)

    results.panels.append(draw)


def losses(results: Results) -> None:
    """GEANT4's mean energy losses, as its models compute them, over all energies."""
    source = "ESTAR's formula with the density effect of the liquid"
    energy = np.geomspace(0.01, 1e4, 61)
    relative = np.where(energy < 0.1, UNCERTAINTY["collision below 0.1 MeV"], UNCERTAINTY["collision"])
    known = expected.electron_collision(energy)
    curve = _exact(energy, computed_loss(ELECTRON, "eIoni", energy), known, relative)
    collision = results.add_curve("electron, loss by ionisation", "MeV cm2/g", "MeV", curve, source)
    relative = np.where(energy < 50, UNCERTAINTY["radiative below 50 MeV"], UNCERTAINTY["radiative"])
    curve = _exact(energy, computed_loss(ELECTRON, "eBrem", energy), nist.electron_radiative(energy), relative)
    radiative = results.add_curve("electron, loss by bremsstrahlung", "MeV cm2/g", "MeV", curve, "ESTAR")
    source = "PSTAR with the density effect of the liquid"
    for pdg, name, process, low, high in ((PROTON, "proton", "hIoni", 1, 9e3), (MUON, "muon", "muIoni", 1, 1e3)):
        energy = np.geomspace(low, high, 41)
        known = expected.heavy_electronic(energy, MASS_MEV[pdg])
        curve = _exact(energy, computed_loss(pdg, process, energy), known, UNCERTAINTY["collision"])
        results.add_curve(f"{name}, loss by ionisation", "MeV cm2/g", "MeV", curve, source)

    def draw(axes: Axes) -> None:
        collision.draw(axes, "ionisation, ESTAR (liquid)")
        radiative.draw(axes, "bremsstrahlung, ESTAR")
        label = f"critical energy, {expected.CRITICAL_MEV:.1f} MeV"
        axes.axvline(expected.CRITICAL_MEV, color="k", lw=0.5, label=label)
        axes.set(xlabel="kinetic energy (MeV)", ylabel="MeV cm$^2$/g", xscale="log", yscale="log", title="Electron")
        axes.legend(fontsize="x-small", frameon=False)

    results.panels.append(draw)


def muon_losses(results: Results, n: int) -> None:
    """Mean and most probable energy loss along the path of muons."""
    # Layers of several steps: GEANT4 samples one energy loss per step, and the ends of layers divide steps.
    layer_cm, layers = 5.0, 10
    for kinetic, length in ((270, 20), (1000, 100)):
        means, in_layers = [], []
        for steps, tracks in record(MUON, kinetic, n):
            muon = steps[: tracks["steps"][0]]
            path = np.cumsum(muon["length"]) / 10
            at = [length, *layer_cm * np.arange(layers + 1)]
            left = np.interp(at, [0, *path], [kinetic, *muon["post"]["kinetic"]])
            means.append((kinetic - left[0]) / length)
            in_layers.append(-np.diff(left[1:]) / layer_cm)
        known = expected.mean_loss_mev_cm(kinetic, length)
        source = f"PSTAR at the same velocity, mean over {length} cm"
        name = f"muon of {kinetic} MeV, mean dE/dx"
        results.add(name, "MeV/cm", means, known, UNCERTAINTY["collision"] * known, source)
    # (muons, layers) of the faster ones
    found = np.array(in_layers)
    rng = np.random.default_rng(1)
    modes = [_mode(rng.choice(found, n)) for _ in range(50)]
    # The muon has lost some energy in the middle of the layers.
    middle = 1000 - expected.mean_loss_mev_cm(1000, layer_cm * layers / 2) * layer_cm * layers / 2
    known = expected.most_probable_mev_cm(middle, layer_cm)
    results.put(
        Check(
            "muon of 1000 MeV, most probable dE/dx in 5 cm",
            "MeV/cm",
            _mode(found),
            float(np.std(modes)),
            known,
            expected.most_probable_uncertainty(),
            "Landau, Vavilov and Bichsel (PDG)",
        )
    )

    def draw(axes: Axes) -> None:
        axes.hist(found.ravel(), bins=np.arange(1.0, 4.0, 0.04).tolist(), alpha=0.4)
        axes.axvline(known, color="k", lw=1, label="most probable, formula")
        axes.set(xlabel="dE/dx in 5 cm (MeV/cm)", ylabel="layers", title="Muon of 1 GeV")
        axes.legend(fontsize="x-small", frameon=False, loc="upper right")

    results.panels.append(draw)


def _mode(losses: np.ndarray) -> float:
    """Most frequent value of any number of values: the maximum of a cubic through the logarithm of their histogram."""
    counts, edges = np.histogram(losses, bins=np.arange(1.0, 4.0, 0.02))
    centres = (edges[1:] + edges[:-1]) / 2
    # The fit is limited to the top; a smooth maximum finds it in small samples, too.
    smooth = np.convolve(counts, np.ones(5) / 5, mode="same")
    top = (smooth > 0.5 * smooth.max()) & (counts > 0)
    fit = np.polynomial.Polynomial.fit(centres[top], np.log(counts[top]), 3, w=np.sqrt(counts[top]))
    dense = np.linspace(fit.domain[0], fit.domain[1], 1000)
    return float(dense[fit(dense).argmax()])


def ranges(results: Results, n: int) -> None:
    """True path length of stopping electrons, muons and protons."""
    estar, pstar = "ESTAR, CSDA, density effect of the liquid", "PSTAR, CSDA, density effect of the liquid"
    species = (
        (ELECTRON, "electron", (0.5, 1, 2, 5, 10), UNCERTAINTY["electron path"], estar),
        (MUON, "muon", (20, 50, 100, 200, 400, 1000), UNCERTAINTY["collision"], f"{pstar}, same velocity"),
        (PROTON, "proton", (10, 20, 50, 100, 200, 400), UNCERTAINTY["collision"], pstar),
    )
    for pdg, name, energies, relative, source in species:
        rows = []
        for kinetic in energies:
            known = float(expected.range_cm(pdg, kinetic))
            lengths = np.array([float(d.length_mm[0]) / 10 for d in shoot(pdg, kinetic, n) if not d.leaves[0]])
            # Excludes muons and protons that interact or decay in flight; electrons scatter too much for that.
            stopped = lengths if pdg == ELECTRON else lengths[lengths > 0.9 * known]
            rows.append((kinetic, stopped.mean(), stopped.std(ddof=1) / np.sqrt(len(stopped)), known, relative * known))
        results.add_curve(f"{name}, range", "cm", "MeV", Curve(*np.array(rows).T), source)

    def draw(axes: Axes) -> None:
        for _, name, *_ in species:
            results.curves[f"{name}, range"].draw(axes, f"{name}, NIST")
        axes.set(xlabel="kinetic energy (MeV)", ylabel="range (cm)", xscale="log", yscale="log", title="Range")
        axes.legend(fontsize="x-small", frameon=False)

    results.panels.append(draw)


def photons(results: Results, n: int) -> None:
    """Distance to the first interaction of photons."""
    rows, fast = [], np.empty(0)
    for energy, shots in ((0.1, n), (1, n), (10, n), (1000, max(n // 5, 5))):
        fast = np.array([float(d.photon_gap_mm[0]) / 10 for d in shoot(PHOTON, energy, shots)])
        known = float(expected.photon_length_cm(energy))
        rows.append((energy, fast.mean(), fast.std(ddof=1) / np.sqrt(shots), known, UNCERTAINTY["XCOM"] * known))
    source = "XCOM without coherent scattering"
    results.add_curve("photon, distance to the first interaction", "cm", "MeV", Curve(*np.array(rows).T), source)
    known = float(expected.photon_length_cm(1000))

    def draw(axes: Axes) -> None:
        depth = np.linspace(0, 100, 200)
        counts, edges = np.histogram(fast, bins=np.arange(0, 101, 5))
        axes.stairs(counts / len(fast) / 5, edges, fill=True, alpha=0.4)
        axes.plot(depth, np.exp(-depth / known) / known, "k", lw=1, label=f"XCOM, {known:.1f} cm")
        axes.set(xlabel="gap before the pair (cm)", ylabel="share per cm", title="Photon of 1 GeV")
        axes.legend(fontsize="x-small", frameon=False)

    results.panels.append(draw)


def showers(results: Results, n: int) -> None:
    """Length, width and energy balance of showers of electrons."""
    sharing = 0.0
    source = "Grindhammer and Peters"
    for energy, shots in ((1000, n), (4000, max(n // 4, 3))):
        along, across = [], []
        for shower in shoot(ELECTRON, energy, shots):
            middle = ((shower.start_mm + shower.end_mm) / 2 - VERTEX) / 10
            total = shower.energy_mev.sum()
            depth, radius = middle[:, 2], np.hypot(middle[:, 0], middle[:, 1])
            along.append([shower.energy_mev[depth < at].sum() / total for at in SHOWER_DEPTHS_CM])
            across.append([shower.energy_mev[radius < at].sum() / total for at in SHOWER_RADII_CM])
            voxels, outside = voxelize(DETECTOR, shower.start_mm, shower.end_mm, shower.energy_mev)
            sharing = max(sharing, abs(voxels.energy.sum(dtype=np.float64) + outside - total) / total)
        central, other = expected.showers(energy)
        name = f"electron of {energy} MeV, energy before a depth"
        known = central.within_depth(SHOWER_DEPTHS_CM)
        uncertainty = abs(known - other.within_depth(SHOWER_DEPTHS_CM))
        curve = Curve(SHOWER_DEPTHS_CM, *_mean_and_error(along), known, uncertainty)
        results.add_curve(name, "", "cm", curve, source)
    # The radii of the parametrisation depend on the energy, and do not hold at 1 GeV (docs/simulation.md).
    known = central.within_radius(SHOWER_RADII_CM)
    uncertainty = abs(known - other.within_radius(SHOWER_RADII_CM))
    curve = Curve(SHOWER_RADII_CM, *_mean_and_error(across), known, uncertainty)
    results.add_curve(f"electron of {energy} MeV, energy within a radius", "", "cm", curve, source)
    source = "energy conservation"
    results.add("energy of steps - energy of voxels, maximum", "", [sharing], 0.0, ROUNDING, source)
    unbalanced = [_unbalanced(recorded, 1000) for recorded in record(ELECTRON, 1000, max(n // 10, 3))]
    results.add("electron energy - deposits - leaving energy, maximum", "", [max(unbalanced)], 0.0, ROUNDING, source)

    def draw_along(axes: Axes) -> None:
        for energy in (1000, 4000):
            curve = results.curves[f"electron of {energy} MeV, energy before a depth"]
            curve.draw(axes, f"Grindhammer, Peters, {energy / 1000:g} GeV")
        axes.set(xlabel="depth (cm)", ylabel="share of the energy before", ylim=(0, 1.02), title="Electron")
        axes.legend(fontsize="x-small", frameon=False)

    def draw_across(axes: Axes) -> None:
        curve.draw(axes, "Grindhammer, Peters")
        axes.set(xlabel="radius (cm)", ylabel="share of the energy within", ylim=(0, 1.02), title="Electron of 4 GeV")
        axes.legend(fontsize="x-small", frameon=False)

    results.panels += [draw_along, draw_across]


def _mean_and_error(shares: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (points,) over showers and its standard error."""
    values = np.array(shares)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


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
    # Near the end point the density of energies is 2 / end point: the highest of n lies half an n-th below it.
    uncertainty = end_point / (2 * len(energies))
    source = "kinematics, (m_mu^2 + m_e^2) / (2 m_mu)"
    results.add("Michel positron, highest energy", "MeV", [max(energies)], end_point, uncertainty, source)
    source = "spectrum x^2 (3 - 2 x) of the decay at rest"
    mean = expected.michel_mean_mev()
    # The spectrum is that of a massless electron: terms of m_e / E.
    results.add("Michel positron, mean energy", "MeV", energies, mean, 0.001 * mean, source)

    def draw(axes: Axes) -> None:
        counts, edges = np.histogram(energies, bins=np.arange(0, 57, 2.0))
        x = np.linspace(0, 1, 100)
        axes.stairs(counts / len(energies) / 2, edges, fill=True, alpha=0.4)
        axes.plot(x * end_point, 2 * x**2 * (3 - 2 * x) / end_point, "k", lw=1, label="x$^2$ (3 - 2 x)")
        axes.set(xlabel="energy (MeV)", ylabel="share per MeV", title="Michel positron")
        axes.legend(fontsize="small", frameon=False)

    results.panels.append(draw)


def interaction_length(results: Results, n: int) -> None:
    """Path length of fast protons to an inelastic interaction; some leave the box before."""
    paths, reacted = [], 0
    for proton in shoot(PROTON, 2000, n):
        paths.append(float(proton.length_mm[0]) / 10)
        reacted += not proton.leaves[0]
    # Mean of a truncated exponential distribution.
    length = sum(paths) / reacted
    known = expected.proton_interaction_length_cm(2000)
    error, uncertainty = length / np.sqrt(reacted), UNCERTAINTY["Letaw"] * known
    name = "proton of 2000 MeV, interaction length"
    results.put(Check(name, "cm", length, float(error), known, uncertainty, "Letaw et al."))


def validate(n: int) -> Results:
    """All transport checks, with samples of `n` particles, fewer for slow ones."""
    results = Results()
    photon_cross_sections(results)
    losses(results)
    ranges(results, max(n // 10, 5))
    muon_losses(results, max(n // 5, 5))
    photons(results, n)
    showers(results, max(n // 5, 5))
    michel_electrons(results, n)
    interaction_length(results, n // 3)
    return results


def figure(results: Results) -> Figure:
    made = Figure(figsize=(13, 6), layout="constrained")
    axes = made.subplots(2, 4)
    for panel, where in zip(results.panels, axes.flat, strict=True):
        panel(where)
    return made


def page(results: Results, sampler: Sequence[SamplerRow]) -> str:
    """The tables as Markdown."""
    lines = ["| quantity | measured | expected | deviation | | source |", "|---|---|---|---|---|---|"]
    for check in results.checks:
        quantity = check.quantity + (f", the worst of {check.points}" if check.points > 1 else "")
        measured = f"{check.measured:.4g}" + (f" ± {check.error:.2g}" if check.error else "")
        known = f"{check.expected:.4g} ± {check.uncertainty:.2g} {check.unit}".strip()
        verdict = "pass" if check.passed else "**FAIL**"
        lines.append(f"| {quantity} | {measured} | {known} | {check.deviation:.1f} | {verdict} | {check.source} |")
    every = [check for row in sampler for check in row.checks.values()]
    lines += [
        "",
        "The sampler, and GENIE in brackets; the last column is the sum of the squared deviations of a row:",
        "",
    ]
    lines += [f"| E (GeV) | {' | '.join(QUANTITIES)} | chi2 |", "|---" * (len(QUANTITIES) + 2) + "|"]
    for row in sampler:
        cells = [_in_brackets(row.checks[name]) if name in row.checks else "" for name in QUANTITIES]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.chi2:.1f} |")
    worst = max(every, key=lambda check: check.deviation, default=None)
    if worst is not None:
        lines += [
            "",
            f"chi2 = {sum(row.chi2 for row in sampler):.0f} of {len(every)} averages, to which the sampler is tuned. "
            f"The largest deviation is {worst.deviation:.1f} combined standard uncertainties.",
        ]
    return "\n".join(lines) + "\n"


def _in_brackets(check: Check) -> str:
    verdict = "" if check.passed else " **FAIL**"
    return f"{check.measured:.2f} ({check.expected:.2f}){verdict}"


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
    results, sampler = validate(n), [*sampler_table(4 * n), inelasticity_quartiles(8 * n)]
    # A fixed salt makes the SVG reproducible.
    with atomic_path(arguments.figure) as partial, rc_context({"svg.hashsalt": "simulation"}):
        figure(results).savefig(partial, format=arguments.figure.suffix.removeprefix("."), metadata={"Date": None})
    tables = page(results, sampler)
    with atomic_path(arguments.page) as partial:
        partial.write_text(f"{before}{BEGIN}\n{tables}{END}{after}")
    of_sampler = {f"{row.name}: {name}": check for row in sampler for name, check in row.checks.items()}
    failed = [check.quantity for check in results.checks if not check.passed]
    failed += [name for name, check in of_sampler.items() if not check.passed]
    value = {
        "versions": {name: version(name) for name in ("geant4-pybind", nist.PACKAGE, "nuvlm")} | {"data": DATA},
        "seconds": round(time.monotonic() - start, 1),
        "passed": not failed,
        "deviations_allowed": DEVIATIONS,
        "checks": [check.as_dict() for check in results.checks],
        "curves": {name: {key: a.tolist() for key, a in vars(c).items()} for name, c in results.curves.items()},
        "sampler": {name: check.as_dict() for name, check in of_sampler.items()},
    }
    write_json(arguments.json, value)
    print(tables)
    if failed:
        print(f"more than {DEVIATIONS} standard uncertainties off: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
