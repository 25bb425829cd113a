"""Electron optics, exit waves and HRTEM images against abTEM, an independent program (docs/conventions.md).

abTEM counts defocus from the exit wave, which it leaves one slab behind the last slice; aetlab counts from the middle
of the volume. A slice acts at the front of its slab in abTEM and at its middle in aetlab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

import ase
import numpy as np
import pytest

from aetlab.core import physics
from aetlab.core.grid import rotation_matrix
from aetlab.core.nouns import Atoms
from aetlab.forward.imaging import transfer_function
from aetlab.forward.multislice import exit_wave, propagator
from aetlab.forward.potential import build_potential
from aetlab.forward.scattering import PARAMETRIZATIONS, projected_potential, scattering_factor_A
from aetlab.forward.simulate import SimulatedMicroscope
from aetlab.spec import MicroscopeSpec, SimulateSpec
from tests.conftest import Lazily

if TYPE_CHECKING:
    import abtem
    from ase import build
else:
    abtem, build = Lazily("abtem"), Lazily("ase.build")  # importing them takes five seconds in each process

#: abTEM 1.0.10 needs NumPy 2; with the oldest dependencies of aetlab runs 1.0.8, which has no such multislice.
exact_multislice = pytest.mark.skipif(tuple(map(int, version("abtem").split(".")[:3])) < (1, 0, 10),
                                      reason="needs the multislice of second order of abTEM 1.0.10")
BOX_A = 48.0
DEBYE_WALLER_A2 = 0.5


@pytest.fixture(autouse=True)
def abtem_settings() -> Iterator[None]:
    with abtem.config.set({"diagnostics.progress_bar": False, "dask.lazy": False, "antialias.taper": 0.0}):
        yield


def si_sio2_block() -> Atoms:
    """Return a 4 nm cube: crystalline silicon for x < 0, and a random glass of Si and O, atoms at least 1.5 Å apart."""
    crystal = build.bulk("Si", cubic=True).repeat((4, 8, 8)).positions
    crystal = crystal - crystal.mean(axis=0) - [10.0, 0.0, 0.0]
    rng = np.random.default_rng(7)
    glass: list[np.ndarray] = []
    while len(glass) < 900:
        site = rng.uniform([1.5, -20.0, -20.0], [20.0, 20.0, 20.0])
        if not glass or np.linalg.norm(np.array(glass) - site, axis=1).min() > 1.5:
            glass.append(site)
    positions_A = np.vstack([crystal[np.abs(crystal).max(axis=1) < 20.5], glass])
    numbers = np.full(len(positions_A), 14)
    numbers[-len(glass):] = rng.choice([8, 8, 14], len(glass))
    return Atoms(numbers, positions_A, np.zeros(len(numbers), int))


def gold_particle() -> Atoms:
    """Return a sphere of fcc gold, 28 Å in diameter, off the zone axis."""
    positions_A = build.bulk("Au", cubic=True).repeat(9).positions
    positions_A = positions_A - positions_A.mean(axis=0)
    positions_A = positions_A[np.linalg.norm(positions_A, axis=1) < 14] @ rotation_matrix(12.0).T
    return Atoms(np.full(len(positions_A), 79), positions_A, np.zeros(len(positions_A), int))


SAMPLES = {"block": si_sio2_block, "gold": gold_particle}


def layers_V(sample: str, voxel_A: float) -> np.ndarray:
    """Return the potential (Z, X, Y) of the sample in V."""
    n = round(BOX_A / voxel_A)
    return build_potential(SAMPLES[sample](), (n, n, n), voxel_A, debye_waller_A2={"default": DEBYE_WALLER_A2})


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def abtem_atoms(parametrization: str) -> abtem.parametrizations.Parametrization:
    return {"lobato": abtem.parametrizations.LobatoParametrization,
            "kirkland": abtem.parametrizations.KirklandParametrization}[parametrization]()


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("Z", [6, 8, 14, 26, 79])
def test_projected_potential_agrees_with_abtem(parametrization: str, Z: int) -> None:
    r_A = np.geomspace(0.1, 4.0, 60)
    expected = abtem_atoms(parametrization).projected_potential(physics.SYMBOLS[Z])(r_A)
    np.testing.assert_allclose(projected_potential(r_A, Z, parametrization), expected, rtol=1e-4)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_scattering_factors_of_all_elements_agree_with_abtem(parametrization: str) -> None:
    g_per_A = np.linspace(0, 6, 40)
    reference = abtem_atoms(parametrization)  # single precision
    for Z in range(1, 99):
        expected = reference.scattering_factor(physics.SYMBOLS[Z])(g_per_A**2)
        np.testing.assert_allclose(scattering_factor_A(g_per_A, Z, parametrization), expected, rtol=3e-5)


@pytest.mark.parametrize("energy_keV", [60, 80, 100, 120, 200, 300])
def test_wavelength_mass_and_interaction_parameter_agree_with_abtem(energy_keV: float) -> None:
    reference, energy_eV = abtem.core.energy, 1e3 * energy_keV
    assert physics.wavelength_A(energy_keV) == pytest.approx(reference.energy2wavelength(energy_eV), rel=1e-6)
    assert physics.relativistic_mass_kg(energy_keV) == pytest.approx(reference.energy2mass(energy_eV), rel=1e-6)
    assert physics.interaction_parameter(energy_keV) == pytest.approx(reference.energy2sigma(energy_eV), rel=1e-6)


def wave_behind_box(slices_V: np.ndarray, pixel_A: float, n_layers: int, energy_keV: float,
                    band_limit: float) -> np.ndarray:
    """Return aetlab's wave one slab behind the last slice, where abTEM's exit wave is."""
    wavelength_A, slab_A = physics.wavelength_A(energy_keV), n_layers * pixel_A
    wave = exit_wave(slices_V, phase_per_V=physics.interaction_parameter(energy_keV) * pixel_A, gap_A=slab_A,
                     pixel_A=pixel_A, wavelength_A=wavelength_A, band_limit=band_limit)
    free = propagator(wave.shape, pixel_A, wavelength_A, slab_A, band_limit=band_limit)
    return np.fft.ifft2(np.fft.fft2(wave) * free)


@exact_multislice
@pytest.mark.parametrize("energy_keV", [300.0, 80.0])
@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("band_limit", [2 / 3, 1.0])
def test_exit_waves_of_the_same_slices_agree(sample: str, energy_keV: float, band_limit: float) -> None:
    voxel_A, n_layers = 0.25, 4
    layers = layers_V(sample, voxel_A)
    slices_V = layers.reshape(-1, n_layers, *layers.shape[1:]).sum(axis=1)
    wave = wave_behind_box(slices_V, voxel_A, n_layers, energy_keV, band_limit)
    exact = abtem.multislice.FourierMultislice(order=2)
    # Without a band limit abTEM's circle must reach beyond the corners of frequency space.
    with abtem.config.set({"antialias.cutoff": band_limit if band_limit < 1 else 2.0}):
        potential = abtem.PotentialArray(slices_V * np.float32(voxel_A), slice_thickness=n_layers * voxel_A,
                                         sampling=voxel_A)
        reference = abtem.PlaneWave(energy=1e3 * energy_keV).multislice(potential, algorithm=exact)
    assert np.std(reference.array) > 0.1
    assert relative_error(wave, reference.array) < 1e-3


@exact_multislice
@pytest.mark.parametrize("energy_keV", [300.0, 80.0])
@pytest.mark.parametrize("sample", SAMPLES)
def test_exit_waves_of_each_programs_own_potential_agree(sample: str, energy_keV: float) -> None:
    """abTEM samples twice as finely, because it places atoms between pixels by linear interpolation."""
    voxel_A, n_layers, finer, band_limit = 0.2, 5, 2, 2 / 3
    layers = layers_V(sample, voxel_A)
    wave = wave_behind_box(layers.reshape(-1, n_layers, *layers.shape[1:]).sum(axis=1), voxel_A, n_layers, energy_keV,
                           band_limit)
    n = wave.shape[0]
    atoms = SAMPLES[sample]()
    # The origin of abTEM's pixels is the centre of aetlab's first pixel, that of its slices the front of the box.
    positions_A = atoms.positions_A + [(BOX_A - voxel_A) / 2, (BOX_A - voxel_A) / 2, BOX_A / 2]
    sigma_A = math.sqrt(DEBYE_WALLER_A2 / (8 * np.pi**2))
    blurred = abtem.parametrizations.LobatoParametrization(sigmas={symbol: sigma_A for symbol in ("O", "Si", "Au")})
    exact = abtem.multislice.FourierMultislice(order=2)
    with abtem.config.set({"antialias.cutoff": band_limit / finer}):
        potential = abtem.Potential(
            ase.Atoms(atoms.numbers, positions_A, cell=[BOX_A] * 3), gpts=(finer * n, finer * n),
            slice_thickness=n_layers * voxel_A, projection="infinite",
            parametrization=blurred)
        reference = abtem.PlaneWave(energy=1e3 * energy_keV).multislice(potential, algorithm=exact)
    order = np.fft.fftfreq(n, 1 / n).astype(int)
    spectrum = np.fft.fft2(reference.array)[np.ix_(order, order)] / finer**2
    assert relative_error(np.fft.fft2(wave), spectrum) < 0.02


CASES = {
    "defocus": (MicroscopeSpec(aperture_per_A=0.9), 200.0),
    "defocus the other way": (MicroscopeSpec(aperture_per_A=0.9), -450.0),
    "Cs": (MicroscopeSpec(energy_keV=200.0, Cs_mm=1.2, aperture_per_A=0.6), -600.0),
    "two-fold astigmatism": (MicroscopeSpec(A1_nm=8.0, A1_deg=30.0), 150.0),
    "focal spread": (MicroscopeSpec(energy_keV=80.0, focal_spread_sigma_nm=3.0, aperture_per_A=0.8), 100.0),
    "all": (MicroscopeSpec(energy_keV=200.0, Cs_mm=-0.02, C5_mm=3.0, A1_nm=5.0, A1_deg=-20.0, B2_nm=30.0, B2_deg=70.0,
                           A2_nm=40.0, A2_deg=10.0, S3_um=0.5, S3_deg=15.0, A3_um=1.0, A3_deg=-5.0, B4_um=5.0,
                           B4_deg=40.0, D4_um=5.0, D4_deg=25.0, A4_um=10.0, A4_deg=8.0, S5_mm=0.3, S5_deg=12.0,
                           R5_mm=0.3, R5_deg=-33.0, A5_mm=1.0, A5_deg=21.0, aperture_per_A=0.8,
                           focal_spread_sigma_nm=1.0, convergence_sigma_mrad=0.2), 300.0),
}


def abtem_ctf(m: MicroscopeSpec, from_exit_wave_A: float, defocus_A: float) -> abtem.CTF:
    """Return abTEM's transfer function: Krivanek's coefficients in Å, azimuths in rad, 1/e widths for σ."""
    rad = math.radians
    return abtem.CTF(
        energy=1e3 * m.energy_keV, soft=False,
        semiangle_cutoff=1e3 * physics.wavelength_A(m.energy_keV) * m.aperture_per_A,
        focal_spread=math.sqrt(2) * 10 * m.focal_spread_sigma_nm,
        C10=from_exit_wave_A + defocus_A, C12=10 * m.A1_nm, phi12=rad(m.A1_deg), C21=30 * m.B2_nm, phi21=rad(m.B2_deg),
        C23=10 * m.A2_nm, phi23=rad(m.A2_deg), C30=1e7 * m.Cs_mm, C32=4e4 * m.S3_um, phi32=rad(m.S3_deg),
        C34=1e4 * m.A3_um, phi34=rad(m.A3_deg), C41=5e4 * m.B4_um, phi41=rad(m.B4_deg), C43=5e4 * m.D4_um,
        phi43=rad(m.D4_deg), C45=1e4 * m.A4_um, phi45=rad(m.A4_deg), C50=1e7 * m.C5_mm, C52=6e7 * m.S5_mm,
        phi52=rad(m.S5_deg), C54=6e7 * m.R5_mm, phi54=rad(m.R5_deg), C56=1e7 * m.A5_mm, phi56=rad(m.A5_deg))


@pytest.mark.parametrize(("name", "azimuth_deg"), [
    ("Cs_mm", None), ("C5_mm", None), ("A1_nm", 20.0), ("B2_nm", 50.0), ("A2_nm", -15.0), ("S3_um", 40.0),
    ("A3_um", 11.0), ("B4_um", -70.0), ("D4_um", 25.0), ("A4_um", 9.0), ("S5_mm", -30.0), ("R5_mm", 17.0),
    ("A5_mm", 6.0)])
def test_each_aberration_agrees_with_abtem(name: str, azimuth_deg: float | None) -> None:
    """Compare with abTEM's image of a point; the coefficient gives a phase of a few rad at the edge."""
    pixel_A, wavelength_A = 0.5, physics.wavelength_A(200.0)
    power = {"nm": {"A1": 2, "B2": 3, "A2": 3}, "um": {"S3": 4, "A3": 4, "B4": 5, "D4": 5, "A4": 5},
             "mm": {"Cs": 4, "C5": 6, "S5": 6, "R5": 6, "A5": 6}}[name[3:]][name[:2]]
    unit_A = {"nm": 1e1, "um": 1e4, "mm": 1e7}[name[3:]]
    coefficient = 10 * wavelength_A / wavelength_A**power / unit_A
    azimuth = {} if azimuth_deg is None else {f"{name[:2]}_deg": azimuth_deg}
    microscope = MicroscopeSpec(energy_keV=200.0, aperture_per_A=10.0, **{name: coefficient}, **azimuth)
    point = np.zeros((24, 30), np.complex64)
    point[0, 0] = 1
    image = abtem.Waves(point, energy=200e3, sampling=pixel_A).apply_ctf(abtem_ctf(microscope, 0.0, 0.0))
    transfer = transfer_function(point.shape, pixel_A, microscope, 0.0)
    np.testing.assert_allclose(transfer, np.fft.fft2(image.array), atol=2e-3)
    assert np.ptp(np.abs(np.angle(transfer))) > 1


