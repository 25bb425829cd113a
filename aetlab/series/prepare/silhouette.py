r"""Locate the sample in each image by its outline.

The mean square of the detail of an image in units of that of vacuum, e (see :mod:`aetlab.series.prepare.vacuum`), is 1
in vacuum. The signal of a tilt is s = e - 1 - ε, at least 0, with e the mean over the images of the tilt and ε the
relative noise of e. The outline s/(1 + s) hardly depends on which lattice planes a tilt shows. Outlines of all tilts
are moved to where they correlate best with their mean, until nothing moves.

The sample ends where the signal of the images of least defocus, whose fringes reach least far, falls to half of its
plateau. All tilts count the same: the signal of each is taken over its own plateau, the upper quartile of the signal
within the outline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from aetlab.series.prepare.planes import peak_of, ramp
from aetlab.series.prepare.vacuum import AVERAGE_PX, detail_over_vacuum, noise_of_detail

#: Pixels of an image that make one of its outline; a Gaussian of ``AVERAGE_PX`` is sampled well enough.
_BIN = int(AVERAGE_PX) // 2
#: Most rounds, and the motion in pixels of the outline that ends them.
_ROUNDS, _DONE = 12, 0.02
#: Signal over its plateau at the edge of the sample.
_EDGE = 0.5


@dataclass(frozen=True)
class Outline:
    """Position of the sample: ``centre_px`` (T, 2) from the middle of the image, ``half_px`` (2,) its half extent."""

    centre_px: np.ndarray
    half_px: np.ndarray


def signal_of(images: np.ndarray, moved_px: np.ndarray) -> np.ndarray:
    """Return the signal s of a tilt, (x, y) with pixels of ``_BIN``, from images (F, X, Y) that lie at ``moved_px``."""
    shape = (images.shape[1] // _BIN, images.shape[2] // _BIN)
    mean = np.zeros(shape)
    for image, moved in zip(images, moved_px):
        e = detail_over_vacuum(image)[:shape[0] * _BIN, :shape[1] * _BIN]
        e = e.reshape(shape[0], _BIN, shape[1], _BIN).mean(axis=(1, 3))
        mean += scipy.fft.ifft2(scipy.fft.fft2(e) * ramp(shape, moved / _BIN)).real / len(images)
    noise = noise_of_detail((images.shape[1], images.shape[2])) / np.sqrt(len(images))
    return np.asarray(np.clip(mean - 1 - noise, 0, None))


def locate(signals: np.ndarray, near_focus: np.ndarray) -> Outline:
    """Return where the sample lies by the ``signals`` (T, x, y) of all images, ``near_focus`` of those near focus."""
    outlines = signals / (1 + signals)
    n_tilts, *shape = outlines.shape
    # Twice the size: what leaves at one side does not come in at the other.
    padded = (2 * shape[0], 2 * shape[1])
    spectra = scipy.fft.fft2(outlines.astype(np.float32), padded)
    place = np.zeros((n_tilts, 2))
    mean = spectra.mean(axis=0)
    for _ in range(_ROUNDS):
        found = np.array([peak_of(scipy.fft.ifft2(spectrum * mean.conj()).real, max(shape) / 2)
                          for spectrum in spectra])
        step = found - found.mean(axis=0) - place
        place = place + step
        mean = sum(spectrum * ramp(padded, at) for spectrum, at in zip(spectra, place)) / n_tilts
        if np.abs(step).max() < _DONE:
            break
    plateau = np.array([np.quantile(s[s > 0], 0.75) if (s > 0).any() else 1.0 for s in near_focus])
    near = np.minimum(near_focus / plateau[:, None, None], 1)
    mean = sum(scipy.fft.fft2(one, padded) * ramp(padded, at) for one, at in zip(near, place)) / n_tilts
    picture = scipy.fft.ifft2(mean).real[:shape[0], :shape[1]]
    sample = np.clip(picture - _EDGE * picture.max(), 0, None)
    if not sample.any():
        return Outline(np.zeros((n_tilts, 2)), np.array(shape) * _BIN / 2)
    middle, half = np.zeros(2), np.zeros(2)
    for axis in range(2):
        along = sample.sum(axis=1 - axis)
        at = np.arange(shape[axis])
        middle[axis] = (along * at).sum() / along.sum() - (shape[axis] - 1) / 2
        half[axis] = (np.ptp(at[along > 0]) + 1) / 2
    return Outline((place + middle) * _BIN, half * _BIN)
