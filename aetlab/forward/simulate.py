"""Simulate a noise-free tilt series, with a discretisation that is independent of the reconstruction.

With ``simulate.kind`` ``atoms``, each tilt rotates the atoms and builds a new potential, slab by slab during the
propagation. With ``voxels``, the method of the paper, the voxels of one potential are rotated by Fourier shears.
``oversample`` refines the voxels along all three axes and bins the images back to pixels. ``n_layers`` and
``band_limit`` are those of the multislice recursion (equations 1 and 2 of the paper). With frozen phonons (Loane, Xu
and Silcox, Acta Cryst. A 47, 267, 1991), the intensity is the mean over copies whose atoms are displaced by independent
normal vectors of variance B/(8π²) along each axis, instead of a potential blurred by B.

Tilts are distributed among threads. Each tilt is computed in a fixed order with its own random numbers, so that the
number of threads does not change the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol

import numba
import numpy as np

from aetlab.core import physics
from aetlab.core.backend import n_threads
from aetlab.core.fft import plan_fft
from aetlab.core.grid import slice_centres_A
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import imaging
from aetlab.forward.detector import mtf_of
from aetlab.forward.kernels_numba import multiply
from aetlab.forward.multislice import exit_wave, propagator
from aetlab.forward.potential import build_potential, profile_along_y
from aetlab.forward.scattering import LEAST_DEBYE_WALLER_A2
from aetlab.methods.rotations import make_rotation
from aetlab.spec import MicroscopeSpec, SimulateSpec

#: Rotation of the volume for ``voxels``, as in the paper.
VOXEL_ROTATION = "fourier"

#: Bytes of potential that a thread holds at a time for ``atoms``.
SLAB_BYTES = 64e6

#: Most atoms whose profiles along y are kept for all tilts; one has about 0.5 kB.
MOST_PROFILES = 200_000

#: Bytes of potential that all threads hold together, without the potential that is rotated for ``voxels``.
ALL_THREADS_BYTES = 1.0e9


def simulate_tilt_series(atoms: Atoms, shape_zxy: tuple[int, int, int], voxel_A: float, tilt_deg: np.ndarray,
                         defocus_A: np.ndarray, *, microscope: MicroscopeSpec, simulate: SimulateSpec,
                         debye_waller_A2: dict[str, float], rng: np.random.Generator,
                         report: Callable[[int, int], None] | None = None, poses: Poses | None = None,
                         make_exposure: MakeExposure | None = None) -> TiltSeries:
    """Return noise-free images of ``atoms`` at every tilt and defocus, including the detector's MTF.

    Parameters
    ----------
    atoms : Atoms
        Positions in Å about the volume's centre, at tilt 0.
    shape_zxy, voxel_A : tuple of int, float
        The volume (Z, X, Y) of the reconstruction and its voxel in Å; the images have (X, Y) pixels of that size.
    tilt_deg, defocus_A : float (T,), (F,) or (T, F)
        Tilts about +y in degrees; distances from the volume's centre to the imaged planes in Å, for each image if the
        tilts differ.
    microscope, simulate : MicroscopeSpec, SimulateSpec
        The instrument, and the settings of the simulation.
    debye_waller_A2 : dict
        B = 8π²⟨u²⟩ in Å² by element symbol, with the entry ``default``.
    rng : numpy.random.Generator
        Source of the displacements of frozen phonons; one child for each tilt.
    report : callable, optional
        Called as ``report(tilts done, tilts)`` after each tilt, in the caller's thread.
    poses : Poses, optional
        Poses of the tilts if they are not nominal; only for ``simulate.kind`` atoms. The series still has the nominal
        ``tilt_deg`` and ``defocus_A``.
    make_exposure : callable, optional
        Makes the :class:`Exposure` for ``simulate.kind`` atoms; by default :class:`CpuExposure`.

    Returns
    -------
    TiltSeries with images float32 (T, F, X, Y), vacuum 1.
    """
    tilts, nominal_A = np.atleast_1d(np.asarray(tilt_deg, float)), np.atleast_1d(np.asarray(defocus_A, float))
    defoci = np.broadcast_to(nominal_A, (len(tilts), nominal_A.shape[-1]))
    optics = SimulatedMicroscope(shape_zxy, voxel_A, defoci[0], microscope, simulate)
    sample: _RotatedAtoms | _RotatedVoxels
    if simulate.kind == "atoms":
        sample = _RotatedAtoms(atoms, optics, simulate, debye_waller_A2, make_exposure or CpuExposure)
    else:
        if poses is not None:
            raise ValueError("voxels can only rotate about the tilt axis: poses need simulate.kind=atoms")
        sample = _RotatedVoxels(atoms, optics, simulate, debye_waller_A2)
    images = np.empty((*defoci.shape, *shape_zxy[1:]), np.float32)
    seen = poses or Poses.nominal(tilts, defoci.shape[1])

    def simulate_tilt(i_tilt: int, tilt_rng: np.random.Generator) -> None:
        planes_A = defoci[i_tilt] + seen.defocus_change_A[i_tilt]
        transfer = None if (planes_A == defoci[0]).all() else optics.transfer(planes_A)
        copies = list(sample.intensities(seen, i_tilt, tilt_rng, transfer))
        images[i_tilt] = seen.brightness[i_tilt, :, None, None] * optics.detect(np.mean(copies, axis=0))

    n_workers = min(len(tilts), sample.n_workers_most, n_threads() if _kernels_run_side_by_side() else 1)
    n_inner = max(1, n_threads() // n_workers)
    pool = ThreadPoolExecutor(n_workers, initializer=numba.set_num_threads, initargs=(n_inner,))
    try:
        jobs = [pool.submit(simulate_tilt, i, child) for i, child in enumerate(rng.spawn(len(tilts)))]
        for n_done, job in enumerate(as_completed(jobs), start=1):
            job.result()
            if report is not None:
                report(n_done, len(tilts))
    finally:
        pool.shutdown(cancel_futures=True)
    return TiltSeries(images, tilts, defoci, voxel_A)


def draw_poses(simulate: SimulateSpec, tilt_deg: np.ndarray, n_defoci: int, rng: np.random.Generator) -> Poses | None:
    """Draw poses about ``tilt_deg`` (T,) from normal distributions with the errors of ``simulate``; None for none."""
    errors = [simulate.tilt_error_deg, simulate.axis_error_deg, simulate.shift_error_A, simulate.shift_error_A,
              10 * simulate.defocus_error_nm, simulate.brightness_error]
    if not any(errors):
        return None
    table = rng.standard_normal((len(tilt_deg), 6)) * errors + [0, 0, 0, 0, 0, 1]
    return Poses.from_table(tilt_deg, n_defoci, table)


class Exposure(Protocol):
    """Compute the intensities of atoms in front of the detector."""

    @property
    def n_workers_most(self) -> int:
        """Return how many threads may call at the same time."""

    def __call__(self, atoms: Atoms, transfer: np.ndarray | None) -> np.ndarray:
        """Return the intensities (F, X, Y) of ``atoms``, placed as in the tilt, in the pixels of the images.

        ``transfer`` (F, X, Y), if given, replaces the transfer functions of the microscope.
        """


class MakeExposure(Protocol):
    """Make an :class:`Exposure`."""

    def __call__(self, optics: SimulatedMicroscope, atoms: Atoms, parametrization: str,
                 debye_waller_A2: dict[str, float]) -> Exposure:
        """Return an exposure of ``atoms`` in any places, with scattering factors and B as :func:`build_potential`."""


class SimulatedMicroscope:
    """Compute images from slices of potential; holds all arrays that the tilts share.

    The parameters are those of :func:`simulate_tilt_series`. The attributes ``shape_zxy`` and ``voxel_A`` are those of
    the simulation, finer than the images by ``fine``; ``centres_A`` are the middles of its slices of ``n_layers``, and
    ``phase_per_V`` is σ Δz.
    """

    def __init__(self, shape_zxy: tuple[int, int, int], voxel_A: float, defocus_A: np.ndarray,
                 microscope: MicroscopeSpec, simulate: SimulateSpec) -> None:
        fine = simulate.oversample
        self.shape_zxy = (shape_zxy[0] * fine, shape_zxy[1] * fine, shape_zxy[2] * fine)
        self.voxel_A = voxel_A / fine
        self.n_layers = simulate.n_layers
        self.fine = fine
        self.band_limit = simulate.band_limit
        self.wavelength_A = physics.wavelength_A(microscope.energy_keV)
        self.phase_per_V = physics.interaction_parameter(microscope.energy_keV) * self.voxel_A
        self.centres_A = slice_centres_A(self.shape_zxy[0], self.n_layers, self.voxel_A)
        self._microscope = microscope
        #: Transfer functions of the first tilt.
        self.first_transfer = self.transfer(defocus_A)
        self._mtf = mtf_of(microscope, shape_zxy[1:], voxel_A)

    def transfer(self, defocus_A: np.ndarray) -> np.ndarray:
        """Return transfer functions from behind the last slice to images at ``defocus_A`` (F,), complex64 (F, X, Y)."""
        shape_xy = self.shape_zxy[1:]
        to_centre = propagator(shape_xy, self.voxel_A, self.wavelength_A, -self.centres_A[-1])
        # The transfer functions include the 1/N of the inverse FFT.
        return np.stack([
            to_centre / to_centre.size
            * imaging.transfer_function(shape_xy, self.voxel_A, self._microscope, float(d), band_limit=self.band_limit)
            for d in defocus_A]).astype(np.complex64)

    def wave(self, portions: Iterator[np.ndarray]) -> np.ndarray:
        """Return the wave behind the last slice, complex (X, Y); slices come in portions (S, X, Y) along the beam."""
        wave, first = None, 0
        for slices in portions:
            for run, gap_A in self._equal_gaps(first, first + len(slices)):
                wave = exit_wave(slices[run.start - first:run.stop - first], phase_per_V=self.phase_per_V, gap_A=gap_A,
                                 pixel_A=self.voxel_A, wavelength_A=self.wavelength_A, wave=wave,
                                 band_limit=self.band_limit)
            first += len(slices)
        if wave is None or first != len(self.centres_A):
            raise ValueError(f"{first} slices were given, but the volume has {len(self.centres_A)}")
        return wave

    def intensities(self, portions: Iterator[np.ndarray], transfer: np.ndarray | None = None) -> np.ndarray:
        """Return the intensities (F, X, Y) in the pixels of the images, in front of the detector.

        ``transfer``, if given, replaces the transfer functions.
        """
        wave = self.wave(portions)
        fft = plan_fft()
        fft.forward(wave, wave)
        image = np.empty_like(wave)
        intensities = []
        for function in self.first_transfer if transfer is None else transfer:
            multiply(wave, function, image)
            fft.inverse(image, image)
            intensities.append(imaging.bin_pixels(image.real**2 + image.imag**2, self.fine))
        return np.stack(intensities)

    def detect(self, intensities: np.ndarray) -> np.ndarray:
        """Return noise-free images (F, X, Y) with the blur by the detector's MTF."""
        return intensities if self._mtf is None else imaging.blur_by_detector(intensities, self._mtf)

    def _equal_gaps(self, first: int, stop: int) -> Iterator[tuple[slice, float]]:
        """Yield runs of slices with equal distances of their middles; only the last slice may be thinner."""
        gaps_A = np.diff(self.centres_A, prepend=self.centres_A[0] - self.n_layers * self.voxel_A)
        thin = len(gaps_A) - 1 if abs(gaps_A[-1] - gaps_A[0]) > 1e-9 else len(gaps_A)
        if first < min(thin, stop):
            yield slice(first, min(thin, stop)), float(gaps_A[0])
        if stop > thin:
            yield slice(thin, stop), float(gaps_A[-1])


