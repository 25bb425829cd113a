r"""Shifts of all tilts, by the consistency of projections.

Across the axis, a projection p_t(x, y) of a sample within |x| < R is expanded in √(1 - s²) U_n(s) = sin((n + 1) θ), s
= x/R = cos θ, U_n the Chebyshev polynomials of the second kind: the projections of the Zernike polynomials of degree
n. The coefficient c_n(t, y) is a combination of cos mt and sin mt with m = n, n - 2, … alone (Helgason 1965, Ludwig
1966; Cormack, J. Appl. Phys. 35, 2908, 1964). Coefficients of one tilt therefore follow from those of all others, by
least squares that leave the tilt out, and with them its projection. Each image is moved to where it correlates best
with the projection so predicted, until nothing moves. This is an alignment to a reconstruction from the other tilts,
without reconstructing.

Images do not tell a shift of the sample itself, which moves tilt t by (a cos t + b sin t, c). It is chosen so that the
positions agree best with the centres that the images show one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from aetlab.series.prepare.planes import peaks_near, ramp

#: Number of moments over the number of tilts, stage by stage.
STAGES = (1 / 8, 1 / 4, 3 / 8)
#: Part of the mean power of the terms that is added in the least squares.
_RIDGE = 0.01
#: Most rounds, the motion in pixels that ends them, and the greatest motion in one.
_ROUNDS, _DONE_PX, _MOST_PX = 40, 0.02, 4
#: Greatest distance of the sample from where its outline has it, in units of R. Without a limit, images of a small
#: sample that are turned by a wrong angle drive each other out of the field.
_MOST_OFF = 0.3
#: Rounds of each stage after which a direction of the axis is judged.
_FEW_ROUNDS = 4


@dataclass(frozen=True)
class Shifts:
    """``position_px`` (T, 2): where the sample lies in each image; ``last_px`` the rms motion of the last round."""

    position_px: np.ndarray
    last_px: float
    rounds: int


def find_shifts(images: np.ndarray, tilt_deg: np.ndarray, radius_px: float) -> Shifts:
    """Return the shifts of ``images`` (T, X, Y) about the vertical axis through their middle.

    ``radius_px`` is R: the greatest distance of the sample from the axis.
    """
    position, rms, rounds = np.zeros((len(images), 2)), 0.0, 0
    for part in STAGES:
        n_moments = int(part * len(images))
        if n_moments < 2:
            continue
        prediction = _Prediction(images, np.deg2rad(tilt_deg), radius_px, n_moments)
        position, rms, n_rounds = _settle(prediction, np.deg2rad(tilt_deg), position, _ROUNDS)
        rounds += n_rounds
    return Shifts(position, rms, rounds)


class _Prediction:
    """Expansion of ``images`` (T, X, Y) in ``n_moments`` moments, and the prediction of each tilt from the others."""

    def __init__(self, images: np.ndarray, tilt: np.ndarray, radius_px: float, n_moments: int) -> None:
        self.shape = shape = (images.shape[1], images.shape[2])
        self.most_px = _MOST_OFF * radius_px
        # Half a period of the highest moment.
        sigma = np.pi * radius_px / (2 * n_moments)
        q_x, q_y = scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.rfftfreq(shape[1])
        self.spectra = scipy.fft.rfft2(images) * np.exp(-2 * (np.pi * sigma) ** 2 * (q_x**2 + q_y**2))
        s = (np.arange(shape[0]) - (shape[0] - 1) / 2) / radius_px
        theta = np.arccos(np.clip(s, -1, 1))
        self.basis = np.array([np.sin((n + 1) * theta) for n in range(n_moments)])
        self.moments = np.linalg.pinv(self.basis.T)
        self.predict = np.stack([_from_others(tilt, n) for n in range(n_moments)])

    def _coefficients(self, moved: np.ndarray) -> np.ndarray:
        """Return the moments (T, N, Y) of images with the half spectra ``moved`` (T, X, Y // 2 + 1)."""
        return np.asarray(self.moments @ scipy.fft.irfft2(moved, self.shape))

    def _moved(self, position: np.ndarray) -> np.ndarray:
        """Return the half spectra of the images with ``position`` (T, 2) moved to their middle."""
        return np.asarray(self.spectra * ramp(self.shape, position)[..., :self.spectra.shape[2]])

    def _from_moments(self, coefficients: np.ndarray) -> np.ndarray:
        """Return images (T, X, Y) from their moments (T, N, Y)."""
        return np.asarray(self.basis.T @ coefficients)

    def _predicted(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the moments (T, N, Y) that the other tilts predict."""
        return np.asarray((self.predict @ coefficients.transpose(1, 0, 2)).transpose(1, 0, 2))

    def step(self, position: np.ndarray) -> np.ndarray:
        """Return the motion (T, 2) by which the images at ``position`` (T, 2) correlate best with their predictions."""
        moved = self._moved(position)
        wanted = self._from_moments(self._predicted(self._coefficients(moved)))
        products = scipy.fft.irfft2(moved * scipy.fft.rfft2(wanted).conj(), self.shape)
        return peaks_near(products, min(_MOST_PX, (min(self.shape) - 3) // 2))

    def of(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images (T, X, Y) at ``position`` (T, 2) as their moments show them, and as the others predict them."""
        coefficients = self._coefficients(self._moved(position))
        return self._from_moments(coefficients), self._from_moments(self._predicted(coefficients))


def _settle(prediction: _Prediction, tilt: np.ndarray, position: np.ndarray,
            most_rounds: int) -> tuple[np.ndarray, float, int]:
    """Return positions (T, 2) that agree with the moments, the rms of the last motion and the rounds.

    The images of ``prediction`` have the outline of the sample in their middle.
    """
    terms = np.column_stack([np.cos(tilt), np.sin(tilt)])
    rms, n_rounds = 0.0, 0
    while n_rounds < most_rounds:
        n_rounds += 1
        step = prediction.step(position)
        step[:, 0] -= terms @ np.linalg.lstsq(terms, step[:, 0], rcond=None)[0]
        step[:, 1] -= step[:, 1].mean()
        position = np.clip(position + step, -prediction.most_px, prediction.most_px)
        rms = float(np.sqrt((step**2).mean()))
        if np.abs(step).max() < _DONE_PX:
            break
    return position, rms, n_rounds


def predicted_power(images: np.ndarray, tilt_deg: np.ndarray, radius_px: float) -> np.ndarray:
    """Return the part (T,) of the power of each image that those at the other tilts predict.

    It is 1 - |image - prediction|²/⟨|image|²⟩ after a short search for shifts. Noise makes it smaller at all directions
    of the axis alike: rotations keep the power of an image. See :func:`find_shifts` for the parameters.
    """
    tilt, position = np.deg2rad(tilt_deg), np.zeros((len(images), 2))
    for part in (STAGES[0], STAGES[-1]):
        prediction = _Prediction(images, tilt, radius_px, max(int(part * len(images)), 2))
        position, _, _ = _settle(prediction, tilt, position, _FEW_ROUNDS)
    own, wanted = prediction.of(position)
    total = float((own**2).sum(axis=(1, 2)).mean())
    return np.asarray(1 - ((own - wanted) ** 2).sum(axis=(1, 2)) / max(total, 1e-300))


def predict_images(images: np.ndarray, tilt_deg: np.ndarray, radius_px: float) -> np.ndarray:
    """Return what the others predict of each of ``images`` (T, X, Y), which are in place; see :func:`find_shifts`."""
    n_moments = max(int(STAGES[-1] * len(images)), 2)
    return _Prediction(images, np.deg2rad(tilt_deg), radius_px, n_moments).of(np.zeros((len(images), 2)))[1]


def centre_sample(position_px: np.ndarray, centre_px: np.ndarray, tilt_deg: np.ndarray) -> np.ndarray:
    """Return positions (T, 2) plus a shift of the whole sample, so that they agree best with ``centre_px`` (T, 2)."""
    tilt = np.deg2rad(tilt_deg)
    terms = np.column_stack([np.cos(tilt), np.sin(tilt)])
    off = centre_px - position_px
    along = np.full(len(off), np.median(off[:, 1]))
    # Medians, by least squares with weights 1/|residual|: single centres may be wrong.
    weight = np.ones(len(off))
    for _ in range(20):
        found = np.linalg.lstsq(terms * weight[:, None], off[:, 0] * weight, rcond=None)[0]
        weight = 1 / np.sqrt(np.maximum(np.abs(off[:, 0] - terms @ found), 0.1))
    return np.asarray(position_px + np.column_stack([terms @ found, along]))


def _from_others(tilt: np.ndarray, n: int) -> np.ndarray:
    """Return the matrix (T, T) that predicts moment ``n`` of each tilt from those of the others."""
    orders = np.arange(n % 2, n + 1, 2)
    terms = np.column_stack([np.cos(np.outer(tilt, orders)), np.sin(np.outer(tilt, orders[orders > 0]))])
    u, size, _ = np.linalg.svd(terms, full_matrices=False)
    gain = size**2 / (size**2 + _RIDGE * len(tilt))
    hat = (u * gain) @ u.T
    own = np.minimum(np.diag(hat), 1 - 1e-6)
    return np.asarray((hat - np.diag(np.diag(hat))) / (1 - own)[:, None])
