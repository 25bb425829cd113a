r"""Aberrations of the lens that the series does not state, from what the refined atoms leave in the images.

Astigmatism, coma and three-fold astigmatism are the same in all images. Each has two components, amplitude times cosine
and sine of its azimuth; the derivative of the modelled amplitudes with respect to each is a difference of two
predictions. What brightness, contrast, defocus and position of the image explain as well is projected out of
derivatives and residuals, image by image; least squares over all images then gives the components, and again from
where that led (Gauss-Newton). Their covariance is the spread of the gradients of the images between two inverses of
the normal matrix (White, Econometrica 48, 817, 1980). Atoms stay where they are: they may have taken up a part.

An aberration counts by its phase at the edge of what the lens passes. A quarter of π is the usual limit of a corrected
lens (Uhlemann and Haider, Ultramicroscopy 72, 109, 1998).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aetlab.core import physics
from aetlab.core.backend import to_numpy
from aetlab.core.nouns import TiltSeries
from aetlab.forward.imaging import transfer_function
from aetlab.spec import MicroscopeSpec

#: Predict the amplitudes (F, X, Y) of each tilt of a series with a lens.
Lens = Callable[[MicroscopeSpec, TiltSeries], Iterable[np.ndarray]]
#: Symmetry of each aberration, and its phase at the edge for 1 Å over 2π θ²/λ or 2π θ³/λ.
_ABERRATIONS = {"A1": (2, 2, 1 / 2), "B2": (1, 3, 1.0), "A2": (3, 3, 1 / 3)}
#: Tilts that are compared, bytes that their predicted images may take, and steps at most.
N_TILTS, MOST_BYTES, N_STEPS = 8, 2**28, 6
#: Phase at the edge in radians of a step of a difference, the longest step towards the images, and the last one.
_DIFFERENCE, _LONGEST, _SETTLED = 0.1, 1.0, 0.03
#: Part of the amplitude at which the envelopes end what the lens passes, e⁻².
_PASSED = math.exp(-2)
#: Plane of the difference with respect to the defocus, in Å.
_DEFOCUS_A = 5.0


@dataclass(frozen=True)
class FoundAberration:
    """An aberration that fits the images: ``nm`` at ``deg`` in all, with the standard error ``error_nm``.

    ``missing_rad`` is the phase, at the edge of what the lens passes, of the difference from the stated aberration, and
    ``error_rad`` its standard error.
    """

    nm: float
    deg: float
    error_nm: float
    missing_rad: float
    error_rad: float


def compared_tilts(series: TiltSeries) -> np.ndarray:
    """Return the indices of at most :data:`N_TILTS` tilts with an image, evenly among all; fewer of large images."""
    seen = np.flatnonzero((series.weight > 0).any(axis=1))
    fitting = MOST_BYTES // (4 * (2 + 2 * len(_ABERRATIONS)) * series.images[0].size)
    n_tilts = max(1, min(N_TILTS, len(seen), fitting))
    return seen[np.unique(np.linspace(0, len(seen) - 1, n_tilts).round().astype(int))]


def find_aberrations(series: TiltSeries, microscope: MicroscopeSpec, predict: Lens) -> dict[str, FoundAberration]:
    """Return the aberrations A1, B2 and A2 by which the images of ``series`` fit best; none without noise or images.

    ``predict`` gives the amplitudes of the series, brightness included.
    """
    if not (series.weight > 0).any() or not np.isfinite(series.electrons_per_pixel).all():
        return {}
    rad_per_nm = np.repeat(phases_per_nm(series, microscope), 2)
    stated = _components(microscope)
    found = stated.copy()
    for _ in range(N_STEPS):
        step, covariance = _step(series, microscope, found, _DIFFERENCE / rad_per_nm, predict)
        phase = np.abs(step * rad_per_nm).max()
        found = found + step * min(1.0, _LONGEST / max(phase, 1e-30))
        if phase < _SETTLED:
            break
    error = np.sqrt(np.diagonal(covariance).reshape(-1, 2).mean(axis=1))
    missing = np.hypot(*((found - stated) * rad_per_nm).reshape(-1, 2).T)
    nm, deg = _polar(found)
    return {name: FoundAberration(*map(float, values))
            for name, *values in zip(_ABERRATIONS, nm, deg, error, missing, error * rad_per_nm[::2], strict=True)}


def phases_per_nm(series: TiltSeries, microscope: MicroscopeSpec) -> np.ndarray:
    """Return the phase (3,) in rad of 1 nm of each aberration at the edge of what the lens passes."""
    wavelength_A = physics.wavelength_A(microscope.energy_keV)
    shape = series.images.shape[2:]
    passed = np.abs(transfer_function(shape, series.pixel_A, microscope, float(np.abs(series.defocus_A).mean())))
    q = [np.fft.fftfreq(n, series.pixel_A) for n in shape]
    edge = wavelength_A * float(np.hypot(q[0][:, None], q[1])[passed > _PASSED].max(initial=1 / max(shape)))
    return np.array([20 * math.pi / wavelength_A * factor * edge**power for _, power, factor in _ABERRATIONS.values()])


def _components(microscope: MicroscopeSpec) -> np.ndarray:
    """Return amplitude times cosine and sine (6,) in nm, of the azimuth times the symmetry."""
    lens = vars(microscope)
    return np.array([lens[f"{name}_nm"] * part(np.deg2rad(symmetry * lens[f"{name}_deg"]))
                     for name, (symmetry, _, _) in _ABERRATIONS.items() for part in (np.cos, np.sin)])


def _polar(components: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return amplitudes (3,) in nm and azimuths (3,) in degrees."""
    x, y = components.reshape(-1, 2).T
    symmetry = np.array([symmetry for symmetry, _, _ in _ABERRATIONS.values()])
    return np.hypot(x, y), np.rad2deg(np.arctan2(y, x)) / symmetry


