"""Simulate images of atoms on a GPU: potential, waves and intensities of one tilt after another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aetlab.core.errors import GpuError
from aetlab.core.nouns import Atoms
from aetlab.forward.imaging import bin_pixels
from aetlab.forward.multislice import Optics, propagator
from aetlab.forward.simulate import SimulatedMicroscope
from aetlab.gpu.atom_slices import PlacedAtoms, Tables
from aetlab.gpu.atom_tiles import list_atoms, n_tiles
from aetlab.gpu.device import Device
from aetlab.gpu.footprint import SHARED_SLICES, portion_slices
from aetlab.gpu.kernels import MOST_CELLS
from aetlab.gpu.multislice import GpuWaves


class GpuExposure:
    """Implement :class:`aetlab.forward.simulate.Exposure` on ``device``.

    The CPU lists the atoms that reach each tile; slices are filled and propagated in portions, whose launches are
    recorded and replayed. Voxels belong to an atom as in :func:`aetlab.forward.potential.build_potential`; means over
    voxels come from ``tables`` of its elements (2e-6 of an atom's integral).

    Raises
    ------
    GpuError
        If atoms reach over too many voxels.
    """

    #: One tilt at a time is on the device.
    n_workers_most = 1

    def __init__(self, optics: SimulatedMicroscope, elements: np.ndarray, tables: Tables, device: Device) -> None:
        check_reach(float(tables.reach.max()))
        self._optics, self._elements, self._tables, self._device = optics, elements, tables, device
        gaps_A = np.diff(optics.centres_A)
        distances_A, which = np.unique(np.round(gaps_A, 9), return_inverse=True)
        n_x, n_y = optics.shape_zxy[1:]
        free = np.empty((max(len(distances_A), 1), n_x, n_y), np.complex128)
        for i, distance_A in enumerate(distances_A):
            free[i] = self._propagator(float(distance_A))
        self._waves = GpuWaves(
            Optics(optics.first_transfer, free, which, optics.phase_per_V), device, gradient=False,
            limit=self._propagator(0.0) if optics.band_limit < 1 else None)
        self._refocused = False
        n_portion = portion_slices(optics.shape_zxy, optics.n_layers)
        self._slices = device.zeros((n_portion, n_x, n_y), np.float32)
        self._now = device.zeros((2,), np.int32)
        self._atoms = PlacedAtoms(device, n_tiles((n_portion * optics.n_layers, n_x, n_y),
                                                  SHARED_SLICES * optics.n_layers))
        self._placed = [device.upload(values) for values in (tables.cumulative, tables.weight, tables.reach)]
        #: By the first slice being the first of all, and the number of slices; None before the recording.
        self._replays: dict[tuple[bool, int], Callable[[], None] | None] = {}

    def __call__(self, atoms: Atoms, transfer: np.ndarray | None) -> np.ndarray:
        optics, tables, placed = self._optics, self._tables, self._atoms
        n_z, n_x, n_y = optics.shape_zxy
        centres = np.ascontiguousarray(
            atoms.positions_A[:, [2, 0, 1]] / optics.voxel_A + (np.array(optics.shape_zxy) - 1) / 2)
        kinds, reach = np.searchsorted(self._elements, atoms.numbers), float(tables.reach.max())
        self._use(transfer)
        n_layers = len(self._slices) * optics.n_layers
        for first in range(0, n_z, n_layers):
            stop = min(n_z, first + n_layers)
            near = np.flatnonzero((centres[:, 0] >= first - reach - 1) & (centres[:, 0] <= stop + reach))
            own = centres[near] - [first, 0, 0]
            starts, members = list_atoms(own, kinds[near], tables.reach, 0, (stop - first, n_x, n_y),
                                         SHARED_SLICES * optics.n_layers)
            placed.place(own, members)
            self._device.write(starts, placed.starts[:len(starts)])
            placed.describe(kinds[near], np.ones(len(near)))
            self._pass_portion(first // optics.n_layers, -(-(stop - first) // optics.n_layers), stop - first)
        found = self._waves.intensities(self._slices, self._now, propagated=True)
        images: np.ndarray = np.empty(found.shape, np.float32)
        self._device.read(found, images)
        return bin_pixels(images, optics.fine)

    def _pass_portion(self, first: int, n_slices: int, n_layers: int) -> None:
        """Fill ``n_slices`` slices, ``n_layers`` layers, and propagate the wave through them."""
        n_x, n_y = self._optics.shape_zxy[1:]
        atoms, slices = self._atoms, self._slices[:n_slices]
        n_blocks = n_tiles((n_layers, n_x, n_y), self._optics.n_layers)
        self._device.launch(
            "deposit_atoms", (n_blocks, 1, 1), atoms.centres, atoms.kinds, atoms.occupancy, atoms.starts, atoms.members,
            *self._placed, np.int32(self._tables.n_reach), np.int32(0), np.int32(self._optics.n_layers),
            np.int32(n_layers), np.int32(n_x), np.int32(n_y), np.int32(SHARED_SLICES), slices)

        def work() -> None:
            self._waves.propagate(slices, first)

        # Only the last slice of all may be thinner, so that portions of as many slices are alike.
        last = first + n_slices == len(self._optics.centres_A)
        kind = first == 0, -n_slices if last else n_slices
        if kind not in self._replays:
            work()
            self._replays[kind] = None
        else:
            replay = self._replays[kind] or self._device.record(work)
            self._replays[kind] = replay
            replay()

    def _use(self, transfer: np.ndarray | None) -> None:
        """Use these transfer functions, or those of the microscope."""
        if transfer is not None or self._refocused:
            chosen = self._optics.first_transfer if transfer is None else transfer
            self._waves.place_transfer(self._waves.pack(chosen), 0)
            self._refocused = transfer is not None

    def _propagator(self, distance_A: float) -> np.ndarray:
        optics = self._optics
        factor = propagator(optics.shape_zxy[1:], optics.voxel_A, optics.wavelength_A, distance_A,
                            band_limit=optics.band_limit)
        return factor / factor.size


def check_reach(reach: float) -> None:
    """Raise :class:`GpuError` if atoms of this half-width in voxels reach over too many of them."""
    if 2 * reach + 2 > MOST_CELLS:
        raise GpuError(f"atoms reach over {2 * reach + 1:.0f} voxels of the simulation, of which a GPU takes "
                       f"{MOST_CELLS} at most")
