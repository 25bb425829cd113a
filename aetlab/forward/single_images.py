r"""Differences of single images from their tilt, and of planes of the defocus from each other, during an alignment.

The alignment fits shift, defocus and brightness that the images of a tilt have in common. What is left of their
residuals is fitted image by image with the same derivatives: an image may lie elsewhere than the others of its tilt,
and have another defocus and brightness. The mean over the images of a tilt goes to the tilt.

Images of another magnification than stated, μ, are compared after they are reduced by it. A change of μ moves a
feature at r by r dμ; with all that an image has of its own projected out, the images of a plane in all tilts together
give its step. The mean of all planes stays 1: the volume would follow it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aetlab.core.nouns import TiltSeries
from aetlab.forward.resampling import reduce_series
from aetlab.forward.tilt_equations import ImageEquations

#: Fraction of its diagonal that is added to a normal matrix.
DAMPING = 1e-3
#: Largest change of a magnification in one step, and the change below which the images are left as they are.
_LONGEST, _SMALL = 0.01, 1e-6


class SingleImages:
    """Shift along x and y, defocus and brightness (T, F, 4) of single images, and magnifications (F,) of the planes.

    With ``images`` the first are fitted, with ``magnification`` the second; otherwise they stay 0 and 1.
    """

    def __init__(self, series: TiltSeries, *, images: bool, magnification: bool) -> None:
        self._stated = series
        #: The series with its images reduced by the magnifications.
        self.series = series
        self.fits_images = images and series.n_defoci > 1
        self.fits_magnification = magnification and series.n_defoci > 1
        self.of_images = np.zeros((*series.weight.shape, 4))
        self.magnification = np.ones(series.n_defoci)
        self._present = series.weight > 0
        self.forget_steps()

    def forget_steps(self) -> None:
        """Begin a step of the magnifications."""
        self._slope, self._curvature = np.zeros((2, len(self.magnification)))

    def own(self, i_tilt: int) -> np.ndarray | None:
        """Return what the images of a tilt have of their own, (F, 4); None if all share what the tilt has."""
        return self.of_images[i_tilt] if self.of_images[i_tilt].any() else None

    def restore(self, of_images: np.ndarray | None, magnification: np.ndarray | None) -> None:
        """Continue with these values; None for those of a new alignment."""
        self.of_images = np.zeros(self.of_images.shape) if of_images is None else of_images.copy()
        self._magnify(np.ones(len(self.magnification)) if magnification is None else magnification.copy())

    def reset(self, tilts: np.ndarray) -> None:
        """Forget what the images of ``tilts`` (mask) have of their own."""
        self.of_images[tilts] = 0

    def step(self, i_tilt: int, equations: Sequence[ImageEquations], most: np.ndarray) -> np.ndarray:
        """Change what the images of a tilt have of their own by one step; return what they all share (4,) of it.

        ``equations`` are those of each image after the step of the tilt. Further unknowns of them, such as the
        contrast, are fitted and not kept. No change is larger than ``most`` (4,). Equations with the magnification
        contribute to the step of all tilts.
        """
        changes = np.zeros((len(equations), 4))
        for j in np.flatnonzero(self._present[i_tilt]).tolist():
            of_image = equations[j]
            inverse = _damped_inverse(of_image.normal)
            step = -inverse @ of_image.slope
            changes[j] = np.clip(step[:4], -most, most)
            radial_slope = of_image.radial_slope
            if radial_slope is not None:
                slope, curvature = of_image.of_magnification(-inverse @ radial_slope, step)
                self._slope[j] += slope
                self._curvature[j] += curvature
        if not self.fits_images:
            return np.zeros(4)
        here = self._present[i_tilt]
        changed = self.of_images[i_tilt] + changes
        mean: np.ndarray = changed[here].mean(axis=0)
        self.of_images[i_tilt] = np.where(here[:, None], changed - mean, 0)
        return mean

    def step_magnification(self) -> None:
        """Change the magnifications by one step, of the derivatives that :meth:`step` was given since the last one."""
        if self.fits_magnification and (self._curvature > 0).all():
            step = -self._slope / self._curvature
            step = np.clip(step - step.mean(), -_LONGEST, _LONGEST)
            magnification = self.magnification * (1 + step)
            if np.abs(step).max() > _SMALL:
                self._magnify(magnification / magnification.mean())
        self.forget_steps()

    def _magnify(self, magnification: np.ndarray) -> None:
        self.magnification = magnification
        self.series = self._stated if (magnification == 1).all() else reduce_series(self._stated, magnification)


def _damped_inverse(normal: np.ndarray) -> np.ndarray:
    """Return the inverse (K, K) of a normal matrix, with damping."""
    scale = 1 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
    damped = normal * np.outer(scale, scale) + DAMPING * np.eye(len(normal))
    inverse: np.ndarray = np.linalg.inv(damped) * np.outer(scale, scale)
    return inverse
