"""Measure how long parts of a run take on this machine, in short trials before the run.

A trial counts the seconds of the processor where they are fewer than those of the clock: other programs that keep the
cores busy do not make a run look longer. On an idle machine the clock counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aetlab import forward
from aetlab.core.backend import n_threads
from aetlab.core.grid import n_slices
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.multislice import make_multislice
from aetlab.forward.series_optics import series_optics
from aetlab.forward.simulate import SLAB_BYTES, VOXEL_ROTATION
from aetlab.methods.regulariser import Problem
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import make_rotation
from aetlab.reconstruction.device import solver_parts
from aetlab.spec import RunSpec, tilt_angles_deg

if TYPE_CHECKING:
    from aetlab.reconstruction.on_gpu import Gpu

#: Measured seconds by trial and the settings that it depends on.
_tried: dict[tuple[str, ...], float] = {}
#: Tilts of the trial of a refinement.
_REFINED_TILTS = 2
#: In the trial: voxels along z and x of the part that is rotated and regularised, and minimum of simulated layers.
_TRIAL_SIDE, _TRIAL_LAYERS = 160, 16
_TRIAL_SLICES, _TRIAL_INNER = 4, 2
#: Tilts of the trial on a GPU.
_TRIAL_TILTS = 4


def once(trial: Callable[[RunSpec], float], spec: RunSpec, *groups: str) -> float:
    """Return the seconds that ``trial`` measures, or has measured before for equal settings of ``groups``."""
    key = (trial.__qualname__, *(repr(getattr(spec, group)) for group in groups))
    if key not in _tried:
        _tried[key] = trial(spec)
    return _tried[key]


def measure_s(work: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that ``work`` takes on the processor, at most those of the clock."""
    start, used = time.perf_counter(), time.process_time()
    work(*arguments)
    return min(time.perf_counter() - start, time.process_time() - used)


def refined_pass_s(spec: RunSpec, atoms: Atoms, n_layers_per_slice: int) -> float:
    """Return the seconds of one pass of a refinement of ``atoms`` over all tilts, from a few tilts."""
    from aetlab.refinement.model import AtomModel, Sites

    defocus_A = 10.0 * np.array(spec.defocus.planes_nm)
    shape = spec.scale.shape_zxy
    images = np.ones((_REFINED_TILTS, len(defocus_A), *shape[1:]), np.float32)
    series = TiltSeries(images, np.linspace(20.0, 50.0, _REFINED_TILTS), defocus_A, spec.scale.voxel_A)
    elements = tuple(sorted(set(atoms.numbers.tolist())))
    model = AtomModel(series, shape, elements, microscope=spec.microscope, n_layers_per_slice=n_layers_per_slice,
                      parametrization=spec.refine.parametrization, debye_waller_A2=spec.refine.debye_waller_A2)
    sites = Sites(atoms.positions_A, np.ones(len(atoms)), np.searchsorted(elements, atoms.numbers))
    poses = Poses.nominal(series.tilt_deg, series.n_defoci)

    def work() -> None:
        for _ in model.gradients(sites, poses):
            pass

    work()
    return measure_s(work) / _REFINED_TILTS * len(tilt_angles_deg(spec.tilts, spec.wedge))


def turning_s(spec: RunSpec) -> float:
    """Return the seconds of one rotate-and-bin and one adjoint."""
    part, times = _part(spec)
    angles = np.array([20.0, 50.0])
    rotation = make_rotation(spec.engine.rotation, part, spec.binning.n_layers, angles)
    volume = np.ones(part, np.float32)
    slices = np.zeros((n_slices(part[0], spec.binning.n_layers), *part[1:]), np.float32)

    def turn(i_tilt: int) -> None:
        rotation.rotate_and_bin(volume, i_tilt, slices)
        rotation.add_adjoint(slices, i_tilt, 0.0, volume)

    turn(0)
    return times * min(measure_s(turn, 0), measure_s(turn, 1))


