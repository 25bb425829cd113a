r"""Aberrations of the lens that the series does not state, from what the atoms leave in the images.

Astigmatism, coma and three-fold astigmatism are the same in all images. Each has two components, amplitude times cosine
and sine of its azimuth; the derivative of the modelled amplitudes with respect to each is a difference of two
predictions. What brightness, contrast, defocus and position of the image explain as well is projected out of
derivatives and residuals, image by image; least squares over all images then gives the components, and again from
where that led (Gauss-Newton). Their covariance is the spread of the gradients of the images between two inverses of
the normal matrix (White, Econometrica 48, 817, 1980). Atoms stay where they are: they may have taken up a part, and
the fit of the atoms with the lens that was found lets the next search find the rest.

An aberration counts by its phase at the edge of what the lens passes. A quarter of π is the usual limit of a corrected
lens (Uhlemann and Haider, Ultramicroscopy 72, 109, 1998). A refinement gives what it finds to its model, in
addition to what the series states.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aetlab.core import physics
from aetlab.core.doubts import MOST_ABERRATION, is_clear_aberration
from aetlab.core.poses import Poses
from aetlab.forward.imaging import transfer_function
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.turns import over_tilts
from aetlab.spec import MicroscopeSpec, RefineSpec

#: Symmetry of each aberration, and its phase at the edge for 1 Å over 2π θ²/λ or 2π θ³/λ.
_ABERRATIONS = {"A1": (2, 2, 1 / 2), "B2": (1, 3, 1.0), "A2": (3, 3, 1 / 3)}
#: Tilts that are compared, and steps at most.
N_TILTS, N_STEPS = 8, 6
#: Phase at the edge in radians of a step of a difference, the longest step towards the images, and the last one.
_DIFFERENCE, _LONGEST, SETTLED_RAD = 0.1, 1.0, 0.03
#: Part of the amplitude at which the envelopes end what the lens passes, e⁻².
_PASSED = math.exp(-2)
#: Plane of the difference with respect to the defocus, in Å.
_DEFOCUS_A = 5.0
#: Rounds at most that a refinement goes on for an aberration.
MOST_ROUNDS = 2
#: Aberrations in words, by their names in the settings.
WORDS = {"A1": "two-fold astigmatism", "B2": "axial coma", "A2": "three-fold astigmatism"}


@dataclass(frozen=True)
class FoundAberration:
    """An aberration that fits the images: ``nm`` at ``deg`` in all, with the standard error ``error_nm``.

    ``missing_rad`` is the phase, at the edge of what the lens passes, of the difference from the aberration of the
    model, and ``error_rad`` its standard error.
    """

    nm: float
    deg: float
    error_nm: float
    missing_rad: float
    error_rad: float


def find_aberrations(model: AtomModel, sites: Sites, poses: Poses,
                     names: Collection[str] = tuple(_ABERRATIONS)) -> dict[str, FoundAberration]:
    """Return the aberrations ``names`` by which the images of ``model`` fit best, the others as the model has them.

    There are none without noise or images. At most :data:`N_TILTS` tilts are compared, evenly among all.
    """
    tilts = compared_tilts(model.data.present)
    if not len(tilts) or not len(sites) or not math.isfinite(model.data.mean_electrons(poses)):
        return {}
    free = np.repeat([name in names for name in _ABERRATIONS], 2)
    rad_per_nm = np.repeat(phases_per_nm(model), 2)
    of_model = _components(model.microscope)
    found = of_model.copy()
    for _ in range(N_STEPS):
        step, covariance = _step(model, sites, poses, tilts, found, _DIFFERENCE / rad_per_nm, free)
        phase = np.abs(step * rad_per_nm).max()
        found = found + step * min(1.0, _LONGEST / max(phase, 1e-30))
        if phase < SETTLED_RAD:
            break
    error = np.sqrt(np.diagonal(covariance).reshape(-1, 2).mean(axis=1))
    missing = np.hypot(*((found - of_model) * rad_per_nm).reshape(-1, 2).T)
    nm, deg = _polar(found)
    every = {name: FoundAberration(*map(float, values))
             for name, *values in zip(_ABERRATIONS, nm, deg, error, missing, error * rad_per_nm[::2], strict=True)}
    return {name: every[name] for name in every if name in names}


def compared_tilts(present: np.ndarray) -> np.ndarray:
    """Return the indices of at most :data:`N_TILTS` tilts with an image, evenly among all; ``present`` is (T, F)."""
    seen = np.flatnonzero(present.any(axis=1))
    return seen[np.unique(np.linspace(0, len(seen) - 1, min(N_TILTS, len(seen))).round().astype(int))]


def phases_per_nm(model: AtomModel) -> np.ndarray:
    """Return the phase (3,) in rad of 1 nm of each aberration at the edge of what the lens passes."""
    microscope, shape_xy, pixel_A = model.microscope, model.slices_shape[1:], model.voxel_A
    wavelength_A = physics.wavelength_A(microscope.energy_keV)
    passed = np.abs(transfer_function(shape_xy, pixel_A, microscope, float(np.abs(model.data.series.defocus_A).mean())))
    q = [np.fft.fftfreq(n, pixel_A) for n in shape_xy]
    edge = wavelength_A * float(np.hypot(q[0][:, None], q[1])[passed > _PASSED].max(initial=1 / max(shape_xy)))
    return np.array([20 * math.pi / wavelength_A * factor * edge**power for _, power, factor in _ABERRATIONS.values()])


def with_found(microscope: MicroscopeSpec, found: Mapping[str, FoundAberration]) -> MicroscopeSpec:
    """Return ``microscope`` with the aberrations that were ``found``."""
    lens: dict[str, Any] = {}
    for name, one in found.items():
        lens |= {f"{name}_nm": one.nm, f"{name}_deg": one.deg if one.nm else 0.0}
    return replace(microscope, **lens)


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


def _through(model: AtomModel, components: np.ndarray) -> AtomModel:
    lens: dict[str, Any] = {}
    for name, nm, deg in zip(_ABERRATIONS, *(value.tolist() for value in _polar(components)), strict=True):
        lens |= {f"{name}_nm": nm, f"{name}_deg": deg if nm else 0.0}
    return model.with_microscope(replace(model.microscope, **lens))


def _step(model: AtomModel, sites: Sites, poses: Poses, tilts: np.ndarray, components: np.ndarray,
          apart_nm: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the step (6,) of the components in nm towards the images, and their covariance (6, 6); 0 unless free."""
    here = _through(model, components)
    others = [_through(model, components + apart) for apart in np.diag(apart_nm)[free]]
    matrices, gradients = [], []
    for matrix, gradient in over_tilts(lambda k: _equations(here, others, apart_nm[free], sites, poses, tilts[k]),
                                       len(tilts)):
        matrices += matrix
        gradients += gradient
    inverse = np.linalg.pinv(np.sum(matrices, axis=0), hermitian=True)
    step = inverse @ np.sum(gradients, axis=0)
    left = np.array(gradients) - np.array(matrices) @ step
    every, covariance = np.zeros(len(free)), np.zeros((len(free), len(free)))
    every[free], covariance[np.ix_(free, free)] = step, inverse @ (left.T @ left) @ inverse
    return every, covariance


