"""Reconstruct, simulate, trace and refine on GPUs: the settings of a run joined with :mod:`aetlab.gpu`.

Only :mod:`aetlab.reconstruction.device`, which chooses the device, and the estimate of a run on a GPU use these.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from aetlab import gpu, tracing
from aetlab.core.backend import n_threads
from aetlab.core.errors import GpuError
from aetlab.core.nouns import Atoms, TiltSeries, Volume
from aetlab.core.slabs import Slabs
from aetlab.forward.alignment import MakeEquations
from aetlab.forward.simulate import CpuExposure, Exposure, MakeExposure, SimulatedMicroscope
from aetlab.methods.regulariser import Prior, Problem, Regulariser
from aetlab.reconstruction.model import Model, Parts, model_options
from aetlab.refinement.tables import tabulate_atoms
from aetlab.spec import RunSpec, SpecError, TraceSpec, leaves_counts_out, refinement_layers, tilt_angles_deg
from aetlab.spec.derived import blurs_images

Gpu = gpu.Device | gpu.Group

#: Atoms per Å³ that are counted before they are known: the whole box filled as with silicon.
_ATOMS_PER_A3 = 0.05


def open_for_reconstruction(spec: RunSpec) -> Gpu:
    """Return the GPU or the GPUs that reconstruct; raise :class:`GpuError` if they cannot be used."""
    gpu.check_rotation(spec.engine.rotation, spec.scale.shape_zxy)
    if spec.engine.devices == 1:
        return gpu.open_device(gpu_bytes(spec))
    return gpu.open_group(_bytes_of_each(spec), spec.scale.shape_zxy[2])


def require_room(spec: RunSpec) -> None:
    """Raise :class:`GpuError` if the simulation or the refinement of ``spec`` cannot be done on the GPU."""
    n_atoms = math.ceil(_ATOMS_PER_A3 * _volume_A3(spec))
    if spec.data.kind == "simulated" and spec.simulate.kind == "atoms":
        gpu.open_device(_exposure_bytes(spec, n_atoms))
    if spec.refine.kind != "none":
        _open_for_refinement(spec, n_atoms)


def make_model(spec: RunSpec, series: TiltSeries, device: Gpu, *, blur_A: float) -> gpu.GpuModel | gpu.SlabModel:
    """Return the forward model on one GPU or on several."""
    options = model_options(spec, blur_A)
    if isinstance(device, gpu.Group):
        return gpu.SlabModel(series, spec.scale.shape_zxy, group=device, **options)
    differences = gpu.differences_bytes(series)
    if spec.align.enabled and differences:  # the model and the equations of the alignment have their own
        gpu.check_room(device, gpu_bytes(spec) + 2 * differences)
    return gpu.GpuModel(series, spec.scale.shape_zxy, device=device, **options)


def choose_slices(spec: RunSpec, n_atoms: int, say: Callable[[str], None]) -> gpu.GpuSlices:
    """Return what makes the slices of a thread for the refinement of ``n_atoms``."""
    device = _open_for_refinement(spec, n_atoms)
    say(f"{device.name} refines")
    return gpu.GpuSlices(*(device.devices if isinstance(device, gpu.Group) else (device,)))


def choose_exposure(spec: RunSpec, say: Callable[[str], None],
                    refusal: Callable[[GpuError], SpecError]) -> MakeExposure:
    """Return what makes the exposures of the simulation; it raises ``refusal`` of the error of a GPU."""
    def make(optics: SimulatedMicroscope, atoms: Atoms, parametrization: str,
             debye_waller_A2: dict[str, float]) -> Exposure:
        elements = np.flatnonzero(np.bincount(atoms.numbers))
        tables = tabulate_atoms(tuple(elements.tolist()), optics.voxel_A, parametrization=parametrization,
                                debye_waller_A2=debye_waller_A2)
        try:
            gpu.check_reach(float(tables.reach.max()))
        except GpuError as error:
            say(f"the CPU simulates: {error}")
            return CpuExposure(optics, atoms, parametrization, debye_waller_A2)
        try:
            device = gpu.open_device(_exposure_bytes(spec, len(atoms)))
        except GpuError as error:
            raise refusal(error) from None
        say(f"{device.name} simulates")
        return gpu.GpuExposure(optics, elements, tables, device)

    return make


def choose_tracing(spec: RunSpec, trace: TraceSpec, volume: Volume, say: Callable[[str], None]) -> tracing.Work:
    """Return the work of the tracing of ``volume``; the CPU does fits that a GPU cannot."""
    shape = volume.potential_V.shape
    fits_bytes = gpu.fits_bytes(shape, math.ceil(_ATOMS_PER_A3 * _volume_A3(spec)))
    device = gpu.open_device(fits_bytes + gpu.search_bytes(shape))
    say(f"{device.name} traces")
    try:
        gpu.check_radius(trace.fit_radius)
    except GpuError as error:
        say(f"the CPU fits the sites: {error}")
        return tracing.Work(search=gpu.GpuSearch(device))
    return tracing.Work(gpu.GpuSearch(device), gpu.GpuFits(device))


def tilt_equations_of(model: Model) -> MakeEquations | None:
    """Return what makes the equations of an alignment on the GPU of ``model``; None if it is not on one GPU."""
    if not isinstance(model, gpu.GpuModel):
        return None
    return functools.partial(gpu.GpuTiltEquations, model=model)


def solver_parts(model: Model) -> Parts | None:
    """Return the parts of the solver for the GPU or the GPUs of ``model``; None if it is on the CPU."""
    if isinstance(model, gpu.SlabModel):
        return _parts_in_slabs(model.group, model.shape_zxy)
    if not isinstance(model, gpu.GpuModel):
        return None
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


def gpu_bytes(spec: RunSpec) -> int:
    """Return the bytes that a reconstruction of ``spec`` needs on a GPU; on the first, which needs most, of several."""
    return max(_bytes_of_each(spec))


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


def _exposure_bytes(spec: RunSpec, n_atoms: int) -> int:
    n_z, n_x, n_y = (n * spec.simulate.oversample for n in spec.scale.shape_zxy)
    return gpu.exposure_bytes(
        (n_z, n_x, n_y), len(spec.defocus.planes_nm), n_atoms, n_layers=spec.simulate.n_layers,
        voxel_A=spec.scale.voxel_A / spec.simulate.oversample, limited=spec.simulate.band_limit < 1)


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
