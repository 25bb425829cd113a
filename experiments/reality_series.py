"""Tilt series of HRTEM images as a microscope records them, simulated with abTEM.

Sample: a sphere of fcc Pd-Pt, sites occupied at random, displaced by 0.05 Å rms, in a random orientation. Frame: Å
about the middle of the particle, y the tilt axis, z along the beam; a tilt turns the sample right-handed about y, then
the direction of the axis turns it counter-clockwise about z, then the image is shifted. Images are (X, Y), y upwards.

Exit waves are abTEM's: frozen phonons, multislice. A slab of abTEM acts at its front face and the wave leaves at the
back of the last one: from the middle of the particle to the exit plane it is half of thickness plus slice. Images are
incoherent sums over phonons and over the focal spread (Gauss-Hermite quadrature); the detector's MTF contains the area
of its pixel; counts are Poisson. An exit wave is that of vacuum outside of the particle: it is computed on a small
field and put into a larger one. :mod:`experiments.reality_study` runs the series.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import abtem
import ase
import dask
import mrcfile
import numpy as np
import yaml
from ase.build import bulk
from scipy.spatial import cKDTree

SEED = 2029
ENERGY_KEV, CS_MM, APERTURE_MRAD = 300.0, 0.001, 19.5
FOCAL_SPREAD_NM, CONVERGENCE_MRAD = 2.0, 0.1  # standard deviations
DEFOCI_NM = (-45.0, -20.0)
COUNTS_PER_ELECTRON = 20.0
LATTICE_A, RADIUS_A, DISPLACED_A, VIBRATION_A = 3.90, 10.8, 0.05, 0.07
NX, NY, PIXEL_A = 116, 108, 0.42
#: Sampling of exit waves in Å, points across the particle, and across the field of the images.
FINE_A, POINTS, FIELD = 0.21, (150, 150), (288, 270)
SLICE_A, N_PHONONS, N_FOCI = 0.95, 4, 5
#: Carbon film: atoms per Å³ (2.0 g/cm³), least distance, extent across the axis in Å, slices in Å, phonons.
CARBON_PER_A3, CARBON_DISTANCE_A, FILM_A, FILM_SLICE_A, FILM_PHONONS = 0.1, 1.35, 170.0, 1.9, 2
#: Displacement in Å between the two exposures of a doubled image.
DOUBLED_A = (2.9, -1.6)


@dataclass(frozen=True)
class Reality:
    """Size of each difference between what is recorded and what table and microscope's file state.

    Parameters
    ----------
    shift_px : shift of each image, uniform within ± this along each axis
    axis_deg : direction of the tilt axis, stated as 0
    axis_jitter_deg, tilt_error_deg : rms of each tilt
    defocus_error_nm, defocus_offset_nm : rms of each image, and common to all
    brightness : of each tilt, uniform within ± this
    illumination : peak of a polynomial of second order over the detector
    gain_residue : rms of the fixed pattern
    bad_pixels : three quarters hot, the others dead
    n_blank, n_double : images without beam, and exposed twice
    magnification : relative, from one defocus to the next
    pixel_error : the true pixel is so much larger than the stated one
    dose_e_A2 : in all
    max_tilt_deg, tilt_step_deg : range and step of the tilts
    focal_spread, convergence : true over stated
    mtf_power : the true MTF, without the area of the pixel, is the stated one to this power
    thermal : vibration over that of the base
    blur_A : drift during each exposure, in a direction of its own
    carbon_A : thickness of an amorphous carbon film behind the particle
    n_swapped : pairs of tilts whose angles are exchanged in the table
    absorption : imaginary over real potential, in the plane of exit
    astigmatism_nm, coma_nm : of the images; stated as 0
    damage_A : rms of the random walk of each atom along each axis at the end of the series
    """

    shift_px: float = 0.0
    axis_deg: float = 0.0
    axis_jitter_deg: float = 0.0
    tilt_error_deg: float = 0.0
    defocus_error_nm: float = 0.0
    defocus_offset_nm: float = 0.0
    brightness: float = 0.0
    illumination: float = 0.0
    gain_residue: float = 0.0
    bad_pixels: int = 0
    n_blank: int = 0
    n_double: int = 0
    magnification: float = 0.0
    pixel_error: float = 0.0
    dose_e_A2: float = 1e5
    max_tilt_deg: float = 70.0
    tilt_step_deg: float = 5.0
    focal_spread: float = 1.0
    convergence: float = 1.0
    mtf_power: float = 1.0
    thermal: float = 1.0
    blur_A: float = 0.0
    carbon_A: float = 0.0
    n_swapped: int = 0
    absorption: float = 0.0
    astigmatism_nm: float = 0.0
    coma_nm: float = 0.0
    damage_A: float = 0.0


def draws(purpose: str) -> np.random.Generator:
    """Return the random numbers of a purpose: each reality has its own, the same at any size of the others."""
    return np.random.default_rng([SEED, int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")])


def particle() -> tuple[np.ndarray, np.ndarray]:
    """Return atomic numbers (N,) and positions (N, 3) in Å about the middle of the particle."""
    rng = draws("particle")
    sites = bulk("Pd", "fcc", a=LATTICE_A, cubic=True).repeat(8).positions
    sites = sites - sites.mean(axis=0) + rng.uniform(-1, 1, 3)
    sites = sites[np.linalg.norm(sites, axis=1) < RADIUS_A]
    numbers = np.where(rng.random(len(sites)) < 0.5, 46, 78)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    positions = (sites + rng.normal(0, DISPLACED_A, sites.shape)) @ (axes * np.sign(np.linalg.det(axes)))
    return numbers, positions - (positions.max(axis=0) + positions.min(axis=0)) / 2


def carbon_film(thickness_A: float, before_z_A: float) -> np.ndarray:
    """Return atoms (N, 3) at random places, none nearer than :data:`CARBON_DISTANCE_A`, periodic along y."""
    rng = draws("carbon")
    size = np.array([FILM_A, FIELD[1] * FINE_A, thickness_A])
    wanted, placed = int(CARBON_PER_A3 * size.prod()), np.zeros((0, 3))
    while len(placed) < wanted:
        both = np.concatenate([placed, rng.random((wanted - len(placed), 3)) * size])
        period = [1e6, size[1], 1e6]
        near = cKDTree(both, boxsize=period).query_pairs(CARBON_DISTANCE_A, output_type="ndarray")
        placed = np.delete(both, np.unique(near[near[:, 1] >= len(placed), 1]), axis=0)
    return placed - size * [0.5, 0.5, 0] + [0, 0, before_z_A]


def turn(tilt_deg: float, axis_deg: float) -> np.ndarray:
    """Return the rotation (3, 3): right-handed by the tilt about y, then by the axis' direction about z."""
    t, a = np.deg2rad([tilt_deg, axis_deg])
    about_y = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return about_z @ about_y