class CpuExposure:
    """Implement :class:`Exposure` on the CPU: the potential is built slab by slab."""

    n_workers_most = int(ALL_THREADS_BYTES / SLAB_BYTES)

    def __init__(self, optics: SimulatedMicroscope, atoms: Atoms, parametrization: str,
                 debye_waller_A2: dict[str, float]) -> None:
        self._optics, self._parametrization, self._debye_waller_A2 = optics, parametrization, debye_waller_A2
        self._y_A = atoms.positions_A[:, 1].copy()
        #: Profiles along y of the atoms where they are given, which a tilt about y does not move.
        self._profiles_y = None if len(atoms) > MOST_PROFILES else profile_along_y(
            atoms, optics.shape_zxy[2], optics.voxel_A, parametrization=parametrization,
            debye_waller_A2=debye_waller_A2)

    def __call__(self, atoms: Atoms, transfer: np.ndarray | None) -> np.ndarray:
        return self._optics.intensities(self._slices(atoms), transfer)

    def _slices(self, atoms: Atoms) -> Iterator[np.ndarray]:
        n_z, n_x, n_y = self._optics.shape_zxy
        binning = self._optics.n_layers
        n_slab = min(n_z, max(1, int(SLAB_BYTES / (4 * n_x * n_y)) // binning) * binning)
        slab = np.empty((n_slab, n_x, n_y), np.float32)
        profiles_y = self._profiles_y if np.array_equal(atoms.positions_A[:, 1], self._y_A) else None
        for first in range(0, n_z, n_slab):
            stop = min(n_z, first + n_slab)
            layers = build_potential(atoms, self._optics.shape_zxy, self._optics.voxel_A,
                                     parametrization=self._parametrization, debye_waller_A2=self._debye_waller_A2,
                                     out=slab[:stop - first], layers=(first, stop), profiles_y=profiles_y)
            yield layers if binning == 1 else np.add.reduceat(layers, np.arange(0, stop - first, binning), axis=0)


class _RotatedAtoms:
    """Atoms that are placed as each tilt sees them, and displaced."""

    def __init__(self, atoms: Atoms, optics: SimulatedMicroscope, simulate: SimulateSpec,
                 debye_waller_A2: dict[str, float], make_exposure: MakeExposure) -> None:
        self._atoms = atoms
        self._n_copies = simulate.n_frozen_phonons
        # The frozen atoms keep the minimum blur of the potential; the displacements provide the rest.
        blur_A2 = [debye_waller_A2.get(physics.SYMBOLS[number], debye_waller_A2["default"]) for number in atoms.numbers]
        self._displacement_A = np.sqrt(np.maximum(np.array(blur_A2) - LEAST_DEBYE_WALLER_A2, 0) / (8 * np.pi**2))
        self._expose = make_exposure(optics, atoms, simulate.parametrization, {"default": LEAST_DEBYE_WALLER_A2}
                                     if self._n_copies else debye_waller_A2)
        self.n_workers_most = self._expose.n_workers_most

    def intensities(self, poses: Poses, i_tilt: int, rng: np.random.Generator,
                    transfer: np.ndarray | None) -> Iterator[np.ndarray]:
        """Yield those of each thermally displaced copy, or of the blurred potential without frozen phonons."""
        for _ in range(max(1, self._n_copies)):
            positions_A = self._atoms.positions_A
            if self._n_copies:
                positions_A = positions_A + self._displacement_A[:, None] * rng.standard_normal(positions_A.shape)
            yield self._expose(dataclasses.replace(self._atoms, positions_A=poses.place(positions_A, i_tilt)), transfer)


class _RotatedVoxels:
    """One potential whose voxels are rotated for each tilt."""

    def __init__(self, atoms: Atoms, optics: SimulatedMicroscope, simulate: SimulateSpec,
                 debye_waller_A2: dict[str, float]) -> None:
        self._optics, self._n_layers = optics, optics.n_layers
        self._potential_V = build_potential(atoms, optics.shape_zxy, optics.voxel_A,
                                            parametrization=simulate.parametrization, debye_waller_A2=debye_waller_A2)
        self.n_workers_most = max(1, int(ALL_THREADS_BYTES / self._potential_V.nbytes))

    def intensities(self, poses: Poses, i_tilt: int, rng: np.random.Generator,
                    transfer: np.ndarray | None) -> Iterator[np.ndarray]:
        """Yield those of the rotated volume."""
        n_z, *shape_xy = self._potential_V.shape
        rotation = make_rotation(VOXEL_ROTATION, self._potential_V.shape, self._n_layers,
                                 poses.tilt_deg[i_tilt:i_tilt + 1])
        slices = np.empty((-(-n_z // self._n_layers), *shape_xy), np.float32)
        rotation.rotate_and_bin(self._potential_V, 0, slices)
        yield self._optics.intensities(iter([slices]), transfer)


def _kernels_run_side_by_side() -> bool:
    """Return whether two Python threads may run parallel kernels: Numba's layer workqueue would end the process."""
    point = np.ones((1, 1), np.complex64)
    multiply(point, point, point)
    return numba.threading_layer() != "workqueue"