def _equations(here: AtomModel, others: Sequence[AtomModel], apart_nm: np.ndarray, sites: Sites, poses: Poses,
               i_tilt: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the normal matrix (P, P) and the gradient (P,) of each image of a tilt, for P free components.

    What brightness, contrast, defocus and position of the image explain is projected out.
    """
    model, nearer = np.sqrt(here.images_of_tilt(i_tilt, sites, poses, (0.0, _DEFOCUS_A)).astype(float))
    moved = [np.sqrt(other.images_of_tilt(i_tilt, sites, poses, (0.0,))[0].astype(float)) for other in others]
    measured, weights = here.data.amplitude(poses, i_tilt).astype(float), here.data.weights_of(i_tilt)
    electrons = here.data.mean_electrons(poses)
    matrices, gradients = [], []
    for j in np.flatnonzero(here.data.present[i_tilt]).tolist():
        weight = np.sqrt(4 * electrons * (1.0 if weights is None else weights[j].astype(float)))
        contrast = (model[j]**2 - (model[j]**2).mean()) / model[j]
        explained = [model[j], nearer[j] - model[j], *np.gradient(model[j]), contrast]
        derivatives = [(image[j] - model[j]) / apart for image, apart in zip(moved, apart_nm, strict=True)]
        known, sought = (np.stack([(weight * image).ravel() for image in images], axis=1)
                         for images in (explained, [*derivatives, measured[j] - model[j]]))
        basis = np.linalg.qr(known)[0]
        sought -= basis @ (basis.T @ sought)
        matrices.append(sought[:, :-1].T @ sought[:, :-1])
        gradients.append(sought[:, :-1].T @ sought[:, -1])
    return matrices, gradients


class Lens:
    """The aberrations that a refinement has taken from its images.

    An aberration is taken when it is clear, by the rule of the doubts. From then on each search moves it.
    """

    def __init__(self, spec: RefineSpec) -> None:
        self._spec = spec
        self._found: dict[str, FoundAberration] = {}
        self._changed, self._n_rounds = False, 0

    def take(self, model: AtomModel, sites: Sites, poses: Poses) -> tuple[AtomModel, bool]:
        """Return ``model`` with the aberrations that its images clearly have, and whether it had them before.

        Without ``refine.aberrations=fitted`` the model stays as it is.
        """
        if self._spec.aberrations == "stated":
            return model, True
        found = find_aberrations(model, sites, poses)
        taken = {name for name, one in found.items()
                 if name in self._found or is_clear_aberration(one.missing_rad, one.error_rad)}
        if not taken:
            return model, True
        found = find_aberrations(model, sites, poses, taken)
        change_rad = max(one.missing_rad for one in found.values())
        self._changed |= change_rad > MOST_ABERRATION
        self._found = found
        return model.with_microscope(with_found(model.microscope, found)), change_rad < SETTLED_RAD

    def asks_for_a_round(self, i_round: int) -> bool:
        """Return whether round ``i_round`` found and named its sites through a lens that was clearly another."""
        changed = self._changed and self._n_rounds < MOST_ROUNDS and i_round < self._spec.n_rounds - 1
        self._changed = False
        self._n_rounds += changed
        return changed

    def summary(self) -> dict[str, float]:
        """Return amplitude and azimuth of each aberration that was taken, and the standard error of the amplitude."""
        return {f"lens_{name}_{key}": getattr(one, key) for name, one in self._found.items()
                for key in ("nm", "deg", "error_nm")}


def found_lens(stated: MicroscopeSpec, summary: Mapping[str, Any]) -> MicroscopeSpec:
    """Return the microscope of refined atoms, from the ``stated`` one and the summary of their refinement."""
    lens: dict[str, Any] = {name: float(summary[f"lens_{name}"]) for aberration in WORDS
                            for name in (f"{aberration}_nm", f"{aberration}_deg") if f"lens_{name}" in summary}
    return replace(stated, **lens)


def describe_lens(summary: Mapping[str, Any], stated: MicroscopeSpec) -> list[str]:
    """Return a line for each aberration that a refinement found; none without any."""
    return [f"{words} of {summary[f'lens_{name}_nm']:.3g} ± {summary[f'lens_{name}_error_nm']:.2g} nm at "
            f"{summary[f'lens_{name}_deg']:.0f}° was found in the images and fitted; the series states "
            f"{getattr(stated, f'{name}_nm'):.3g} nm at {getattr(stated, f'{name}_deg'):.3g}°"
            for name, words in WORDS.items() if f"lens_{name}_nm" in summary]
