"""The simulated tilt series: against a plain multislice recursion, and laws that hold for all settings."""

import dataclasses
from collections.abc import Iterator

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aetlab.core import physics
from aetlab.core.grid import coordinates_A, rotation_matrix, slice_centres_A, squared_frequencies
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.forward import imaging, simulate
from aetlab.forward.potential import build_potential
from aetlab.forward.simulate import simulate_tilt_series
from aetlab.spec import MicroscopeSpec, SimulateSpec, SpecError

SHAPE = (8, 10, 12)
VOXEL_A = 0.5
TILTS_DEG = np.array([0.0, 40.0, 90.0])
DEFOCI_A = np.array([-80.0, 150.0])
BLUR = {"default": 0.8, "O": 1.1}
OPEN = MicroscopeSpec(aperture_per_A=10.0)


def cluster(n_atoms: int = 6, extent_A: float = 1.6) -> Atoms:
    rng = np.random.default_rng(3)
    positions_A = rng.uniform(-extent_A, extent_A, (n_atoms, 3))
    return Atoms(rng.choice([8, 14], n_atoms), positions_A, np.zeros(n_atoms, int))


def run(atoms: Atoms, *, microscope: MicroscopeSpec = OPEN, how: SimulateSpec | None = None, seed: int = 0,
        shape: tuple[int, int, int] = SHAPE, tilts_deg: np.ndarray = TILTS_DEG,
        blur_A2: dict[str, float] | None = None) -> TiltSeries:
    return simulate_tilt_series(atoms, shape, VOXEL_A, tilts_deg, DEFOCI_A, microscope=microscope,
                                simulate=how or SimulateSpec(), debye_waller_A2=blur_A2 or BLUR,
                                rng=np.random.default_rng(seed))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def plain_image(atoms: Atoms, tilt_deg: float, defocus_A: float, microscope: MicroscopeSpec,
                how: SimulateSpec) -> np.ndarray:
    """Image (X, Y) by equations 1 and 2 of the paper, term by term in double precision."""
    turned = dataclasses.replace(atoms, positions_A=atoms.positions_A @ rotation_matrix(tilt_deg).T)
    potential_V = build_potential(turned, SHAPE, VOXEL_A, debye_waller_A2=BLUR).astype(np.float64)
    wavelength_A = physics.wavelength_A(microscope.energy_keV)
    q2 = squared_frequencies(SHAPE[1:], VOXEL_A)
    circle = q2 <= (how.band_limit / (2 * VOXEL_A)) ** 2 + 1e-9 if how.band_limit < 1 else np.ones(SHAPE[1:], bool)
    k_z = np.sqrt(1 / wavelength_A**2 - q2) - 1 / wavelength_A
    heights_A = slice_centres_A(SHAPE[0], how.n_layers, VOXEL_A)
    wave, height_A = np.ones(SHAPE[1:], complex), heights_A[0]
    for i_slice, next_height_A in enumerate(heights_A):
        wave = np.fft.ifft2(np.fft.fft2(wave) * np.exp(2j * np.pi * k_z * (next_height_A - height_A)) * circle)
        slab_V = potential_V[i_slice * how.n_layers:(i_slice + 1) * how.n_layers].sum(axis=0)
        phase = physics.interaction_parameter(microscope.energy_keV) * VOXEL_A * slab_V
        wave = wave * np.fft.ifft2(np.fft.fft2(np.exp(1j * phase)) * circle)
        height_A = next_height_A
    pupil = circle * (np.sqrt(q2) <= microscope.aperture_per_A + 1e-9)
    wave = np.fft.ifft2(np.fft.fft2(wave) * np.exp(2j * np.pi * k_z * (defocus_A - height_A)) * pupil)
    return np.abs(wave) ** 2


@pytest.mark.parametrize("how", [SimulateSpec(), SimulateSpec(n_layers=3), SimulateSpec(n_layers=8),
                                 SimulateSpec(band_limit=2 / 3), SimulateSpec(n_layers=2, band_limit=0.5)], ids=str)
@pytest.mark.parametrize("slab_bytes", [1.0, 5 * 480.0, 1e9])
def test_images_follow_the_plain_recursion(how: SimulateSpec, slab_bytes: float,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "SLAB_BYTES", slab_bytes)
    microscope = MicroscopeSpec(energy_keV=80.0, aperture_per_A=0.9)
    series = run(cluster(), microscope=microscope, how=how)
    assert series.images.shape == (3, 2, 10, 12) and series.images.dtype == np.float32
    for i_tilt, tilt_deg in enumerate(TILTS_DEG):
        for i_defocus, defocus_A in enumerate(DEFOCI_A):
            expected = plain_image(cluster(), tilt_deg, defocus_A, microscope, how)
            assert expected.std() > 0.05
            np.testing.assert_allclose(series.images[i_tilt, i_defocus], expected, atol=2e-5)


