"""Count the memory of a run before it starts, and refuse a run that does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil

from aetlab.core.grid import n_slices
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import ROTATIONS, cubic
from aetlab.spec import RunSpec, SpecError, TileSpec, leaves_counts_out, refinement_layers, tilt_angles_deg

#: Memory of the interpreter, the libraries and the compiled kernels (measured at 48³ voxels).
BASE_BYTES = 0.3e9
#: Volumes that tracing holds (input, smoothed and the parts of the filter), and that scoring holds (true potential).
_TRACE_VOLUMES, _SCORE_VOLUMES = 5.0, 3.0
#: Volumes of a path through the posterior (residual as it was, atoms that come, a spectrum, a change, half a response),
#: and the arrays of its draws.
_PATH_VOLUMES, _DRAWS_BYTES = 4.5, 0.4e9
#: Series that magnification adds: images and weights of pixels at the magnifications found.
_MAGNIFIED = 2.0
#: Maximum bytes of rotation matrices that are kept for all tilts.
_MATRICES_BYTES = 256e6
#: Maximum bytes of all slabs of the potential while tilts are simulated in parallel.
_SLABS_BYTES = 1e9


def memory_by_stage(spec: RunSpec, *, on_gpu: bool = False) -> dict[str, float]:
    """Return the peak of CPU memory in bytes in each stage, including arrays that persist through it.

    With ``on_gpu``, the arrays of the solver lie on the GPU (counted by :mod:`aetlab.gpu.footprint`).
    """
    if spec.tile.enabled:
        return _memory_of_tiles(spec, on_gpu)
    n_z, n_x, n_y = spec.scale.shape_zxy
    volume, plane = 4.0 * n_z * n_x * n_y, 8.0 * n_x * n_y
    n_defoci = len(spec.defocus.planes_nm)
    n_tilts = len(tilt_angles_deg(spec.tilts, spec.wedge))
    images = 4.0 * n_tilts * n_defoci * n_x * n_y
    fine = spec.simulate.oversample
    potential = volume * fine**3 * 3 if spec.simulate.kind == "voxels" else 0.0
    slices = n_slices(n_z, spec.binning.n_layers)
    # Waves, real slices, images and transfer functions; measured amplitudes, in addition to both series. With a
    # support, propagators to the last slice from those before it.
    of_slice = 1.5 + (spec.engine.support != "all")
    engine = plane * (of_slice * slices + 2 * n_defoci + 4) + images * (1.25 if leaves_counts_out(spec) else 1)
    matrix = ROTATIONS[spec.engine.rotation].matrix
    engine += min(_MATRICES_BYTES, (matrix.bytes_per_column if matrix else 0.0) * n_z * n_x * n_tilts)
    if spec.align.enabled:
        # Transfer functions of all tilts; waves, slices and derivatives of the aligned tilt; one matrix.
        engine += plane * (n_defoci * (n_tilts + 40) + 1.5 * slices) + cubic.MATRIX.bytes_per_column * n_z * n_x
        engine += _MAGNIFIED * images * spec.align.magnification
    volumes = 2 + (0 if on_gpu else REGULARISERS[spec.reg.kind].volumes)
    kept = BASE_BYTES + 2 * images
    needed = {"simulate": BASE_BYTES + images + min(_SLABS_BYTES, volume * fine**3) + potential
              + 6 * n_defoci * plane * fine**2,
              "reconstruct": kept + engine + volumes * volume,
              "trace": kept + _TRACE_VOLUMES * volume}
    if spec.refine.kind != "none":
        needed["refine"] = (kept + images * (1 + _MAGNIFIED * spec.refine.magnification) + volume
                            + _refinement_bytes(spec, plane, images) + _path_bytes(spec, volume))
    return needed | {"score": kept + _SCORE_VOLUMES * volume}


def _refinement_bytes(spec: RunSpec, plane: float, images: float) -> float:
    """Return the bytes of the threads of a refinement, and of the correction of the sampling.

    ``plane`` are the bytes of a wave, ``images`` those of the series. In the last round coarse slices, which sample the
    information, are held beside the fine ones.
    """
    from aetlab.core.backend import n_threads  # imports the kernels, which only a refinement needs here
    from aetlab.forward.imaging import N_PLANES
    from aetlab.refinement.sampling import FACTOR

    n_defoci, n_workers = len(spec.defocus.planes_nm), min(spec.engine.n_threads or n_threads(), n_threads())
    slices, *coarse = (n_slices(spec.scale.shape_zxy[0], n_layers) for n_layers in refinement_layers(spec))
    a_pass = n_workers * plane * sum(2.5 * n + 4 * n_defoci + 4 for n in (slices, *coarse))
    if spec.refine.sampling == "coarse":
        return a_pass
    # Slices, transfer functions and their products in double precision, images and their spectra on finer pixels.
    n_planes = N_PLANES if spec.refine.focal_spread == "averaged" else 1
    return a_pass + images + n_workers * FACTOR**2 * plane * (0.5 * slices + (11 + n_planes) * n_defoci + 4)


def _path_bytes(spec: RunSpec, volume: float) -> float:
    """Return the bytes of the path through the posterior, where one is expected; ``volume`` are those of a volume."""
    from aetlab.refinement.passes import expects_sampling

    dose_e_A2 = spec.dose.total_e_A2 if spec.data.kind == "simulated" else 0.0  # that of a file is not known here
    sampled = spec.refine.n_sampled > 0 and expects_sampling(spec.refine, dose_e_A2)
    return (_PATH_VOLUMES * volume + _DRAWS_BYTES) * sampled


def _memory_of_tiles(spec: RunSpec, on_gpu: bool) -> dict[str, float]:
    """Return the peak of each stage of a run in tiles.

    The largest tile is reconstructed and traced. The whole series is held while it is simulated or read and cut, and
    twice while the joined record is made; the joined volume and the true potential lie in mapped files.
    """
    from aetlab.reconstruction.tiles import largest_part  # imports the solver, which only tiles need here

    part = largest_part(spec)
    one = memory_by_stage(part, on_gpu=on_gpu)
    whole = memory_by_stage(replace(spec, tile=TileSpec()), on_gpu=on_gpu)
    of_row = 4.0 * len(tilt_angles_deg(spec.tilts, spec.wedge)) * len(spec.defocus.planes_nm) * spec.scale.shape_zxy[1]
    images, of_tile = of_row * spec.scale.shape_zxy[2], of_row * part.scale.shape_zxy[2]
    needed = {"simulate": whole["simulate"], "cut": BASE_BYTES + images + 2 * of_tile,
              "reconstruct": one["reconstruct"], "trace": one["trace"],
              "join": one["trace"] + 2 * (images - of_tile)}
    if "refine" in one:
        needed["refine"] = one["refine"] + 2 * (images - of_tile)
    return needed | {"score": BASE_BYTES + 2 * images}


def available_bytes() -> float:
    """Return the memory in bytes that this process can still allocate: the minimum of machine and control group."""
    free = float(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, float(int(limit) - used))


def require_memory(spec: RunSpec, available: float | None = None) -> None:
    """Raise :class:`SpecError` if a run of ``spec`` does not fit; it states the missing memory and what to change."""
    needed = memory_by_stage(spec, on_gpu=spec.engine.device == "gpu")
    stage = max(needed, key=lambda name: needed[name])
    free = available_bytes() + BASE_BYTES if available is None else available
    missing = needed[stage] - free
    if missing <= 0 or (spec.engine.device == "auto" and _fits_with_gpu(spec, free)):
        return
    n_z, n_x, n_y = spec.scale.shape_zxy
    if spec.tile.enabled and stage in ("reconstruct", "trace"):
        raise SpecError(f"tile.n={spec.tile.count(n_y)} cannot be used: {stage} of a tile needs "
                        f"{needed[stage] / 1e9:.1f} GB, {missing / 1e9:.1f} GB more than are free; choose more tiles, "
                        "or stop other programs")
    if stage == "refine" and spec.refine.sampling == "corrected":
        raise SpecError(f"refine.sampling=corrected cannot be used: refine needs {needed[stage] / 1e9:.1f} GB, "
                        f"{missing / 1e9:.1f} GB more than are free; choose refine.sampling=coarse, fewer "
                        "engine.n_threads, or stop other programs")
    advice = ["simulate=atoms" if spec.simulate.kind == "voxels" and stage == "simulate" else "a smaller scale"]
    if stage == "reconstruct" and REGULARISERS[spec.reg.kind].volumes > 0:
        advice += [f"reg={name}" for name, row in REGULARISERS.items() if row.weighted and row.volumes == 0][:1]
    raise SpecError(f"scale={spec.scale.name} ({n_z} x {n_x} x {n_y} voxels) cannot be used: {stage} needs "
                    f"{needed[stage] / 1e9:.1f} GB, {missing / 1e9:.1f} GB more than are free; choose "
                    f"{' or '.join(advice)}, or stop other programs")


def _fits_with_gpu(spec: RunSpec, free: float) -> bool:
    from aetlab.core.backend import gpu_problem

    return gpu_problem() is None and max(memory_by_stage(spec, on_gpu=True).values()) <= free
