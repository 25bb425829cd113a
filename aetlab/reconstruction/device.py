"""Choose the device of a reconstruction: the forward model on the GPU or the CPU, and the parts of the solver.

What is computed on a GPU is in :mod:`aetlab.reconstruction.on_gpu`, which a run on the CPU does not import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aetlab import tracing
from aetlab.core import backend
from aetlab.core.errors import GpuError
from aetlab.core.nouns import TiltSeries, Volume
from aetlab.forward import ForwardModel
from aetlab.forward.multislice import loses_fused_kernels
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.methods.regularisers import REGULARISERS
from aetlab.reconstruction.model import Model, Parts, model_options
from aetlab.spec import RunSpec, SpecError, TraceSpec

if TYPE_CHECKING:
    from aetlab.forward.alignment import MakeEquations
    from aetlab.forward.simulate import MakeExposure
    from aetlab.reconstruction.on_gpu import Gpu
    from aetlab.refinement.atom_slices import AtomSlices

#: Width in Å that is reconstructed around the support of the sample, for the tails of its atoms.
_SUPPORT_MARGIN_A = 2.0


def choose_model(spec: RunSpec, series: TiltSeries, *, blur_A: float, say: Callable[[str], None]) -> Model:
    """Return the forward model on the device that ``spec.engine.device`` selects.

    ``auto`` selects a GPU if one can be used. ``say`` is called with one line that names the device.

    Raises
    ------
    SpecError
        If a GPU is required and none can be used.
    """
    if spec.engine.device != "cpu":
        try:
            device = _open(spec)
            from aetlab.reconstruction import on_gpu

            model = on_gpu.make_model(spec, series, device, blur_A=blur_A)
        except GpuError as error:
            if spec.engine.device == "gpu":
                raise _refusal(error) from None
            say(f"the CPU reconstructs: {error}")
        else:
            say(f"{device.name} reconstructs")
            return model
    _, n_x, n_y = spec.scale.shape_zxy
    if loses_fused_kernels(spec.engine.likelihood, (n_x, n_y)):
        say(f"engine.likelihood={spec.engine.likelihood} has no fused kernels: a tilt takes up to 1.7 times as long")
    return ForwardModel(series, spec.scale.shape_zxy, support=_support(spec, series, say),
                        **model_options(spec, blur_A))


def require_gpu(spec: RunSpec) -> None:
    """Raise :class:`SpecError` with one line if ``spec`` requires a GPU and none can be used."""
    if spec.engine.device == "gpu":
        try:
            _open(spec)
            from aetlab.reconstruction import on_gpu

            on_gpu.require_room(spec)
        except GpuError as error:
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
        from aetlab.refinement.atom_slices import CpuAtomSlices

        return CpuAtomSlices
    from aetlab.reconstruction import on_gpu

    try:
        return on_gpu.choose_slices(spec, n_atoms, say)
    except GpuError as error:
        raise _refusal(error) from None


def choose_exposure(spec: RunSpec, say: Callable[[str], None]) -> MakeExposure | None:
    """Return what makes the exposures of the simulation on the device that ``spec`` selects; None for the CPU.

    ``auto`` selects the CPU: that a GPU simulates faster has not been measured. The CPU also simulates what a GPU
    cannot; ``say`` is called with one line in this case. What is returned raises :class:`SpecError` if a GPU is
    required and none can be used.
    """
    if spec.engine.device != "gpu":
        return None
    if spec.simulate.kind != "atoms":
        say(f"the CPU simulates: simulate={spec.simulate.kind} has no GPU version")
        return None
    from aetlab.reconstruction import on_gpu

    return on_gpu.choose_exposure(spec, say, _refusal)


def choose_tracing(spec: RunSpec, trace: TraceSpec, volume: Volume, say: Callable[[str], None]) -> tracing.Work:
    """Return the work of the tracing of ``volume`` on the device that ``spec`` selects; ``auto`` selects the CPU.

    The CPU also does fits that a GPU cannot; ``say`` is called with one line in this case. ``trace`` is in voxels of
    the volume.

    Raises
    ------
    SpecError
        If a GPU is required and none can be used.
    """
    if spec.engine.device != "gpu":
        return tracing.ON_CPU
    from aetlab.reconstruction import on_gpu

    try:
        return on_gpu.choose_tracing(spec, trace, volume, say)
    except GpuError as error:
        raise _refusal(error) from None


def find_gpu(spec: RunSpec) -> Gpu | None:
    """Return the GPU or the GPUs that a reconstruction of ``spec`` uses; None if it uses the CPU."""
    if spec.engine.device == "cpu":
        return None
    try:
        return _open(spec)
    except GpuError:
        return None


def tilt_equations_of(model: Model) -> MakeEquations | None:
    """Return what makes the equations of an alignment on the GPU of ``model``; None for the CPU.

    The CPU also computes those of a volume on several GPUs.
    """
    if isinstance(model, ForwardModel):
        return None
    from aetlab.reconstruction import on_gpu

    return on_gpu.tilt_equations_of(model)


def solver_parts(model: Model) -> Parts:
    """Return the parts of the solver for the device that holds the volumes of ``model``."""
    support = None
    if isinstance(model, ForwardModel):
        support = model.support
    else:
        from aetlab.reconstruction import on_gpu

        parts = on_gpu.solver_parts(model)
        if parts is not None:
            return parts
    return Parts("cpu", _zeros, np.asarray,
                 lambda row, own, weight, problem: row.make(own, weight, replace(problem, support=support)))


def _open(spec: RunSpec) -> Gpu:
    """Return the GPU or the GPUs for the reconstruction; nothing of the GPU is imported where none can be used."""
    if LIKELIHOODS[spec.engine.likelihood].gpu is None:
        raise GpuError(f"engine.likelihood={spec.engine.likelihood} has no GPU version")
    method = REGULARISERS[spec.reg.kind].gpu
    if method is None:
        raise GpuError(f"reg.kind={spec.reg.kind} has no GPU version")
    if spec.engine.support != "all":
        raise GpuError(f"engine.support={spec.engine.support} has no GPU version")
    if spec.engine.devices > 1 and method.in_slabs is None:
        raise GpuError(f"reg.kind={spec.reg.kind} has no version for engine.devices={spec.engine.devices}")
    problem = backend.gpu_problem()
    if problem:
        raise GpuError(problem)
    from aetlab.reconstruction import on_gpu

    return on_gpu.open_for_reconstruction(spec)


def support_margin_A(spec: RunSpec) -> float:
    """Return the width in Å that is reconstructed around the support of the sample."""
    return _SUPPORT_MARGIN_A + (spec.align.reach_A if spec.align.enabled else 0.0)


def _support(spec: RunSpec, series: TiltSeries, say: Callable[[str], None]) -> np.ndarray | None:
    """Return the positions (Z, X) that are reconstructed; None for all. ``say`` is called with one line on them."""
    if spec.engine.support == "all":
        return None
    from aetlab.forward.support import find_support

    support = find_support(series, spec.scale.shape_zxy[0], support_margin_A(spec))
    if support.all():
        say(f"engine.support={spec.engine.support}: the images do not show that any position (z, x) is vacuum")
        return None
    say(f"engine.support={spec.engine.support}: {100 * support.mean():.1f} % of positions (z, x) are reconstructed, "
        "and the images show vacuum elsewhere")
    return support


def _refusal(error: GpuError) -> SpecError:
    return SpecError(f"engine.device='gpu' cannot be used: {error}; choose one of auto, cpu")


def _zeros(shape: tuple[int, int, int]) -> np.ndarray:
    volume: np.ndarray = backend.empty_aligned(shape)
    volume[...] = 0
    return volume
