"""Where the tilts were found to lie against where they truly lie."""

from __future__ import annotations

import numpy as np

from aetlab.core.nouns import TiltOffsets


def offset_errors(found: TiltOffsets, true: TiltOffsets, tilt_deg: np.ndarray) -> dict[str, float]:
    """Root mean square differences of ``found`` and ``true``, without what one motion of the whole sample explains.

    With R the nominal rotation of a tilt, a sample turned by q and shifted by s before all tilts changes the tilt angle
    by q_y, the axis by (R q)_z, the image's shift by (R s)_xy and the defocus by -(R s)_z. q and s are those that leave
    the least squares of tilt and axis, and of the shifts; what (R q)_x does is not among the unknowns.
    """
    difference = found.as_table() - true.as_table()
    cos, sin = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    tilt = difference[:, 0] - difference[:, 0].mean()
    axis = _rest(np.stack([-sin, cos], axis=1), difference[:, 1])[0]
    across, (s_x, s_z) = _rest(np.stack([cos, sin], axis=1), difference[:, 2])
    along = difference[:, 3] - difference[:, 3].mean()
    defocus = difference[:, 4] + (s_z * cos - s_x * sin)
    rests = {"tilt_error_deg_rms": tilt, "axis_error_deg_rms": axis,
             "shift_error_A_rms": np.concatenate([across, along]), "defocus_error_nm_rms": defocus / 10,
             "brightness_error_rms": difference[:, 5]}
    return {name: float(np.sqrt(np.mean(rest**2))) for name, rest in rests.items()}


def _rest(columns: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``columns`` (T, 2) leave of ``values`` (T,) in least squares, and their two coefficients."""
    coefficients = np.linalg.lstsq(columns, values, rcond=None)[0]
    return values - columns @ coefficients, coefficients