@dataclass(frozen=True)
class Geometry:
    """Geometry that determines the exit waves: one entry for each tilt, in the order of acquisition."""

    tilt_deg: tuple[float, ...]
    axis_deg: tuple[float, ...]
    thermal: float
    damage_A: float
    carbon_A: float
    absorption: float


def true_geometry(reality: Reality) -> tuple[np.ndarray, Geometry]:
    """Return the nominal tilts (T,), nearest to 0 first, and the true geometry."""
    nominal = np.arange(-reality.max_tilt_deg, reality.max_tilt_deg + 1e-6, reality.tilt_step_deg)
    nominal = nominal[np.argsort(np.abs(nominal), kind="stable")]
    tilt = nominal + reality.tilt_error_deg * draws("tilt").normal(size=len(nominal))
    axis = reality.axis_deg + reality.axis_jitter_deg * draws("axis").normal(size=len(nominal))
    return nominal, Geometry(tuple(tilt.round(6)), tuple(axis.round(6)), reality.thermal, reality.damage_A,
                             reality.carbon_A, reality.absorption)


def walks(geometry: Geometry, n_atoms: int) -> np.ndarray:
    """Return the displacement of each atom at each tilt, (T, N, 3) in Å: a random walk about its mean place."""
    n_tilts = len(geometry.tilt_deg)
    steps = draws("damage").normal(size=(n_tilts, n_atoms, 3)) * geometry.damage_A / np.sqrt(n_tilts)
    walked = np.cumsum(steps, axis=0)
    return walked - walked.mean(axis=0)