@settings(max_examples=15, deadline=None)
@given(st.floats(60, 300), st.floats(-90, 90), st.sampled_from([1, 2, 5]))
def test_no_electron_is_lost_without_an_aperture(energy_keV: float, tilt_deg: float, n_layers: int) -> None:
    microscope = dataclasses.replace(OPEN, energy_keV=energy_keV)
    series = run(cluster(), microscope=microscope, how=SimulateSpec(n_layers=n_layers), tilts_deg=np.array([tilt_deg]))
    np.testing.assert_allclose(series.images.mean(axis=(2, 3)), 1.0, atol=1e-5)


@pytest.mark.parametrize("how", [SimulateSpec(), SimulateSpec(oversample=2), SimulateSpec(n_frozen_phonons=2),
                                 SimulateSpec(kind="voxels"), SimulateSpec(band_limit=2 / 3)], ids=str)
def test_vacuum_is_one(how: SimulateSpec) -> None:
    nothing = Atoms(np.zeros(0, int), np.zeros((0, 3)), np.zeros(0, int))
    microscope = MicroscopeSpec(Cs_mm=1.0, focal_spread_sigma_nm=2.0, convergence_sigma_mrad=0.1, mtf_half=0.4)
    np.testing.assert_allclose(run(nothing, microscope=microscope, how=how).images, 1.0, atol=1e-6)


@pytest.mark.parametrize("oversample", [1, 2, 3])
def test_the_centre_of_the_sample_is_the_centre_of_the_image(oversample: int) -> None:
    """A sample that is its own mirror image in x and y has such images, with even and odd numbers of voxels."""
    corner = np.array([1.1, 0.7, 0.4])
    signs = np.array([[x, y, 1] for x in (1, -1) for y in (1, -1)])
    atoms = Atoms(np.full(4, 14), corner * signs, np.zeros(4, int))
    how = SimulateSpec(oversample=oversample)
    images = run(atoms, how=how, shape=(8, 11, 12), tilts_deg=np.zeros(1)).images[0]
    assert images.std() > 0.02
    np.testing.assert_allclose(images, images[:, ::-1], atol=1e-4)
    np.testing.assert_allclose(images, images[:, :, ::-1], atol=1e-4)


def test_a_tilt_takes_what_lies_along_the_beam_to_positive_x() -> None:
    atoms = Atoms(np.array([79]), np.array([[0.0, 1.0, 1.5]]), np.zeros(1, int))
    images = simulate_tilt_series(atoms, (8, 24, 26), VOXEL_A, np.array([90.0]), np.array([10.0]), microscope=OPEN,
                                  simulate=SimulateSpec(), debye_waller_A2=BLUR, rng=np.random.default_rng(0)).images
    weight = (images[0, 0] - 1) ** 2
    assert np.sum(weight.sum(axis=1) * coordinates_A(24, VOXEL_A)) / weight.sum() == pytest.approx(1.5, abs=0.05)
    assert np.sum(weight.sum(axis=0) * coordinates_A(26, VOXEL_A)) / weight.sum() == pytest.approx(1.0, abs=0.05)


def test_an_atom_is_in_focus_at_its_own_height() -> None:
    """A weak phase object in focus has no contrast: the contrast over defocus is least at the atom's z."""
    height_A = 4.25
    atoms = Atoms(np.array([1]), np.array([[0.0, 0.0, height_A]]), np.zeros(1, int))
    defoci_A = np.arange(-12.0, 12.5, 0.5)
    images = simulate_tilt_series(atoms, (25, 24, 26), VOXEL_A, np.zeros(1), defoci_A,
                                  microscope=MicroscopeSpec(energy_keV=60.0), simulate=SimulateSpec(),
                                  debye_waller_A2=BLUR, rng=np.random.default_rng(0)).images[0]
    assert defoci_A[np.argmin(images.std(axis=(1, 2)))] == pytest.approx(height_A, abs=0.5)


