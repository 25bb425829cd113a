"""Estimate memory and time of a run before it starts: count the memory, and measure the time in a short trial.

The trial rotates, propagates and regularises a small part of the volume at its full row length, and simulates one slab
of a few tilts. Each time is scaled with the amount of work (voxels, FFTs, layers, iterations). The time of tracing is
taken from a benchmark instead (experiments/benchmark_tracing.json, two cores). If a GPU reconstructs, the trial runs a
few tilts and one proximal step of full size on it. Later runs of the same process reuse the times of a trial.

How many iterations a stopping rule leaves, how many weights a search tries and how many passes a refinement takes is
not known before. The usual numbers are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aetlab import forward
from aetlab.core.backend import n_threads, prepare_process, threads
from aetlab.core.grid import n_slices
from aetlab.core.nouns import Atoms
from aetlab.forward.model import SMALL_PLANE
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import ROTATIONS
from aetlab.reconstruction.device import find_gpu, support_margin_A
from aetlab.reconstruction.fit import Stage, at_least_cost, fit_stages, settled_poses
from aetlab.reconstruction.iterations import LEAST, PATIENCE
from aetlab.reconstruction.memory import memory_by_stage
from aetlab.reconstruction.tiles import largest_part, margin_rows, tiles_of
from aetlab.reconstruction.trials import (
    fft_s,
    iteration_on_gpu_s,
    n_ffts,
    once,
    prox_s,
    refined_pass_s,
    simulated_tilt_s,
    turning_s,
)
from aetlab.reconstruction.weight import TRIAL_ITERATIONS, smaller_problem
from aetlab.spec import (
    RunSpec,
    TileSpec,
    coarse_refinement_layers,
    dose_per_image_e_A2,
    leaves_counts_out,
    tilt_angles_deg,
)
from aetlab.spec.tile import JOINED

if TYPE_CHECKING:
    from aetlab.reconstruction.on_gpu import Gpu

#: Seconds of tracing per atom, all rounds, and of scoring.
TRACE_S_PER_ATOM, _SCORE_S_PER_ATOM = 3.1e-4, 1e-4
#: Share of the time of tracing in which joined sites are measured again.
_SHARP_SHARE = 0.25
#: Time to align a tilt, in units of a reconstruction step with that tilt (measured at 96³ voxels).
_ALIGNED_TILT = 6.0
#: A search of the weight tries about this many; each iteration fits nine tenths of the tilts.
_WEIGHTS = 4.5
#: Iterations after which left-out counts are predicted best, per root of the electrons of a pixel, and with a prior as
#: a share of all; the time of such an iteration, which also predicts every fourth tilt, in units of one of the fit.
_BEST, _BEST_OF_PRIOR, _SPLIT_ITERATION = 0.3, 0.7, 1.12
#: Iterations after which a volume changes by less than :data:`_SETTLED_AT` of itself, and the exponent for other parts;
#: they were 11 to 33 in the nine fits of docs/engine.md.
_SETTLED, _SETTLED_AT, _SETTLING = 18, 0.02, -0.6
#: Voxels times tilts of all iterations up to which a run is short, and the time to simulate a tilt in units of a
#: reconstruction step with that tilt.
_SHORT_RUN, _SIMULATED_TILT = 5e9, 20
#: Time to predict the images of a tilt, in units of a reconstruction step with that tilt or of a pass with its atoms.
_PREDICTED_TILT = 0.5


@dataclass(frozen=True)
class Estimate:
    """Peak memory in bytes and time in seconds of each stage; no seconds if they were not tried.

    ``gpu`` is the name of the GPU or the ``n_gpus`` that reconstruct, or None. ``gpu_bytes`` is the memory needed on
    each. ``at_most`` says that images which are not read yet may leave less to do.
    """

    memory_bytes: dict[str, float]
    seconds: dict[str, float]
    gpu: str | None = None
    gpu_bytes: float = 0.0
    n_gpus: int = 1
    at_most: bool = False

    @property
    def peak_bytes(self) -> float:
        """Return the memory of the stage that needs most."""
        return max(self.memory_bytes.values())

    def in_one_line(self) -> str:
        """Return the line for the log."""
        each = "each of " if self.n_gpus > 1 else ""
        where = f"on the CPU and {self.gpu_bytes / 1e9:.2f} GB of {each}{self.gpu}" if self.gpu else "on the CPU"
        memory = f"needs about {self.peak_bytes / 1e9:.2f} GB"
        if not self.seconds:
            return f"{memory} {where} (too short a run for a trial of its time)"
        parts = ", ".join(f"{stage} {duration(s)}" for stage, s in self.seconds.items())
        limit = "at most " if self.at_most else ""
        return f"{memory} and {limit}{duration(sum(self.seconds.values()))} {where} ({parts}; by a short trial)"

    def as_table(self) -> str:
        """Return a table with one line for each stage."""
        lines = [f"{'stage':<12} {'memory (GB)':>11} {'time':>10}"]
        memory = {stage: f"{n_bytes / 1e9:.2f}" for stage, n_bytes in self.memory_bytes.items()}
        lines += [f"{stage:<12} {memory.get(stage, ''):>11} {duration(seconds):>10}"
                  for stage, seconds in self.seconds.items()]
        if self.gpu:
            name, verb = ("of each GPU", "reconstruct") if self.n_gpus > 1 else ("of the GPU", "reconstructs")
            lines.append(f"{name:<12} {self.gpu_bytes / 1e9:>11.2f}            {self.gpu} {verb}")
        return "\n".join(lines)


def estimate(spec: RunSpec, atoms: Atoms) -> Estimate:
    """Return memory and time of each stage of a run of ``spec`` on ``atoms``; the trial takes about a second at 480³.

    Trials of ``reg.weight=auto`` and of the stopping rule are the stage ``decide``; refinement and validation have
    theirs where there are any. An idle machine is assumed.
    """
    prepare_process()
    if spec.tile.enabled:
        return _estimate_tiles(spec, atoms)
    device = find_gpu(spec)
    memory, seconds = memory_by_stage(spec, on_gpu=device is not None), _seconds_by_stage(spec, atoms, device)
    return _estimated(memory, seconds, device, spec)


def estimate_before_run(spec: RunSpec, atoms: Atoms) -> Estimate:
    """Return :func:`estimate`, but no times of a run that takes seconds: a trial would be a tenth of it."""
    if not is_short(spec):
        return estimate(spec, atoms)
    device = find_gpu(spec)
    return _estimated(memory_by_stage(spec, on_gpu=device is not None), {}, device, spec)


def is_short(spec: RunSpec) -> bool:
    """Return whether a run has few tilts and voxels, and no stage or method that takes longer than the usual ones."""
    if (spec.tile.enabled or spec.align.enabled or spec.refine.kind != "none" or spec.validate.kind != "none"
            or spec.reg.weight == "auto" or ROTATIONS[spec.engine.rotation].matrix is None):
        return False
    simulated = _SIMULATED_TILT * max(1, spec.simulate.n_frozen_phonons) * spec.simulate.oversample**3
    n_visits = len(tilt_angles_deg(spec.tilts, spec.wedge)) * (spec.engine.n_iterations + simulated)
    return n_visits * math.prod(spec.scale.shape_zxy) <= _SHORT_RUN


def _estimated(memory: dict[str, float], seconds: dict[str, float], device: Gpu | None, spec: RunSpec) -> Estimate:
    if device is None:
        return Estimate(memory, seconds, at_most=spec.engine.support != "all" and spec.data.kind == "measured")
    from aetlab.reconstruction.on_gpu import gpu_bytes

    return Estimate(memory, seconds, device.name, gpu_bytes(spec), spec.engine.devices)


def _estimate_tiles(spec: RunSpec, atoms: Atoms) -> Estimate:
    """Return memory and time of one tile, or of the run that makes and joins all tiles one after the other."""
    tiles, part = tiles_of(spec), largest_part(spec)
    joins = spec.tile.index == JOINED
    done = tiles if joins else (tiles[spec.tile.index],)
    device = find_gpu(part)
    one = _seconds_by_stage(part, atoms, device)
    n_reconstructed = sum(tile.n_rows for tile in done) / part.scale.shape_zxy[2]
    margin = margin_rows(spec)
    n_traced = sum(tile.within(margin).n_rows for tile in done) / spec.scale.shape_zxy[2]
    decide_s = one.get("decide", 0.0)
    if spec.align.enabled:
        decide_s += one["reconstruct"] * min(settled_poses(spec) / spec.engine.n_iterations, 1)
    simulated = spec.data.kind != "measured"
    seconds = {"simulate": _simulation_s(replace(spec, tile=TileSpec()), atoms)} if simulated else {}
    seconds |= {"cut": 0.0} | ({"decide": decide_s} if decide_s else {})
    seconds |= {"reconstruct": n_reconstructed * one["reconstruct"], "trace": n_traced * one["trace"]}
    if joins:
        n_rows = spec.scale.shape_zxy[2] / part.scale.shape_zxy[2]
        seconds["join"] = _SHARP_SHARE * one["trace"]
        seconds |= {stage: one[stage] * (n_reconstructed if stage == "refine" else n_rows)
                    for stage in ("refine", "validate") if stage in one}
        seconds |= {"score": one["score"]} if simulated else {}
    memory = memory_by_stage(spec, on_gpu=device is not None)
    return _estimated(memory, seconds, device, part)


def _seconds_by_stage(spec: RunSpec, atoms: Atoms, device: Gpu | None) -> dict[str, float]:
    support = _expected_support(spec, atoms)

    def iteration_s(spec: RunSpec) -> float:
        if not device:
            return _on_cpu_s(spec, support)
        return once(lambda spec: iteration_on_gpu_s(spec, device), spec, "scale", "binning", "engine", "defocus",
                    "microscope", "reg", "tilts", "wedge")

    stages = fit_stages(spec, usual_iterations(spec))
    reconstruct_s = _alignment_s(at_least_cost(spec))
    reconstruct_s += sum(usual_length(stage) * iteration_s(stage.spec) for stage in stages)
    trace_s = TRACE_S_PER_ATOM * len(atoms)
    decide_s = _decision_s(spec, atoms, iteration_s)
    simulated = spec.data.kind != "measured"
    seconds = {"simulate": _simulation_s(spec, atoms)} if simulated else {}
    seconds |= ({"decide": decide_s} if decide_s else {}) | {"reconstruct": reconstruct_s, "trace": trace_s}
    pass_s, n_tilts = 0.0, len(tilt_angles_deg(spec.tilts, spec.wedge))
    if spec.refine.kind != "none":
        from aetlab.refinement import usual_passes

        pass_s, coarse_s = _pass_s(spec, atoms)
        n_fine, n_coarse = usual_passes(spec.refine, n_tilts, spec.dose.total_e_A2, int(atoms.numbers.min(initial=8)))
        seconds["refine"] = n_fine * pass_s + n_coarse * coarse_s
    if spec.validate.kind != "none":
        seconds["validate"] = _PREDICTED_TILT * (n_tilts * _tilt_on_cpu_s(spec) + pass_s)
        if spec.validate.kind == "halves":
            refined_s = seconds.get("refine", 0.0) if spec.validate.refined else 0.0
            seconds["validate"] += 2 * (reconstruct_s + trace_s + refined_s)
    return seconds | ({"score": _SCORE_S_PER_ATOM * len(atoms)} if simulated else {})


def _pass_s(spec: RunSpec, atoms: Atoms) -> tuple[float, float]:
    """Return the seconds of a pass of a refinement, with fine and with coarse slices."""
    def fine_pass_s(spec: RunSpec) -> float:
        return refined_pass_s(spec, atoms, spec.binning.n_layers)

    def coarse_pass_s(spec: RunSpec) -> float:
        return refined_pass_s(spec, atoms, coarse_refinement_layers(spec))

    reads = ("scale", "sample", "engine", "defocus", "microscope", "binning", "refine", "tilts", "wedge", "seed")
    return once(fine_pass_s, spec, *reads), once(coarse_pass_s, spec, *reads)


def usual_iterations(spec: RunSpec) -> int:
    """Return about how many iterations a fit may take; all of them unless it stops by counts that are left out."""
    if not leaves_counts_out(spec):
        return spec.engine.n_iterations
    return min(max(round(spec.reg.iterations_factor * _best_predicted(spec)), LEAST), spec.engine.n_iterations)


def usual_length(stage: Stage) -> int:
    """Return about how many iterations a stage takes; fewer than it may where a tolerance ends it."""
    if not stage.tolerance:
        return stage.n_iterations
    settled = round(_SETTLED * (stage.tolerance / _SETTLED_AT) ** _SETTLING)
    return min(max(settled, settled_poses(stage.spec) + 1), stage.n_iterations)


def _expected_support(spec: RunSpec, atoms: Atoms) -> float:
    """Return about which part of the positions (z, x) is reconstructed; 1 for a series that is not read yet."""
    if spec.engine.support == "all" or spec.data.kind == "measured":
        return 1.0
    from aetlab.forward.support import expect_support

    electrons = forward.effective_electrons_per_pixel(dose_per_image_e_A2(spec), spec.scale.voxel_A,
                                                      spec.microscope.dqe)
    return float(expect_support(atoms.positions_A, spec.scale.shape_zxy, spec.scale.voxel_A,
                                np.array(tilt_angles_deg(spec.tilts, spec.wedge)), len(spec.defocus.planes_nm),
                                electrons, support_margin_A(spec)).mean())


def _best_predicted(spec: RunSpec) -> float:
    if REGULARISERS[spec.reg.kind].weighted:
        return _BEST_OF_PRIOR * spec.engine.n_iterations
    return _BEST * math.sqrt(dose_per_image_e_A2(spec) * spec.scale.voxel_A**2 * spec.microscope.dqe)


def _decision_s(spec: RunSpec, atoms: Atoms, iteration_s: Callable[[RunSpec], float]) -> float:
    """Return the seconds of the trials of a weight that is searched and of the number of iterations."""
    decide_s = 0.0
    if leaves_counts_out(spec):
        n_tried = min(math.ceil(_best_predicted(spec)) + PATIENCE, spec.engine.n_iterations)
        decide_s += n_tried * _SPLIT_ITERATION * iteration_s(at_least_cost(spec))
    if spec.reg.weight == "auto" and math.isfinite(spec.dose.total_e_A2):
        small = smaller_problem(spec)
        if small is not None:
            n_z, n_x, n_y = small.scale.shape_zxy
            half_A = np.array([n_x, n_y, n_z]) * small.scale.voxel_A / 2
            inside = np.asarray((np.abs(atoms.positions_A) < half_A).all(axis=1))
            decide_s += _simulation_s(small, atoms.select(inside))
        decide_s += _WEIGHTS * TRIAL_ITERATIONS * iteration_s(at_least_cost(small or spec))
    return decide_s


def _simulation_s(spec: RunSpec, atoms: Atoms) -> float:
    """Return the seconds of the simulation of all tilts."""
    tilt_s = once(lambda spec: simulated_tilt_s(spec, atoms), spec, "scale", "sample", "engine", "defocus",
                  "microscope", "simulate")
    return len(tilt_angles_deg(spec.tilts, spec.wedge)) * tilt_s


def _on_cpu_s(spec: RunSpec, support: float) -> float:
    """Return the seconds of an iteration on the CPU, as the sum of its parts, over a part ``support`` of (z, x)."""
    n_tilts, tilt_s = len(tilt_angles_deg(spec.tilts, spec.wedge)), _tilt_on_cpu_s(spec, support)
    return n_tilts * tilt_s + support * once(prox_s, spec, "scale", "engine", "reg")


def _alignment_s(spec: RunSpec) -> float:
    """Return the seconds of all alignments on the CPU; the time of those on a GPU has not been measured."""
    if not spec.align.enabled:
        return 0.0
    n_aligned = sum(i < spec.engine.n_iterations for i in spec.align.at)
    return n_aligned * _ALIGNED_TILT * len(tilt_angles_deg(spec.tilts, spec.wedge)) * _tilt_on_cpu_s(spec)


def _tilt_on_cpu_s(spec: RunSpec, support: float = 1.0) -> float:
    """Return the seconds of a step with one tilt on the CPU; slices outside a disc of that support are skipped."""
    n_z, n_x, n_y = spec.scale.shape_zxy
    depth = min(1.0, math.sqrt(4 / math.pi * support * n_z * n_x) / n_z)
    n_transformed = n_ffts(depth * n_slices(n_z, spec.binning.n_layers), len(spec.defocus.planes_nm))
    with threads(1 if n_x * n_y <= SMALL_PLANE else n_threads()):
        return (support * once(turning_s, spec, "scale", "binning", "engine")
                + n_transformed * once(fft_s, spec, "scale", "binning", "engine", "defocus", "microscope"))


def duration(seconds: float) -> str:
    """Return a time in s, min or h."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
