"""Images that fit a model much worse than the others of their series."""

from __future__ import annotations

import numpy as np

#: An image is an outlier if its misfit is this many standard deviations (from the median deviation) above the median
#: of all ...
OUTLYING = 6.0
#: ... and by at least this share of the median.
OUTLYING_SHARE = 0.05


def find_outlying(misfit: np.ndarray, among: np.ndarray | bool = True) -> tuple[np.ndarray, float]:
    """Return which images ``among`` those of finite ``misfit`` (T, F) fit much worse, bool (T, F), and the median."""
    present = np.isfinite(misfit) & among
    if not present.any():
        return present, 0.0
    middle = float(np.median(misfit[present]))
    sigma = 1.4826 * float(np.median(np.abs(misfit[present] - middle)))
    limit = middle + max(OUTLYING * sigma, OUTLYING_SHARE * middle)
    return present & (np.where(present, misfit, 0) > limit), middle
