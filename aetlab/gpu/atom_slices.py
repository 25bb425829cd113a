"""Fill slices with atoms, compare them with images and gather the gradient at the atoms, on a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from aetlab.core.errors import GpuError
from aetlab.forward.multislice import Optics
from aetlab.gpu.atom_tiles import list_atoms, n_tiles
from aetlab.gpu.choose import check_room
from aetlab.gpu.device import Array, Device
from aetlab.gpu.footprint import GROWTH
from aetlab.gpu.kernels import MOST_CELLS
from aetlab.gpu.multislice import GpuWaves
from aetlab.methods.likelihood import DARKEST


class Tables(Protocol):
    """Tables of K elements, as in :class:`aetlab.refinement.tables.AtomTables`."""

    @property
    def cumulative(self) -> np.ndarray:
        """Φ and its slope, float32 (K, STEPS + 1, R, 2, 8)."""

    @property
    def weight(self) -> np.ndarray:
        """Integrals of the Gaussians, float32 (K, 8)."""

    @property
    def reach(self) -> np.ndarray:
        """Half-widths of the atoms in voxels (K,)."""

    @property
    def n_reach(self) -> int:
        """Voxels that an atom needs on one side."""

    @property
    def window(self) -> int:
        """Voxels that an atom needs along y."""


class GpuSlices:
    """Make :class:`GpuAtomSlices` for each thread, on ``devices`` in turn; replaces ``CpuAtomSlices``."""

    def __init__(self, *devices: Device) -> None:
        self._turn = itertools.cycle(devices)

    def __call__(self, optics: Optics, n_z: int, n_layers: int, dtype: type = np.float32) -> GpuAtomSlices:
        if dtype is not np.float32:
            raise ValueError(f"a GPU computes in float32, not {np.dtype(dtype).name}")
        return GpuAtomSlices(optics, n_z, n_layers, next(self._turn).queue())


class GpuAtomSlices:
    """Implement :class:`aetlab.refinement.atom_slices.AtomSlices` on ``device``.

    Atoms and images are sent to the device, and only the gradients of the atoms return. All arrays are kept; those of
    the atoms are replaced by larger ones when more atoms come. The launches of each kind of cost are recorded at its
    second use and replayed afterwards. Several of these work at the same time if each has a queue of its own.

    Raises
    ------
    GpuError
        If the device has too little memory, or if atoms reach over too many voxels.
    """

    def __init__(self, optics: Optics, n_z: int, n_layers: int, device: Device) -> None:
        n_defoci, n_x, n_y = optics.transfer.shape
        self._device = device
        self._shape, self._n_layers = (n_z, n_x, n_y), n_layers
        # Transfer functions of the costs, and of other images.
        self._waves = GpuWaves(optics, device, transfer=np.stack(2 * [optics.transfer]), set_of=np.arange(2))
        #: The slices (S, X, Y).
        self.slices = device.zeros((len(optics.which) + 1, n_x, n_y), np.float32)
        self._amplitude = device.zeros((1, n_defoci, n_x, n_y), np.float32)
        self._weight: Array = None
        self._now, self._costs = device.zeros((2,), np.int32), device.zeros((1,), np.float64)
        self._of_images = device.upload(np.array([1, 0], np.int32))
        self._atoms = PlacedAtoms(device, n_tiles(self._shape, n_layers))
        self._placed: Tables | None = None
        self._tables: tuple[Array, Array, Array] | None = None
        #: By whether there are weights and an MTF; None before the recording.
        self._replays: dict[tuple[bool, bool], Callable[[], None] | None] = {}

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        return self._waves.pack(transfer)

    def use_transfer(self, packed: np.ndarray) -> None:
        self._waves.place_transfer(packed, 0)

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        self._waves.use_mtf(mtf)

    def deposit(self, tables: Tables, centres: np.ndarray, kinds: np.ndarray, occupancy: np.ndarray) -> None:
        atoms = self._atoms
        starts, members = list_atoms(centres, kinds, tables.reach, tables.window, self._shape, self._n_layers)
        atoms.place(centres, members)
        self._device.write(starts, atoms.starts)
        self._use(tables, kinds, occupancy)
        self._device.launch("deposit_atoms", (len(starts) - 1, 1, 1), atoms.centres, atoms.kinds, atoms.occupancy,
                            atoms.starts, atoms.members, *self._of(tables), np.int32(1), self.slices)

    def cost_and_gradient(self, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
                          whole: bool = True) -> float:
        device, weighted = self._device, weight is not None
        device.write(amplitude[None], self._amplitude)
        if weight is not None:
            if self._weight is None:
                self._weight = device.zeros(self._amplitude.shape, np.float32)
            device.write(weight[None], self._weight)

        def work() -> None:
            self._waves.measure(self.slices, self._amplitude, self._weight if weighted else None, self._now,
                                self._costs)
            self._waves.propagate_back(self.slices, self._now)

        kind = weighted, self._waves.mtf is not None
        if kind not in self._replays:
            work()
            self._replays[kind] = None
        else:
            replay = self._replays[kind] or device.record(work)
            self._replays[kind] = replay
            replay()
        cost = np.empty(1)
        device.read(self._costs, cost)
        return float(cost[0])

    def gather(self, tables: Tables, kinds: np.ndarray, occupancy: np.ndarray, out: np.ndarray) -> None:
        atoms, n = self._atoms, len(kinds)
        if n == 0:
            return
        self._use(tables, kinds, occupancy)
        self._device.launch("gather_atoms", (n, 1, 1), self.slices, atoms.centres, atoms.kinds, atoms.occupancy,
                            *self._of(tables), atoms.gradient)
        self._device.read(atoms.gradient[:n], out)

    def read(self) -> np.ndarray:
        slices: np.ndarray = np.empty(self.slices.shape, np.float32)
        self._device.read(self.slices, slices)
        return slices

    def intensities(self, transfer: np.ndarray, mtf: np.ndarray | None) -> np.ndarray:
        waves, n_defoci, mtf_of_costs = self._waves, self._amplitude.shape[1], self._waves.mtf
        images: np.ndarray = np.empty(transfer.shape, np.float32)
        waves.use_mtf(mtf)
        for first in range(0, len(transfer), n_defoci):  # the wave behind the slices is computed once
            waves.place_transfer(waves.pack(transfer[first:first + n_defoci]), 1)
            found = waves.intensities(self.slices, self._of_images, propagated=first > 0)
            self._device.read(found, images[first:first + n_defoci])
        waves.use_mtf(mtf_of_costs)
        return images if mtf is None else np.maximum(images, np.float32(DARKEST))

    def _use(self, tables: Tables, kinds: np.ndarray, occupancy: np.ndarray) -> None:
        """Send tables, unless they are there, and kinds and occupancies of the first atoms."""
        device, atoms = self._device, self._atoms
        arrays = tables.cumulative, tables.weight, tables.reach
        if self._tables is None:
            if tables.window > MOST_CELLS:
                raise GpuError(f"atoms reach over {tables.window} voxels, of which a GPU takes {MOST_CELLS} at most: "
                               "choose larger voxels or engine=cpu")
            self._tables = device.upload(arrays[0]), device.upload(arrays[1]), device.upload(arrays[2])
        elif tables is not self._placed:
            for values, array in zip(arrays, self._tables, strict=True):
                device.write(values, array)
        self._placed = tables
        atoms.describe(kinds, occupancy)

    def _of(self, tables: Tables) -> tuple[Array | np.int32, ...]:
        """Return the arguments of a kernel that describe atoms and volume."""
        assert self._tables is not None
        return (*self._tables, np.int32(tables.n_reach), np.int32(tables.window), np.int32(self._n_layers),
                *(np.int32(n) for n in self._shape))


class PlacedAtoms:
    """Arrays on ``device`` of the atoms of a tilt, which grow, and of their lists by ``n_tiles``."""

    def __init__(self, device: Device, n_tiles: int) -> None:
        self._device = device
        self.starts = device.zeros((n_tiles + 1,), np.int32)
        self.members: Array = None
        self.centres: Array = None
        self.kinds: Array = None
        self.occupancy: Array = None
        self.gradient: Array = None

    def place(self, centres: np.ndarray, members: np.ndarray) -> None:
        """Send centres (N, 3) in voxels and the atoms of all tiles."""
        n, n_members = max(len(centres), 1), max(len(members), 1)
        if self.centres is None or len(self.centres) < n:
            self._grow_atoms(int(GROWTH * n))
        if self.members is None or len(self.members) < n_members:
            self._grow_members(int(GROWTH * n_members))
        self._send(centres, self.centres)
        self._send(members, self.members)

    def describe(self, kinds: np.ndarray, occupancy: np.ndarray) -> None:
        """Send kinds and occupancies (N,) of the first N atoms."""
        self._send(kinds.astype(np.int32), self.kinds)
        self._send(occupancy.astype(np.float32), self.occupancy)

    def _send(self, values: np.ndarray, array: Array) -> None:
        if len(values) > 0:
            self._device.write(np.ascontiguousarray(values), array[:len(values)])

    def _grow_atoms(self, room: int) -> None:
        device = self._device
        self.centres = self.kinds = self.occupancy = self.gradient = None  # memory that is free before the next
        check_room(device, room * (24 + 4 + 4 + 32))
        self.centres, self.gradient = device.zeros((room, 3), np.float64), device.zeros((room, 4), np.float64)
        self.kinds, self.occupancy = device.zeros((room,), np.int32), device.zeros((room,), np.float32)

    def _grow_members(self, room: int) -> None:
        self.members = None
        check_room(self._device, 4 * room)
        self.members = self._device.zeros((room,), np.int32)
