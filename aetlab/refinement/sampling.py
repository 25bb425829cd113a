r"""Correction for the sampling of potential and waves on the pixels of the images.

The model holds the mean of the potential over each voxel, and waves on the pixels. The mean blurs the potential;
frequencies beyond Nyquist alias, and their effect on an atom depends on its place between the pixels. Tilts average it
across the tilt axis. Along the axis an atom lies at the same place between the pixels in every tilt, and its position
is wrong by a wave with the period of a pixel (Pt, pixels of 0.42 Å: 1.6 pm).

This is a defect correction (Stetter, Numer. Math. 29, 425, 1978). With the amplitudes m(x) of the model, those of a
finer model f(x) of the same atoms x, and d = f(x₀) - m(x₀) at fitted atoms x₀, the cost ½ Σ w (m(x) - (a - d))² is that
of the finer model at x₀. Its gradient is that of the model, and a pass takes as long as without it. The correction is
repeated at the atoms that the fit found.

The finer model has pixels :data:`FACTOR` times finer, slices of the same thickness, and the potential itself instead of
its means (:func:`aetlab.refinement.tables.on_finer_voxels`). On request it averages intensities over the focal spread
(:func:`aetlab.forward.imaging.planes_of_spread`), which the envelope approximates for weak scattering. Its images |ψ|²,
blurred by the detector's MTF, are sampled at the centres of the pixels, where frequencies beyond Nyquist alias as they
do in a camera. The MTF of a camera holds the area of its pixels. Simulated images that are binned from finer ones
(``simulate.oversample``) are means over the pixels before the MTF; the finer images are then averaged as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.fft

from aetlab.core.poses import Poses
from aetlab.methods.likelihood import DARKEST
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.turns import over_tilts

#: Pixels of the finer model along an axis in one pixel. Twice finer ones hold 99 % of the difference from four times
#: finer ones.
FACTOR = 2
#: Share of a fit's change of a thermal factor that the next correction is made with: the finer model is steeper in it
#: (by a half for Pt and pixels of 0.42 Å), and the full change overshoots.
RELAXED = 2 / 3


def correct_sampling(model: AtomModel, sites: Sites, poses: Poses) -> AtomModel:
    """Return ``model`` with the correction at these atoms. It takes about as long as four passes over the data."""
    return model.with_data(model.data.with_sampling(sampling_difference(model, sites, poses)))


def relaxed_thermal(model: AtomModel, latest_A2: np.ndarray | None) -> AtomModel:
    """Return ``model`` with thermal factors relaxed from the latest ones (K,); unchanged without them."""
    if latest_A2 is None:
        return model
    return model.with_thermal(latest_A2 + RELAXED * (model.thermal_A2 - latest_A2))


def correct_again(model: AtomModel, sites: Sites, poses: Poses) -> AtomModel:
    """Return ``model`` with the correction at these atoms if it has one; else ``model``."""
    return correct_sampling(model, sites, poses) if model.data.corrects_sampling else model


def sampling_difference(model: AtomModel, sites: Sites, poses: Poses, factor: int = FACTOR) -> np.ndarray:
    """Return amplitudes (T, F, X, Y) of a model on pixels ``factor`` times finer, less those of ``model``; vacuum is 1.

    Each thread holds the slices of one tilt on the finer pixels, ``factor``² times as large as those of a pass.
    """
    fine = model.on_finer_pixels(factor)

    def of_tilt(i_tilt: int) -> np.ndarray:
        (images,) = model.images_of_tilt(i_tilt, sites, poses, (0.0,))
        return np.asarray(_amplitudes(fine, i_tilt, sites, poses, factor) - np.sqrt(images), np.float32)

    return np.stack(list(over_tilts(of_tilt, model.n_tilts)))


def fine_amplitudes(model: AtomModel, sites: Sites, poses: Poses, factor: int = FACTOR) -> Iterator[np.ndarray]:
    """Yield the amplitudes (F, X, Y) of each tilt, of a model on pixels ``factor`` times finer; vacuum is 1."""
    fine = model.on_finer_pixels(factor)
    return over_tilts(lambda i_tilt: _amplitudes(fine, i_tilt, sites, poses, factor), model.n_tilts)


def _amplitudes(fine: AtomModel, i_tilt: int, sites: Sites, poses: Poses, factor: int) -> np.ndarray:
    planes = fine.images_of_tilt(i_tilt, sites, poses, fine.focus_A.tolist())
    images = planes[0] if len(planes) == 1 else np.tensordot(fine.focus_weights, planes, 1)
    return np.asarray(np.sqrt(np.maximum(sample_at_pixels(images, factor), DARKEST)), np.float32)


def sample_at_pixels(fine: np.ndarray, factor: int) -> np.ndarray:
    """Return images (..., X, Y), float64, at the centres of pixels of ``factor`` × ``factor`` of the ``fine`` ones.

    ``fine`` (..., factor X, factor Y) is interpolated by its Fourier series.
    """
    *rest, n_x, n_y = fine.shape
    # The centre of a pixel lies (factor - 1) / 2 fine pixels beyond the centre of its first one.
    turn = 1j * np.pi * (factor - 1)
    spectrum = scipy.fft.fft2(fine) * np.exp(turn * (np.fft.fftfreq(n_x)[:, None] + np.fft.fftfreq(n_y)))
    folded = spectrum.reshape(*rest, factor, n_x // factor, factor, n_y // factor).mean(axis=(-4, -2))
    sampled: np.ndarray = scipy.fft.ifft2(folded).real
    return sampled
