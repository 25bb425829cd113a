r"""Images that fit a model much worse than the others of their series, and the weight that they lose.

An image that no motion, defocus or brightness explains (drift, contamination, a wrong angle in the table) pulls a model
towards what is wrong in it. Its misfit, χ² per value, stands out among those of all images. Outlying images
are weighted by (median χ² / χ²)², all others by 1, and the weights follow the misfit as the fit goes on (iteratively
reweighted least squares).
"""

from __future__ import annotations

import numpy as np

from aetlab.core.tilt_series import TiltSeries

#: An image is an outlier if its misfit is this many standard deviations (from the median deviation) above the median
#: of all ...
OUTLYING = 6.0
#: ... and by at least this share of the median.
OUTLYING_SHARE = 0.05
#: Least weight of an image: it keeps its pose.
LEAST = 1e-3
#: Images that a line names.
MOST_NAMED = 10


def find_outlying(misfit: np.ndarray, among: np.ndarray | bool = True) -> tuple[np.ndarray, float]:
    """Return which images ``among`` those of finite ``misfit`` (T, F) fit much worse, bool (T, F), and the median."""
    present = np.isfinite(misfit) & among
    if not present.any():
        return present, 0.0
    middle = float(np.median(misfit[present]))
    sigma = 1.4826 * float(np.median(np.abs(misfit[present] - middle)))
    limit = middle + max(OUTLYING * sigma, OUTLYING_SHARE * middle)
    return present & (np.where(present, misfit, 0) > limit), middle


def robust_factors(misfit: np.ndarray) -> np.ndarray:
    """Return the weight (T, F) of each image by its ``misfit`` (T, F): 1 unless it stands out."""
    outlying, middle = find_outlying(misfit)
    return np.where(outlying, np.maximum((middle / np.where(outlying, misfit, 1.0)) ** 2, LEAST), 1.0)


def name_weakened(series: TiltSeries, factors: np.ndarray) -> str:
    """Return tilt, defocus and weight of the images of ``series`` whose ``factors`` (T, F) are below 1.

    The least weights come first. The result is empty if there are none.
    """
    found = sorted(np.argwhere(factors < 1).tolist(), key=lambda place: factors[tuple(place)])
    named = [f"{series.tilt_deg[i]:.4g}° at {series.defocus_A[i, j] / 10:.4g} nm (weight {factors[i, j]:.2g})"
             for i, j in found[:MOST_NAMED]]
    return ", ".join(named) + (f" and {len(found) - len(named)} more" if len(found) > len(named) else "")