def fft_s(spec: RunSpec) -> float:
    """Return the seconds of the multislice of one tilt with its gradient, divided by the number of FFTs."""
    n_z, n_x, n_y = spec.scale.shape_zxy
    n_layers = max(1, min(spec.binning.n_layers, n_z // _TRIAL_SLICES))
    defocus_A = 10.0 * np.array(spec.defocus.planes_nm)
    series = TiltSeries(np.ones((1, len(defocus_A), n_x, n_y), np.float32), np.zeros(1), defocus_A, spec.scale.voxel_A)
    shape = (_TRIAL_SLICES * n_layers, n_x, n_y)
    engine = make_multislice(series_optics(series, shape, spec.microscope, n_layers), likelihood=spec.engine.likelihood)
    slices = np.zeros((_TRIAL_SLICES, n_x, n_y), np.float32)
    engine.cost_and_gradient(slices, series.images[0])
    trial_s = min(measure_s(engine.cost_and_gradient, slices, series.images[0]) for _ in range(3))
    return trial_s / n_ffts(_TRIAL_SLICES, len(defocus_A))


def prox_s(spec: RunSpec) -> float:
    """Return the seconds of the proximal step of one iteration."""
    row = REGULARISERS[spec.reg.kind]
    if row.cost == "none":
        return 0.0
    part, times = _part(spec)
    own = row.own(spec.reg)
    if row.cost == "inner":
        times *= own.inner_iterations / _TRIAL_INNER
        own = replace(own, inner_iterations=_TRIAL_INNER)
    prox = row.make(own, 1.0, _trial_problem(spec)).prox
    volume = np.ones(part, np.float32)
    prox(volume, 1.0)
    return times * measure_s(prox, volume, 1.0)


def simulated_tilt_s(spec: RunSpec, atoms: Atoms) -> float:
    """Return the seconds of one simulated tilt, scaled from the middle layers of the sample at tilt 0.

    The trial has as many layers as the simulation builds at once.
    """
    n_z, n_x, n_y = spec.scale.shape_zxy
    layers = min(n_z, max(_TRIAL_LAYERS, int(SLAB_BYTES / (4 * n_x * n_y))))
    middle = np.abs(atoms.positions_A[:, 2]) <= 0.5 * layers * spec.scale.voxel_A
    slab = replace(atoms, numbers=atoms.numbers[middle], positions_A=atoms.positions_A[middle],
                   part=atoms.part[middle])
    settings = replace(spec.simulate, kind="atoms")
    rng = np.random.default_rng(0)

    def simulate(n_tilts: int) -> None:
        forward.simulate_tilt_series(slab, (layers, n_x, n_y), spec.scale.voxel_A, np.zeros(n_tilts),
                                     10.0 * np.array(spec.defocus.planes_nm), microscope=spec.microscope,
                                     simulate=settings, debye_waller_A2=spec.sample.debye_waller_A2, rng=rng)

    simulate(1)
    # The difference between the two times excludes the work that all tilts share.
    few_s, many_s = measure_s(simulate, n_threads()), measure_s(simulate, 2 * n_threads())
    tilt_s = max(many_s - few_s, 0.2 * many_s) / n_threads() * n_z / layers
    if spec.simulate.kind == "voxels":
        voxels = replace(spec, engine=replace(spec.engine, rotation=VOXEL_ROTATION))
        tilt_s += 0.5 * turning_s(voxels) * spec.simulate.oversample**3
    return tilt_s


def iteration_on_gpu_s(spec: RunSpec, device: Gpu) -> float:
    """Return the seconds of an iteration on ``device``.

    A few tilts and the regulariser are measured at full size. The first two steps record the launches that all later
    steps replay.
    """
    from aetlab.reconstruction import on_gpu

    defocus_A = 10.0 * np.array(spec.defocus.planes_nm)
    shape = spec.scale.shape_zxy
    images = np.ones((_TRIAL_TILTS, len(defocus_A), *shape[1:]), np.float32)
    series = TiltSeries(images, np.linspace(10.0, 80.0, _TRIAL_TILTS), defocus_A, spec.scale.voxel_A)
    model = on_gpu.make_model(spec, series, device, blur_A=0.0)
    parts = solver_parts(model)
    volume = parts.zeros(shape)

    def descend() -> None:
        for i_tilt in range(_TRIAL_TILTS):
            model.descend(volume, i_tilt, 0.0)
        device.synchronize()

    descend()
    tilt_s = _clock_s(descend) / _TRIAL_TILTS
    prox_s = 0.0
    row = REGULARISERS[spec.reg.kind]
    if row.cost != "none":
        prox = parts.make_prior(row, row.own(spec.reg), 1.0, _trial_problem(spec)).prox

        def regularise() -> None:
            prox(volume, 1.0)
            device.synchronize()

        regularise()
        prox_s = _clock_s(regularise)
    return len(tilt_angles_deg(spec.tilts, spec.wedge)) * tilt_s + prox_s


def _part(spec: RunSpec) -> tuple[tuple[int, int, int], float]:
    """Return the shape of the part of the volume used in the trial, and the ratio of the volume to the part."""
    n_z, n_x, n_y = spec.scale.shape_zxy
    part = (min(n_z, _TRIAL_SIDE), min(n_x, _TRIAL_SIDE), n_y)
    return part, math.prod(spec.scale.shape_zxy) / math.prod(part)


def _trial_problem(spec: RunSpec) -> Problem:
    return Problem(spec.scale.shape_zxy, spec.scale.voxel_A, _TRIAL_TILTS, blur_A=spec.scale.voxel_A)


def n_ffts(slices: float, n_defoci: int) -> float:
    """Return the number of FFTs of one tilt, for cost and gradient."""
    return 4 * (slices - 1) + 2 * n_defoci + 2


def _clock_s(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes on a GPU, by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
