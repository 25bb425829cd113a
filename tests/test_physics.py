"""Constants and relativistic optics, the axes of the grid, and the sense of a tilt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aetlab.core import grid, physics


@pytest.mark.parametrize(("energy_keV", "wavelength_A"), [(80, 0.04175720), (200, 0.02507934), (300, 0.01968749)])
def test_wavelength_is_that_of_the_tables(energy_keV: float, wavelength_A: float) -> None:
    assert physics.wavelength_A(energy_keV) == pytest.approx(wavelength_A, rel=1e-6)


def test_constants_of_the_paper_at_300_kv() -> None:
    assert physics.wavelength_A(300) == pytest.approx(0.0196875, rel=1e-5)
    assert physics.interaction_parameter(300) == pytest.approx(6.5262e-4, rel=1e-5)


@given(st.floats(10, 3000))
def test_interaction_parameter_follows_from_mass_and_wavelength(energy_keV: float) -> None:
    velocity_share = np.sqrt(1 - (physics.ELECTRON_MASS_KG / physics.relativistic_mass_kg(energy_keV)) ** 2)
    de_broglie_m = physics.PLANCK_J_S / (physics.relativistic_mass_kg(energy_keV) * velocity_share
                                         * physics.SPEED_OF_LIGHT_M_S)
    assert physics.wavelength_A(energy_keV) == pytest.approx(1e10 * de_broglie_m, rel=1e-9)
    # σ = e / (ħ v), the phase per volt and metre of a particle with the speed v.
    sigma_per_V_m = (2 * np.pi * physics.ELEMENTARY_CHARGE_C
                     / (physics.PLANCK_J_S * velocity_share * physics.SPEED_OF_LIGHT_M_S))
    assert physics.interaction_parameter(energy_keV) == pytest.approx(1e-10 * sigma_per_V_m, rel=1e-9)


def test_symbols_are_in_the_order_of_atomic_numbers() -> None:
    known = {1: "H", 6: "C", 8: "O", 14: "Si", 26: "Fe", 47: "Ag", 79: "Au", 98: "Cf"}
    assert {number: physics.SYMBOLS[number] for number in known} == known


@given(st.integers(1, 65), st.floats(0.05, 2))
def test_coordinates_count_from_the_centre(n_voxels: int, voxel_A: float) -> None:
    coordinates = grid.coordinates_A(n_voxels, voxel_A)
    np.testing.assert_allclose(coordinates, -coordinates[::-1], atol=1e-12)
    np.testing.assert_allclose(np.diff(coordinates), voxel_A, rtol=1e-9)


@given(st.floats(10, 300), st.floats(0.01, 2))
def test_axial_frequencies_lie_on_the_ewald_sphere(energy_keV: float, pixel_A: float) -> None:
    wavelength_A = physics.wavelength_A(energy_keV)
    axial = grid.axial_frequencies((8, 10), pixel_A, wavelength_A)
    q2 = grid.squared_frequencies((8, 10), pixel_A)
    propagating = q2 < 1 / wavelength_A**2
    radius2 = q2 + (axial + 1 / wavelength_A) ** 2
    assert axial[0, 0] == 0
    np.testing.assert_allclose(radius2[propagating], 1 / wavelength_A**2, rtol=1e-9)
    np.testing.assert_allclose(axial[~propagating], -1 / wavelength_A)


@pytest.mark.parametrize(("q_per_A", "axial_per_A"), [
    (0.001, -9.84375000095385e-9), (0.5, -0.002460997118738994), (1.0, -0.009844704038507682),
    (2.0, -0.03939027349995676)])
def test_axial_frequencies_keep_their_digits_at_small_angles(q_per_A: float, axial_per_A: float) -> None:
    """√(1/λ² - q²) - 1/λ at λ = 0.0196875 Å in 40 digits; in double precision the difference would cancel."""
    axial = grid.axial_frequencies((4, 6), 1 / (4 * q_per_A), 0.0196875)
    assert axial[1, 0] == pytest.approx(axial_per_A, rel=1e-13)


def test_frequencies_run_along_their_own_axes() -> None:
    """|q|² on a grid of two different sides: 1/(4 · 0.5 Å) along x and 2/(6 · 0.5 Å) along y."""
    q2 = grid.squared_frequencies((4, 6), 0.5)
    assert q2.shape == (4, 6)
    assert q2[1, 2] == pytest.approx(0.5**2 + (2 / 3) ** 2, rel=1e-14)


@given(st.integers(1, 40), st.integers(1, 12))
def test_slices_cover_every_layer_once(n_layers: int, binning: int) -> None:
    centres = grid.slice_centres_A(n_layers, binning, 0.5)
    layers = grid.coordinates_A(n_layers, 0.5)
    expected = [layers[first:first + binning].mean() for first in range(0, n_layers, binning)]
    assert len(centres) == grid.n_slices(n_layers, binning)
    np.testing.assert_allclose(centres, expected, atol=1e-9)


def test_tilt_turns_x_towards_minus_z_and_z_towards_x() -> None:
    turn = grid.rotation_matrix(90)
    np.testing.assert_allclose(np.array([1.0, 0, 0]) @ turn.T, [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(np.array([0.0, 0, 1]) @ turn.T, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(np.array([0.0, 1, 0]) @ turn.T, [0, 1, 0], atol=1e-12)
