"""Drift, direction of the axis and shifts of a series, found one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aetlab.core.grid import in_plane_rotation
from aetlab.forward.image_rotation import rotate_images
from aetlab.series.prepare.axis import Axis, centre_of_sample, find_axis, soft_box
from aetlab.series.prepare.drift import Drift, find_drift
from aetlab.series.prepare.planes import crop_spectrum, ramp
from aetlab.series.prepare.settings import PrepareSpec
from aetlab.series.prepare.shifts import centre_sample, find_shifts

#: Lines and moments use the images below this frequency, in cycles per pixel and in 1/Å, whichever is lower.
_HIGHEST_CYCLES, _HIGHEST_PER_A = 0.25, 0.6
#: Rotation that moves the rim of the sample by more than this many pixels is applied to the images.
_RIM_PX = 0.5


@dataclass(frozen=True)
class Geometry:
    """Where the sample lies in each image as recorded.

    ``position_px`` (T, F, 2) counts from the middle of the image; missing images have the position of their tilt.
    ``found`` (T,) marks tilts with a good image; ``radius_px`` is half the diameter of the sample, ``rotate`` whether
    the axis lies so far off that the images are to be rotated.
    """

    position_px: np.ndarray
    found: np.ndarray
    axis: Axis
    drift: Drift
    radius_px: float
    rotate: bool
    line: str
    shift_rms_px: float


def find_geometry(images: np.ndarray, vacuum: np.ndarray, usable: np.ndarray, tilt_deg: np.ndarray,
                  defocus_A: np.ndarray, pixel_A: float, energy_keV: float | None, spec: PrepareSpec) -> Geometry:
    """Return the geometry of ``images`` (T, F, X, Y) of vacuum 1, found in the ``usable`` ones (T, F).

    ``vacuum`` (T, F, X, Y) says where the sample is not.
    """
    drift = find_drift(images, usable, defocus_A, pixel_A, energy_keV)
    tilts = np.flatnonzero(usable.any(axis=1))
    centres, halves = np.zeros((len(tilts), 2)), np.zeros((len(tilts), 2))
    for k, i_tilt in enumerate(tilts):
        found = [(*centre_of_sample(vacuum[i_tilt, j]), drift.position_px[i_tilt, j])
                 for j in np.flatnonzero(usable[i_tilt])]
        centres[k] = np.median([centre - moved for centre, _, moved in found], axis=0)
        halves[k] = np.median([half for _, half, _ in found], axis=0)
    half = np.median(halves, axis=0)
    shape = (images.shape[2], images.shape[3])
    factor = max(1.0, 0.5 / min(_HIGHEST_CYCLES, _HIGHEST_PER_A * pixel_A))
    small = (int(2 * np.ceil(shape[0] / factor / 2)), int(2 * np.ceil(shape[1] / factor / 2)))
    scale = np.array(shape) / np.array(small)
    centred = crop_spectrum(drift.joined[tilts] * ramp(shape, centres), small)
    # Room for centres that are a few pixels off.
    window = soft_box(small, (min(1.1 * half[0] / scale[0], small[0] / 2), min(1.1 * half[1] / scale[1], small[1] / 2)))
    if spec.axis == "given":
        axis = Axis(spec.axis_deg, 0.0, 0.0, "ok", f"direction of the tilt axis {spec.axis_deg:g}° as given")
    else:
        axis = find_axis(centred * window, tilt_deg[tilts], centre_deg=spec.axis_deg, range_deg=spec.axis_range_deg,
                         extent_px=float(2 * half.min() / scale.mean()), whole_band=energy_keV is not None)
    position = np.zeros((*usable.shape, 2))
    if spec.shifts == "find":
        by_tilt = _shifts(centred, centres / scale, axis.angle_deg, tilt_deg[tilts], float(half.max() / scale[0]))
        moved = drift.position_px[tilts]
        mean = np.where(np.isfinite(moved), moved, 0)
        position[tilts] = (by_tilt * scale)[:, None] + mean
        for i_tilt in tilts:
            missing = ~usable[i_tilt]
            position[i_tilt, missing] = position[i_tilt, usable[i_tilt]].mean(axis=0)
    radius = float(half.max())
    rms = float(np.sqrt((position[tilts] ** 2).mean())) if len(tilts) else 0.0
    line = f"sample lies {rms:.2f} px rms along each axis from the middle" if spec.shifts == "find" else "not searched"
    rotate = bool(np.deg2rad(abs(axis.angle_deg)) * radius > _RIM_PX)
    found_tilts = np.zeros(len(usable), bool)
    found_tilts[tilts] = True
    return Geometry(position, found_tilts, axis, drift, radius, rotate, line, rms)


def _shifts(centred: np.ndarray, centres: np.ndarray, angle_deg: float, tilt_deg: np.ndarray,
            radius_px: float) -> np.ndarray:
    """Return positions (T, 2) in pixels of ``centred`` (T, X, Y), whose middle lies at ``centres`` in the images."""
    turn = in_plane_rotation(angle_deg)
    upright = rotate_images(centred, -angle_deg)
    found = find_shifts(upright, tilt_deg, min(radius_px, centred.shape[1] / 2))
    # Positions in the upright frame, where the centres of the images lie at 0.
    placed = centre_sample(found.position_px, np.zeros_like(found.position_px), tilt_deg)
    return np.asarray(centres + placed @ turn.T)
