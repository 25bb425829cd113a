"""Images of atoms through multislice, and the gradient of the cost with respect to the atoms.

Nothing is interpolated: each tilt turns the atoms and builds slices of projected potential from their tables, the sums
that N_B voxel layers of the simulation would give. The cost is that of the reconstruction, ½ Σ (|ψ| - a)² (equation 5
of the paper, halved), with a = √(I + 1/(4n)) for n electrons in a vacuum pixel: √(count + ¼) has the mean √λ up to
O(λ^-3/2), where the plain root is low by 1/(8√λ) and would take scattering for granted at low dose.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numba
import numpy as np

from aetlab import physics
from aetlab.backend import empty_aligned, n_threads
from aetlab.data import TiltSeries
from aetlab.forward.imaging import transfer_function
from aetlab.forward.multislice import Multislice, Optics, TiltCost, make_multislice, make_optics, propagator
from aetlab.grid import n_slices, slice_centres_A
from aetlab.refine import kernels_numba as kernels
from aetlab.refine.geometry import Poses
from aetlab.refine.tables import tabulate_atoms
from aetlab.simd import BYTES
from aetlab.spec import MicroscopeSpec

#: Width in Å of the strips of a slice in which the atoms are visited.
BLOCK_A = 4.0


@dataclass(frozen=True)
class Sites:
    """Atoms as the model takes them: ``positions_A`` (N, 3) x, y, z, ``occupancy`` (N,), ``kinds`` (N,) of elements."""

    positions_A: np.ndarray
    occupancy: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.occupancy)

    def select(self, keep: np.ndarray) -> Sites:
        """The sites where ``keep`` (mask or indices) says so."""
        return Sites(self.positions_A[keep], self.occupancy[keep], self.kinds[keep])


@dataclass(frozen=True)
class TiltGradient:
    """What one tilt says of the sites, in the frame of the microscope at that tilt.

    ``cost``; ``gradient`` (K, N, 4): d/dx', d/dy', d/dz' in 1/Å and d/d occupancy, for each of the K tables asked for;
    ``placed_A`` (N, 3).
    """

    i_tilt: int
    cost: float
    gradient: np.ndarray
    placed_A: np.ndarray


@dataclass
class _Bench:
    """What a thread works with."""

    multislice: TiltCost
    slices: np.ndarray
    amplitude: np.ndarray


class AtomModel:
    """Cost of atoms against a tilt series, with its gradient, tilt by tilt on as many threads as the engine has.

    Parameters
    ----------
    series : TiltSeries
        Measured intensities (T, F, X, Y), vacuum 1.
    shape_zxy : tuple of int
        Voxels of the volume that the atoms lie in: the slices along z, and the images' pixels.
    elements : tuple of int
        Atomic numbers that sites can have, ascending; ``Sites.kinds`` counts them.
    microscope, n_layers_per_slice, parametrization, debye_waller_A2
        As in :class:`aetlab.forward.ForwardModel` and :func:`aetlab.forward.build_potential`.
    dtype : type
        Precision of slices and waves: float32, or float64 for tests.
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], elements: tuple[int, ...], *,
                 microscope: MicroscopeSpec, n_layers_per_slice: int, parametrization: str,
                 debye_waller_A2: dict[str, float], dtype: type = np.float32) -> None:
        self.elements = elements
        self.voxel_A = series.pixel_A
        self.n_tilts, self.n_defoci = series.images.shape[:2]
        self.electrons_per_pixel = series.electrons_per_pixel
        self.tables = tabulate_atoms(elements, self.voxel_A, parametrization=parametrization,
                                     debye_waller_A2=debye_waller_A2, dtype=dtype)
        if min(shape_zxy[2], series.images.shape[3]) < self.tables.window:
            raise ValueError(f"atoms reach over {self.tables.window} pixels along y, images have {shape_zxy[2]}")
        if series.images.shape[2:] != tuple(shape_zxy[1:]):
            raise ValueError(f"images of {series.images.shape[2:]} pixels do not fit a volume of {shape_zxy} voxels")
        self._shape = tuple(shape_zxy)
        self._n_layers = n_layers_per_slice
        self._dtype = dtype
        self._lanes = BYTES // np.dtype(dtype).itemsize
        self._microscope = microscope
        self._defocus_A = np.array(series.defocus_A, float)
        extra = 0.0 if math.isinf(self.electrons_per_pixel) else 0.25 / self.electrons_per_pixel
        self._amplitude = np.sqrt(np.maximum(series.images, 0) + extra).astype(dtype)
        self._local = threading.local()
        self._optics = self._make_optics()

    @property
    def amplitude(self) -> np.ndarray:
        """Measured amplitudes (T, F, X, Y)."""
        return self._amplitude

    @property
    def slices_shape(self) -> tuple[int, int, int]:
        """Shape (S, X, Y) of the slices of a tilt."""
        return (n_slices(self._shape[0], self._n_layers), self._shape[1], self._shape[2])

    def gradients(self, sites: Sites, poses: Poses, *, tried: Sequence[int | None] = (None,),
                  noise: np.random.SeedSequence | None = None,
                  on_slices: Callable[[int, np.ndarray], None] | None = None) -> Iterator[TiltGradient]:
        """One pass over the data: the gradient of each tilt, in their order.

        Parameters
        ----------
        sites, poses : Sites, Poses
            Where the atoms are, and how they are seen.
        tried : sequence
            Tables to gather with: None for each site's own, k for element k at every site.
        noise : numpy.random.SeedSequence, optional
            Add white noise w of variance 1 to the measured amplitudes: the gradient is then -Jᵀw, J the derivative of
            the amplitudes, and with it what the measurement's own noise adds, which is 4n times weaker.
        on_slices : callable, optional
            Called as ``on_slices(i_tilt, gradient)`` with the gradient (S, X, Y) of the slices, tilt by tilt in their
            order; one thread then does all the work.
        """
        children = noise.spawn(self.n_tilts) if noise is not None else [None] * self.n_tilts

        def work(i_tilt: int) -> TiltGradient:
            return self._tilt(i_tilt, sites, poses, tried, children[i_tilt], on_slices)

        n_workers = min(n_threads(), self.n_tilts) if on_slices is None else 1
        with ThreadPoolExecutor(n_workers, initializer=numba.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, range(self.n_tilts))

    def _tilt(self, i_tilt: int, sites: Sites, poses: Poses, tried: Sequence[int | None],
              noise: np.random.SeedSequence | None,
              on_slices: Callable[[int, np.ndarray], None] | None) -> TiltGradient:
        bench = self._bench()
        placed_A = poses.place(sites.positions_A, i_tilt)
        # Neighbours one after the other, slice by slice: what they touch then stays in cache.
        slice_A = self.voxel_A * self._n_layers
        order = np.lexsort((placed_A[:, 1], np.floor(placed_A[:, 0] / BLOCK_A), np.floor(placed_A[:, 2] / slice_A)))
        centres = placed_A[order][:, [2, 0, 1]] / self.voxel_A + (np.array(self._shape) - 1) / 2
        kinds, occupancy = sites.kinds[order], sites.occupancy[order]
        self._deposit(bench.slices, centres, kinds, occupancy)
        measured = self._amplitude[i_tilt]
        if noise is not None:
            white = np.random.default_rng(noise).standard_normal(measured.shape, np.float32)
            measured = np.add(measured, white, out=bench.amplitude)
        height_A = float(poses.shift_A[i_tilt, 2])
        multislice = bench.multislice
        if height_A != 0:
            multislice = make_multislice(self._refocused(height_A), self._dtype)
        cost = multislice.cost_and_gradient(bench.slices, measured)
        if on_slices is not None:
            on_slices(i_tilt, bench.slices)
        gradient = np.empty((len(tried), len(sites), 4))
        out = np.empty((len(sites), 4))
        for k, table in enumerate(tried):
            own = kinds if table is None else np.full(len(sites), table)
            self._gather(bench.slices, centres, own, occupancy, out)
            gradient[k, order] = out[:, [1, 2, 0, 3]]
        gradient[:, :, :3] /= self.voxel_A
        return TiltGradient(i_tilt, cost, gradient, placed_A)

    @property
    def shape_zxy(self) -> tuple[int, int, int]:
        """Shape of the volume."""
        return self._shape[0], self._shape[1], self._shape[2]

    @property
    def n_layers_per_slice(self) -> int:
        """N_B."""
        return self._n_layers

    def slices(self, sites: Sites, poses: Poses, i_tilt: int) -> np.ndarray:
        """Slices (S, X, Y) of projected potential in V of one tilt."""
        placed_A = poses.place(sites.positions_A, i_tilt)
        slices: np.ndarray = np.empty(self.slices_shape, self._dtype)
        self._deposit(slices, placed_A[:, [2, 0, 1]] / self.voxel_A + (np.array(self._shape) - 1) / 2, sites.kinds,
                      sites.occupancy)
        return slices

    def with_images(self, images: np.ndarray) -> AtomModel:
        """The same model of noise-free ``images`` (T, F, X, Y)."""
        other = copy.copy(self)
        other._amplitude = np.sqrt(images).astype(self._dtype)
        other._local = threading.local()
        return other

    def images(self, sites: Sites, poses: Poses) -> np.ndarray:
        """Noise-free images (T, F, X, Y) of the sites, vacuum 1, as this model sees them."""
        images = np.empty(self._amplitude.shape, np.float32)

        def work(i_tilt: int) -> None:
            optics = self._refocused(float(poses.shift_A[i_tilt, 2]))
            waves = Multislice(optics, self._dtype).images(self.slices(sites, poses, i_tilt))
            images[i_tilt] = waves.real**2 + waves.imag**2

        n_workers = min(n_threads(), self.n_tilts)
        with ThreadPoolExecutor(n_workers, initializer=numba.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, range(self.n_tilts)))
        return images

    def _deposit(self, slices: np.ndarray, centres: np.ndarray, kinds: np.ndarray, occupancy: np.ndarray) -> None:
        t = self.tables
        kernels.deposit(slices, centres, kinds, occupancy.astype(self._dtype), self._n_layers, self._shape[0],
                        t.cumulative, t.weight, t.reach, t.n_reach, t.window, self._lanes)

    def _gather(self, slices: np.ndarray, centres: np.ndarray, kinds: np.ndarray, occupancy: np.ndarray,
                out: np.ndarray) -> None:
        t = self.tables
        kernels.gather(slices, centres, kinds, occupancy.astype(self._dtype), self._n_layers, self._shape[0],
                       t.cumulative, t.weight, t.reach, t.n_reach, t.window, self._lanes, out)

    def _make_optics(self) -> Optics:
        n_z, *shape = self._shape
        shape_xy = (shape[0], shape[1])
        wavelength_A = physics.wavelength_A(self._microscope.energy_keV)
        centres_A = slice_centres_A(n_z, self._n_layers, self.voxel_A)
        back_to_centre = propagator(shape_xy, self.voxel_A, wavelength_A, -centres_A[-1])
        transfer = np.stack([back_to_centre * transfer_function(shape_xy, self.voxel_A, self._microscope, float(d))
                             for d in self._defocus_A])
        phase_per_V = physics.interaction_parameter(self._microscope.energy_keV) * self.voxel_A
        return make_optics(transfer, np.diff(centres_A), pixel_A=self.voxel_A, wavelength_A=wavelength_A,
                           phase_per_V=phase_per_V)

    def _refocused(self, height_A: float) -> Optics:
        """The optics that see the sample ``height_A`` further along the beam."""
        shape_xy = (self._shape[1], self._shape[2])
        planes = propagator(shape_xy, self.voxel_A, physics.wavelength_A(self._microscope.energy_keV), -height_A)
        return replace(self._optics, transfer=self._optics.transfer * planes)

    def _bench(self) -> _Bench:
        if getattr(self._local, "bench", None) is None:
            self._local.bench = _Bench(make_multislice(self._optics, self._dtype),
                                       empty_aligned(self.slices_shape, self._dtype),
                                       empty_aligned(self._amplitude.shape[1:], self._dtype))
        return self._local.bench
