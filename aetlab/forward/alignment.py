r"""Alignment of the tilts of a series to the volume reconstructed so far.

Each tilt has six unknowns: tilt angle δ, direction of the tilt axis φ (a turn about the beam), shift d of the image
along x and y, defocus e common to the images of the tilt, and brightness b. The result is a
:class:`~aetlab.core.poses.Poses`, where e is the height with the opposite sign. The unknowns enter the model as

    a_j(r; p) = √b |F⁻¹ T_j(q) exp(2πi (e κ(q) - q·d)) F R_φ g|,    R_φ g (r) = g(R_φ⁻¹ r),

g the exit wave of the volume rotated by the nominal angle + δ, T_j the transfer function of the nominal defocus and
κ = √(1/λ² - q²) - 1/λ. With a detector's blur K, a_j is √b √(K |ψ_j|²) of the same wave ψ_j. All are exact, except that
the envelope of the convergence keeps the nominal defocus. The reconstruction treats shift and defocus in the same way;
it rotates the measured images by -φ instead of the wave, and divides them by b.

A Gauss-Newton step minimises ½ Σ (w ∗ √p_j (a_j - √I_j))². w is a Gaussian of ``smoothing_A``, which at first removes
detail that is finer than neighbouring tilts determine; p_j are the weights of the pixels (1 in a regular series), 0
where data are missing. The derivatives are ∂|ψ| = Re(ψ* ∂ψ)/|ψ|, or K Re(ψ* ∂ψ)/√(K |ψ|²), for d, e and φ, from
the same exit wave, which a turn changes by (y ∂_x - x ∂_y) g dφ; for b the amplitude itself; for δ the difference to
one more exit wave. The volume is rotated by cubic interpolation, whatever the reconstruction uses: the blur of linear
interpolation depends on the angle, which shifts the best angle by about 0.1°.

A volume that is not finished, or detail that the model has and the images lack, gives the model another contrast than
the images. At low frequencies a defocus changes the contrast as well, sin(πλ e q²) ≈ πλ e q², so that it would make up
for the difference, and the volume would follow. With ``contrast``, a factor of the modulation a_j - mean is one more
unknown of each step, which is not applied, and the search compares images at the best factor.

A tilt that lies much farther off than the others is reset and searched for again.

With ``robust``, images that fit much worse than the others lose weight (:mod:`aetlab.core.outlying`), in the steps of
the alignment and in the model. Their misfit is that before the step, unsmoothed; after a few iterations that of a bad
image stands out from what the unfinished volume leaves in all images.

With ``images``, single images may have a shift, defocus and brightness of their own, and with ``magnification`` the
planes of the defocus a size of their own (:mod:`aetlab.forward.single_images`).

A common turn of all tilts about the axis and a common shift of the sample change no image; they are not constrained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aetlab.core.backend import n_threads, threads
from aetlab.core.nouns import TiltSeries
from aetlab.core.outlying import robust_factors
from aetlab.core.poses import Poses
from aetlab.forward.model import SMALL_PLANE
from aetlab.forward.posed_images import NOMINAL, PosedOptics
from aetlab.forward.single_images import DAMPING, SingleImages
from aetlab.forward.tilt_equations import AddedColumns, CpuTiltEquations, PosedModel, PosedTilt, TiltEquations
from aetlab.spec import MicroscopeSpec

#: Largest change in one step of tilt and axis (degrees), shift along x and y and defocus (Å), and brightness.
_MOST = np.array([1.0, 1.0, 1.0, 1.0, 20.0, 0.1])
#: A tilt is astray if an unknown is this many standard deviations (from the median deviation) off the median, ...
_ASTRAY = 6.0
#: ... and at least this much: tilt and axis (degrees), shift along x and y and defocus (Å), and brightness.
_ASTRAY_AT_LEAST = np.array([1.0, 1.0, 1.0, 1.0, 20.0, 0.1])


@dataclass(frozen=True)
class Search:
    """Shifts up to ``reach_A`` and changes of the defocus ``defocus_A`` (K,) in Å, tried before the first step."""

    reach_A: float
    defocus_A: np.ndarray


#: ``make(optics, series, added)`` returns the equations of the tilts of ``series``, which place them in the model.
MakeEquations = Callable[[PosedOptics, TiltSeries, AddedColumns], TiltEquations]


class TiltAligner:
    """Find the poses of the tilts of ``series``, tilt by tilt, and keep ``model`` in agreement with them.

    ``shape_zxy``, ``microscope`` and ``n_layers_per_slice`` are those of ``model``. ``make_equations`` returns what
    computes images and compares them with those of the series, by default on the CPU. With ``contrast``, the contrast
    of the images of a tilt is left open. With ``robust``, which needs a series with weights of pixels, images that fit
    much worse than the others lose weight. With ``images`` and ``magnification``, single images and planes differ in
    what they can.
    """

    def __init__(self, model: PosedModel, series: TiltSeries, shape_zxy: tuple[int, int, int], *,
                 microscope: MicroscopeSpec, n_layers_per_slice: int, contrast: bool = False,
                 robust: bool = False, images: bool = False, magnification: bool = False,
                 make_equations: MakeEquations | None = None) -> None:
        self._model, self._contrast, self._robust = model, contrast, robust
        self._single = SingleImages(series, images=images, magnification=magnification)
        #: Weight of each image by its misfit, (T, F).
        self._factors = np.ones(series.weight.shape)
        self._tilt_deg = np.asarray(series.tilt_deg, float)
        optics = PosedOptics(series, shape_zxy, microscope=microscope, n_layers_per_slice=n_layers_per_slice)
        added = AddedColumns(contrast, self._single.fits_magnification)
        self._equations: TiltEquations = (make_equations(optics, series, added) if make_equations
                                          else CpuTiltEquations(optics, series, added, model))
        #: Tilts with at least one image; the others keep their poses.
        self._seen = series.weight.max(axis=1) > 0
        self._shape_xy = (shape_zxy[1], shape_zxy[2])
        self._n_defoci = series.n_defoci
        self._table = np.tile(NOMINAL, (len(self._tilt_deg), 1))

    @property
    def poses(self) -> Poses:
        """Poses found so far."""
        poses = Poses.from_table(self._tilt_deg, self._n_defoci, self._table, self._single.of_images)
        return replace(poses, magnification=self._single.magnification)

    @property
    def table(self) -> np.ndarray:
        """Unknowns (T, 6) found so far, in the order of :meth:`aetlab.core.poses.Poses.from_table`."""
        return self._table.copy()

    @property
    def factors(self) -> np.ndarray:
        """Weights (T, F) that the images have by their misfits, 1 for those that do not stand out."""
        return self._factors.copy()

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Arrays that :meth:`restore` takes by their names."""
        return {"tilts": self.table, "image_factors": self.factors, "of_images": self._single.of_images.copy(),
                "magnification": self._single.magnification.copy()}

    def restore(self, tilts: np.ndarray, image_factors: np.ndarray | None = None, of_images: np.ndarray | None = None,
                magnification: np.ndarray | None = None) -> None:
        """Continue, bit for bit, from where :attr:`state` was this; weights and magnifications are 1 if not given."""
        self._table = tilts.copy()
        self._factors = np.ones(self._factors.shape) if image_factors is None else image_factors.copy()
        self._single.restore(of_images, magnification)
        for i_tilt in range(len(self._table)):
            self._equations.place(self._posed(i_tilt))

    def align(self, volume: Any, search: Search, *, smoothing_A: float, angles: bool = True,
              first: bool = False) -> None:
        """Take one step for each tilt, with ``volume`` (Z, X, Y) of the model.

        ``search`` is applied to tilts that are astray, and to all if this is the ``first`` alignment. The tilt angle is
        fitted only with ``angles``: a volume of shifted images hardly determines it.
        """
        potential_V = self._begin(volume)
        astray, misfits = np.zeros(len(self._table), bool), np.full(self._factors.shape, np.nan)
        astray[self._seen] = find_astray(self._table[self._seen])
        self._table[astray] = NOMINAL
        self._single.reset(astray)
        with threads(1 if self._shape_xy[0] * self._shape_xy[1] <= SMALL_PLANE else n_threads()):
            for i_tilt in np.flatnonzero(self._seen).tolist():
                if first or astray[i_tilt]:
                    self._search(potential_V, i_tilt, smoothing_A, search)
                misfits[i_tilt] = self._step(potential_V, i_tilt, smoothing_A, angles)
            if first:  # shifts must settle before they tell sizes
                self._single.forget_steps()
            self._single.step_magnification()
            self._weigh(misfits)

    def weigh(self, volume: Any) -> None:
        """Weigh the images by their misfits to ``volume`` (Z, X, Y) of the model, at the poses as they are."""
        potential_V = self._begin(volume)
        misfits = np.full(self._factors.shape, np.nan)
        with threads(1 if self._shape_xy[0] * self._shape_xy[1] <= SMALL_PLANE else n_threads()):
            for i_tilt in np.flatnonzero(self._seen).tolist():
                misfits[i_tilt] = self._equations.misfits(potential_V, self._posed(i_tilt))
            self._weigh(misfits)

    def _begin(self, volume: Any) -> Any:
        """Return V in volts of ``volume`` where the equations need it; they compare with the present images."""
        self._equations.use(self._series)
        return self._equations.take(self._model.form_potential(volume))

    def _weigh(self, misfits: np.ndarray) -> None:
        """Set the weights of the images by their ``misfits`` (T, F), and place all tilts in the model."""
        if self._robust:
            self._factors = robust_factors(misfits)
        for i_tilt in np.flatnonzero(self._seen).tolist():
            self._equations.place(self._posed(i_tilt))

    @property
    def _series(self) -> TiltSeries:
        """The measured images at the magnifications of their planes."""
        return self._single.series

    def _posed(self, i_tilt: int) -> PosedTilt:
        """Return a tilt at the unknowns found so far."""
        return PosedTilt(i_tilt, self._table[i_tilt], self._single.own(i_tilt), self._factors_of(i_tilt))

    def _factors_of(self, i_tilt: int) -> np.ndarray | None:
        return self._factors[i_tilt] if self._robust else None

    def _step(self, potential_V: Any, i_tilt: int, smoothing_A: float, angles: bool) -> np.ndarray:
        """Change the unknowns of a tilt by one step; return the misfits (F,) of its images before it."""
        row, single = self._table[i_tilt], self._single
        equations = self._equations.compare(potential_V, self._posed(i_tilt), smoothing_A)
        normal, slope = equations.normal, equations.slope
        scale = 1 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
        damped = normal * np.outer(scale, scale) + DAMPING * np.eye(len(normal))
        first = 0 if angles else 1
        step = np.zeros(len(normal))
        step[first:] = -scale[first:] * np.linalg.solve(damped[first:, first:], (scale * slope)[first:])
        step[:len(row)] = np.clip(step[:len(row)], -_MOST, _MOST)
        self._table[i_tilt] = row + step[:len(row)]
        if single.fits_images or single.fits_magnification:
            self._table[i_tilt, 2:] += single.step(i_tilt, equations.of_images(step), _MOST[2:])
        return equations.misfit

    def _search(self, potential_V: Any, i_tilt: int, smoothing_A: float, search: Search) -> None:
        """Put a tilt at the best of the shifts and changes of the defocus of ``search``."""
        row = self._table[i_tilt]
        reach = min(int(search.reach_A / self._series.pixel_A), (min(self._shape_xy) - 1) // 2)
        tilt = PosedTilt(i_tilt, row, None, self._factors_of(i_tilt))
        fits = self._equations.search(potential_V, tilt, smoothing_A, search.defocus_A, reach)
        best, found = np.inf, row
        for by_A, fit in zip(search.defocus_A, fits, strict=True):
            cost = _least_cost(fit.power, fit.correlation) if self._contrast else fit.power - fit.correlation
            if cost < best:
                best = cost
                found = (row + np.array([0, 0, 0, 0, by_A, 0])
                         + self._series.pixel_A * np.array([0, 0, *fit.shift_px, 0, 0]))
        self._table[i_tilt] = found


def _least_cost(power: float, correlation: float) -> float:
    """Return the least c² P - c C of all contrasts c ≥ 0, for half the power P and the correlation C of the images."""
    return -max(correlation, 0.0) ** 2 / (4 * max(power, 1e-300))


def find_astray(table: np.ndarray) -> np.ndarray:
    """Return which tilts of ``table`` (T, 6) lie much farther off than the others, bool (T,)."""
    off = np.abs(table - np.median(table, axis=0))
    sigma = 1.4826 * np.median(off, axis=0)
    return (off > np.maximum(_ASTRAY * sigma, _ASTRAY_AT_LEAST)).any(axis=1)
