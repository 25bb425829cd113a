r"""Images of a tilt placed with the help of the others.

Where the images of one tilt do not tell where they lie relative to each other, its projection is predicted from the
other tilts (:func:`aetlab.series.prepare.shifts.predict_images`). On average over rings, an image is β c_j E plus what
the prediction E does not know, of power V = P - β² |E|², seen through c_j, plus noise; β follows by regression of all
images that are placed.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from aetlab.forward.image_rotation import rotate_images
from aetlab.series.prepare.drift import Drift, Expected, Transfer, find_drift, rings
from aetlab.series.prepare.planes import pad_spectrum, ramp
from aetlab.series.prepare.shifts import predict_images

#: Probability of a position below which the other tilts are asked.
SURE = 0.99
#: Least part of the power that a prediction does not know.
_UNKNOWN = 0.1


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
