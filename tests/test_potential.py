"""Potentials of atoms: published numbers, their Gaussian fits, voxel averages; test_against_abtem.py has more."""

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aetlab.core import physics
from aetlab.core.backend import threads
from aetlab.core.nouns import Atoms
from aetlab.forward import scattering
from aetlab.forward.potential import build_potential, profile_along_y
from aetlab.forward.scattering import (
    FIT_FLOOR,
    PARAMETRIZATIONS,
    POTENTIAL_PER_SCATTERING_V_A2,
    TRUNCATED_FRACTION,
    fit_gaussians,
    gaussian_mixture,
    parameters,
    projected_potential,
    scattering_factor_A,
)

B = {"default": 0.5, "O": 0.7}
SHAPE = (8, 10, 12)


def one_atom(Z: int, position_A: tuple[float, float, float]) -> Atoms:
    return Atoms(np.array([Z]), np.array([position_A], dtype=float), np.zeros(1, dtype=int))


def some_atoms(n: int, reach_A: float, seed: int = 5) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms(rng.choice([8, 14, 79], n), rng.uniform(-reach_A, reach_A, (n, 3)), np.zeros(n, dtype=int))


def test_lobato_scattering_at_high_angles_is_that_of_the_bare_nucleus():
    # Mott-Bethe: f → Z / (2π² a0 g²) where the electrons scatter no more; the fit of 2014 was held to it
    charge = [2 * math.pi**2 * physics.BOHR_RADIUS_A * np.sum(a / b) for a, b in (parameters(Z) for Z in range(1, 99))]
    np.testing.assert_allclose(charge, np.arange(1, 99), rtol=1e-3)


def test_both_parametrizations_agree_within_8_percent():
    g_per_A = np.linspace(0.2, 3, 30)
    for Z in range(1, 99):
        lobato, kirkland = (scattering_factor_A(g_per_A, Z, name) for name in PARAMETRIZATIONS)
        assert np.abs(lobato - kirkland).max() < 0.08 * lobato.max(), physics.SYMBOLS[Z]


def test_a_scattering_factor_of_1_A_is_47_88_V_A2():
    # h²/(2π m e) = 2π a0 e/(4πε0), with e/(4πε0) = 14.399645 V Å
    assert POTENTIAL_PER_SCATTERING_V_A2 == pytest.approx(47.878, abs=1e-3)
    assert POTENTIAL_PER_SCATTERING_V_A2 == pytest.approx(2 * math.pi * physics.BOHR_RADIUS_A * 14.399645, rel=1e-5)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize(("Z", "forward_A"), [(8, 1.983), (14, 5.828), (79, 10.573)])
def test_forward_scattering_is_that_of_hartree_fock_atoms(parametrization, Z, forward_A):
    # P. A. Doyle and P. S. Turner, Acta Cryst. A 24 (1968) 390, table 4
    assert scattering_factor_A(0.0, Z, parametrization) == pytest.approx(forward_A, rel=0.03)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("Z", [1, 8, 14, 79])
def test_gaussian_mixture_has_the_potential_of_the_closed_form(parametrization, Z):
    r_A = np.geomspace(0.1, 4.0, 40)
    integral, width_A = gaussian_mixture(Z, parametrization, 0.0)
    projected = (integral / (2 * np.pi * width_A**2) * np.exp(-(r_A[:, None] ** 2) / (2 * width_A**2))).sum(1)
    np.testing.assert_allclose(projected, projected_potential(r_A, Z, parametrization), rtol=1e-4)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("debye_waller_A2", [0.3, 0.5, 2.0])
def test_gaussian_fit_is_within_its_stated_error(parametrization, debye_waller_A2):
    r_A = np.linspace(0, 5, 300)
    for Z in (1, 3, 8, 14, 29, 55, 79, 98):
        fit = fit_gaussians(Z, parametrization, debye_waller_A2)
        integral, width_A = gaussian_mixture(Z, parametrization, debye_waller_A2)
        norm = (2 * np.pi * width_A**2) ** 1.5
        exact = (integral / norm * np.exp(-(r_A[:, None] ** 2) / (2 * width_A**2))).sum(1)
        assert np.all(np.abs(fit.potential_V(r_A) - exact) < 2e-3 * (exact + FIT_FLOOR * integral.sum()))
        assert fit.integral_V_A3.sum() == pytest.approx(integral.sum(), rel=5e-4)
        assert np.all(fit.integral_V_A3 >= 0)


