"""Slices of one tilt: filled with atoms, compared with the images, and replaced by the gradient that atoms gather."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from aetlab.core.backend import empty_aligned
from aetlab.core.simd import BYTES
from aetlab.forward.imaging import blur_by_detector
from aetlab.forward.multislice import Multislice, Optics, TiltCost, make_multislice
from aetlab.methods.likelihood import DARKEST
from aetlab.refinement import kernels_numba as kernels
from aetlab.refinement.tables import AtomTables


class AtomSlices(Protocol):
    """The slices (S, X, Y) of one tilt after another, for one thread at a time; all memory is kept."""

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        """Return transfer functions (F, X, Y), as in :class:`Optics`, in the form that :meth:`use_transfer` takes."""

    def use_transfer(self, packed: np.ndarray) -> None:
        """Use these transfer functions for all following costs."""

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        """Use this MTF of the detector (X, Y) for all following costs; None: an ideal detector."""

    def deposit(self, tables: AtomTables, centres: np.ndarray, kinds: np.ndarray, occupancy: np.ndarray) -> None:
        """Fill the slices with the potential of atoms in V.

        ``centres`` (N, 3) are z, x, y in voxels, ``kinds`` (N,) rows of the tables, ``occupancy`` (N,).
        """

    def cost_and_gradient(self, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
                          whole: bool = True) -> float:
        """Return the cost of the slices, and replace them by its gradient in 1/V.

        ``amplitude`` and ``weight`` (F, X, Y) are those of :class:`aetlab.forward.multislice.TiltCost`. Unless the
        ``whole`` gradient is needed, it may be left out in slices without atoms, which then stay 0.
        """

    def gather(self, tables: AtomTables, kinds: np.ndarray, occupancy: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out`` (N, 4) with d/dz, d/dx, d/dy per voxel and d/d occupancy of the first N deposited atoms.

        ``kinds`` and ``occupancy`` (N,) may differ from those deposited. The slices hold the gradient.
        """

    def read(self) -> np.ndarray:
        """Return the slices in CPU memory; the next deposit may overwrite the array."""

    def intensities(self, transfer: np.ndarray, mtf: np.ndarray | None) -> np.ndarray:
        """Return noise-free images (K, X, Y) of the slices, vacuum 1, by transfer functions (K, X, Y) and an MTF."""


@dataclass
class Bench:
    """The slices of a thread; ``refocused`` is True once their transfer functions are not those of the first tilt.

    ``mtf`` is the MTF that they have.
    """

    slices: AtomSlices
    mtf: np.ndarray | None
    refocused: bool = False


class CpuAtomSlices:
    """Implement :class:`AtomSlices` by the kernels of the CPU.

    Parameters
    ----------
    optics : Optics
        The optics of the first tilt.
    n_z, n_layers : int
        Layers of the volume, and N_B.
    dtype : type
        Precision of slices and waves.
    """

    def __init__(self, optics: Optics, n_z: int, n_layers: int, dtype: type = np.float32) -> None:
        self._optics, self._n_z, self._n_layers, self._dtype = optics, n_z, n_layers, dtype
        self._slices: np.ndarray = empty_aligned((len(optics.which) + 1, *optics.transfer.shape[1:]), dtype)
        self._centres = np.empty((0, 3))
        #: First slice that an atom reaches, and the one behind the last.
        self._span: tuple[int, int] | None = None
        self._lanes = BYTES // np.dtype(dtype).itemsize

    @cached_property
    def _multislice(self) -> TiltCost:
        return make_multislice(self._optics, self._dtype)

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        return self._multislice.pack_transfer(transfer)

    def use_transfer(self, packed: np.ndarray) -> None:
        self._multislice.use_transfer(packed)

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        self._multislice.use_mtf(mtf)

    def deposit(self, tables: AtomTables, centres: np.ndarray, kinds: np.ndarray, occupancy: np.ndarray) -> None:
        self._centres = centres
        kernels.deposit(self._slices, centres, kinds, occupancy.astype(self._dtype), self._n_layers, self._n_z,
                        tables.for_kernels, self._lanes)
        self._span = self._slices_of(centres[:, 0], tables.n_reach + 1)

    def _slices_of(self, heights: np.ndarray, reach: float) -> tuple[int, int] | None:
        """Return the first slice within ``reach`` of any height (N,) in voxels, and the one behind the last.

        Return None if no slice is.
        """
        if not len(heights):
            return None
        first, end = (int(math.floor(height / self._n_layers)) for height in (
            heights.min() - reach, heights.max() + reach + self._n_layers))
        first, end = max(first, 0), min(end, len(self._slices))
        return (first, end) if first < end else None

    def cost_and_gradient(self, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
                          whole: bool = True) -> float:
        return self._multislice.cost_and_gradient(self._slices, amplitude, weight, span=None if whole else self._span)

    def gather(self, tables: AtomTables, kinds: np.ndarray, occupancy: np.ndarray, out: np.ndarray) -> None:
        kernels.gather(self._slices, self._centres[:len(kinds)], kinds, occupancy.astype(self._dtype), self._n_layers,
                       self._n_z, tables.for_kernels, self._lanes, out)

    def read(self) -> np.ndarray:
        return self._slices

    def intensities(self, transfer: np.ndarray, mtf: np.ndarray | None) -> np.ndarray:
        optics = replace(self._optics, transfer=transfer, mtf=None)
        waves = Multislice(optics, self._dtype, gradient=False).images(self._slices)
        images = waves.real**2 + waves.imag**2
        return images if mtf is None else np.maximum(blur_by_detector(images, mtf), np.asarray(DARKEST, images.dtype))