def test_finer_voxels_converge() -> None:
    images = {fine: run(cluster(), how=SimulateSpec(oversample=fine), tilts_deg=np.array([40.0])).images
              for fine in (1, 2, 4)}
    coarse, middle = (np.sqrt(np.mean((images[fine] - images[4]) ** 2)) for fine in (1, 2))
    assert middle < 0.4 * coarse


def test_voxels_and_atoms_agree_without_a_tilt() -> None:
    zero = np.zeros(1)
    by_atoms = run(cluster(), tilts_deg=zero, how=SimulateSpec(n_layers=3)).images
    by_voxels = run(cluster(), tilts_deg=zero, how=SimulateSpec(kind="voxels", n_layers=3)).images
    np.testing.assert_allclose(by_voxels, by_atoms, atol=1e-4)


def test_voxels_and_atoms_rotate_alike() -> None:
    """Atoms broad enough for their voxels: the two ways then differ by the interpolation alone."""
    smooth = {"default": 40.0}
    shape, tilts_deg = (24, 24, 12), np.array([35.0, 120.0])
    by_atoms = run(cluster(), tilts_deg=tilts_deg, shape=shape, blur_A2=smooth).images
    by_voxels = run(cluster(), tilts_deg=tilts_deg, shape=shape, blur_A2=smooth, how=SimulateSpec(kind="voxels")).images
    assert np.sqrt(np.mean((by_voxels - by_atoms) ** 2)) < 0.02 * by_atoms.std()


def test_frozen_phonons_average_to_the_blurred_potential_where_scattering_is_weak() -> None:
    atoms = Atoms(np.array([3]), np.array([[0.3, -0.2, 0.4]]), np.zeros(1, int))
    shape, tilts_deg, blur = (8, 16, 16), np.array([25.0]), {"default": 1.5}
    microscope = MicroscopeSpec(aperture_per_A=0.7)
    still = run(atoms, shape=shape, tilts_deg=tilts_deg, blur_A2={"default": 0.02}, microscope=microscope).images
    blurred = run(atoms, shape=shape, tilts_deg=tilts_deg, blur_A2=blur, microscope=microscope).images
    shaken = run(atoms, shape=shape, tilts_deg=tilts_deg, blur_A2=blur, microscope=microscope,
                 how=SimulateSpec(n_frozen_phonons=300)).images
    error = np.sqrt(np.mean((shaken - blurred) ** 2))
    assert error < 0.06 * blurred.std()
    assert error < 0.25 * np.sqrt(np.mean((still - blurred) ** 2))


def test_frozen_phonons_repeat_with_the_seed_and_differ_between_tilts() -> None:
    how, same = SimulateSpec(n_frozen_phonons=1), np.zeros(2)
    first, again, other = (run(cluster(), how=how, tilts_deg=same, seed=seed).images for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3


@pytest.mark.parametrize("how", [SimulateSpec(n_frozen_phonons=2), SimulateSpec(kind="voxels", n_layers=2)], ids=str)
def test_the_number_of_threads_changes_nothing(how: SimulateSpec, two_threads: None) -> None:
    tilts_deg = np.linspace(0, 170, 7)
    numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    several = run(cluster(), how=how, tilts_deg=tilts_deg).images
    numba.set_num_threads(1)
    np.testing.assert_allclose(run(cluster(), how=how, tilts_deg=tilts_deg).images, several, atol=1e-6)


def test_the_detector_blurs_the_image_and_nothing_else() -> None:
    sharp = run(cluster()).images
    blurred = run(cluster(), microscope=dataclasses.replace(OPEN, mtf_half=0.3)).images
    expected = imaging.blur_by_detector(sharp, imaging.detector_mtf(SHAPE[1:], VOXEL_A, 0.3))
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
    assert blurred.std() < 0.9 * sharp.std()


def test_progress_is_reported_after_each_tilt() -> None:
    told: list[tuple[int, int]] = []
    simulate_tilt_series(cluster(), SHAPE, VOXEL_A, TILTS_DEG, DEFOCI_A, microscope=OPEN, simulate=SimulateSpec(),
                         debye_waller_A2=BLUR, rng=np.random.default_rng(0),
                         report=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_error_in_a_tilt_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("this tilt failed")

    monkeypatch.setattr(simulate.SimulatedMicroscope, "intensities", fail)
    with pytest.raises(RuntimeError, match="this tilt failed"):
        run(cluster())


def test_phonons_need_atoms() -> None:
    with pytest.raises(SpecError, match="n_frozen_phonons"):
        SimulateSpec(kind="voxels", n_frozen_phonons=4)