def exit_waves(geometry: Geometry, folder: Path) -> np.ndarray:
    """Return exit waves (T, phonons, *points), computed once for a geometry and kept in ``folder``."""
    name = hashlib.sha256(json.dumps(dataclasses.asdict(geometry)).encode()).hexdigest()[:16]
    path = folder / f"{name}.npy"
    if not path.exists():
        numbers, positions = particle()
        walked = walks(geometry, len(numbers))
        film = (carbon_film(geometry.carbon_A, positions[:, 2].max() + 2.0) if geometry.carbon_A else np.zeros((0, 3)))
        waves = np.array([_exit_wave(numbers, positions + walked[i], film, turn(tilt, axis), geometry, i)
                          for i, (tilt, axis) in enumerate(zip(geometry.tilt_deg, geometry.axis_deg, strict=True))])
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".part.npy"), waves)
        path.with_suffix(".part.npy").rename(path)
    return np.asarray(np.load(path))


def thickness_A(geometry: Geometry) -> float:
    """Return the thickness of abTEM's cell, in which the middle of the particle is the middle of the cell."""
    reach = RADIUS_A + 4.0
    if geometry.carbon_A:
        t = np.deg2rad(np.abs(geometry.tilt_deg).max())
        reach = FIELD[0] * FINE_A / 2 * np.tan(t) + (RADIUS_A + geometry.carbon_A + 3) / np.cos(t)
    step = FILM_SLICE_A if geometry.carbon_A else SLICE_A
    return float(step * np.ceil(2 * reach / step))


def _exit_wave(numbers: np.ndarray, positions: np.ndarray, film: np.ndarray, rotation: np.ndarray, geometry: Geometry,
               i_tilt: int) -> np.ndarray:
    points, step, n_phonons = (FIELD, FILM_SLICE_A, FILM_PHONONS) if len(film) else (POINTS, SLICE_A, N_PHONONS)
    cell = np.array([points[0] * FINE_A, points[1] * FINE_A, thickness_A(geometry)])
    behind = film @ rotation.T + cell / 2
    behind = behind[((behind >= 0) & (behind < cell) | [False, True, False]).all(axis=1)]
    atoms = ase.Atoms(np.append(numbers, np.full(len(behind), 6)),
                      np.concatenate([positions @ rotation.T + cell / 2, behind]), cell=cell, pbc=True)
    vibration = VIBRATION_A * geometry.thermal
    phonons = abtem.FrozenPhonons(atoms, n_phonons, {symbol: vibration for symbol in ("Pd", "Pt", "C")},
                                  seed=SEED + i_tilt, ensemble_mean=False)
    projection = "infinite" if len(film) else "finite"
    potential = abtem.Potential(phonons, gpts=points, slice_thickness=step, projection=projection)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # all phonons are wanted, as they are
        waves = abtem.PlaneWave(energy=ENERGY_KEV * 1e3).multislice(potential, lazy=False).array
    if geometry.absorption:
        still = abtem.Potential(atoms, gpts=points, slice_thickness=step, projection=projection)
        phase = abtem.core.energy.energy2sigma(ENERGY_KEV * 1e3) * still.project().array
        waves = waves * np.exp(-geometry.absorption * (phase - phase.min()))
    return np.asarray(waves, dtype=np.complex64)


def mtf(cycles_per_pixel: np.ndarray) -> np.ndarray:
    """Return the stated MTF along an axis of the detector, without the area of the pixel."""
    return 0.9 / (1 + (cycles_per_pixel / 0.8) ** 2) + 0.1 * np.exp(-((cycles_per_pixel / 0.12) ** 2))


