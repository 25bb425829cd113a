"""The preparation of a series: all steps in their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aetlab.core.errors import DataError
from aetlab.core.poses import Poses
from aetlab.core.tilt_series import TiltSeries
from aetlab.series.prepare.bad_frames import BadFrames, describe, find_bad_frames, find_dark
from aetlab.series.prepare.bad_pixels import BadPixels, fill_bad_pixels, find_bad_pixels
from aetlab.series.prepare.electrons import Electrons, find_electrons
from aetlab.series.prepare.gain import GainResidue, find_gain_residue
from aetlab.series.prepare.geometry import Geometry, find_geometry
from aetlab.series.prepare.nouns import Prepared, Recorded, Step
from aetlab.series.prepare.region import Grid, choose_grid, place_image
from aetlab.series.prepare.settings import PrepareSpec
from aetlab.series.prepare.vacuum import Vacuum, find_mask, mask_of_rectangles, measure_vacuum

#: Drift between the defoci, rms in pixels, up to which images are moved by whole pixels.
_WHOLE_PX = 0.25
#: Relative error of the level that is worth a look.
_ROUGH_LEVEL = 0.01


def prepare(recorded: Recorded, spec: PrepareSpec | None = None) -> Prepared:
    """Return the series that ``recorded`` images give, with every step that led to it.

    Raises
    ------
    DataError
        Where no image is left, an image has no vacuum, the electrons per pixel are not known, or settings do not fit.
    """
    spec = spec or PrepareSpec()
    recorded = _of_region(recorded, spec)
    counts, steps = recorded.counts, []
    show = _image_to_show(recorded)
    excluded = find_dark(counts, recorded.present) if spec.bad_frames == "find" else {}
    usable = _without(recorded.present, excluded)

    pixels, good = _bad_pixels(counts, usable, spec)
    filled = fill_bad_pixels(counts, good)
    steps.append(Step("bad pixels", spec.bad_pixels, pixels.line,
                      {"n_hot": pixels.n_hot, "n_dead": pixels.n_dead, "n_stuck": pixels.n_stuck,
                       "n_hits": len(pixels.hits)}, before=counts[show], after=filled[show]))

    vacuum = _vacuum(filled, good, usable, spec)
    expected = np.where(usable, vacuum.level, 1).astype(np.float32)[..., None, None] * vacuum.field
    sound_vacuum = vacuum.mask & (good > 0)
    gain = _gain(filled, expected, sound_vacuum, spec)
    images = filled / (gain.gain * expected)
    steps.append(Step("gain residue", spec.gain, gain.line, {"pattern_rms": gain.pattern_rms, "part": gain.part},
                      after=gain.gain))
    worst = float(vacuum.level_error[usable].max()) if usable.any() else 0.0
    steps.append(Step("vacuum", spec.vacuum, vacuum.line, {
        "level_counts": float(np.median(vacuum.level[usable])), "level_error_percent": 100 * worst,
        "illumination_peak_percent": 100 * float(vacuum.field_peak[usable].max())},
        "look" if worst > _ROUGH_LEVEL else "ok", before=filled[show], after=images[show]))

    bad = _bad_frames(images, vacuum.mask, usable, spec)
    excluded |= bad.reasons
    usable = _without(recorded.present, excluded)
    if not usable.any():
        raise DataError(f"no image is left: {describe(excluded, recorded.present)}")
    electrons = find_electrons(images, sound_vacuum, vacuum.level, usable, pattern_variance=gain.added_variance,
                               dose_e_A2=recorded.dose_e_A2, pixel_A=recorded.pixel_A, dqe=recorded.dqe,
                               counts_per_electron=recorded.counts_per_electron, mtf=recorded.mtf,
                               source=spec.electrons)
    steps.append(_electrons_step(electrons, spec))
    worst_image = min(excluded, default=None)
    steps.append(Step("bad images", spec.bad_frames, describe(excluded, recorded.present),
                      {"n_excluded": len(excluded)}, "look" if excluded else "ok",
                      before=counts[worst_image] if worst_image is not None else None))

    geometry = find_geometry(images, vacuum.mask, usable, np.asarray(recorded.tilt_deg, float), recorded.defocus_A,
                             recorded.pixel_A, recorded.energy_keV, spec)
    return _place(recorded, spec, images, good, usable, electrons, geometry, steps, excluded)


def _place(recorded: Recorded, spec: PrepareSpec, images: np.ndarray, good: np.ndarray, usable: np.ndarray,
           electrons: Electrons, geometry: Geometry, steps: list[Step],
           excluded: dict[tuple[int, int], str]) -> Prepared:
    """Return the images moved to their grid, with the poses that remain."""
    shape = (images.shape[2], images.shape[3])
    axis = geometry.axis
    grid = choose_grid(shape, recorded.pixel_A, voxel_A=spec.voxel_A, size=spec.size,
                       angle_deg=axis.angle_deg if geometry.rotate else 0.0)
    drift_px = _drift_rms(geometry.drift.position_px[geometry.found])
    whole = grid.ratio == 1 and grid.angle_deg == 0 and drift_px < _WHOLE_PX
    applied = geometry.position_px
    if whole:
        applied = np.broadcast_to(np.rint(applied.mean(axis=1, keepdims=True)), applied.shape)
    left = (geometry.position_px - applied).mean(axis=1) * recorded.pixel_A
    new = np.ones((*usable.shape, *grid.shape_xy), np.float32)
    weights = np.zeros_like(new)
    for place in map(tuple, np.argwhere(usable)):
        new[place], weights[place] = place_image(images[place], good[place], applied[place], grid)
    n = len(recorded.tilt_deg)
    poses = Poses.nominal(recorded.tilt_deg, usable.shape[1])
    turn = np.zeros((n, 3))
    turn[:, 2] = 0.0 if geometry.rotate else axis.angle_deg
    poses = replace(poses, turn_deg=turn, shift_A=np.column_stack([left, np.zeros(n)]))
    series = TiltSeries(new, recorded.tilt_deg, recorded.defocus_A, recorded.pixel_A * grid.ratio,
                        np.where(usable, electrons.per_pixel, 1.0) * grid.ratio**2, usable.astype(float), weights)
    show = tuple(int(k) for k in np.argwhere(usable)[len(np.argwhere(usable)) // 2])
    steps += _placing_steps(spec, geometry, grid, whole, drift_px, left, images[show], new[show],
                            float(weights[usable].mean()))
    return Prepared(series, poses, tuple(steps), excluded, axis.angle_deg, geometry.position_px * recorded.pixel_A,
                    geometry.radius_px * recorded.pixel_A)


def _placing_steps(spec: PrepareSpec, geometry: Geometry, grid: Grid, whole: bool, drift_px: float, left: np.ndarray,
                   before: np.ndarray, after: np.ndarray, good_part: float) -> list[Step]:
    axis, rim = geometry.axis, np.deg2rad(abs(geometry.axis.angle_deg)) * geometry.radius_px
    turned = f"; images rotated by {-axis.angle_deg:.2f}°" if geometry.rotate else "; left to the poses"
    turned += f": it moves the rim of the sample by {rim:.1f} px"
    how = (f"moved by whole pixels; the rest, {np.sqrt((left**2).mean()):.2f} Å rms, is left to the poses" if whole
           else "moved by phase ramps, which keep noise white")
    resampled = f"{grid.shape_xy[0]} x {grid.shape_xy[1]} pixels"
    resampled += f" of {grid.ratio:.4g} recorded ones" if grid.ratio != 1 else ", not resampled"
    return [
        Step("drift between defoci", spec.shifts, geometry.drift.line, {"drift_rms_px": drift_px}),
        Step("tilt axis", spec.axis, axis.line + turned, {"axis_deg": axis.angle_deg, "axis_error_deg": axis.error_deg},
             axis.verdict),
        Step("shifts", spec.shifts, geometry.line + ("; " + how if spec.shifts == "find" else ""),
             {"shift_rms_px": geometry.shift_rms_px}),
        Step("region", f"voxel_A={spec.voxel_A:g}", resampled + f"; {100 * good_part:.1f} % of the pixels have data",
             {"good_part": good_part, "ratio": grid.ratio}, before=before, after=after)]


def _drift_rms(position_px: np.ndarray) -> float:
    """Return the rms distance of positions (T, F, 2) from the mean of their tilt, along one axis."""
    off = position_px - np.nanmean(position_px, axis=1, keepdims=True)
    return float(np.sqrt(np.nanmean(off**2)))


def _electrons_step(electrons: Electrons, spec: PrepareSpec) -> Step:
    numbers = {"by_table": electrons.by_table, "by_gain": electrons.by_gain, "by_variance": electrons.by_variance,
               "counts_per_electron": electrons.counts_per_electron, "noise_correlation": electrons.correlation}
    return Step("electrons per pixel", spec.electrons, electrons.line, numbers, electrons.verdict)


def _of_region(recorded: Recorded, spec: PrepareSpec) -> Recorded:
    if spec.region is None:
        return recorded
    x_from, x_to, y_from, y_to = spec.region
    if not (0 <= x_from < x_to <= recorded.counts.shape[2] and 0 <= y_from < y_to <= recorded.counts.shape[3]):
        raise DataError(f"region {spec.region} does not lie in images of {recorded.counts.shape[2:]} pixels")
    return replace(recorded, counts=recorded.counts[:, :, x_from:x_to, y_from:y_to])


def _without(present: np.ndarray, excluded: dict[tuple[int, int], str]) -> np.ndarray:
    usable = present.copy()
    for place in excluded:
        usable[place] = False
    return usable


def _image_to_show(recorded: Recorded) -> tuple[int, int]:
    """Return the present image nearest to no tilt, the last defocus."""
    tilts = np.flatnonzero(recorded.present.any(axis=1))
    if not len(tilts):
        raise DataError("no image: every cell of the series is missing")
    i_tilt = int(tilts[np.abs(np.asarray(recorded.tilt_deg)[tilts]).argmin()])
    return i_tilt, int(np.flatnonzero(recorded.present[i_tilt])[-1])


def _bad_pixels(counts: np.ndarray, usable: np.ndarray, spec: PrepareSpec) -> tuple[BadPixels, np.ndarray]:
    if spec.bad_pixels == "find":
        pixels = find_bad_pixels(counts, usable, spec.false_alarms)
        return pixels, pixels.weights(counts.shape)
    none = BadPixels(np.zeros(counts.shape[2:], bool), np.zeros((0, 4), int), 0, 0, 0, "not searched")
    return none, np.ones(counts.shape, np.float32)


def _vacuum(counts: np.ndarray, good: np.ndarray, usable: np.ndarray, spec: PrepareSpec) -> Vacuum:
    if spec.vacuum == "mean":
        level = np.where(usable, counts.mean(axis=(2, 3)), 0.0)
        zero, flat = np.zeros(usable.shape), np.ones(counts.shape, np.float32)
        return Vacuum(np.zeros(counts.shape, bool), level, zero, flat, zero,
                      "level is the mean of each image; the brightness is left to the alignment")
    mask = (mask_of_rectangles(counts.shape, spec.vacuum_rectangles) if spec.vacuum == "rectangles"
            else find_mask(counts, usable))
    return measure_vacuum(counts, mask, good, usable, illumination=spec.illumination == "find")


def _gain(counts: np.ndarray, expected: np.ndarray, vacuum: np.ndarray, spec: PrepareSpec) -> GainResidue:
    if spec.gain == "find":
        return find_gain_residue(counts, expected, vacuum)
    shape = counts.shape[2:]
    return GainResidue(np.ones(shape, np.float32), 0.0, 0.0, 0.0, np.zeros(shape), "not searched")


def _bad_frames(images: np.ndarray, vacuum: np.ndarray, usable: np.ndarray, spec: PrepareSpec) -> BadFrames:
    if spec.bad_frames == "find":
        return find_bad_frames(images, vacuum, usable)
    return BadFrames({}, np.zeros(usable.shape), np.zeros(usable.shape), "not searched")
