"""Calls of CuPy by the GPU engine, tested with a stand-in for CuPy that runs on the processor.

The stand-in has only what :mod:`aetlab.gpu.device_cuda` calls, as CuPy documents it; :mod:`host_device` runs kernels.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.fft
from gpu_equations import OFF, check_equations
from gpu_slices import CostOfSlices
from host_device import HostDevice, host_library
from priors import PROBLEM, make_gpu_prox, make_prox
from test_gpu_device import MICROSCOPE, make_problem, relative_error

from aetlab.forward.model import ForwardModel
from aetlab.forward.multislice import Multislice
from aetlab.forward.series_optics import series_optics
from aetlab.forward.tilt_equations import PosedTilt
from aetlab.gpu import GpuError, GpuModel, SlabModel, choose, open_group
from aetlab.gpu.kernels import KERNELS
from aetlab.methods.regularisers import REGULARISERS

#: The modules that import CuPy.
OF_CUPY = ("aetlab.gpu.device_cuda", "aetlab.gpu.exchange_cuda")


class Array(np.ndarray):
    """An array with the attribute ``data.ptr`` and the method ``set`` of CuPy's arrays."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self, *, stream: Queue, out: np.ndarray) -> None:
        assert stream is Queue.current() and (out.shape, out.dtype) == (self.shape, self.dtype)
        out[...] = self

    def set(self, values: np.ndarray) -> None:
        assert values.flags.c_contiguous and (values.shape, values.dtype) == (self.shape, self.dtype)
        self[...] = values


class Current(threading.local):
    """The stack of current streams of a thread."""

    def __init__(self) -> None:
        self.queues: list[Queue] = []


class Queue:
    """A stream that runs work at once, or keeps it during a capture. Each thread has a stack of current streams."""

    _local = Current()
    problem: str | None = None

    def __init__(self) -> None:
        self.ptr = id(self)
        self.recording: list[Callable[[], None]] | None = None
        self.played = 0

    @classmethod
    def _stack(cls) -> list[Queue]:
        return cls._local.queues

    @classmethod
    def current(cls) -> Queue:
        assert cls._stack(), "work is sent to the null stream"
        return cls._stack()[-1]

    def use(self) -> None:
        self._stack()[:] = [self]

    def __enter__(self) -> None:
        self._stack().append(self)

    def __exit__(self, *error: object) -> None:
        self._stack().pop()

    def synchronize(self) -> None:
        """Do nothing: work is done when it is put in."""

    def put(self, work: Callable[[], None]) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def begin_capture(self) -> None:
        self.recording = []

    def end_capture(self) -> Any:
        recorded, self.recording = self.recording, None
        if self.problem:
            raise RuntimeError(f"{self.problem}\nand more")

        def launch(stream: object = None) -> None:
            assert stream is self
            self.played += 1
            for work in recorded:
                work()

        return SimpleNamespace(launch=launch)