def test_debye_waller_factor_damps_the_scattering_factor():
    g = 0.8
    for debye_waller_A2 in (0.5, 1.5):
        fit = fit_gaussians(14, "lobato", debye_waller_A2)
        transform = np.sum(fit.integral_V_A3 * np.exp(-2 * (np.pi * g * fit.width_A) ** 2))
        expected = POTENTIAL_PER_SCATTERING_V_A2 * scattering_factor_A(g, 14) * np.exp(-debye_waller_A2 * g**2 / 4)
        assert transform == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("Z", [8, 14])
def test_voxels_hold_the_mean_of_the_potential_over_their_volume(Z):
    voxel_A, position_A = 0.5, np.array([0.13, -0.31, 0.22])
    built = build_potential(one_atom(Z, position_A), SHAPE, voxel_A, debye_waller_A2={"default": 0.5})
    nodes, weights = np.polynomial.legendre.leggauss(12)
    integral, width_A = gaussian_mixture(Z, "lobato", 0.5)
    exact = np.zeros(SHAPE)
    fitted = np.zeros(SHAPE)
    centres = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * voxel_A for n in SHAPE], indexing="ij"), -1)
    norm = (2 * np.pi * width_A**2) ** 1.5
    table_A = np.linspace(0, 6, 4000)
    table_V = (integral / norm * np.exp(-(table_A[:, None] ** 2) / (2 * width_A**2))).sum(1)
    for (i, j, k) in np.ndindex(12, 12, 12):
        offset = np.array([nodes[i], nodes[j], nodes[k]]) * voxel_A / 2
        r_A = np.linalg.norm(centres + offset - position_A[[2, 0, 1]], axis=-1)
        weight = weights[i] * weights[j] * weights[k] / 8
        fitted += weight * fit_gaussians(Z, "lobato", 0.5).potential_V(r_A)
        exact += weight * np.interp(r_A, table_A, table_V)
    within = np.all(np.abs(centres - position_A[[2, 0, 1]]) < fit_gaussians(Z, "lobato", 0.5).cutoff_A, axis=-1)
    np.testing.assert_allclose(built[within], fitted[within], rtol=1e-5, atol=1e-6 * fitted.max())
    assert np.abs(built - exact).max() < 2e-4 * exact.max()


@pytest.mark.parametrize("axis, array_axis", [(0, 1), (1, 2), (2, 0)])
def test_moving_an_atom_by_whole_voxels_moves_its_potential_exactly(axis, array_axis):
    position_A, moved_A = np.array([-0.25, 0.125, -0.375]), np.array([-0.25, 0.125, -0.375])
    moved_A[axis] += 1.0
    shape = (40, 42, 44)
    before, after = (build_potential(one_atom(14, p), shape, 0.5, debye_waller_A2=B) for p in (position_A, moved_A))
    np.testing.assert_array_equal(np.roll(before, 2, array_axis), after)
    assert before.max() > 50


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3), st.sampled_from([1, 8, 14, 79]), st.sampled_from([0.25, 0.4, 0.5]))
def test_sum_is_the_integral_of_the_potential(position_A, Z, voxel_A):
    total = build_potential(one_atom(Z, position_A), (40, 41, 42), voxel_A, debye_waller_A2=B).sum(dtype=float)
    expected = POTENTIAL_PER_SCATTERING_V_A2 * scattering_factor_A(0.0, Z)
    assert total * voxel_A**3 == pytest.approx(expected, rel=3 * TRUNCATED_FRACTION)


