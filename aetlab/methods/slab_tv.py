"""Total variation of a volume in slabs along y, each on a GPU of its own.

A dual iteration at a voxel needs the dual variables of the next row of y, and their component along y on the row before
(``tv_step_in_slab`` of volume.cu). Each iteration writes those of its edges to arrays of their own, four planes (Z, X),
of which three go to the slab in front and one to the slab behind; the first and last slabs are neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aetlab.core.slabs import Slabs
from aetlab.methods.dual_solver import DualSettings, extrapolations
from aetlab.methods.regulariser import Launcher, Launchers

#: Components of the dual variables, and planes of a halo.
_COMPONENTS, _PLANES = 3, 4


class SlabTotalVariation:
    """The :class:`~aetlab.methods.dual_solver.DualSolver` of total variation on several GPUs."""

    def __init__(self, devices: Launchers, weight: float, own: DualSettings) -> None:
        self.state: dict[str, Any] = {}
        self._devices = devices
        self._weight = weight
        self._inner_iterations = own.inner_iterations
        self._warm_start = own.warm_start
        self._duals: tuple[Slabs, Slabs, Slabs] | None = None
        self._halos: list[_Halo] = []

    def __call__(self, volume: Slabs, step: float) -> Slabs:
        parts = list(enumerate(zip(self._devices.devices, volume.arrays, strict=True)))
        if step * self._weight == 0:
            for _, (device, slab) in parts:
                device.launch("clip_negative", (slab.size, 1, 1), np.int64(slab.size), slab)
            return volume
        threshold, dual_step = np.float32(step * self._weight), np.float32(1 / (12 * step * self._weight))
        p, q, following_p = self._start(volume.shape)
        self._prepare_halos(volume, p)
        for beta in map(np.float32, extrapolations(self._inner_iterations)):
            for i, (device, slab) in parts:
                halo = self._halos[i]
                device.launch("tv_step_in_slab", *_extent(slab)[:1], slab, halo.b, p.arrays[i], halo.p, q.arrays[i],
                              halo.q, beta, threshold, dual_step, *_extent(slab)[1:], following_p.arrays[i], halo.edges)
            p, q, following_p = following_p, p, q
            for halo in self._halos:
                halo.p, halo.q = halo.q, halo.p
            self._exchange_edges()
        for i, (device, slab) in parts:
            device.launch("tv_primal_in_slab", *_extent(slab)[:1], slab, p.arrays[i], self._halos[i].p, threshold,
                          *_extent(slab)[1:], slab)
        self._duals = p, q, following_p
        if self._warm_start:
            self.state["dual"] = p
        return volume

    def _start(self, shape: tuple[int, ...]) -> tuple[Slabs, Slabs, Slabs]:
        """Return the first dual iterate (3, Z, X, Y), that before it, and memory for the next."""
        if self._duals is None:
            kept = self.state.get("dual") if self._warm_start else None
            zeros, of_duals = self._devices.zeros, (_COMPONENTS, *shape)
            first = zeros(of_duals, np.float32) if kept is None else kept
            self._duals = first, zeros(of_duals, np.float32), zeros(of_duals, np.float32)
        if not self._warm_start:
            for _ in self._duals[0].each(_clear):
                pass
        return self._duals

    def _prepare_halos(self, volume: Slabs, p: Slabs) -> None:
        """Exchange the edges of the volume and of the dual variables."""
        if not self._halos:
            self._halos = [_Halo(device, volume.shape[:2]) for device in self._devices.devices]
        transfers = []
        for i, (device, halo) in enumerate(zip(self._devices.devices, self._halos, strict=True)):
            slab, dual = volume.arrays[i], p.arrays[i]
            _copy_row(device, slab, 0, halo.b_edge)
            _copy_row(device, dual, 0, halo.edges[:_COMPONENTS])
            _copy_row(device, dual[-1], slab.shape[-1] - 1, halo.edges[-1])
            before = (i - 1) % len(self._halos)
            transfers.append(self._devices.transfer(i, halo.b_edge, before, self._halos[before].b))
        self._devices.exchange(transfers)
        self._exchange_edges()

    def _exchange_edges(self) -> None:
        """Send the edges of the newest dual variables to the halos of the neighbours."""
        transfers, n = [], len(self._halos)
        for i, halo in enumerate(self._halos):
            before, behind = (i - 1) % n, (i + 1) % n
            transfers.append(self._devices.transfer(i, halo.edges[:_COMPONENTS], before,
                                                    self._halos[before].p[:_COMPONENTS]))
            transfers.append(self._devices.transfer(i, halo.edges[-1], behind, self._halos[behind].p[-1]))
        self._devices.exchange(transfers)


class _Halo:
    """The rows of y next to a slab, and its own edges: of the volume, and of the dual variables and those before."""

    def __init__(self, device: Launcher, shape_zx: tuple[int, ...]) -> None:
        self.b, self.b_edge = device.zeros(shape_zx, np.float32), device.zeros(shape_zx, np.float32)
        self.p, self.q, self.edges = (device.zeros((_PLANES, *shape_zx), np.float32) for _ in range(3))


def _extent(slab: Any) -> tuple[tuple[int, int, int], np.int32, np.int32, np.int32]:
    """Return the extent of a launch, and the numbers of voxels along z, x, y."""
    n_z, n_x, n_y = slab.shape
    return (n_y, n_x, n_z), np.int32(n_z), np.int32(n_x), np.int32(n_y)


def _copy_row(device: Launcher, values: Any, y: int, out: Any) -> None:
    """Copy row ``y`` of ``values`` (..., Y) to ``out`` (...)."""
    device.launch("copy_columns", (out.size, 1, 1), values, np.int32(values.shape[-1]), np.int32(y), np.int32(1),
                  np.int32(1), np.int32(0), np.int64(out.size), out)


def _clear(array: Any) -> None:
    array[...] = 0