class Card(nullcontext):  # type: ignore[type-arg]
    """A card that can be made the current one; 0 by default."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.id = number or 0


class Rank:
    """A communicator of NCCL: sends and receives of a group take place when it ends, matched in their order."""

    waiting: list[tuple[str, int, int, int, int]] | None = None

    def __init__(self, number: int) -> None:
        self.number = number

    @staticmethod
    def initAll(devices: list[int]) -> list[Rank]:
        assert isinstance(devices, list) and len(set(devices)) == len(devices)
        return [Rank(number) for number in range(len(devices))]

    @classmethod
    def start(cls) -> None:
        cls.waiting = []

    def send(self, address: int, count: int, kind: int, peer: int, stream: int) -> None:
        self._put("send", (self.number, peer), address, count, kind, stream)

    def recv(self, address: int, count: int, kind: int, peer: int, stream: int) -> None:
        self._put("recv", (peer, self.number), address, count, kind, stream)

    def _put(self, what: str, way: tuple[int, int], address: int, count: int, kind: int, stream: int) -> None:
        assert self.waiting is not None and kind == 1 and way[0] != way[1] and stream
        self.waiting.append((what, *way, address, count))

    @classmethod
    def end(cls) -> None:
        waiting, cls.waiting = cls.waiting or [], None
        for way in {each[1:3] for each in waiting}:
            sent, received = ([each[3:] for each in waiting if each[:3] == (what, *way)] for what in ("send", "recv"))
            for (source, n_bytes), (target, room) in zip(sent, received, strict=True):
                assert n_bytes == room
                ctypes.memmove(target, source, n_bytes)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Queue]]:
    """Replace CuPy and the GPU in this process."""
    host = HostDevice(host_library())
    monkeypatch.setattr(Queue, "problem", None)

    class RawModule:
        def __init__(self, code: str, options: tuple[str, ...]) -> None:
            if "nonsense" in code:
                raise RuntimeError("error: identifier is undefined\nkernels.cu(3)")

        def get_function(self, name: str) -> Callable[..., None]:
            def call(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
                host.check(name, arguments)
                layout = (ctypes.c_uint * 7)(*grid, *block, KERNELS[name].waits)
                Queue.current().put(lambda: host.run(name, layout, arguments))

            return call

    class PlanNd:
        def __init__(self, shape, inembed, istride, idist, onembed, ostride, odist, fft_type, batch, order, last_axis,
                     last_size) -> None:
            assert inembed == onembed == shape and istride == ostride == 1 and idist == odist == shape[0] * shape[1]
            assert (fft_type, order, last_size) == (41, "C", None)
            self.shape = (batch, *shape)

        def fft(self, a: np.ndarray, out: np.ndarray, direction: int) -> None:
            planes, result = a.reshape(self.shape), out.reshape(self.shape)

            def work() -> None:
                result[...] = scipy.fft.ifft2(planes, norm="forward") if direction == 1 else scipy.fft.fft2(planes)

            Queue.current().put(work)

    cupy, cuda, cufft, nccl = (ModuleType(name) for name in ("cupy", "cupy.cuda", "cupy.cuda.cufft", "cupy.cuda.nccl"))
    vars(cufft).update(PlanNd=PlanNd, CUFFT_C2C=41, CUFFT_FORWARD=-1, CUFFT_INVERSE=1)
    held = [7]
    pool = SimpleNamespace(free_bytes=lambda: 5, total_bytes=lambda: held[0], free_all_blocks=lambda: held.insert(0, 2))
    runtime = SimpleNamespace(getDeviceProperties=lambda i: {"name": b"Stand-in"}, memGetInfo=lambda: (3e9, 4e9),
                              getDeviceCount=lambda: 2)
    vars(nccl).update(available=True, NCCL_UINT8=1, NcclCommunicator=Rank, groupStart=Rank.start, groupEnd=Rank.end)
    vars(cuda).update(cufft=cufft, nccl=nccl, runtime=runtime, Stream=Queue, Device=Card)
    vars(cupy).update(
        cuda=cuda, __version__="14", RawModule=RawModule, zeros=lambda shape, dtype: np.zeros(shape, dtype).view(Array),
        empty=lambda shape, dtype: np.empty(shape, dtype).view(Array), get_default_memory_pool=lambda: pool)
    for module in (cupy, cuda, cufft, nccl):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in OF_CUPY:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    yield Queue
    Queue._stack().clear()
    for name in OF_CUPY:
        sys.modules.pop(name, None)
    choose._open.cache_clear()
    choose._open_several.cache_clear()


def open_cuda() -> Any:
    from aetlab.gpu.device_cuda import CudaDevice

    return CudaDevice()


@pytest.mark.parametrize("problem", [None, "capture is not there"])
def test_steps_and_total_variation_through_cupy(queue: type[Queue], problem: str | None) -> None:
    """Results are the same with and without a graph; the first step precedes the capture."""
    queue.problem = problem
    case = make_problem(open_cuda(), (9, 12, 10), 4, np.array([-30.0, 10.0, 60.0]), 1)
    model = GpuModel(case.series, case.shape, device=case.device, **case.options)
    reference = ForwardModel(case.series, case.shape, dtype=np.float64, **case.options)
    volume, expected = case.device.upload((0.8 * case.truth).astype(np.float32)), 0.8 * case.truth
    for i_tilt in (0, 2, 1, 2):
        cost = reference.descend(expected, i_tilt, 1.5 / model.lipschitz)
        assert float(model.descend(volume, i_tilt, 1.5 / model.lipschitz)) == pytest.approx(cost, rel=1e-4)
    assert relative_error(volume, expected) < 1e-5
    assert queue.current().played == (0 if problem else 3)
    assert case.device.graph_problem == (None if problem is None else "RuntimeError: capture is not there")
    found = make_gpu_prox(case.device, "tv", 0.5)(volume, 6.0)
    assert relative_error(found, make_prox("tv", 0.5)(expected, 6.0)) < 1e-5


def test_equations_of_the_alignment_through_cupy(queue: type[Queue]) -> None:
    """With as many threads in a block as on a GPU."""
    case = make_problem(open_cuda(), (9, 12, 10), 4, np.array([-30.0, 10.0, 60.0]), 1)
    check_equations(case.series, case.shape, case.device, (0.8 * case.truth).astype(np.float32), microscope=MICROSCOPE,
                    n_layers=4, tilts=[PosedTilt(1, OFF)])


def test_the_device_reports_its_name_and_memory(queue: type[Queue]) -> None:
    device = open_cuda()
    assert (device.name, device.free_bytes(), device.held_bytes()) == ("Stand-in", 3_000_000_005, 7)
    device.release()
    assert device.held_bytes() == 2


def test_every_method_uses_the_stream_of_the_device_in_any_thread(queue: type[Queue]) -> None:
    """In CuPy a new thread starts with the null stream, to which the stand-in objects."""
    device = open_cuda()
    volume = np.array([-1.0, 2.0, -3.0], np.float32)

    def work() -> tuple[np.ndarray, np.ndarray]:
        array, plane = device.upload(volume), device.zeros((4, 4), np.complex64)
        device.launch("clip_negative", (3, 1, 1), np.int64(3), array)
        device.fft(plane, plane)
        play = device.record(lambda: device.launch("clip_negative", (3, 1, 1), np.int64(3), array))
        array[...] = volume
        play()
        return np.array(array), np.array(plane)

    with ThreadPoolExecutor(1) as pool:
        clipped, plane = pool.submit(work).result()
    np.testing.assert_array_equal(clipped, [0, 2, 0])
    assert not plane.any()


def test_tilts_of_several_threads_have_streams_of_their_own(queue: type[Queue]) -> None:
    """Each thread of a refinement records and replays on its own stream; the costs are those of one thread."""
    case = make_problem(open_cuda(), (9, 12, 10), 4, np.array([-30.0, 10.0, 60.0]), 1)
    optics = series_optics(case.series, case.shape, MICROSCOPE, 4)
    slices = np.random.default_rng(1).uniform(0, 100, (3, 12, 10)).astype(np.float32)

    def work(i_tilt: int) -> tuple[list[float], np.ndarray, int]:
        cost, gradient = CostOfSlices(case.device, optics), slices
        costs = []
        for _ in range(3):
            gradient = slices.copy()
            costs.append(cost.cost_and_gradient(gradient, np.sqrt(case.series.images[i_tilt])))
        return costs, gradient, id(cost._slices._device._stream)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, (0, 2)))
    for i_tilt, (costs, gradient, _) in zip((0, 2), found, strict=True):
        expected = slices.astype(np.float64)
        reference = Multislice(optics, np.float64).cost_and_gradient(expected, np.sqrt(case.series.images[i_tilt]))
        np.testing.assert_allclose(costs, 3 * [reference], rtol=1e-5)
        assert relative_error(gradient, expected) < 1e-5
    assert len({stream for *_, stream in found} | {id(case.device._stream)}) == 3


def test_a_reconstruction_on_two_gpus_through_nccl(queue: type[Queue], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step and total variation agree with one GPU; the work of the first GPU on the waves is a graph."""
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    group = open_group((0, 0), 10)
    assert [device.number for device in group.devices] == [0, 1]
    case = make_problem(group.devices[0], (9, 12, 10), 4, np.array([-30.0, 10.0, 60.0]), 1)
    slabs = SlabModel(case.series, case.shape, group=group, **case.options)
    one = GpuModel(case.series, case.shape, device=case.device, **case.options)
    start, step = (0.8 * case.truth).astype(np.float32), 1.5 / one.lipschitz
    volume, expected = group.place(start), case.device.upload(start)
    for i_tilt in (0, 2, 1):
        cost = float(one.descend(expected, i_tilt, step))
        assert float(slabs.descend(volume, i_tilt, step)) == pytest.approx(cost, rel=1e-6)
    assert group.graph_problem is None and group.devices[0]._stream.played == 4
    row = REGULARISERS["tv"]
    found = row.gpu.in_slabs(group, row.settings(), 0.5, PROBLEM).prox(volume, 6.0)
    assert relative_error(found, np.asarray(make_gpu_prox(case.device, "tv", 0.5)(expected, 6.0))) < 1e-6


def test_several_gpus_without_nccl_give_an_error_of_one_line(queue: type[Queue],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    monkeypatch.setattr(sys.modules["cupy.cuda.nccl"], "available", False)
    choose._open.cache_clear()
    choose._open_several.cache_clear()
    with pytest.raises(GpuError, match="several GPUs need NCCL, which CuPy does not find .pip install nvidia-nccl"):
        open_group((0, 0), 10)
    monkeypatch.setattr(sys.modules["cupy.cuda.nccl"], "available", True)
    monkeypatch.setattr(Rank, "initAll", lambda devices: 1 / 0)
    with pytest.raises(GpuError, match="NCCL cannot connect 2 GPUs: ZeroDivisionError"):
        open_group((0, 0), 10)


def test_a_failing_compiler_gives_an_error_of_one_line(queue: type[Queue], monkeypatch: pytest.MonkeyPatch) -> None:
    import aetlab.gpu.device_cuda as device_cuda

    monkeypatch.setattr(device_cuda, "read_source", lambda name: "nonsense")
    with pytest.raises(GpuError, match="the GPU cannot be used with CuPy 14: RuntimeError: error: .* undefined$"):
        device_cuda.CudaDevice()
