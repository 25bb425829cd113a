"""Propagate the waves of the refinement of atoms on a GPU, for slices in the memory of the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aetlab.forward.multislice import Optics
from aetlab.gpu.device import Array, Device
from aetlab.gpu.multislice import GpuWaves


class GpuTiltCosts:
    """Make a :class:`GpuTiltCost` for each thread that shares ``device``; replaces ``make_multislice`` of the CPU."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __call__(self, optics: Optics, dtype: type = np.float32) -> GpuTiltCost:
        if dtype is not np.float32:
            raise ValueError(f"a GPU computes in float32, not {np.dtype(dtype).name}")
        return GpuTiltCost(optics, self._device.queue())


class GpuTiltCost:
    """Implement :class:`aetlab.forward.multislice.TiltCost` on ``device``, for float32 arrays in CPU memory.

    All arrays on the device are allocated once. The launches of each kind of call are recorded at its second use and
    replayed afterwards. Several of these work at the same time if each has a queue of its own.
    """

    def __init__(self, optics: Optics, device: Device) -> None:
        n_defoci, n_x, n_y = optics.transfer.shape
        self._device = device
        self._waves = GpuWaves(optics, device)
        self._slices = device.zeros((len(optics.which) + 1, n_x, n_y), np.float32)
        self._amplitude = device.zeros((1, n_defoci, n_x, n_y), np.float32)
        self._weight: Array = None
        self._now, self._costs = device.zeros((2,), np.int32), device.zeros((1,), np.float64)
        #: By whether there are weights and whether the gradient is computed; None before the recording.
        self._replays: dict[tuple[bool, bool], Callable[[], None] | None] = {}

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        """Return transfer functions (F, X, Y) in the form that :meth:`use_transfer` takes."""
        return self._waves.pack(transfer)

    def use_transfer(self, packed: np.ndarray) -> None:
        """Use these transfer functions for all following images."""
        self._waves.place_transfer(packed, 0)

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        """Use this MTF of the detector (X, Y) for all following images; None: an ideal detector."""
        self._waves.use_mtf(mtf)
        self._replays.clear()

    def cost(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None) -> float:
        """Return the cost of ``slices`` (S, X, Y) against the measured ``amplitude`` (F, X, Y), √intensity.

        ``weight`` (F, X, Y), float32 like ``amplitude``, is the weight of each pixel; None: 1.
        """
        return self._run(slices, amplitude, weight, back=False)

    def cost_and_gradient(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None) -> float:
        """Return the cost as :meth:`cost` does; overwrite ``slices`` by the gradient with respect to it, in 1/V."""
        cost = self._run(slices, amplitude, weight, back=True)
        self._device.read(self._slices, slices)
        return cost

    def _run(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None, *, back: bool) -> float:
        device, weighted = self._device, weight is not None
        device.write(slices, self._slices)
        device.write(amplitude[None], self._amplitude)
        if weight is not None:
            if self._weight is None:
                self._weight = device.zeros(self._amplitude.shape, np.float32)
            device.write(weight[None], self._weight)

        def work() -> None:
            self._waves.measure(self._slices, self._amplitude, self._weight if weighted else None, self._now,
                                self._costs)
            if back:
                self._waves.propagate_back(self._slices, self._now)

        kind = weighted, back
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
