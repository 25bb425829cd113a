"""The preparation of a series: all steps in their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aetlab.core.errors import DataError
from aetlab.core.poses import Poses
from aetlab.core.tilt_series import TiltSeries
from aetlab.series.facts import Measures
from aetlab.series.microscope import NO_SENSE, SENSE_STEP
from aetlab.series.prepare.bad_frames import describe, find_bad_frames, find_odd_levels, no_bad_frames
from aetlab.series.prepare.bad_pixels import BadPixels, fill_bad_pixels, find_bad_pixels, no_bad_pixels
from aetlab.series.prepare.electrons import Electrons, find_electrons
from aetlab.series.prepare.focus_sign import with_focus_sign
from aetlab.series.prepare.gain import GainResidue, find_gain_residue, no_gain_residue
from aetlab.series.prepare.geometry import Geometry, find_geometry, sound_of
from aetlab.series.prepare.nouns import Prepared, Recorded, Step
from aetlab.series.prepare.pictures import along_axis, shrink
from aetlab.series.prepare.region import Grid, choose_grid, place_image
from aetlab.series.prepare.settings import PrepareSpec
from aetlab.series.prepare.vacuum import Vacuum, find_mask, mask_of_rectangles, measure_vacuum, take_mean

#: Drift between the defoci, rms in pixels, up to which images are moved by whole pixels.
_WHOLE_PX = 0.25
#: Relative error of the level that is worth a look.
_ROUGH_LEVEL = 0.01
#: Greatest deviation of an illumination from its mean that a microscope has. More is a film taken for vacuum.
_MOST_UNEVEN = 0.5
#: Greatest side in pixels of the thumbnails.
_THUMBNAIL_PX = 96
#: Least width in Å of images of a sample.
_LEAST_FIELD_A = 5.0


def prepare(recorded: Recorded, spec: PrepareSpec | None = None, *, overwrite: bool = False) -> Prepared:
    """Return the series that ``recorded`` images give, with every step that led to it.

    With ``overwrite`` the float32 counts of ``recorded`` are the working space and are lost: the images are then held
    once. Without, they are copied.

    Raises
    ------
    DataError
        Where no image is left, an image has no vacuum, the electrons per pixel are not known, or settings do not fit.
    """
    spec = spec or PrepareSpec()
    recorded = _of_region(recorded, spec)
    _require_field(recorded)
    present, steps = recorded.present, []
    images = recorded.counts if overwrite else recorded.counts.copy()
    images = np.ascontiguousarray(images, np.float32)
    show = _image_to_show(recorded)
    mean_counts = np.where(present, images.mean(axis=(2, 3), dtype=np.float64), np.nan)
    excluded = find_odd_levels(images, present, recorded.dose_e_A2) if spec.bad_frames == "find" else {}
    usable = _without(present, excluded)

    pixels = find_bad_pixels(images, usable, spec.false_alarms) if spec.bad_pixels == "find" else no_bad_pixels(
        images.shape[2:])
    before, thumbnails = images[show].copy(), _thumbnails(images, pixels, present)
    for place in map(tuple, np.argwhere(usable)):
        images[place] = fill_bad_pixels(images[place], pixels.good(place))
    steps.append(Step("bad pixels", spec.bad_pixels, pixels.line,
                      {"n_hot": pixels.n_hot, "n_dead": pixels.n_dead, "n_stuck": pixels.n_stuck,
                       "n_hits": len(pixels.hits)}, before=shrink(before), after=shrink(images[show])))

    vacuum = _vacuum(images, pixels, usable, spec)
    gain = (find_gain_residue(images, vacuum, pixels) if spec.gain == "find" else no_gain_residue(images.shape[2:]))
    before = images[show] / max(float(vacuum.level[show]), 1e-30)
    for place in map(tuple, np.argwhere(present)):
        images[place] /= gain.gain * vacuum.expected(place) if usable[place] else 1
    steps += _normalising_steps(spec, vacuum, gain, usable, before, images[show])

    bad = find_bad_frames(images, vacuum.mask, usable) if spec.bad_frames == "find" else no_bad_frames(usable.shape)
    excluded |= bad.reasons
    known = usable
    usable = _without(present, excluded)
    electrons = find_electrons(images, vacuum.mask, pixels, vacuum.level, usable, pattern_variance=gain.added_variance,
                               dose_e_A2=recorded.dose_e_A2, pixel_A=recorded.pixel_A, dqe=recorded.dqe,
                               counts_per_electron=recorded.counts_per_electron, mtf=recorded.mtf,
                               source=spec.electrons)
    steps.append(_electrons_step(electrons, spec))
    measures = Measures(mean_counts, *(np.where(known, value, np.nan) for value in (
        vacuum.level, vacuum.level_error, vacuum.field_peak, bad.sharpness / recorded.pixel_A,
        bad.drift_px * recorded.pixel_A)))

    recorded, sense_step = _with_sense(recorded, spec)
    has_vacuum = bool(vacuum.mask[usable].any())
    del vacuum
    recorded, geometry, focus_step = _geometry(recorded, images, usable, spec, has_vacuum=has_vacuum)
    excluded |= geometry.lost
    usable = _without(present, excluded)
    steps.append(Step("bad images", spec.bad_frames, describe(excluded, present), {"n_excluded": len(excluded)},
                      "look" if excluded else "ok"))
    series, poses, placing = _place(recorded, spec, images, pixels, usable, electrons, geometry)
    return Prepared(series, poses, (*steps, *placing, sense_step, focus_step), excluded, geometry.axis.angle_deg,
                    geometry.position_px * recorded.pixel_A, geometry.radius_px * recorded.pixel_A, measures,
                    thumbnails, geometry.axis.curve)


def _geometry(recorded: Recorded, images: np.ndarray, usable: np.ndarray, spec: PrepareSpec, *,
              has_vacuum: bool) -> tuple[Recorded, Geometry, Step]:
    """Return the images with the right sign of the defocus, their geometry, and the step of the sign."""

    def find() -> Geometry:
        return find_geometry(images, usable, np.asarray(recorded.tilt_deg, float), recorded.defocus_A, recorded.pixel_A,
                             recorded.energy_keV, has_vacuum=has_vacuum, known_deg=recorded.axis_deg, spec=spec)

    geometry = find()
    placed = sound_of(usable, geometry.lost)
    placed = placed if placed.any() else usable
    given = TiltSeries(images, recorded.tilt_deg, recorded.defocus_A, recorded.pixel_A, weight=placed.astype(float))
    right, step = with_focus_sign(given, recorded.lens, spec.defocus_sign, geometry.position_px)
    if right is not given:
        recorded = replace(recorded, defocus_A=right.defocus_A)
        geometry = find()
    return recorded, geometry, step


def _place(recorded: Recorded, spec: PrepareSpec, images: np.ndarray, pixels: BadPixels, usable: np.ndarray,
           electrons: Electrons, geometry: Geometry) -> tuple[TiltSeries, Poses, list[Step]]:
    """Return the images moved to their grid, with the poses that remain and the steps."""
    shape = (images.shape[2], images.shape[3])
    axis = geometry.axis
    grid = choose_grid(shape, recorded.pixel_A, voxel_A=spec.voxel_A, size=spec.size,
                       angle_deg=axis.angle_deg if geometry.rotate else 0.0)
    whole = grid.ratio == 1 and grid.angle_deg == 0 and geometry.drift_px < _WHOLE_PX
    applied = geometry.position_px
    if whole:
        applied = np.broadcast_to(np.rint(applied.mean(axis=1, keepdims=True)), applied.shape)
    left = (geometry.position_px - applied).mean(axis=1) * recorded.pixel_A
    show = tuple(int(k) for k in np.argwhere(usable)[len(np.argwhere(usable)) // 2])
    before, lines = shrink(images[show]), along_axis(images, usable)
    new, weights = _room(images, grid.shape_xy), np.zeros((*usable.shape, *grid.shape_xy), np.float32)
    for place in np.ndindex(usable.shape):
        if usable[place]:
            new[place], weights[place] = place_image(images[place], pixels.good(place), applied[place], grid)
        else:
            new[place] = 1
    n = len(recorded.tilt_deg)
    turn = np.zeros((n, 3))
    turn[:, 2] = 0.0 if geometry.rotate else axis.angle_deg
    poses = replace(Poses.nominal(recorded.tilt_deg, usable.shape[1]), turn_deg=turn,
                    shift_A=np.column_stack([left, np.zeros(n)]))
    series = TiltSeries(new, recorded.tilt_deg, recorded.defocus_A, recorded.pixel_A * grid.ratio,
                        np.where(usable, electrons.per_pixel, 1.0) * grid.ratio**2, usable.astype(float), weights)
    steps = _placing_steps(spec, geometry, grid, whole, left, before, shrink(new[show]), float(weights[usable].mean()))
    steps[2] = replace(steps[2], before=lines, after=along_axis(new, usable))
    return series, poses, steps


def _room(images: np.ndarray, shape_xy: tuple[int, int]) -> np.ndarray:
    """Return an array (T, F, *shape_xy) for images in the memory of ``images`` where it is large enough.

    Written in order, an image of at most the size of its source never reaches a source that is still to be read.
    """
    n = int(np.prod((*images.shape[:2], *shape_xy)))
    if np.prod(shape_xy) > np.prod(images.shape[2:]):
        return np.ones((*images.shape[:2], *shape_xy), np.float32)
    return images.reshape(-1)[:n].reshape(*images.shape[:2], *shape_xy)


def _normalising_steps(spec: PrepareSpec, vacuum: Vacuum, gain: GainResidue, usable: np.ndarray, before: np.ndarray,
                       after: np.ndarray) -> list[Step]:
    worst = float(vacuum.level_error[usable].max()) if usable.any() else 0.0
    uneven = usable.any() and float(vacuum.field_peak[usable].max()) > _MOST_UNEVEN
    verdict = "cannot be used" if uneven else "look" if worst > _ROUGH_LEVEL else "ok"
    line = vacuum.line + ("; no beam is as uneven: a film or the sample was taken for vacuum" if uneven else "")
    return [
        Step("gain residue", spec.gain, gain.line, {"pattern_rms": gain.pattern_rms, "part": gain.part},
             before=shrink(gain.ratio), after=shrink(gain.gain)),
        Step("vacuum", spec.vacuum, line, {
            "level_counts": float(np.median(vacuum.level[usable])), "level_error_percent": 100 * worst,
            "illumination_peak_percent": 100 * float(vacuum.field_peak[usable].max())},
            verdict, before=shrink(before), after=shrink(after))]


def _placing_steps(spec: PrepareSpec, geometry: Geometry, grid: Grid, whole: bool, left: np.ndarray,
                   before: np.ndarray, after: np.ndarray, good_part: float) -> list[Step]:
    axis, rim = geometry.axis, np.deg2rad(abs(geometry.axis.angle_deg)) * geometry.radius_px
    turned = f"; images rotated by {-axis.angle_deg:.2f}°" if geometry.rotate else "; left to the poses"
    turned += f": it moves the rim of the sample by {rim:.1f} px"
    how = (f"moved by whole pixels; the rest, {np.sqrt((left**2).mean()):.2f} Å rms, is left to the poses" if whole
           else "moved by phase ramps, which keep noise white")
    resampled = f"{grid.shape_xy[0]} x {grid.shape_xy[1]} pixels"
    resampled += f" of {grid.ratio:.4g} recorded ones" if grid.ratio != 1 else ", not resampled"
    return [
        Step("drift between defoci", spec.shifts, geometry.drift_line,
             {"drift_rms_px": geometry.drift_px, "n_lost": len(geometry.lost)}, geometry.drift_verdict),
        Step("tilt axis", spec.axis, axis.line + turned, {"axis_deg": axis.angle_deg, "axis_error_deg": axis.error_deg},
             axis.verdict),
        Step("shifts", spec.shifts, geometry.line + ("; " + how if spec.shifts == "find" else ""),
             {"shift_rms_px": geometry.shift_rms_px}, geometry.shift_verdict),
        Step("region", f"voxel_A={spec.voxel_A:g}", resampled + f"; {100 * good_part:.1f} % of the pixels have data",
             {"good_part": good_part, "ratio": grid.ratio}, before=before, after=after)]


def _with_sense(recorded: Recorded, spec: PrepareSpec) -> tuple[Recorded, Step]:
    """Return the images with tilt angles that turn the sample right-handed, and the step."""
    sense, source = (spec.sense, "the settings") if spec.sense else (recorded.sense, "the microscope's file")
    numbers = {"sign": -1.0 if sense == "left" else 1.0}
    if not sense:
        return recorded, Step(SENSE_STEP, NO_SENSE, "no file says in which sense the tilt counts; positive angles "
                              "are taken as right-handed about the axis. The refinement compares the atoms with their "
                              "mirror image; without it, they may be the mirror image", numbers, "look")
    line = f"{sense}-handed about the axis, as {source} says" + (
        "; all angles have changed their sign" if sense == "left" else "")
    if sense == "left":
        recorded = replace(recorded, tilt_deg=-np.asarray(recorded.tilt_deg, float))
    return recorded, Step(SENSE_STEP, sense, line, numbers)


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


def _require_field(recorded: Recorded) -> None:
    """Refuse images that are too narrow for a sample: the pixel is in another unit, or the axes are mixed up."""
    sides = recorded.counts.shape[2:]
    if min(sides) * recorded.pixel_A < _LEAST_FIELD_A:
        raise DataError(f"images of {sides[0]} x {sides[1]} pixels of {recorded.pixel_A:.4g} Å are "
                        f"{sides[0] * recorded.pixel_A:.3g} x {sides[1] * recorded.pixel_A:.3g} Å wide, too narrow for "
                        "a sample: is the pixel in Å, and does the file hold images?")


def _without(present: np.ndarray, excluded: dict[tuple[int, int], str]) -> np.ndarray:
    usable = present.copy()
    for place in excluded:
        usable[place] = False
    if not usable.any():
        raise DataError(f"no image is left: {describe(excluded, present)}. Check the counts, which are 0 without a "
                        "beam, the energy, the pixel (Å) and the defoci (nm)")
    return usable


def _image_to_show(recorded: Recorded) -> tuple[int, int]:
    """Return the present image nearest to no tilt, the last defocus."""
    tilts = np.flatnonzero(recorded.present.any(axis=1))
    if not len(tilts):
        raise DataError("no image: every cell of the series is missing")
    i_tilt = int(tilts[np.abs(np.asarray(recorded.tilt_deg)[tilts]).argmin()])
    return i_tilt, int(np.flatnonzero(recorded.present[i_tilt])[-1])


def _thumbnails(images: np.ndarray, pixels: BadPixels, present: np.ndarray) -> np.ndarray:
    """Return small images over the median of the series, bad pixels filled, float16 (T, F, x, y)."""
    usual = max(float(np.median([np.median(images[place]) for place in map(tuple, np.argwhere(present))])), 1e-30)
    return np.stack([[shrink(fill_bad_pixels(image, pixels.good((t, f))) / usual, _THUMBNAIL_PX)
                      for f, image in enumerate(row)] for t, row in enumerate(images)]).astype(np.float16)


def _vacuum(counts: np.ndarray, pixels: BadPixels, usable: np.ndarray, spec: PrepareSpec) -> Vacuum:
    if spec.vacuum == "mean":
        return take_mean(counts, usable)
    mask = (mask_of_rectangles(counts.shape, spec.vacuum_rectangles) if spec.vacuum == "rectangles"
            else find_mask(counts, usable))
    return measure_vacuum(counts, mask, pixels, usable, illumination=spec.illumination == "find")