def test_silicon_has_the_mean_inner_potential_of_neutral_atoms():
    # 8 atoms · h²/(2πme) f(0) / a³; neutral atoms give 13.9 V, the bonds of the crystal take it to 12 V
    side_A = 5.431
    basis = np.array([(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0), (1, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 1)]) / 4
    cells = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    positions_A = ((cells + basis) * side_A).reshape(-1, 3)
    atoms = Atoms(np.full(len(positions_A), 14), positions_A, np.zeros(len(positions_A), dtype=int))
    cell = build_potential(atoms, (11, 11, 11), side_A / 11, debye_waller_A2=B)
    expected = 8 * POTENTIAL_PER_SCATTERING_V_A2 * scattering_factor_A(0.0, 14) / side_A**3
    assert cell.mean(dtype=float) == pytest.approx(expected, rel=2 * TRUNCATED_FRACTION)
    assert expected == pytest.approx(13.95, abs=0.05)


def test_atoms_on_the_edge_and_outside_add_what_reaches_in():
    atoms = some_atoms(60, 6.0)
    wide = build_potential(atoms, (28, 30, 32), 0.5, debye_waller_A2=B)
    narrow = build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B)
    np.testing.assert_allclose(narrow, wide[10:-10, 10:-10, 10:-10], rtol=1e-6)


def test_thread_count_does_not_change_the_result():
    atoms = some_atoms(200, 3.0)
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this process was started with one thread")
    results = []
    for n in (1, 2):
        with threads(n):
            assert numba.get_num_threads() == n
            results.append(build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B))
    np.testing.assert_array_equal(results[0], results[1])


def test_slabs_are_parts_of_the_volume():
    atoms = some_atoms(50, 3.0)
    whole = build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B)
    slabs = [build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B, layers=(i, i + 2)) for i in range(0, 8, 2)]
    np.testing.assert_array_equal(np.concatenate(slabs), whole)


def test_profiles_along_y_serve_all_tilts_about_y():
    """Atoms at other x and z, some of them outside the volume, have the same profiles to the last bit."""
    atoms = some_atoms(60, 5.0)
    profiles = profile_along_y(atoms, SHAPE[2], 0.6, parametrization="lobato", debye_waller_A2=B)
    for turn in (np.eye(3), [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]):
        tilted = Atoms(atoms.numbers, atoms.positions_A @ np.transpose(turn), atoms.part)
        expected = build_potential(tilted, SHAPE, 0.6, debye_waller_A2=B, layers=(1, 7))
        np.testing.assert_array_equal(
            build_potential(tilted, SHAPE, 0.6, debye_waller_A2=B, layers=(1, 7), profiles_y=profiles), expected)
    none = profile_along_y(atoms.select(np.zeros(60, bool)), 12, 0.6, parametrization="lobato", debye_waller_A2=B)
    assert len(none) == 0


def test_buffer_is_overwritten_and_checked():
    atoms = some_atoms(20, 2.0)
    buffer = np.full(SHAPE, 7.0, np.float32)
    assert build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B))
    nothing = atoms.select(np.zeros(len(atoms), dtype=bool))
    assert not build_potential(nothing, SHAPE, 0.5, debye_waller_A2=B, out=buffer).any()
    for wrong in (np.zeros(SHAPE), np.zeros((8, 10, 11), np.float32), np.zeros(SHAPE, np.float32).transpose(0, 2, 1)):
        with pytest.raises(ValueError, match="out must be"):
            build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B, out=wrong)
    with pytest.raises(ValueError, match="layers"):
        build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B, layers=(4, 9))


def test_debye_waller_factors_go_by_element():
    both = Atoms(np.array([8, 14]), np.array([(-1.5, 0, 0), (1.5, 0, 0)]), np.zeros(2, dtype=int))
    sharp, soft = (build_potential(both, SHAPE, 0.5, debye_waller_A2={"O": b, "default": 0.5}) for b in (0.3, 3.0))
    assert sharp[:, :3].max() > 1.1 * soft[:, :3].max()
    np.testing.assert_allclose(sharp[:, 8:], soft[:, 8:], rtol=1e-3)


def test_unknown_elements_and_parametrizations_are_refused():
    with pytest.raises(ValueError, match="99, wanted numbers from 0 to 98"):
        build_potential(one_atom(99, (0, 0, 0)), SHAPE, 0.5, debye_waller_A2=B)
    with pytest.raises(ValueError, match="Z = 99"):
        scattering.parameters(99, "lobato")
    with pytest.raises(ValueError, match="peng"):
        scattering.parameters(14, "peng")
