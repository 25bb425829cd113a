r"""The sign of the defocus, from the images: an electrostatic potential has peaks at the atoms, not wells.

Programs count defocus with either sign. Images of a weakly scattering sample with the opposite sign are those of the
opposite potential. The phase of each tilt follows from its images by a matched filter,

    φ = F⁻¹ [ Σ_j t_j F(I_j - 1) / (Σ_j t_j² + ε max) ],    t_j = -2 Im H_j,

H_j the transfer function (:mod:`aetlab.forward.imaging`), and its skewness ⟨φ³⟩/⟨φ²⟩^{3/2} is positive for atoms. Both
signs are tried; the mean difference of the skewness over its standard error between the tilts is the evidence.
Amplitude contrast, which darkens a sample whatever the defocus, is of low frequency and hardly skews the phase.

The drift between the defoci is found through contrast transfer, in which the sign and amplitude contrast interfere. The
sign is therefore found first, and drift, axis and shifts are found again where it has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from aetlab.core.tilt_series import TiltSeries
from aetlab.forward.imaging import transfer_function
from aetlab.series.prepare.nouns import Step
from aetlab.series.prepare.planes import ramp
from aetlab.spec import MicroscopeSpec

STEP = "sign of the defocus"
#: Standard errors by which the opposite sign must be better to be taken, and by which the given one is confirmed.
OPPOSITE, CONFIRMED = 4.0, 3.0
#: ε of the matched filter.
_FLOOR = 0.05
#: Tilts that are looked at, spread over the series; fewer than the second have no scatter.
_MOST_TILTS, _LEAST_TILTS = 41, 3


@dataclass(frozen=True)
class FocusSign:
    """Evidence for the given sign in standard errors, and the mean skewness with the given and the opposite sign."""

    evidence: float
    skewness: float
    opposite_skewness: float


def find_focus_sign(series: TiltSeries, lens: MicroscopeSpec, position_px: np.ndarray) -> FocusSign:
    """Return what the images of ``series`` say about the sign of its defoci; 0 with fewer than three tilts.

    ``position_px`` (T, F, 2) is where the sample lies in each image.
    """
    tilts = np.flatnonzero((series.weight > 0).any(axis=1))
    tilts = tilts[np.unique(np.linspace(0, len(tilts) - 1, _MOST_TILTS).round().astype(int))] if len(tilts) else tilts
    transfers: dict[float, np.ndarray] = {}
    skewness = np.array([[_skewness(series, lens, position_px, int(i), sign, transfers) for sign in (1, -1)]
                         for i in tilts])
    skewness = skewness.reshape(-1, 2)
    skewness = skewness[np.isfinite(skewness).all(axis=1)]
    if len(skewness) < _LEAST_TILTS:
        return FocusSign(0.0, 0.0, 0.0)
    more = skewness[:, 0] - skewness[:, 1]
    error = max(float(more.std(ddof=1)) / np.sqrt(len(more)), 1e-12)
    return FocusSign(float(more.mean()) / error, *(float(mean) for mean in skewness.mean(axis=0)))


def with_focus_sign(series: TiltSeries, lens: MicroscopeSpec | None, setting: str,
                    position_px: np.ndarray) -> tuple[TiltSeries, Step]:
    """Return ``series`` with the defoci that its images agree with, and the step.

    ``position_px`` (T, F, 2) is where the sample lies in each image. With ``setting`` find, the opposite sign is taken
    where it is better by :data:`OPPOSITE` standard errors; with given the defoci are kept whatever the images say.
    Without a ``lens``, nothing is tried.
    """
    if lens is None:
        return series, Step(STEP, setting, "not tried: the microscope is not known", {"evidence": 0.0, "sign": 1.0})
    found = find_focus_sign(series, lens, position_px)
    opposite, sigma = found.evidence < -OPPOSITE, f"{abs(found.evidence):.1f} standard errors"
    skews = f"skewness of the phase {found.skewness:.2f} as given, {found.opposite_skewness:.2f} with the opposite sign"
    taken = opposite and setting == "find"
    numbers = {"evidence": found.evidence, "sign": -1.0 if taken else 1.0}
    if taken:
        series = replace(series, defocus_A=-series.defocus_A)
        line = (f"the images show atoms only with the opposite sign, by {sigma} ({skews}): all defoci have changed "
                "their sign. Overfocus is positive; defocus_sign=given keeps the sign")
    elif opposite:
        line = (f"the images show atoms only with the opposite sign, by {sigma} ({skews}); kept, as defocus_sign=given "
                "asks")
    elif found.evidence < CONFIRMED:
        line = f"kept; the images do not tell it, {found.evidence:.1f} standard errors ({skews})"
    else:
        line = f"as given; the images show atoms with it, by {sigma} ({skews})"
    return series, Step(STEP, setting, line, numbers, "ok" if found.evidence >= CONFIRMED else "look")


def _skewness(series: TiltSeries, lens: MicroscopeSpec, position_px: np.ndarray, i_tilt: int, sign: int,
              transfers: dict[float, np.ndarray]) -> float:
    """Return the skewness of the phase of one tilt with ``sign`` times its defoci; NaN where nothing is transferred."""
    shape_xy = series.images.shape[2], series.images.shape[3]
    by_image, power = np.zeros(shape_xy, complex), np.zeros(shape_xy)
    for j in np.flatnonzero(series.weight[i_tilt] > 0).tolist():
        defocus_A = round(sign * float(series.defocus_A[i_tilt, j]), 1)
        if defocus_A not in transfers:
            transfers[defocus_A] = -2 * transfer_function(shape_xy, series.pixel_A, lens, defocus_A).imag
        contrast = scipy.fft.fft2(series.images[i_tilt, j].astype(np.float64) - 1)
        by_image += transfers[defocus_A] * contrast * ramp(shape_xy, position_px[i_tilt, j])
        power += transfers[defocus_A] ** 2
    by_image[0, 0] = 0
    phase = scipy.fft.ifft2(by_image / (power + max(_FLOOR * float(power.max()), 1e-300))).real
    square = float((phase**2).mean())
    return float((phase**3).mean()) / square**1.5 if square > 0 else np.nan
