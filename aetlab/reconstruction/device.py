"""Choose the device of a reconstruction: the forward model on the GPU or the CPU, and the parts of the solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetlab import gpu
from aetlab.core.backend import empty_aligned, n_threads
from aetlab.core.nouns import TiltSeries
from aetlab.forward import ForwardModel
from aetlab.forward.multislice import loses_fused_kernels
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.methods.regulariser import Prior, Problem, Regulariser
from aetlab.methods.regularisers import REGULARISERS
from aetlab.refinement.atom_slices import AtomSlices, CpuAtomSlices
from aetlab.spec import RunSpec, SpecError, leaves_counts_out, refinement_layers, tilt_angles_deg

Array = Any

#: Atoms per Å³ that are counted before they are known: the whole box filled as with silicon.
_ATOMS_PER_A3 = 0.05


class Model(Protocol):
    """The interface of a forward model; its volumes lie on the device that computes.

    :class:`aetlab.forward.alignment.PosedModel` is a part of it.
    """

    n_tilts: int
    lipschitz: float

    def cost(self, volume: Array, i_tilt: int) -> float:
        """Return the cost of ``volume`` (Z, X, Y) against the images of one tilt."""

    def descend(self, volume: Array, i_tilt: int, step: float, metric: Array | None = None) -> Any:
        """Take a step down the gradient of one tilt in place; return the cost before the step."""

    def form_potential(self, volume: Array) -> Array:
        """Return V in volts from the reconstructed ``volume``."""

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray,
                   weight: np.ndarray | None = None) -> None:
        """Set angle, transfer functions and measurement of one tilt for all following calls."""


@dataclass(frozen=True)
class Parts:
    """The functions that the solver needs in addition to a model; None stands for its default on the CPU.

    ``name`` is the name of the device. ``zeros`` returns a volume of zeros, ``place`` copies an array to the device.
    ``make_prior(row, own, weight, problem)`` returns a regulariser for volumes on the device.
    """

    name: str
    zeros: Callable[[tuple[int, int, int]], Array]
    place: Callable[[np.ndarray], Array]
    make_prior: Callable[[Regulariser[Any], Any, float, Problem], Prior]
    extrapolate: Callable[[Array, Array, float], None] | None = None


def choose_model(spec: RunSpec, series: TiltSeries, *, blur_A: float, say: Callable[[str], None]) -> Model:
    """Return the forward model on the device that ``spec.engine.device`` selects.

    ``auto`` selects a GPU if one can be used. ``say`` is called with one line that names the device.

    Raises
    ------
    SpecError
        If a GPU is required and none can be used.
    """
    options: dict[str, Any] = {"microscope": spec.microscope, "n_layers_per_slice": spec.binning.n_layers,
                               "rotation": spec.engine.rotation, "blur_A": blur_A,
                               "likelihood": spec.engine.likelihood}
    if spec.engine.device != "cpu":
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
    _, n_x, n_y = spec.scale.shape_zxy
    if loses_fused_kernels(spec.engine.likelihood, (n_x, n_y)):
        say(f"engine.likelihood={spec.engine.likelihood} has no fused kernels: a tilt takes up to 1.7 times as long")
    return ForwardModel(series, spec.scale.shape_zxy, **options)


def require_gpu(spec: RunSpec) -> None:
    """Raise :class:`SpecError` with one line if ``spec`` requires a GPU and none can be used."""
    if spec.engine.device == "gpu":
        try:
            _open(spec)
            if spec.refine.kind != "none":
                gpu.open_device(_refinement_bytes(spec, math.ceil(_ATOMS_PER_A3 * _volume_A3(spec))))
        except gpu.GpuError as error:
            raise _refusal(error) from None


def choose_slices(spec: RunSpec, n_atoms: int, say: Callable[[str], None]) -> Callable[..., AtomSlices]:
    """Return the function that makes the slices of a thread for the refinement, on the device that ``spec`` selects.

    ``auto`` selects the CPU: that a GPU refines faster has not been measured. ``n_atoms`` are in the images.

    Raises
    ------
    SpecError
        If a GPU is required and none can be used.
    """
    if spec.engine.device != "gpu":
        return CpuAtomSlices
    try:
        device = gpu.open_device(_refinement_bytes(spec, n_atoms))
    except gpu.GpuError as error:
        raise _refusal(error) from None
    say(f"{device.name} refines")
    return gpu.GpuSlices(device)


def find_gpu(spec: RunSpec) -> gpu.Device | None:
    """Return the GPU that a reconstruction of ``spec`` uses; None if it uses the CPU."""
    if spec.engine.device == "cpu":
        return None
    try:
        return _open(spec)
    except gpu.GpuError:
        return None


def gpu_bytes(spec: RunSpec) -> int:
    """Return the bytes that a reconstruction of ``spec`` needs on a GPU."""
    n_tilts = len(tilt_angles_deg(spec.tilts, spec.wedge)) * (1.25 if leaves_counts_out(spec) else 1)
    return gpu.memory_needed_bytes(
        spec.scale.shape_zxy, math.ceil(n_tilts), len(spec.defocus.planes_nm),
        n_layers_per_slice=spec.binning.n_layers, rotation=spec.engine.rotation, regulariser=spec.reg.kind,
        mtf=_blurs(spec), aligned=spec.align.enabled)


def solver_parts(model: Model) -> Parts:
    """Return the parts of the solver for the device that holds the volumes of ``model``."""
    if not isinstance(model, gpu.GpuModel):
        return Parts("cpu", _zeros, np.asarray, lambda row, own, weight, problem: row.make(own, weight, problem))
    device = model.device

    def make_prior(row: Regulariser[Any], own: Any, weight: float, problem: Problem) -> Prior:
        assert row.gpu is not None
        return row.gpu.make(device, own, weight, problem)

    return Parts(device.name, lambda shape: device.zeros(shape, np.float32), device.upload, make_prior,
                 lambda volume, proximal, beta: gpu.extrapolate(device, volume, proximal, beta))


def _open(spec: RunSpec) -> gpu.Device:
    gpu.check_rotation(spec.engine.rotation, spec.scale.shape_zxy)
    if LIKELIHOODS[spec.engine.likelihood].gpu is None:
        raise gpu.GpuError(f"engine.likelihood={spec.engine.likelihood} has no GPU version")
    if REGULARISERS[spec.reg.kind].gpu is None:
        raise gpu.GpuError(f"reg.kind={spec.reg.kind} has no GPU version")
    return gpu.open_device(gpu_bytes(spec))


def _refinement_bytes(spec: RunSpec, n_atoms: int) -> int:
    """Return the GPU memory of a refinement: slices and waves of each thread, fine and coarse ones."""
    return n_threads() * sum(gpu.atom_slices_bytes(
        spec.scale.shape_zxy, len(spec.defocus.planes_nm), n_atoms, n_layers_per_slice=n_layers,
        voxel_A=spec.scale.voxel_A, mtf=_blurs(spec) or spec.refine.contrast) for n_layers in refinement_layers(spec))


def _volume_A3(spec: RunSpec) -> float:
    return math.prod(spec.scale.shape_zxy) * spec.scale.voxel_A**3


def _blurs(spec: RunSpec) -> bool:
    """Return whether the detector blurs the images of the model."""
    return spec.microscope.mtf_half < 1 or bool(spec.microscope.mtf_values)


def _refusal(error: gpu.GpuError) -> SpecError:
    return SpecError(f"engine.device='gpu' cannot be used: {error}; choose one of auto, cpu")


def _zeros(shape: tuple[int, int, int]) -> np.ndarray:
    volume: np.ndarray = empty_aligned(shape)
    volume[...] = 0
    return volume
