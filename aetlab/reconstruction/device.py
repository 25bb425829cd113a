"""Where a reconstruction is computed: the forward model on the GPU or the CPU, and the solver's parts beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetlab import gpu, solve
from aetlab.core.backend import empty_aligned, gpu_problem, n_threads
from aetlab.core.nouns import TiltSeries
from aetlab.forward import ForwardModel
from aetlab.forward.multislice import TiltCost, make_multislice
from aetlab.spec import RunSpec, SpecError, leaves_counts_out, tilt_angles_deg

Array = Any


class Model(Protocol):
    """A forward model; its volumes live where it computes."""

    n_tilts: int
    lipschitz: float

    def cost(self, volume: Array, i_tilt: int) -> float:
        """Cost of ``volume`` (Z, X, Y) against the images of one tilt."""

    def descend(self, volume: Array, i_tilt: int, step: float, metric: Array | None = None) -> Any:
        """A step down the gradient of one tilt in place; the cost before it."""

    def form_potential(self, volume: Array) -> Array:
        """V in volts of what is reconstructed."""


@dataclass(frozen=True)
class Parts:
    """What the solver takes beside a model: None stands for its own, which are the CPU's.

    ``name`` is the device in words, ``zeros`` makes a volume, ``place`` brings an array there.
    """

    name: str
    zeros: Callable[[tuple[int, int, int]], Array]
    place: Callable[[np.ndarray], Array]
    make_prox: Callable[..., solve.Prox]
    extrapolate: Callable[[Array, Array, float], None] | None = None
    sparsify: Callable[[Array, float, Array | None, Array | None], None] | None = None


def choose_model(spec: RunSpec, series: TiltSeries, *, blur_A: float, say: Callable[[str], None]) -> Model:
    """The forward model on the device that ``spec.engine.device`` asks for; ``auto`` takes a GPU if one serves, but for
    align=true the CPU.

    Raises
    ------
    SpecError
        Where a GPU is asked for and none serves.
    """
    options: dict[str, Any] = {"microscope": spec.microscope, "n_layers_per_slice": spec.binning.n_layers,
                               "rotation": spec.engine.rotation, "blur_A": blur_A,
                               "likelihood": spec.engine.likelihood}
    if spec.align.enabled and spec.engine.device == "auto":
        say("the CPU reconstructs: align=true is computed there")
    elif spec.engine.device != "cpu":
        try:
            device = _open(spec)
            model = gpu.GpuModel(series, spec.scale.shape_zxy, device=device, **options)
        except gpu.GpuError as error:
            if spec.engine.device == "gpu":
                raise _refusal(error) from None
            say(f"the CPU reconstructs: {error}")
        else:
            say(f"{device.name} reconstructs")
            return model
    return ForwardModel(series, spec.scale.shape_zxy, **options)


def require_gpu(spec: RunSpec) -> None:
    """Raises :class:`SpecError` in one line where ``spec`` asks for a GPU and none serves."""
    if spec.engine.device == "gpu":
        try:
            _open(spec)
            if spec.refine.kind != "none":
                gpu.open_device(_refinement_bytes(spec))
        except gpu.GpuError as error:
            raise _refusal(error) from None


def choose_tilt_cost(spec: RunSpec, say: Callable[[str], None]) -> Callable[..., TiltCost]:
    """What makes the cost of a tilt for the refinement, where ``spec.engine.device`` asks for it.

    Raises
    ------
    SpecError
        Where a GPU is asked for and none serves.
    """
    if spec.engine.device == "cpu":
        return make_multislice
    try:
        device = gpu.open_device(_refinement_bytes(spec))
    except gpu.GpuError as error:
        if spec.engine.device == "gpu":
            raise _refusal(error) from None
        if gpu_problem() is None:  # else the reconstruction has told what there is not
            say(f"the CPU refines: {error}")
        return make_multislice
    say(f"{device.name} propagates the waves of the refinement")
    return gpu.GpuTiltCosts(device)


def find_gpu(spec: RunSpec) -> gpu.Device | None:
    """The GPU that a reconstruction of ``spec`` takes; None where that is the CPU's."""
    if spec.engine.device == "cpu" or spec.align.enabled:
        return None
    try:
        return _open(spec)
    except gpu.GpuError:
        return None


def gpu_bytes(spec: RunSpec) -> int:
    """Memory that a reconstruction of ``spec`` takes on a GPU."""
    n_tilts = len(tilt_angles_deg(spec.tilts, spec.wedge)) * (1.25 if leaves_counts_out(spec) else 1)
    return gpu.memory_needed_bytes(
        spec.scale.shape_zxy, math.ceil(n_tilts), len(spec.defocus.planes_nm),
        n_layers_per_slice=spec.binning.n_layers, rotation=spec.engine.rotation, regulariser=spec.reg.kind)


def solver_parts(model: Model) -> Parts:
    """The parts of the solver that work where the volumes of ``model`` live."""
    if not isinstance(model, gpu.GpuModel):
        return Parts("cpu", _zeros, np.asarray, solve.make_prox)
    device = model.device

    def make_prox(kind: str, weight: float, *, inner_iterations: int, warm_start: bool) -> solve.Prox:
        return gpu.make_prox(device, kind, weight, inner_iterations=inner_iterations, warm_start=warm_start)

    return Parts(device.name, lambda shape: device.zeros(shape, np.float32), device.upload, make_prox,
                 lambda volume, proximal, beta: gpu.extrapolate(device, volume, proximal, beta),
                 lambda volume, threshold, metric, weights: gpu.sparsify(device, volume, threshold, metric, weights))


def _open(spec: RunSpec) -> gpu.Device:
    if spec.engine.rotation not in gpu.ROTATIONS:
        raise gpu.GpuError(f"engine.rotation={spec.engine.rotation} is not there on a GPU")
    if spec.reg.kind not in gpu.REGULARISERS:
        raise gpu.GpuError(f"reg.kind={spec.reg.kind} is not there on a GPU")
    return gpu.open_device(gpu_bytes(spec))


def _refinement_bytes(spec: RunSpec) -> int:
    """Each thread has a tilt of its own; one more is made where a tilt has a focus of its own."""
    return (n_threads() + 1) * gpu.tilt_cost_bytes(spec.scale.shape_zxy, len(spec.defocus.planes_nm),
                                                   n_layers_per_slice=spec.binning.n_layers)


def _refusal(error: gpu.GpuError) -> SpecError:
    return SpecError(f"engine.device='gpu' cannot be used: {error}; choose one of auto, cpu")


def _zeros(shape: tuple[int, int, int]) -> np.ndarray:
    volume: np.ndarray = empty_aligned(shape)
    volume[...] = 0
    return volume