@pytest.fixture(scope="module")
def block_layers() -> np.ndarray:
    return layers_V("block", 0.3)


@pytest.fixture(scope="module")
def block_waves(block_layers: np.ndarray) -> dict[float, np.ndarray]:
    """Return abTEM's exit waves of the block's layers by energy."""
    waves = {}
    with abtem.config.set({"antialias.cutoff": 2.0, "antialias.taper": 0.0, "dask.lazy": False}):
        potential = abtem.PotentialArray(block_layers * np.float32(0.3), slice_thickness=0.3, sampling=0.3)
        for energy_keV in {microscope.energy_keV for microscope, _ in CASES.values()}:
            waves[energy_keV] = abtem.PlaneWave(energy=1e3 * energy_keV).multislice(potential)
    return waves


def image_by_abtem(exit_waves: abtem.Waves, microscope: MicroscopeSpec, defocus_A: float,
                   from_exit_wave_A: float) -> np.ndarray:
    waves = exit_waves.apply_ctf(abtem_ctf(microscope, from_exit_wave_A, defocus_A))
    if microscope.convergence_sigma_mrad > 0:
        # aetlab takes the slope of the phase at the volume's centre, abTEM's own CTF at the exit wave.
        ctf = abtem_ctf(microscope, 0.0, defocus_A)
        waves = abtem.transfer.SpatialEnvelope(math.sqrt(2) * microscope.convergence_sigma_mrad,
                                               ctf.aberration_coefficients).apply(waves)
    return np.abs(waves.array) ** 2


