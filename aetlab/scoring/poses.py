"""Errors of the poses of tilts."""

from __future__ import annotations

import numpy as np

from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses


def score_poses(found: Poses | None, true: Poses | None, series: TiltSeries) -> dict[str, float]:
    """Return the errors of the poses of ``series``, None for nominal ones; empty if both are nominal."""
    if found is None and true is None:
        return {}
    nominal = Poses.nominal(series.tilt_deg, series.images.shape[1])
    return pose_errors(found or nominal, true or nominal)


def pose_errors(found: Poses, true: Poses) -> dict[str, float]:
    """Return root mean square differences of two sets of poses, less what one motion of the whole sample explains.

    With R the nominal rotation of a tilt, turning the sample by q and shifting it by s before all tilts changes the
    tilt angle by q_y, the direction of the axis by (R q)_z and the shift by R s, whose z component is the height. q and
    s minimise the squares of angles and of shifts across the beam. (R q)_x is left out: the alignment does not fit it.
    """
    angles = found.angles_deg - true.angles_deg
    shift_A = found.shift_A - true.shift_A
    cos, sin = np.cos(np.deg2rad(true.tilt_deg)), np.sin(np.deg2rad(true.tilt_deg))
    tilt = angles[:, 0] - angles[:, 0].mean()
    axis = _rest(np.stack([-sin, cos], axis=1), angles[:, 1])[0]
    across, (s_x, s_z) = _rest(np.stack([cos, sin], axis=1), shift_A[:, 0])
    along = shift_A[:, 1] - shift_A[:, 1].mean()
    height = s_z * cos - s_x * sin
    shift = np.stack([across, along], axis=1)[:, None] + found.image_shift_A - true.image_shift_A
    defocus = found.defocus_change_A - true.defocus_change_A + height[:, None]
    rests = {"tilt_error_deg_rms": tilt, "axis_error_deg_rms": axis,
             "shift_error_A_rms": shift, "defocus_error_nm_rms": defocus / 10,
             "brightness_error_rms": found.brightness - true.brightness}
    return {name: float(np.sqrt(np.mean(rest**2))) for name, rest in rests.items()}


def _rest(columns: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what ``columns`` (T, 2) leave of ``values`` (T,) in least squares, and their two coefficients."""
    coefficients = np.linalg.lstsq(columns, values, rcond=None)[0]
    return values - columns @ coefficients, coefficients
