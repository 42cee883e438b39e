"""Charge of stopping electrons after recombination: Birks' formula and the box model against LArNEST.

    pip install nestpy    # or the extra `larnest`; GPL
    python benchmarks/recombination.py [--page docs/physics.md]

Writes results/recombination.json beside this file, and its table between two marks in a page. LArNEST parametrises the
charge of an electron that stops, by its energy. The other models give the fraction of electrons that escape for each
dE/dx; here it is averaged along the path of the electron, of which ESTAR's formula for the liquid gives the dE/dx.
"""

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nuvlm.base.files import read_json, write_json
from nuvlm.detector.readout import ARGON_DENSITY, Recombination
from nuvlm.simulation.expected import electron_collision

FIELD_KV_CM = 0.5
ENERGIES_MEV = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0)
PAIR_EV = 23.6
"""M. Miyajima et al., Phys. Rev. A 9 (1974) 1438; LArNEST has the same."""
LOWEST_MEV = 1e-3
"""Kinetic energy below which the formula for dE/dx does not hold: the rest of it has the fraction of this energy."""
MODELS = ("birks", "modified_box")
BEGIN, END = "<!-- recombination: written by benchmarks/recombination.py -->", "<!-- end of recombination -->"
RESULT = Path(__file__).parent / "results" / "recombination.json"


def averaged(model: str, kinetic_mev: float) -> float:
    """Fraction of the electrons that escape recombination, of all that a stopping electron makes."""
    energy = np.geomspace(LOWEST_MEV, kinetic_mev, 2001)
    escape = Recombination(model=model, field_kv_cm=FIELD_KV_CM).survival(ARGON_DENSITY * electron_collision(energy))
    return float((np.trapezoid(escape, energy) + escape[0] * LOWEST_MEV) / kinetic_mev)


def mean_loss(kinetic_mev: float) -> float:
    """Energy over range of a stopping electron, MeV/cm, without bremsstrahlung."""
    energy = np.geomspace(LOWEST_MEV, kinetic_mev, 2001)
    return float(kinetic_mev / np.trapezoid(1 / (ARGON_DENSITY * electron_collision(energy)), energy))


def measure() -> dict:
    """All rows, with LArNEST's."""
    import nestpy

    larnest = nestpy.LArNEST(None)
    rows = []
    for kinetic in ENERGIES_MEV:
        charge = larnest.get_er_yields(1000 * kinetic, 1000 * FIELD_KV_CM, ARGON_DENSITY).Ne
        row = {"electron_mev": kinetic, "mev_per_cm": mean_loss(kinetic)}
        row |= {model: averaged(model, kinetic) for model in MODELS}
        rows.append(row | {"larnest": charge * PAIR_EV / (1e6 * kinetic)})
    return {"field_kv_cm": FIELD_KV_CM, "nestpy": version("nestpy"), "rows": rows}


def table(result: dict) -> str:
    """The table of the page."""
    lines = [
        "| electron (MeV) | mean dE/dx (MeV/cm) | Birks | modified box | LArNEST |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        values = [f"{row[name]:.3f}" for name in (*MODELS, "larnest")]
        lines.append(f"| {row['electron_mev']:g} | {row['mev_per_cm']:.2f} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path)
    page = parser.parse_args().page
    write_json(RESULT, measure())
    text = table(read_json(RESULT))
    print(text)
    if page is not None:
        before, found, rest = page.read_text().partition(BEGIN)
        _, ended, after = rest.partition(END)
        if not (found and ended):
            parser.error(f"{page} has no lines '{BEGIN}' and '{END}' to write the table between")
        page.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


if __name__ == "__main__":
    main()