def contrast_error(image: np.ndarray, reference: np.ndarray) -> float:
    """Return the RMS difference in units of the contrast, the standard deviation of the reference."""
    return float(np.sqrt(np.mean((image - reference) ** 2)) / reference.std())


# The last layer acts half a voxel before the volume's end, and abTEM's exit wave is one voxel further on.
EXIT_WAVE_TO_CENTRE_A = -(BOX_A / 2 + 0.3 / 2)


@pytest.mark.parametrize("case", CASES)
def test_images_agree_with_abtem_if_defocus_counts_from_the_centre(case: str, block_layers: np.ndarray,
                                                                   block_waves: dict[float, np.ndarray]) -> None:
    microscope, defocus_A = CASES[case]
    optics = SimulatedMicroscope(block_layers.shape, 0.3, np.array([defocus_A]), microscope, SimulateSpec())
    image = optics.intensities(iter([block_layers]))[0]
    reference = image_by_abtem(block_waves[microscope.energy_keV], microscope, defocus_A, EXIT_WAVE_TO_CENTRE_A)
    assert reference.std() > 0.03
    assert contrast_error(image, reference) < 0.01


@pytest.mark.parametrize("change", ["sign of defocus", "sign of Cs", "defocus from the end of the volume",
                                    "defocus from the front of the volume"])
def test_other_signs_or_planes_of_defocus_disagree(change: str, block_layers: np.ndarray,
                                                   block_waves: dict[float, np.ndarray]) -> None:
    microscope, defocus_A = CASES["Cs"]
    plane_A = EXIT_WAVE_TO_CENTRE_A
    optics = SimulatedMicroscope(block_layers.shape, 0.3, np.array([defocus_A]), microscope, SimulateSpec())
    image = optics.intensities(iter([block_layers]))[0]
    if change == "sign of defocus":
        defocus_A = -defocus_A
    elif change == "sign of Cs":
        microscope = MicroscopeSpec(energy_keV=200.0, Cs_mm=-1.2, aperture_per_A=0.6)
    else:
        plane_A += BOX_A / 2 if "end" in change else -BOX_A / 2
    reference = image_by_abtem(block_waves[200.0], microscope, defocus_A, plane_A)
    assert contrast_error(image, reference) > 0.1
