r"""Drift, direction of the axis and shifts of a series, found one after the other.

Where the images of one tilt do not tell where they lie relative to each other, its projection is predicted from the
other tilts (:func:`aetlab.series.prepare.shifts.predict_images`). On average over rings, an image is β c_j E plus what
the prediction E does not know, of power V = P - β² |E|², seen through c_j, plus noise; β follows by regression of all
images that are placed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from aetlab.core.errors import DataError
from aetlab.core.grid import in_plane_rotation
from aetlab.forward.resampling import rotate_images
from aetlab.series.prepare.axis import Axis, find_axis, refine_axis, soft_disc
from aetlab.series.prepare.drift import Drift, Expected, Transfer, drift_rms, find_drift, find_transfer, rings
from aetlab.series.prepare.planes import crop_spectrum, pad_spectrum, ramp
from aetlab.series.prepare.settings import PrepareSpec
from aetlab.series.prepare.shifts import centre_sample, find_shifts, predict_images
from aetlab.series.prepare.silhouette import Outline, locate, signal_of

#: Lines and moments use the images below this frequency, in cycles per pixel and in 1/Å, whichever is lower.
_HIGHEST_CYCLES, _HIGHEST_PER_A = 0.25, 0.6
#: Rotation that moves the rim of the sample by more than this many pixels is applied to the images.
_RIM_PX = 0.5
#: Half-widths of the search for the axis: about a known direction, and where nothing is known.
_KNOWN_RANGE_DEG, _UNKNOWN_RANGE_DEG = 10.0, 90.0
#: Standard errors by which a direction differs significantly from the known one.
_SIGNIFICANT = 3.0
#: Radius of the window over that of the sample.
_ROOM = 1.15
#: An image has jumped if it lies this many standard deviations (of normal numbers of the same median distance), and at
#: least the second in pixels, from the images of its tilt and the two next to it. Images that a line names.
_JUMPED, _LEAST_JUMP_PX, _MOST_NAMED = 6.0, 1.0, 5
#: Share of the images that may jump; more have no path, and the verdict on it.
_MOST_JUMPED, _UNUSABLE = 0.2, "cannot be used"
#: Median distance of a normal number in two dimensions from its mean, in standard deviations.
_MEDIAN_DISTANCE = 1.1774
#: Expected number of wrongly placed images that is worth a look.
_WRONG = 0.5
#: Times that axis and shifts are found in turn.
_ROUNDS = 2
#: Probability of a position below which the other tilts are asked.
SURE = 0.99
#: Least part of the power that a prediction does not know.
_UNKNOWN = 0.1


@dataclass(frozen=True)
class Geometry:
    """Position of the sample in each image as recorded.

    ``position_px`` (T, F, 2) counts from the middle of the image; missing images have the position of their tilt.
    ``lost`` has the reason by (i_tilt, i_defocus) for usable images whose position among the others was not found;
    ``radius_px`` is half the diameter of the sample, ``rotate`` whether the axis lies so far off that the images are to
    be rotated, ``drift_px`` the rms drift between the defoci.
    """

    position_px: np.ndarray
    lost: dict[tuple[int, int], str]
    axis: Axis
    drift_px: float
    drift_line: str
    drift_verdict: str
    radius_px: float
    rotate: bool
    line: str
    shift_rms_px: float
    shift_verdict: str


def find_geometry(images: np.ndarray, usable: np.ndarray, tilt_deg: np.ndarray, defocus_A: np.ndarray,
                  pixel_A: float, energy_keV: float | None, *, has_vacuum: bool, known_deg: float | None,
                  spec: PrepareSpec) -> Geometry:
    """Return the geometry of ``images`` (T, F, X, Y) of vacuum 1, found in the ``usable`` ones (T, F).

    ``has_vacuum`` says whether the sample leaves some vacuum in every image; ``known_deg`` is the direction of the axis
    by file or log.

    Raises
    ------
    DataError
        If the axis is to be taken as given and no direction is given.
    """
    tilts = np.flatnonzero(usable.any(axis=1))
    shape = (images.shape[2], images.shape[3])
    factor = max(1.0, 0.5 / min(_HIGHEST_CYCLES, _HIGHEST_PER_A * pixel_A))
    small = (int(2 * np.ceil(shape[0] / factor / 2)), int(2 * np.ceil(shape[1] / factor / 2)))
    scale = np.array(shape) / np.array(small)
    transfer = find_transfer(images, usable, defocus_A, pixel_A, energy_keV)
    seen, sound, defocus = images[tilts], usable[tilts], defocus_A[tilts]
    drifts = [find_drift(seen[t], sound[t], defocus[t], transfer) for t in range(len(tilts))]
    joined = np.stack([crop_spectrum(drift.joined, small) for drift in drifts])
    outline = _outline(seen, drifts, defocus) if has_vacuum else Outline(
        np.zeros((len(tilts), 2)), np.array(shape) / 2)
    half = outline.half_px
    # Room for centres that are a few pixels off.
    radius_px = min(float(half.max() / scale.mean()) * _ROOM, max(small) / 2)
    extent_px, inner_px = float(2 * half.max() / scale.mean()), float(half.max() / scale[0])
    window = soft_disc(small, radius_px)
    angles, places = tilt_deg[tilts], outline.centre_px / scale
    centred = _centre(joined, places)
    axis = _axis(centred * window, angles, extent_px, radius_px, energy_keV is not None, known_deg, spec)
    for repeat in range(_ROUNDS if axis.stands_out else 0):
        if repeat and spec.axis == "find":
            axis = refine_axis(axis, centred * window, angles, extent_px)
            axis = _as_known(axis, known_deg if spec.axis_deg is None else spec.axis_deg)
        places = _shifts(centred, places, outline.centre_px / scale, axis.angle_deg, angles, inner_px)
        centred = _centre(joined, places)
        if not repeat:
            again = find_again(seen, sound, defocus, transfer, drifts, places * scale, centred * window, axis.angle_deg,
                               angles, inner_px)
            for t, drift in again.items():
                drifts[t], joined[t], places[t] = drift, crop_spectrum(drift.joined, small), 0
            centred = _centre(joined, places)
    position = np.zeros((*usable.shape, 2))
    lost: dict[tuple[int, int], str] = {}
    for k, i_tilt in enumerate(tilts if spec.shifts == "find" else ()):
        drift = drifts[k]
        at = np.where(drift.placed[:, None], drift.position_px, drift.position_px[drift.reference])
        position[i_tilt] = places[k] * scale + at
        lost |= {(int(i_tilt), int(j)): "its place among the images of its tilt is not known: the best one has a "
                 f"probability of {100 * drift.probability[j]:.0f} %" for j in np.flatnonzero(sound[k] & ~drift.placed)}
    radius = float(half.max())
    rms = float(np.sqrt((position[tilts] ** 2).mean())) if len(tilts) else 0.0
    line = f"sample lies {rms:.2f} px rms along each axis from the middle" if spec.shifts == "find" else "not searched"
    line += ", by its outline alone, as no axis is known" if spec.shifts == "find" and not axis.stands_out else ""
    placed = sound_of(usable, lost)
    distance_px = find_jumps(position, placed, tilt_deg)
    line += describe_jumps(distance_px, tilt_deg, defocus_A)
    shift_line, shift_verdict = judge_places(position, placed, distance_px, shape)
    line += shift_line
    rotate = bool(np.deg2rad(abs(axis.angle_deg)) * radius > _RIM_PX)
    drift_px = drift_rms(np.array([np.where(drift.placed[:, None], drift.position_px, np.nan) for drift in drifts]))
    drift_line, drift_verdict = _judge_drift(drifts, sound, drift_px, energy_keV)
    return Geometry(position, lost, axis, drift_px, drift_line, drift_verdict, radius, rotate, line, rms,
                    shift_verdict)


def sound_of(usable: np.ndarray, lost: dict[tuple[int, int], str]) -> np.ndarray:
    """Return the ``usable`` (T, F) images that are not ``lost``."""
    sound = usable.copy()
    for place in lost:
        sound[place] = False
    return sound


def find_jumps(position_px: np.ndarray, sound: np.ndarray, tilt_deg: np.ndarray) -> np.ndarray:
    """Return how far (T, F) in pixels the sample lies from where it lies in the images around; NaN where not far.

    ``position_px`` (T, F, 2) is where the sample lies in each of the ``sound`` (T, F) images. The images around are
    those of the same tilt and of the two next to it.
    """
    order = np.argsort(tilt_deg, kind="stable")
    order = order[sound[order].any(axis=1)]
    distance = np.full(sound.shape, np.nan)
    for k, t in enumerate(order):
        near = np.zeros_like(sound)
        near[order[max(k - 1, 0):k + 2]] = True
        for f in np.flatnonzero(sound[t]):
            around = near & sound
            around[t, f] = False
            if around.any():
                distance[t, f] = np.hypot(*(position_px[t, f] - np.median(position_px[around], axis=0)))
    if not np.isfinite(distance).any():
        return distance
    limit = max(_JUMPED / _MEDIAN_DISTANCE * float(np.nanmedian(distance)), _LEAST_JUMP_PX)
    return np.where(distance > limit, distance, np.nan)


def judge_places(position_px: np.ndarray, sound: np.ndarray, jump_px: np.ndarray,
                 shape: tuple[int, int]) -> tuple[str, str]:
    """Return what is wrong with the places of the sample, to follow a line, and the verdict on them.

    A sample that lies outside of the field would not be seen, and one that jumps in many images has no path: the
    direction of the axis or angles of tilts are then wrong. See :func:`find_jumps`; ``shape`` (X, Y) is the field.
    """
    outside = sound & (np.abs(position_px) > np.array(shape) / 2).any(axis=2)
    jumped = np.isfinite(jump_px)
    if outside.any():
        return f"; it would lie outside of the field in {outside.sum()} images: the axis or angles are wrong", _UNUSABLE
    if jumped.sum() > _MOST_JUMPED * sound.sum():
        return f"; it would jump in {jumped.sum()} of {sound.sum()} images: the axis or angles are wrong", _UNUSABLE
    return "", "look" if jumped.any() else "ok"


def describe_jumps(jump_px: np.ndarray, tilt_deg: np.ndarray, defocus_A: np.ndarray) -> str:
    """Return which images jump by :func:`find_jumps`, to follow a line; empty if none does."""
    jumped = sorted(np.argwhere(np.isfinite(jump_px)).tolist(), key=lambda place: -jump_px[tuple(place)])
    named = [f"{tilt_deg[t]:.4g}° at {defocus_A[t, f] / 10:.4g} nm by {jump_px[t, f]:.1f} px" for t, f in jumped]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return f"; it jumps, against the images around, in {', '.join(named[:_MOST_NAMED])}{more}" if named else ""


def _judge_drift(drifts: list[Drift], usable: np.ndarray, drift_px: float, energy_keV: float | None) -> tuple[str, str]:
    """Return the line on the drift between the defoci, and its verdict."""
    line = f"images of a tilt lie {drift_px:.2f} px rms along each axis from their mean, found by their "
    line += "contrast transfer" if energy_keV else "darkness"
    several = usable & (usable.sum(axis=1) > 1)[:, None]
    if not several.any():
        return "one image a tilt: nothing to compare", "ok"
    placed = np.stack([drift.placed for drift in drifts]) & several
    chance = np.stack([drift.probability for drift in drifts])
    n_lost, wrong = int(several.sum() - placed.sum()), float((1 - chance[placed]).sum())
    line += f"; {n_lost} of {several.sum()} images could not be placed" if n_lost else "; all images could be placed"
    line += f", {wrong:.1f} of the others are expected to be wrong" if wrong >= _WRONG else ""
    if n_lost > several.sum() / 2:
        return line, "cannot be used"
    return line, "look" if n_lost or wrong >= _WRONG else "ok"


def _outline(images: np.ndarray, drifts: list[Drift], defocus_A: np.ndarray) -> Outline:
    """Return the outline of the sample in the placed ones of ``images`` (T, F, X, Y)."""
    signals, near_focus = [], []
    for one, drift, defocus in zip(images, drifts, defocus_A):
        chosen = drift.placed
        chosen[drift.reference] = True
        near = np.where(chosen, np.abs(defocus), np.inf).argmin()
        signals.append(signal_of(one[chosen], drift.position_px[chosen]))
        near_focus.append(signal_of(one[near:near + 1], drift.position_px[near:near + 1]))
    return locate(np.array(signals), np.array(near_focus))


def _centre(images: np.ndarray, places_px: np.ndarray) -> np.ndarray:
    """Return ``images`` (T, X, Y) with ``places_px`` (T, 2) moved to their middle."""
    shape = (images.shape[1], images.shape[2])
    return np.asarray(scipy.fft.ifft2(scipy.fft.fft2(images) * ramp(shape, places_px)).real)


def axis_search(known_deg: float | None, spec: PrepareSpec) -> tuple[float | None, float]:
    """Return the middle, None if unknown, and the half-width in degrees of the range that the axis is searched in."""
    centre_deg = known_deg if spec.axis_deg is None else spec.axis_deg
    if spec.axis == "given":
        return centre_deg, 0.0
    return centre_deg, spec.axis_range_deg or (_UNKNOWN_RANGE_DEG if centre_deg is None else _KNOWN_RANGE_DEG)


def _axis(centred: np.ndarray, tilt_deg: np.ndarray, extent_px: float, radius_px: float, whole_band: bool,
          known_deg: float | None, spec: PrepareSpec) -> Axis:
    centre_deg, range_deg = axis_search(known_deg, spec)
    if spec.axis == "given":
        if centre_deg is None:
            raise DataError("axis=given needs a direction: give axis_deg")
        return Axis(centre_deg, 0.0, 0.0, "as given")
    found = find_axis(centred, tilt_deg, centre_deg=centre_deg or 0.0, range_deg=range_deg, extent_px=extent_px,
                      radius_px=radius_px, whole_band=whole_band)
    if centre_deg is not None and not found.stands_out:
        return replace(found, angle_deg=centre_deg, error_deg=range_deg, known=True,
                       how="as known; the images do not confirm it")
    if centre_deg is None:
        return replace(found, how=f"{found.how}; no file says which way it points, and 180° more is the other sense of "
                       "tilt")
    return _as_known(replace(found, how=f"{found.how}, within {range_deg:g}° of the known {centre_deg:g}°"), centre_deg)


def _as_known(axis: Axis, known_deg: float | None) -> Axis:
    """Return ``axis`` in the known direction if it differs from that by less than three standard errors."""
    if known_deg is None or abs(axis.angle_deg - known_deg) >= _SIGNIFICANT * axis.error_deg:
        return axis
    return replace(axis, angle_deg=known_deg, known=True,
                   how=f"as known; the images give {axis.angle_deg:.2f}°, which does not differ from it significantly")


def _shifts(centred: np.ndarray, places: np.ndarray, centres: np.ndarray, angle_deg: float, tilt_deg: np.ndarray,
            radius_px: float) -> np.ndarray:
    """Return positions (T, 2) in pixels of the sample in images, of which ``centred`` (T, X, Y) are at ``places``.

    ``centres`` (T, 2) are those of the outlines, which the positions follow on average.
    """
    turn = in_plane_rotation(angle_deg)
    upright = rotate_images(centred, -angle_deg)
    found = find_shifts(upright, tilt_deg, min(radius_px, upright.shape[1] / 2))
    # Positions and centres in the upright frame, where the middle of the images lies at 0.
    placed = centre_sample(found.position_px, (centres - places) @ turn, tilt_deg)
    return np.asarray(places + placed @ turn.T)


def find_again(images: np.ndarray, usable: np.ndarray, defocus_A: np.ndarray, transfer: Transfer, drifts: list[Drift],
               places_px: np.ndarray, centred: np.ndarray, angle_deg: float, tilt_deg: np.ndarray,
               radius_px: float) -> dict[int, Drift]:
    """Return the drift by index for tilts of ``images`` (T, F, X, Y) with an image that was not placed surely.

    ``centred`` (T, x, y) are joined images in place about the middle, on a coarser grid whose ``radius_px`` is that of
    the sample, ``places_px`` (T, 2) their positions in pixels of the images, ``angle_deg`` the direction of the axis.
    The positions that are returned count from the middle of the image.
    """
    unsure = [t for t, drift in enumerate(drifts) if (drift.probability[usable[t]] < SURE).any()]
    if not unsure:
        return {}
    predicted = rotate_images(predict_images(rotate_images(centred, -angle_deg), tilt_deg, radius_px), angle_deg)
    shape = (images.shape[2], images.shape[3])
    ring = rings(shape, transfer.pixel_A)
    n = int(ring.max()) + 1
    cross, square, power, count = np.zeros(n), np.zeros(n), np.zeros(n), 0
    for t, drift in enumerate(drifts):
        spectrum = pad_spectrum(predicted[t], shape)
        for j in np.flatnonzero(drift.placed):
            gain = transfer.by_defocus[float(defocus_A[t, j])]
            at = places_px[t] + drift.position_px[j]
            seen = scipy.fft.fft2(images[t, j].astype(np.float64) - 1) * ramp(shape, at)
            cross += np.bincount(ring.ravel(), (gain * (seen * spectrum.conj()).real).ravel(), n)
            square += np.bincount(ring.ravel(), (gain**2 * np.abs(spectrum) ** 2).ravel(), n)
        power += np.bincount(ring.ravel(), (np.abs(spectrum) ** 2).ravel(), n)
        count += 1
    beta = np.clip(cross / np.maximum(square, 1e-30), 0, None)
    mean = power / np.maximum(np.bincount(ring.ravel(), minlength=n) * count, 1)
    left = np.maximum(transfer.power - (beta**2 * mean)[ring], _UNKNOWN * transfer.power)
    return {t: find_drift(images[t], usable[t], defocus_A[t], transfer,
                          Expected(pad_spectrum(predicted[t], shape) * beta[ring], left)) for t in unsure}