def _with(microscope: MicroscopeSpec, components: np.ndarray) -> MicroscopeSpec:
    lens: dict[str, Any] = {}
    for name, nm, deg in zip(_ABERRATIONS, *(value.tolist() for value in _polar(components)), strict=True):
        lens |= {f"{name}_nm": nm, f"{name}_deg": deg if nm else 0.0}
    return replace(microscope, **lens)


def _step(series: TiltSeries, microscope: MicroscopeSpec, components: np.ndarray, apart_nm: np.ndarray,
          predict: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Return the step (6,) of the components in nm towards the images, and their covariance (6, 6)."""
    lens, nearer = _with(microscope, components), replace(series, defocus_A=series.defocus_A + _DEFOCUS_A)
    predicted = [list(predict(lens, series)), list(predict(lens, nearer)),
                 *(list(predict(_with(microscope, components + apart), series)) for apart in np.diag(apart_nm))]
    gradients, matrices = [], []
    for i_tilt, (here, other, *others) in enumerate(zip(*predicted, strict=True)):
        measured = to_numpy(series.amplitudes(i_tilt, centred=True))
        for j in np.flatnonzero(series.weight[i_tilt] > 0).tolist():
            pixels = 1.0 if series.pixel_weight is None else series.pixel_weight[i_tilt, j].astype(float)
            weight = np.sqrt(4 * series.electrons_per_pixel[i_tilt, j] * pixels)
            model = here[j].astype(float)
            explained = [model, other[j] - model, *np.gradient(model), (model**2 - (model**2).mean()) / model]
            derivatives = [(image[j] - model) / apart for image, apart in zip(others, apart_nm, strict=True)]
            known, sought = (np.stack([(weight * image).ravel() for image in images], axis=1)
                             for images in (explained, [*derivatives, measured[j] - model]))
            basis = np.linalg.qr(known)[0]
            sought -= basis @ (basis.T @ sought)
            matrices.append(sought[:, :-1].T @ sought[:, :-1])
            gradients.append(sought[:, :-1].T @ sought[:, -1])
    inverse = np.linalg.pinv(np.sum(matrices, axis=0), hermitian=True)
    step = inverse @ np.sum(gradients, axis=0)
    left = np.array(gradients) - np.array(matrices) @ step
    return step, inverse @ (left.T @ left) @ inverse