def in_field(wave: np.ndarray) -> np.ndarray:
    """Return exit waves (phonons, *FIELD): those of a smaller field with vacuum around them."""
    if wave.shape[1:] == FIELD:
        return wave
    vacuum = (wave[:, [0, -1]].mean(axis=(1, 2)) + wave[:, :, [0, -1]].mean(axis=(1, 2))) / 2
    field = np.tile(vacuum[:, None, None], (1, *FIELD))
    start = [(big - small) // 2 for big, small in zip(FIELD, wave.shape[1:], strict=True)]
    field[:, start[0]:start[0] + wave.shape[1], start[1]:start[1] + wave.shape[2]] = wave
    return field


def intensity(spectrum: np.ndarray, defocus_A: float, exit_A: float, reality: Reality) -> np.ndarray:
    """Return the intensity (*FIELD) from spectra of exit waves, averaged over phonons and focal spread."""
    waves = abtem.PlaneWave(energy=ENERGY_KEV * 1e3, gpts=FIELD, sampling=FINE_A)
    nodes, weights = np.polynomial.hermite_e.hermegauss(N_FOCI)
    total = np.zeros(FIELD)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        focus_A = defocus_A + 10 * FOCAL_SPREAD_NM * reality.focal_spread * node
        transfer = abtem.CTF(
            energy=ENERGY_KEV * 1e3, C10=focus_A - exit_A, Cs=CS_MM * 1e7, C12=10 * reality.astigmatism_nm, phi12=0.4,
            C21=10 * reality.coma_nm, phi21=1.1, semiangle_cutoff=APERTURE_MRAD, soft=False,
            angular_spread=np.sqrt(2) * CONVERGENCE_MRAD * reality.convergence)
        image = np.fft.ifft2(spectrum * transfer._evaluate_kernel(waves))
        total += weight * (image.real**2 + image.imag**2).mean(axis=0)
    return total


def record(fine: np.ndarray, pixel_A: float, shift_A: np.ndarray, blur_A: np.ndarray, mtf_power: float) -> np.ndarray:
    """Return the image (NX, NY): the Fourier series of ``fine`` times MTF and blur, at the centres of the pixels."""
    qx, qy = (np.fft.fftfreq(n, FINE_A) for n in FIELD)
    u, v = qx[:, None] * pixel_A, qy[None] * pixel_A
    seen = np.sinc(u) * np.sinc(v) * mtf(np.hypot(u, v)) ** mtf_power
    seen = seen * np.sinc(qx[:, None] * blur_A[0] + qy[None] * blur_A[1])
    spectrum = np.fft.fft2(fine) / fine.size * seen
    centres_A = [(np.arange(n) - (n - 1) / 2) * pixel_A - shift + size / 2 * FINE_A
                 for n, shift, size in zip((NX, NY), shift_A, FIELD, strict=True)]
    to_x, to_y = (np.exp(2j * np.pi * np.outer(at, q)) for at, q in zip(centres_A, (qx, qy), strict=True))
    return np.asarray((to_x @ spectrum @ to_y.T).real)


def smooth_field() -> np.ndarray:
    """Return a polynomial of second order over the detector (NX, NY), peak 1."""
    x, y = np.meshgrid(np.linspace(-1, 1, NX), np.linspace(-1, 1, NY), indexing="ij")
    field = np.tensordot(draws("illumination").normal(size=5), [x, y, x * y, x * x - 1 / 3, y * y - 1 / 3], axes=1)
    return np.asarray(field / np.abs(field).max())


def record_series(reality: Reality, waves_folder: Path) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Return counts (images, NX, NY) as acquired, all defoci of a tilt one after the other, and the table's rows."""
    nominal, geometry = true_geometry(reality)
    waves, exit_A = exit_waves(geometry, waves_folder), thickness_A(geometry) / 2
    exit_A += (FILM_SLICE_A if reality.carbon_A else SLICE_A) / 2
    shape = (len(nominal), len(DEFOCI_NM))
    n_images = shape[0] * shape[1]
    defocus_nm = (np.array(DEFOCI_NM) + reality.defocus_offset_nm
                  + reality.defocus_error_nm * draws("defocus").normal(size=shape))
    bright = 1 + reality.brightness * draws("brightness").uniform(-1, 1, shape[0])
    shift_A = reality.shift_px * PIXEL_A * draws("shift").uniform(-1, 1, (*shape, 2))
    direction = draws("blur").uniform(0, 2 * np.pi, shape)
    blur_A = reality.blur_A * np.stack([np.cos(direction), np.sin(direction)], axis=-1)
    faults = draws("faults").permutation(n_images)
    blank, double = faults[:reality.n_blank], faults[reality.n_blank:reality.n_blank + reality.n_double]
    gain = 1 + reality.gain_residue * draws("gain").normal(size=(NX, NY))
    field = 1 + reality.illumination * smooth_field()
    bad = draws("bad pixels").choice(NX * NY, reality.bad_pixels, replace=False)
    electrons = reality.dose_e_A2 / n_images * PIXEL_A**2
    counting, images = draws("counts"), []
    for i in range(shape[0]):
        spectrum = np.fft.fft2(in_field(waves[i]))
        for j in range(shape[1]):
            pixel_A = PIXEL_A * (1 + reality.pixel_error) / (1 + reality.magnification * j)
            fine = intensity(spectrum, 10 * defocus_nm[i, j], exit_A, reality)
            image = record(fine, pixel_A, shift_A[i, j], blur_A[i, j], reality.mtf_power)
            if i * shape[1] + j in double:
                image = image + record(fine, pixel_A, shift_A[i, j] + DOUBLED_A, blur_A[i, j], reality.mtf_power)
            elif i * shape[1] + j in blank:
                image = np.full_like(image, 0.002)
            seen = counting.poisson(np.maximum(electrons * bright[i] * field * image, 0)) * COUNTS_PER_ELECTRON * gain
            hot = bad[: 3 * len(bad) // 4]
            seen.flat[bad] = 0
            seen.flat[hot] = COUNTS_PER_ELECTRON * electrons * draws("hot").uniform(2, 12, len(hot))
            images.append(np.clip(np.rint(seen), 0, 32767).astype(np.int16))
    written = nominal.copy()
    for first, second in draws("swapped").permutation(len(nominal))[:2 * reality.n_swapped].reshape(-1, 2):
        written[[first, second]] = written[[second, first]]
    dose = round(reality.dose_e_A2 / n_images, 4)
    return np.array(images), [{"tilt_deg": float(tilt), "defocus_nm": defocus_nm, "dose_e_A2": dose}
                              for tilt in written for defocus_nm in DEFOCI_NM]


def write_series(reality: Reality, folder: Path, waves_folder: Path) -> None:
    """Write ``x.mrc``, ``x.csv`` and ``x.yaml``: what a laboratory has of the series."""
    abtem.config.set({"diagnostics.progress_bar": False, "dask.lazy": False})
    with dask.config.set(scheduler="synchronous"):
        images, rows = record_series(reality, waves_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(folder / "x.mrc", overwrite=True) as file:
        file.set_data(images.transpose(0, 2, 1))
        file.set_image_stack()
        file.voxel_size = PIXEL_A
    with (folder / "x.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["file", "frame", *rows[0]])
        table.writeheader()
        table.writerows({"file": "x.mrc", "frame": k, **row} for k, row in enumerate(rows))
    u = np.arange(0, 0.51, 0.1)
    (folder / "x.yaml").write_text(yaml.safe_dump({
        "energy_keV": ENERGY_KEV, "Cs_mm": CS_MM, "aperture_mrad": APERTURE_MRAD, "axis_deg": 0.0, "sense": "right",
        "focal_spread_sigma_nm": FOCAL_SPREAD_NM, "convergence_sigma_mrad": CONVERGENCE_MRAD, "pixel_A": PIXEL_A,
        "elements": ["Pd", "Pt"],
        "mtf": {"cycles_per_pixel": u.round(2).tolist(), "mtf": (mtf(u) * np.sinc(u)).round(4).tolist()}}))
