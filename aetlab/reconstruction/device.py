"""Choose the device of a reconstruction: the forward model on the GPU or the CPU, and the parts of the solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetlab import gpu, tracing
from aetlab.core.backend import empty_aligned, n_threads
from aetlab.core.nouns import Atoms, TiltSeries, Volume
from aetlab.core.slabs import Slabs
from aetlab.forward import ForwardModel
from aetlab.forward.exit_waves import ExitWaves
from aetlab.forward.multislice import Optics, loses_fused_kernels
from aetlab.forward.simulate import CpuExposure, Exposure, MakeExposure, SimulatedMicroscope
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.methods.regulariser import Prior, Problem, Regulariser
from aetlab.methods.regularisers import REGULARISERS
from aetlab.refinement.atom_slices import AtomSlices, CpuAtomSlices
from aetlab.refinement.tables import tabulate_atoms
from aetlab.spec import RunSpec, SpecError, TraceSpec, leaves_counts_out, refinement_layers, tilt_angles_deg
from aetlab.spec.derived import blurs_images

Array = Any
Gpu = gpu.Device | gpu.Group

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
    if spec.engine.device != "cpu":
        try:
            device = _open(spec)
            model = gpu_model(spec, series, device, blur_A=blur_A)
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
    return ForwardModel(series, spec.scale.shape_zxy, **_options(spec, blur_A))


def gpu_model(spec: RunSpec, series: TiltSeries, device: Gpu, *, blur_A: float) -> gpu.GpuModel | gpu.SlabModel:
    """Return the forward model on one GPU or on several."""
    options = _options(spec, blur_A)
    if isinstance(device, gpu.Group):
        return gpu.SlabModel(series, spec.scale.shape_zxy, group=device, **options)
    return gpu.GpuModel(series, spec.scale.shape_zxy, device=device, **options)


def _options(spec: RunSpec, blur_A: float) -> dict[str, Any]:
    return {"microscope": spec.microscope, "n_layers_per_slice": spec.binning.n_layers,
            "rotation": spec.engine.rotation, "blur_A": blur_A, "likelihood": spec.engine.likelihood}


def require_gpu(spec: RunSpec) -> None:
    """Raise :class:`SpecError` with one line if ``spec`` requires a GPU and none can be used."""
    if spec.engine.device == "gpu":
        try:
            _open(spec)
            n_atoms = math.ceil(_ATOMS_PER_A3 * _volume_A3(spec))
            if spec.data.kind == "simulated" and spec.simulate.kind == "atoms":
                gpu.open_device(_exposure_bytes(spec, n_atoms))
            if spec.refine.kind != "none":
                _open_for_refinement(spec, n_atoms)
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
        device = _open_for_refinement(spec, n_atoms)
    except gpu.GpuError as error:
        raise _refusal(error) from None
    say(f"{device.name} refines")
    return gpu.GpuSlices(*(device.devices if isinstance(device, gpu.Group) else (device,)))


def choose_exposure(spec: RunSpec, say: Callable[[str], None]) -> MakeExposure | None:
    """Return what makes the exposures of the simulation on the device that ``spec`` selects; None for the CPU.

    ``auto`` selects the CPU: that a GPU simulates faster has not been measured. The CPU also simulates what a GPU
    cannot; ``say`` is called with one line in this case.

    Raises
    ------
    SpecError
        If a GPU is required and none can be used.
    """
    if spec.engine.device != "gpu":
        return None
    if spec.simulate.kind != "atoms":
        say(f"the CPU simulates: simulate={spec.simulate.kind} has no GPU version")
        return None

    def make(optics: SimulatedMicroscope, atoms: Atoms, parametrization: str,
             debye_waller_A2: dict[str, float]) -> Exposure:
        elements = np.flatnonzero(np.bincount(atoms.numbers))
        tables = tabulate_atoms(tuple(elements.tolist()), optics.voxel_A, parametrization=parametrization,
                                debye_waller_A2=debye_waller_A2)
        try:
            gpu.check_reach(float(tables.reach.max()))
        except gpu.GpuError as error:
            say(f"the CPU simulates: {error}")
            return CpuExposure(optics, atoms, parametrization, debye_waller_A2)
        try:
            device = gpu.open_device(_exposure_bytes(spec, len(atoms)))
        except gpu.GpuError as error:
            raise _refusal(error) from None
        say(f"{device.name} simulates")
        return gpu.GpuExposure(optics, elements, tables, device)

    return make


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
    shape = volume.potential_V.shape
    fits_bytes = gpu.fits_bytes(shape, math.ceil(_ATOMS_PER_A3 * _volume_A3(spec)))
    try:
        device = gpu.open_device(fits_bytes + gpu.search_bytes(shape))
    except gpu.GpuError as error:
        raise _refusal(error) from None
    say(f"{device.name} traces")
    try:
        gpu.check_radius(trace.fit_radius)
    except gpu.GpuError as error:
        say(f"the CPU fits the sites: {error}")
        return tracing.Work(search=gpu.GpuSearch(device))
    return tracing.Work(gpu.GpuSearch(device), gpu.GpuFits(device))


def _exposure_bytes(spec: RunSpec, n_atoms: int) -> int:
    n_z, n_x, n_y = (n * spec.simulate.oversample for n in spec.scale.shape_zxy)
    return gpu.exposure_bytes(
        (n_z, n_x, n_y), len(spec.defocus.planes_nm), n_atoms, n_layers=spec.simulate.n_layers,
        voxel_A=spec.scale.voxel_A / spec.simulate.oversample, limited=spec.simulate.band_limit < 1)


def find_gpu(spec: RunSpec) -> Gpu | None:
    """Return the GPU or the GPUs that a reconstruction of ``spec`` uses; None if it uses the CPU."""
    if spec.engine.device == "cpu":
        return None
    try:
        return _open(spec)
    except gpu.GpuError:
        return None


def gpu_bytes(spec: RunSpec) -> int:
    """Return the bytes that a reconstruction of ``spec`` needs on a GPU; on the first, which needs most, of several."""
    return max(_bytes_of_each(spec))


def exit_waves_of(spec: RunSpec, model: Model) -> Callable[[Optics], ExitWaves] | None:
    """Return what makes the exit waves of an alignment on the GPU of ``model``; None for the CPU.

    The CPU also computes those of a volume on several GPUs.
    """
    if not isinstance(model, gpu.GpuModel):
        return None
    device = model.device
    return lambda optics: gpu.GpuExitWaves(optics, spec.scale.shape_zxy, spec.binning.n_layers, "cubic", device)


def solver_parts(model: Model) -> Parts:
    """Return the parts of the solver for the device that holds the volumes of ``model``."""
    if isinstance(model, gpu.SlabModel):
        return _parts_in_slabs(model.group, model.shape_zxy)
    if not isinstance(model, gpu.GpuModel):
        return Parts("cpu", _zeros, np.asarray, lambda row, own, weight, problem: row.make(own, weight, problem))
    device = model.device

    def make_prior(row: Regulariser[Any], own: Any, weight: float, problem: Problem) -> Prior:
        assert row.gpu is not None
        return row.gpu.make(device, own, weight, problem)

    return Parts(device.name, lambda shape: device.zeros(shape, np.float32), device.upload, make_prior,
                 lambda volume, proximal, beta: gpu.extrapolate(device, volume, proximal, beta))


def _parts_in_slabs(group: gpu.Group, shape_zxy: tuple[int, int, int]) -> Parts:
    def place(values: np.ndarray) -> Slabs:
        # On one device the dual variables of total variation, several volumes, are one flat array.
        return group.place(values if values.ndim > 1 else values.reshape(-1, *shape_zxy))

    def make_prior(row: Regulariser[Any], own: Any, weight: float, problem: Problem) -> Prior:
        assert row.gpu is not None and row.gpu.in_slabs is not None
        return row.gpu.in_slabs(group, own, weight, problem)

    def extrapolate(volume: Slabs, proximal: Slabs, beta: float) -> None:
        for device, slab, before in zip(group.devices, volume.arrays, proximal.arrays, strict=True):
            gpu.extrapolate(device, slab, before, beta)

    return Parts(group.name, lambda shape: group.zeros(shape, np.float32), place, make_prior, extrapolate)


def _open(spec: RunSpec) -> Gpu:
    gpu.check_rotation(spec.engine.rotation, spec.scale.shape_zxy)
    if LIKELIHOODS[spec.engine.likelihood].gpu is None:
        raise gpu.GpuError(f"engine.likelihood={spec.engine.likelihood} has no GPU version")
    on_gpu = REGULARISERS[spec.reg.kind].gpu
    if on_gpu is None:
        raise gpu.GpuError(f"reg.kind={spec.reg.kind} has no GPU version")
    if spec.engine.devices == 1:
        return gpu.open_device(gpu_bytes(spec))
    if on_gpu.in_slabs is None:
        raise gpu.GpuError(f"reg.kind={spec.reg.kind} has no version for engine.devices={spec.engine.devices}")
    return gpu.open_group(_bytes_of_each(spec), spec.scale.shape_zxy[2])


def _bytes_of_each(spec: RunSpec) -> tuple[int, ...]:
    """Return the bytes that a reconstruction needs on each GPU."""
    n_tilts = math.ceil(len(tilt_angles_deg(spec.tilts, spec.wedge)) * (1.25 if leaves_counts_out(spec) else 1))
    about: dict[str, Any] = {"n_layers_per_slice": spec.binning.n_layers, "rotation": spec.engine.rotation,
                             "regulariser": spec.reg.kind, "mtf": blurs_images(spec.microscope),
                             "aligned": spec.align.enabled}
    sizes = spec.scale.shape_zxy, n_tilts, len(spec.defocus.planes_nm)
    if spec.engine.devices == 1:
        return (gpu.memory_needed_bytes(*sizes, **about),)
    return gpu.slab_needed_bytes(*sizes, n_devices=spec.engine.devices, **about)


def _open_for_refinement(spec: RunSpec, n_atoms: int) -> Gpu:
    """Return the GPU or the GPUs of a refinement, whose threads take them in turn."""
    n_devices = spec.engine.devices
    needed = _refinement_bytes(spec, n_atoms, math.ceil(n_threads() / n_devices))
    return gpu.open_device(needed) if n_devices == 1 else gpu.open_group(n_devices * (needed,), n_devices)


def _refinement_bytes(spec: RunSpec, n_atoms: int, n_threads: int) -> int:
    """Return the GPU memory of a refinement: slices and waves of each thread, fine and coarse ones."""
    return n_threads * sum(gpu.atom_slices_bytes(
        spec.scale.shape_zxy, len(spec.defocus.planes_nm), n_atoms, n_layers_per_slice=n_layers,
        voxel_A=spec.scale.voxel_A, mtf=blurs_images(spec.microscope) or spec.refine.contrast)
        for n_layers in refinement_layers(spec))


def _volume_A3(spec: RunSpec) -> float:
    return math.prod(spec.scale.shape_zxy) * spec.scale.voxel_A**3


def _refusal(error: gpu.GpuError) -> SpecError:
    return SpecError(f"engine.device='gpu' cannot be used: {error}; choose one of auto, cpu")


def _zeros(shape: tuple[int, int, int]) -> np.ndarray:
    volume: np.ndarray = empty_aligned(shape)
    volume[...] = 0
    return volume
