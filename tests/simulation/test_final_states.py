"""The sampler of final states, against the GENIE averages that it is made from and against kinematics."""

import numpy as np
import pytest

from nuvlm.simulation import final_states
from nuvlm.simulation.final_states import MASS_MEV, FinalState, Particle, sample_final_state

# GENIE on argon: mean number of p (above 20 MeV), n, pi+-, pi0 in bins of neutrino energy, GeV.
GENIE = {
    (1.5, 3, True): (1.7, 2.0, 0.55, 0.22),
    (1.5, 3, False): (1.4, 2.3, 0.46, 0.37),
    (3, 5, True): (1.7, 2.1, 0.73, 0.36),
    (3, 5, False): (1.6, 2.3, 0.71, 0.48),
    (5, 10, True): (1.8, 2.1, 1.2, 0.62),
    (5, 10, False): (1.5, 2.1, 1.1, 0.63),
}
NC_PION_ZERO = {(1.5, 3): (0.32, 0.12), (3, 5): (0.39, 0.18), (5, 10): (0.47, 0.28)}
LEPTONS = (11, 13)


def sample(n: int, seed: int = 1, **kwargs: object) -> list[FinalState]:
    rng = np.random.default_rng(seed)
    return [sample_final_state(rng, **kwargs) for _ in range(n)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def beam() -> list[FinalState]:
    return sample(4000)


def total_momentum(particles: list[Particle]) -> np.ndarray:
    return np.array([[p.px, p.py, p.pz] for p in particles]).sum(axis=0)


@pytest.mark.parametrize(("low", "high", "is_cc"), GENIE)
def test_multiplicities_are_those_of_genie(low: float, high: float, is_cc: bool) -> None:
    states = sample(2000, energy_gev=(low, high), cc_fraction=float(is_cc))
    for pdgs, expected in zip(((2112,), (211, -211), (111,)), GENIE[low, high, is_cc][1:], strict=True):
        mean = np.mean([sum(p.pdg in pdgs for p in state.particles) for state in states])
        # 15 % for the sampler, the rest for the statistics.
        assert mean == pytest.approx(expected, rel=0.15 + 2 / np.sqrt(expected * len(states))), pdgs
    protons = np.mean([sum(p.pdg == 2212 and p.kinetic > 20 for p in state.particles) for state in states])
    assert protons == pytest.approx(GENIE[low, high, is_cc][0], rel=0.15)


@pytest.mark.parametrize(("low", "high"), NC_PION_ZERO)
def test_neutral_pions_of_neutral_currents(low: float, high: float) -> None:
    states = sample(3000, energy_gev=(low, high), cc_fraction=0.0)
    energies = [max((p.energy for p in state.particles if p.pdg == 111), default=0.0) for state in states]
    some, hard = NC_PION_ZERO[low, high]
    assert np.mean(np.array(energies) > 0) == pytest.approx(some, abs=0.05)
    assert np.mean(np.array(energies) > 500) == pytest.approx(hard, abs=0.07)


def test_inelasticity_has_the_quartiles_of_genie(beam: list[FinalState]) -> None:
    quartiles = np.quantile([state.inelasticity for state in beam], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [0.18, 0.38, 0.65], atol=0.035)


def test_beam_is_even_in_flavour_flat_in_energy_and_three_quarters_charged(beam: list[FinalState]) -> None:
    energy = np.array([state.nu_energy for state in beam])
    assert np.mean([state.nu_pdg == 12 for state in beam]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([state.is_cc for state in beam]) == pytest.approx(0.74, abs=0.03)
    assert 0.2 <= energy.min() < 0.3
    assert 9.9 < energy.max() <= 10
    assert energy.mean() == pytest.approx(5.1, abs=0.15)


def test_charged_currents_have_their_lepton_with_the_energy_that_y_leaves(beam: list[FinalState]) -> None:
    for state in beam:
        leptons = [p for p in state.particles if p.pdg in LEPTONS]
        if not state.is_cc:
            assert not leptons
            continue
        (lepton,) = leptons
        assert lepton.pdg == state.nu_pdg - 1
        assert lepton.energy == pytest.approx((1 - state.inelasticity) * state.nu_energy * 1e3, rel=1e-9)


def test_every_particle_is_on_its_mass_shell(beam: list[FinalState]) -> None:
    for particle in (p for state in beam for p in state.particles):
        square = particle.energy**2 - particle.px**2 - particle.py**2 - particle.pz**2
        assert square == pytest.approx(MASS_MEV[particle.pdg] ** 2, abs=1e-6 * particle.energy**2)


def test_hadrons_share_the_energy_transfer_but_for_binding(beam: list[FinalState]) -> None:
    for state in beam:
        hadrons = [p for p in state.particles if p.pdg not in LEPTONS]
        nucleons = sum(p.pdg in (2112, 2212) for p in hadrons)
        shared = sum(p.kinetic if p.pdg in (2112, 2212) else p.energy for p in hadrons)
        missing = 1e3 * state.inelasticity * state.nu_energy - shared
        # The proton-neutron mass difference is not followed through.
        assert missing == pytest.approx(final_states.BINDING_MEV * nucleons, abs=1.5)


def test_hadrons_balance_the_lepton_across_the_beam(beam: list[FinalState]) -> None:
    charged = [state for state in beam if state.is_cc]
    lepton = [np.hypot(*total_momentum([p for p in state.particles if p.pdg in LEPTONS])[:2]) for state in charged]
    everything = [np.hypot(*total_momentum(list(state.particles))[:2]) for state in charged]
    assert np.median(everything) < 0.45 * np.median(lepton)


def test_reaction_plane_is_random_and_the_beam_goes_along_z(beam: list[FinalState]) -> None:
    leptons = np.array([[p.px, p.py, p.pz] for state in beam for p in state.particles if p.pdg in LEPTONS])
    direction = leptons / np.linalg.norm(leptons, axis=1, keepdims=True)
    np.testing.assert_allclose(direction.mean(axis=0)[:2], 0, atol=0.03)
    assert direction[:, 2].mean() > 0.7


def test_same_stream_same_event() -> None:
    assert sample(20, seed=3) == sample(20, seed=3)
    assert sample(20, seed=3) != sample(20, seed=4)
