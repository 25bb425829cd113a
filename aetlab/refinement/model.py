"""Multislice images of atoms, and the gradient of the cost with respect to the atoms.

Nothing is interpolated: each tilt rotates the atoms and builds slices of projected potential from their tables, equal
to the sums of N_B voxel layers. The cost is that of the reconstruction, ½ Σ w (|ψ| - a)² (equation 5 of the paper,
halved; weights w as in :mod:`aetlab.forward.multislice`), with a = √(I + 1/(4n)) for n electrons in a vacuum pixel of
the image. √(count + ¼) has the mean √λ up to O(λ^-3/2); the plain root is low by 1/(8√λ), a bias that resembles
scattering at low dose. An image of n_j electrons has w = n_j/n, n their mean over the images: 4n times the cost is then
the negative log-likelihood, as for images that all have n electrons.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from aetlab.core import physics
from aetlab.core.grid import n_slices
from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.detector import mtf_between_pixels, with_contrast
from aetlab.forward.imaging import planes_of_spread
from aetlab.forward.multislice import propagator
from aetlab.forward.series_optics import SeriesOptics
from aetlab.refinement.atom_slices import AtomSlices, Bench, CpuAtomSlices
from aetlab.refinement.measured_images import MeasuredImages
from aetlab.refinement.tables import AtomTables, broaden, on_finer_voxels, tabulate_atoms
from aetlab.refinement.turns import Turns, over_tilts
from aetlab.spec import MicroscopeSpec

#: Half the difference of B in Å² in the derivative with respect to a thermal factor.
THERMAL_STEP_A2 = 0.02
#: Width in Å of the strips of a slice in which atoms are processed together.
BLOCK_A = 4.0


@dataclass(frozen=True)
class Sites:
    """Atoms of the model: ``positions_A`` (N, 3) x, y, z, ``occupancy`` (N,), ``kinds`` (N,) indices of elements."""

    positions_A: np.ndarray
    occupancy: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.occupancy)

    def select(self, keep: np.ndarray) -> Sites:
        """Return the sites selected by ``keep`` (mask or indices)."""
        return Sites(self.positions_A[keep], self.occupancy[keep], self.kinds[keep])


@dataclass(frozen=True, kw_only=True)
class ImageFormation:
    """Formation of the images of atoms: the microscope, and the slices and pixels of the model.

    ``n_layers_per_slice`` is N_B; ``n_coarse_layers`` that of all rounds but the last, and of the information, 0 for
    the same. ``averaged`` is as :class:`AtomModel` takes it.
    """

    microscope: MicroscopeSpec
    n_layers_per_slice: int
    n_coarse_layers: int = 0
    averaged: bool = False


class AtomModel:
    """Cost of atoms against a tilt series and its gradient, computed tilt by tilt on all threads of the engine.

    Parameters
    ----------
    series : TiltSeries
        Measured intensities (T, F, X, Y), vacuum 1, with their weights and electrons.
    shape_zxy : tuple of int
        Voxels of the volume: along z those of the slices, along x and y the pixels of the images.
    elements : tuple of int
        Atomic numbers of the elements, ascending; ``Sites.kinds`` are indices into them.
    microscope, n_layers_per_slice, parametrization, debye_waller_A2
        As in :class:`aetlab.forward.ForwardModel` and :func:`aetlab.forward.build_potential`.
    dtype : type
        Precision of slices and waves: float32, or float64 for tests.
    make_slices : callable
        ``make_slices(optics, n_z, n_layers, dtype)`` returns the slices of a thread, on the CPU or a GPU.
    held : Sites, optional
        Atoms that are in the images but not fitted.
    averaged : bool
        Whether images are means over the area of their pixels, which the MTF does not hold; the finer model has them.
    focal_spread : str
        ``averaged``: the finer model averages intensities over the focal spread, in place of the envelope.

    Attributes
    ----------
    data : MeasuredImages
        The measured images that atoms are compared with.
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], elements: tuple[int, ...], *,
                 microscope: MicroscopeSpec, n_layers_per_slice: int, parametrization: str,
                 debye_waller_A2: dict[str, float], dtype: type = np.float32,
                 make_slices: Callable[..., AtomSlices] = CpuAtomSlices, held: Sites | None = None,
                 averaged: bool = False, focal_spread: str = "envelope") -> None:
        self.elements, self._held = elements, held
        self.voxel_A = series.pixel_A
        self.n_tilts, self.n_defoci = series.images.shape[:2]
        self.data = MeasuredImages(series, dtype)
        self.tables = tabulate_atoms(elements, self.voxel_A, parametrization=parametrization,
                                     debye_waller_A2=debye_waller_A2, dtype=dtype)
        if min(shape_zxy[2], series.images.shape[3]) < self.tables.window:
            raise ValueError(f"atoms reach over {self.tables.window} pixels along y, images have {shape_zxy[2]}")
        self._optics = SeriesOptics(series, shape_zxy, microscope, n_layers_per_slice)
        #: Factor of the modulation of all images.
        self.contrast = 1.0
        self._mtf = self._optics.optics.mtf
        self._shape, self._n_layers, self._dtype = tuple(shape_zxy), n_layers_per_slice, dtype
        self._make_slices, self.microscope, self._averaged = make_slices, microscope, averaged
        self._focal_spread = focal_spread
        #: Changes of the defocus in Å of the planes whose intensities make an image, and their weights.
        self.focus_A, self.focus_weights = np.zeros(1), np.ones(1)
        self._other_lens = False  # slices may hold the transfer functions of another microscope
        #: Slices that no thread uses, kept from pass to pass; models of the same data share them.
        self._idle: list[Bench] = []

    @property
    def thermal_A2(self) -> np.ndarray:
        """Thermal factor B (K,) of each element in Å²."""
        return self.tables.thermal_A2

    @property
    def slices_shape(self) -> tuple[int, int, int]:
        """Shape (S, X, Y) of the slices of a tilt."""
        return (n_slices(self._shape[0], self._n_layers), self._shape[1], self._shape[2])

    def gradients(self, sites: Sites, poses: Poses, *, tried: Sequence[int | None] = (None,),
                  noise: np.random.SeedSequence | None = None, thermal: bool = False,
                  on_slices: Callable[[int, np.ndarray], None] | None = None) -> Iterator[TiltGradient]:
        """Return an iterator over the gradient of each tilt, in their order: one pass over the data.

        Parameters
        ----------
        sites, poses : Sites, Poses
            Atoms, and the geometry of the tilts.
        tried : sequence
            Tables to gather with: None for each site's own, k for element k at every site.
        noise : numpy.random.SeedSequence, optional
            Add white noise v of variance 1 to the measured amplitudes times √w, w the weights of their pixels. The
            gradient is then -Jᵀv, J the derivative of these products, plus the contribution of the noise of the
            measurement, whose variance is 4n times smaller.
        thermal : bool
            Compute the derivative with respect to the thermal factor of each site as well, by central differences of
            tables at B ± :data:`THERMAL_STEP_A2`.
        on_slices : callable, optional
            Called as ``on_slices(i_tilt, gradient)`` with the gradient (S, X, Y) of the slices, tilt by tilt in their
            order, from the threads that work.
        """
        children = noise.spawn(self.n_tilts) if noise is not None else [None] * self.n_tilts
        beside = [broaden(self.tables, self.thermal_A2 + sign * THERMAL_STEP_A2, self.voxel_A)
                  for sign in (1, -1)] if thermal else []
        turns = Turns(self.n_tilts)

        def in_turn(i_tilt: int, read: Callable[[], np.ndarray]) -> None:
            assert on_slices is not None
            gradient = read()
            turns.wait(i_tilt)
            on_slices(i_tilt, gradient)

        def work(i_tilt: int) -> TiltGradient:
            try:
                with self._bench() as bench:
                    return self._tilt(bench, i_tilt, sites, poses, tried, children[i_tilt], beside,
                                      in_turn if on_slices else None)
            finally:
                turns.end(i_tilt)

        return over_tilts(work, self.n_tilts)

    def _tilt(self, bench: Bench, i_tilt: int, sites: Sites, poses: Poses, tried: Sequence[int | None],
              noise: np.random.SeedSequence | None, beside: list[AtomTables],
              on_slices: Callable[[int, Callable[[], np.ndarray]], None] | None) -> TiltGradient:
        slices = bench.slices
        placed_A = poses.place(sites.positions_A, i_tilt)
        # Process neighbours consecutively, slice by slice, so that their voxels stay in cache.
        slice_A = self.voxel_A * self._n_layers
        order = np.lexsort((placed_A[:, 1], np.floor(placed_A[:, 0] / BLOCK_A), np.floor(placed_A[:, 2] / slice_A)))
        centres = self._centres(placed_A[order])
        kinds, occupancy = sites.kinds[order], sites.occupancy[order]
        slices.deposit(self.tables, *self._with_held(centres, kinds, occupancy, poses, i_tilt))
        measured, weight = self.data.amplitude(poses, i_tilt), self.data.weights_of(i_tilt)
        if noise is not None:
            white = np.random.default_rng(noise).standard_normal(measured.shape, np.float32)
            if weight is not None:
                white = np.where(weight > 0, white / np.sqrt(np.where(weight > 0, weight, 1)), 0).astype(np.float32)
            measured += white
        lift_A, own_A = poses.defocus_change_A[i_tilt], poses.image_shift_A[i_tilt]
        if np.any(lift_A) or np.any(own_A) or self._optics.set_of[i_tilt] or self._other_lens or bench.refocused:
            slices.use_transfer(slices.pack_transfer(self._transfer_at(i_tilt, lift_A, own_A)))
            bench.refocused = True
        if bench.mtf is not self._mtf:
            slices.use_mtf(self._mtf)
            bench.mtf = self._mtf
        cost = slices.cost_and_gradient(measured, weight, whole=on_slices is not None)
        if on_slices is not None:
            on_slices(i_tilt, slices.read)
        gradient = np.empty((len(tried), len(sites), 4))
        out = np.empty((len(sites), 4))
        for k, table in enumerate(tried):
            own = kinds if table is None else np.full(len(sites), table)
            slices.gather(self.tables, own, occupancy, out)
            gradient[k, order] = out[:, [1, 2, 0, 3]]
        gradient[:, :, :3] /= self.voxel_A
        if not beside:
            return TiltGradient(i_tilt, cost, gradient, placed_A)
        by_thermal = np.zeros(len(sites))
        for sign, tables in zip((1, -1), beside, strict=True):
            slices.gather(tables, kinds, occupancy, out)
            by_thermal[order] += sign * occupancy * out[:, 3] / (2 * THERMAL_STEP_A2)
        return TiltGradient(i_tilt, cost, gradient, placed_A, by_thermal)

    @property
    def shape_zxy(self) -> tuple[int, int, int]:
        """Shape of the volume."""
        return self._shape[0], self._shape[1], self._shape[2]

    @property
    def n_layers_per_slice(self) -> int:
        """N_B."""
        return self._n_layers

    def slices(self, sites: Sites, poses: Poses, i_tilt: int) -> np.ndarray:
        """Return the slices (S, X, Y) of one tilt: potential summed over their layers, in V."""
        with self._bench() as bench:
            self._deposit(bench.slices, sites, poses, i_tilt)
            return bench.slices.read().copy()

    def _centres(self, placed_A: np.ndarray) -> np.ndarray:
        """Return places (N, 3) x, y, z in Å in voxels (z, x, y)."""
        return np.asarray(placed_A[:, [2, 0, 1]] / self.voxel_A + (np.array(self._shape) - 1) / 2)

    def _with_held(self, centres: np.ndarray, kinds: np.ndarray, occupancy: np.ndarray, poses: Poses,
                   i_tilt: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return centres, kinds and occupancies of sites at one tilt, followed by those of the held atoms."""
        if self._held is None:
            return centres, kinds, occupancy
        held = self._centres(poses.place(self._held.positions_A, i_tilt))
        return (np.concatenate([centres, held]), np.concatenate([kinds, self._held.kinds]),
                np.concatenate([occupancy, self._held.occupancy]))

    def with_images(self, images: np.ndarray) -> AtomModel:
        """Return a model of noise-free ``images`` (T, F, X, Y), as :meth:`images` makes them, with the same weights."""
        return self.with_data(self.data.with_images(images))

    def at_magnification(self, magnification: np.ndarray) -> AtomModel:
        """Return a model that compares atoms with the images reduced by the ``magnification`` (F,) of their planes."""
        return self.with_data(self.data.at_magnification(magnification))

    def with_data(self, data: MeasuredImages) -> AtomModel:
        """Return a model that compares atoms with ``data``."""
        other = copy.copy(self)
        other.data = data
        return other

    def on_finer_pixels(self, factor: int) -> AtomModel:
        """Return a model on pixels ``factor`` times finer, with slices of the same thickness, for its images alone.

        The detector blurs as it does between the pixels of this model. The CPU computes the images.
        """
        other = copy.copy(self)
        n_z, n_x, n_y = self._shape
        other.tables = on_finer_voxels(self.tables, self.voxel_A, factor)
        other.voxel_A = self.voxel_A / factor
        other._shape, other._n_layers = (factor * n_z, factor * n_x, factor * n_y), factor * self._n_layers
        recorded = self.data.series
        blank = np.broadcast_to(np.float32(1), (*recorded.weight.shape, *other._shape[1:]))
        series = TiltSeries(blank, recorded.tilt_deg, recorded.defocus_A, other.voxel_A)
        lens = self.microscope
        if self._focal_spread == "averaged" and lens.focal_spread_sigma_nm > 0:
            lens, other.focus_A, other.focus_weights = planes_of_spread(lens)
        other._optics = SeriesOptics(series, other._shape, lens, other._n_layers)
        mtf = mtf_between_pixels(self.microscope, (factor * n_x, factor * n_y), other.voxel_A, factor,
                                 averaged=self._averaged)
        other._mtf = with_contrast(mtf, self.contrast, (factor * n_x, factor * n_y))
        other._make_slices, other._idle = CpuAtomSlices, []
        return other

    def with_layers(self, n_layers_per_slice: int) -> AtomModel:
        """Return a model with slices of ``n_layers_per_slice`` voxel layers."""
        if n_layers_per_slice == self._n_layers:
            return self
        other = copy.copy(self)
        other._n_layers, other._idle = n_layers_per_slice, []
        other._optics = SeriesOptics(self.data.series, self.shape_zxy, self.microscope, n_layers_per_slice)
        return other

    def with_microscope(self, microscope: MicroscopeSpec) -> AtomModel:
        """Return a model of images through other aberrations; energy, aperture and detector must be the same."""
        other = copy.copy(self)
        other.microscope, other._other_lens = microscope, True
        other._optics = SeriesOptics(self.data.series, self.shape_zxy, microscope, self._n_layers)
        return other

    def with_thermal(self, thermal_A2: np.ndarray) -> AtomModel:
        """Return a model with the thermal factor B (K,) in Å² of each element."""
        other = copy.copy(self)
        other.tables = broaden(self.tables, thermal_A2, self.voxel_A)
        return other

    def with_contrast(self, contrast: float) -> AtomModel:
        """Return a model whose images have ``contrast`` times the modulation: all frequencies but 0."""
        other = copy.copy(self)
        other.contrast = contrast
        other._mtf = with_contrast(self._optics.optics.mtf, contrast, (self._shape[1], self._shape[2]))
        return other

    @property
    def holds_atoms(self) -> bool:
        """Return whether atoms that are not refined are in the images as well."""
        return self._held is not None and len(self._held) > 0

    def images(self, sites: Sites, poses: Poses) -> np.ndarray:
        """Return noise-free images (T, F, X, Y) of the sites, with the brightness of ``poses``."""
        images = np.empty(self.data.recorded.shape, np.float32)
        for i_tilt, (intensity,) in enumerate(self.focal_images(sites, poses, (0.0,))):
            images[i_tilt] = intensity * poses.brightness[i_tilt, :, None, None]
        return images

    def focal_images(self, sites: Sites, poses: Poses, lifts_A: Sequence[float]) -> Iterator[np.ndarray]:
        """Yield :meth:`images_of_tilt` (L, F, X, Y) for each tilt, in their order."""
        return over_tilts(lambda i_tilt: self.images_of_tilt(i_tilt, sites, poses, lifts_A), self.n_tilts)

    def images_of_tilt(self, i_tilt: int, sites: Sites, poses: Poses, lifts_A: Sequence[float]) -> np.ndarray:
        """Return noise-free images (L, F, X, Y) of one tilt, with all planes moved along the beam by ``lifts_A`` (L,).

        Vacuum is 1, whatever the brightness of ``poses``. The exit wave is computed once.
        """
        lift_A = poses.defocus_change_A[i_tilt] + np.asarray(lifts_A)[:, None]
        transfer = self._transfer_at(i_tilt, lift_A, poses.image_shift_A[i_tilt])
        with self._bench() as bench:
            self._deposit(bench.slices, sites, poses, i_tilt)
            images = bench.slices.intensities(transfer, self._mtf)
        return images.reshape(*lift_A.shape, *transfer.shape[1:])

    def _deposit(self, slices: AtomSlices, sites: Sites, poses: Poses, i_tilt: int) -> None:
        centres = self._centres(poses.place(sites.positions_A, i_tilt))
        slices.deposit(self.tables, *self._with_held(centres, sites.kinds, sites.occupancy, poses, i_tilt))

    def _transfer_at(self, i_tilt: int, lift_A: np.ndarray, shift_A: np.ndarray) -> np.ndarray:
        """Return transfer functions of one tilt, with planes ``lift_A`` (..., F) further along the beam, flattened.

        They are in the form of :class:`aetlab.forward.multislice.Optics`, and shift the images by ``shift_A`` (F, 2).
        """
        transfer: np.ndarray = self._optics.packed(i_tilt, lambda values: values)
        shape_xy = (self._shape[1], self._shape[2])
        if np.any(shift_A):
            q_x, q_y = (np.fft.fftfreq(n, self.voxel_A) for n in shape_xy)
            along_x, along_y = (np.exp(-2j * np.pi * np.outer(by_A, q)) for by_A, q in zip(shift_A.T, (q_x, q_y)))
            transfer = transfer * (along_x[:, :, None] * along_y[:, None, :])
        if not np.any(lift_A) and lift_A.ndim == 1:
            return transfer
        wavelength_A = physics.wavelength_A(self.microscope.energy_keV)
        distances_A, which = np.unique(lift_A, return_inverse=True)
        planes = np.stack([propagator(shape_xy, self.voxel_A, wavelength_A, float(d)) for d in distances_A])
        return np.asarray((transfer * planes[which.reshape(lift_A.shape)]).reshape(-1, *shape_xy))

    @contextmanager
    def _bench(self) -> Iterator[Bench]:
        """Lend the slices of one thread."""
        try:
            bench = self._idle.pop()
        except IndexError:
            slices = self._make_slices(self._optics.optics, self._shape[0], self._n_layers, self._dtype)
            bench = Bench(slices, self._optics.optics.mtf)
        try:
            yield bench
        finally:
            self._idle.append(bench)


@dataclass(frozen=True)
class TiltGradient:
    """Cost of one tilt and its gradient with respect to the sites, in the frame of the microscope.

    ``gradient`` (K, N, 4) holds d/dx', d/dy', d/dz' in 1/Å and d/d occupancy for each of the K requested tables;
    ``placed_A`` (N, 3) the positions at the tilt; ``by_thermal`` (N,) the derivative in 1/Å² with respect to the
    thermal factor of each site, if requested.
    """

    i_tilt: int
    cost: float
    gradient: np.ndarray
    placed_A: np.ndarray
    by_thermal: np.ndarray | None = None
