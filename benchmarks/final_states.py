"""The input tables of the sampler of final states with which its averages are GENIE's, and its speed.

    python benchmarks/final_states.py [--iterations 5] [--sample 6000]

Kinematics forbids part of the multiplicities that are drawn, so that averages are lower than the tables: hence each
table is multiplied by GENIE's average over the sampler's, again and again. Prints the tables of
nuvlm.simulation.final_states, and chi2 after each iteration; `make validate` has the comparison.
"""

import argparse
import math
import time

import numpy as np

from nuvlm.simulation import final_states
from nuvlm.simulation.checks import Check
from nuvlm.simulation.genie_averages import SPECIES, SamplerRow, sampler_table

DAMPING = 0.7
"""Less than 1, as averages have statistical errors."""


def extrapolated(table: list[float]) -> tuple[float, ...]:
    """The table, with the last node from the two before it, linear in log E."""
    low, high, end = np.log(final_states.ENERGY_GEV[-3:])
    slope = (table[-2] - table[-3]) / (high - low)
    return (*table[:-1], table[-2] + float(slope * (end - high)))


def improve(rows: list[SamplerRow]) -> None:
    """Multiply the nodes that stand for GENIE's bins; the first one is not known from GENIE."""
    for is_cc in (True, False):
        bins = [row.checks for row in rows if row.is_cc is is_cc]
        for name, pdg in SPECIES.items():
            final_states.MULTIPLICITY[is_cc][pdg] = scaled(final_states.MULTIPLICITY[is_cc][pdg], bins, name)
    final_states.NC_PION_ZERO = scaled(final_states.NC_PION_ZERO, bins, "P(pi0)")


def scaled(table: tuple[float, ...], bins: list[dict[str, Check]], name: str) -> tuple[float, ...]:
    values = [
        value * (checks[name].expected / checks[name].measured) ** DAMPING
        for value, checks in zip(table[1:], bins, strict=False)
    ]
    return extrapolated([table[0], *values, math.nan])


def seconds(events: int = 3000) -> float:
    """CPU time of a final state of the beam."""
    rng = np.random.default_rng(1)
    start = time.process_time()
    for _ in range(events):
        final_states.sample_final_state(rng)
    return (time.process_time() - start) / events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=5, help="0: only the present tables")
    parser.add_argument("--sample", type=int, default=6000, help="interactions per current and bin")
    arguments = parser.parse_args()
    for seed in range(arguments.iterations + 1):
        rows = sampler_table(arguments.sample, seed=seed + 10)
        print(f"chi2 = {sum(row.chi2 for row in rows):.1f} of {sum(len(row.checks) for row in rows)}", flush=True)
        if seed < arguments.iterations:
            improve(rows)
    for is_cc, table in final_states.MULTIPLICITY.items():
        for pdg, values in table.items():
            print(is_cc, pdg, tuple(round(value, 3) for value in values))
    print("NC_PION_ZERO", tuple(round(value, 3) for value in final_states.NC_PION_ZERO))
    print(f"{1e3 * seconds():.2f} ms an event")


if __name__ == "__main__":
    main()
