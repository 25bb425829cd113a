"""Refinement of traced atoms: rounds of fitting, dropping, proposing and naming sites, and standard errors.

Inputs are the images, the microscope, the elements of the sample and the traced atoms. The truth is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aetlab.core.hand import mirror_traced
from aetlab.core.nouns import RefinedAtoms, TiltSeries, TracedAtoms
from aetlab.core.poses import Poses
from aetlab.refinement.aberrations import Lens
from aetlab.refinement.atom_slices import AtomSlices, CpuAtomSlices
from aetlab.refinement.error_bars import ErrorBars
from aetlab.refinement.fisher import (
    information_passes,
    neighbour_correlation,
    own_information,
    sample_information,
    sample_pose_information,
    try_elements,
    unbiased_thermal,
)
from aetlab.refinement.fit import Fit, fit_poses, fit_to_images
from aetlab.refinement.hand import Twin, fit_twin
from aetlab.refinement.image_parameters import Calibration, at_usual_occupancy, calibrate_images, take_common
from aetlab.refinement.kept import carry_along, count_lost, keep_traced, well_traced, why_kept
from aetlab.refinement.model import AtomModel, ImageFormation, Sites
from aetlab.refinement.naming import exchanged_occupancy, name_sites, odds_of_best_place, with_presence
from aetlab.refinement.passes import N_CALIBRATIONS, n_settling
from aetlab.refinement.posterior import Sampled, sample_atoms
from aetlab.refinement.robust import Left, forget_images, weigh_images
from aetlab.refinement.sampling import correct_sampling, relaxed_thermal
from aetlab.refinement.search import (
    ResidualVolume,
    drop_duplicates,
    join,
    judge_proposals,
    lightest_kind,
    propose_sites,
)
from aetlab.refinement.start import Known, align_tilts, as_sites, first_sites, noise_imitates_atoms
from aetlab.refinement.summary import summarize_fit, summarize_images
from aetlab.refinement.surroundings import free_volume_A3, log_surroundings
from aetlab.spec import RefineSpec

#: Sites of lower occupancy get the information on their positions that this occupancy would give.
GROWN_OCCUPANCY = 0.7
#: Heights and largest shift in Å of the first search for the poses.
HEIGHTS_A, REACH_A = np.arange(-60.0, 61.0, 10.0), 4.0
#: If a round adds less than this fraction of the sites, the next one is the last.
FEW = 1e-3
#: If it adds less than this fraction, thermal factors are fitted from then on: missing sites resemble vibration.
STEADY = 0.01
#: Factor by which the other atoms raise the variance, until it is measured at the end.
USUAL_FACTOR = 1.5
#: Called with the number of passes done and a description of the latest.
PassReport = Callable[[int, str], None]
Shared = tuple[np.ndarray | None, np.ndarray | None]


def refine_atoms(series: TiltSeries, shape_zxy: tuple[int, int, int], traced: TracedAtoms, elements: tuple[int, ...],
                 spec: RefineSpec, formation: ImageFormation, *, seed: int, report: PassReport | None = None,
                 make_slices: Callable[..., AtomSlices] = CpuAtomSlices, held: TracedAtoms | None = None,
                 known: Known | None = None) -> RefinedAtoms:
    """Refine traced atoms against the images.

    Parameters
    ----------
    series : TiltSeries
        Measured intensities (T, F, X, Y).
    shape_zxy : tuple of int
        Voxels of the volume that the atoms were traced in.
    traced : TracedAtoms
        Starting point; sites that were named "no atom" are included.
    elements : tuple of int
        Atomic numbers of the elements of the sample.
    spec : RefineSpec
        Settings of the refinement.
    formation : ImageFormation
        How the images of the atoms form.
    seed : int
        Seed of the noise for the sampled information.
    report : callable, optional
        ``report(passes done, detail)`` after each pass.
    make_slices : callable
        As :class:`aetlab.refinement.model.AtomModel` takes it.
    held : TracedAtoms, optional
        Atoms that are in the images as well and that are not refined, such as those of a neighbouring tile.
    known : Known, optional
        Poses, thermal factors and contrast that are not refined.

    Atoms are returned in the order of z, x, y.
    """
    kinds = tuple(sorted(elements))
    model = AtomModel(series, shape_zxy, kinds, microscope=formation.microscope,
                      n_layers_per_slice=formation.n_layers_per_slice, averaged=formation.averaged,
                      parametrization=spec.parametrization, debye_waller_A2=spec.debye_waller_A2,
                      focal_spread=spec.focal_spread, make_slices=make_slices,
                      held=None if held is None else as_sites(held, kinds))
    poses = Poses.nominal(series.tilt_deg, model.n_defoci)
    if known is not None:
        poses, (model, spec) = known.poses, known.held_in(model, spec)
    # Held atoms are not mirrored with the sites.
    refinement = _Refinement(model, spec if held is None else replace(spec, hand="none"), seed, report,
                             formation.n_coarse_layers or formation.n_layers_per_slice)
    refined = refinement.run(traced, poses) if len(traced) else None
    if refined is not None and not refinement.kept:
        return refined
    return refinement.keep(traced, poses if refined is None else refined.poses)


class _Refinement:
    """State of a refinement: passes done and a summary of each round."""

    def __init__(self, model: AtomModel, spec: RefineSpec, seed: int, report: PassReport | None,
                 n_coarse_layers: int) -> None:
        self._n_layers, self._n_coarse_layers = model.n_layers_per_slice, n_coarse_layers
        self._model, self._spec, self._report = model.with_layers(n_coarse_layers), spec, report
        self._few, self._many = information_passes(spec, model.n_tilts)
        self._lens, self._seeds = Lens(spec), iter(np.random.SeedSequence(seed).generate_state(128).tolist())
        self._n_passes, self._noisy, self._mirrored = 0, False, False
        self._images: Calibration | None = None  # the latest step of what each image has of its own
        self._resampled_A2: np.ndarray | None = None  # thermal factors at the latest correction of the sampling
        self._rounds: list[dict[str, float]] = []
        self._first_cost, self._lost = math.inf, 0
        #: Why the traced atoms are kept; empty if the refined ones are better.
        self.kept = ""

    def run(self, traced: TracedAtoms, poses: Poses) -> RefinedAtoms:
        """Return the refined atoms, and set :attr:`kept` if the traced ones are better."""
        spec, (sites, strong) = self._spec, first_sites(traced, self._model, self._spec)
        if spec.poses:
            poses = self._align(sites.select(strong), poses)
        whole = as_sites(traced, self._model.elements)
        left = Left.of(self._corrected(self._model.with_layers(self._n_layers), whole, poses), whole, poses)
        self._first_cost = left.cost
        self._passed(f"{len(whole)} traced sites, cost {left.cost:.6g}")
        information = self._information(sites, poses, self._few)
        self._noisy = noise_imitates_atoms(self._model, sites, poses, information, spec.min_occupancy)
        if spec.first_share != "rule" or self._noisy:
            sites, information = sites.select(strong), information[strong]
        places_A = traced.positions_A[well_traced(traced)]
        n_new = len(sites)
        for i_round in range(spec.n_rounds):
            last = i_round == spec.n_rounds - 1 or n_new <= FEW * len(sites)
            steady = last or (i_round > 0 and n_new <= STEADY * len(sites))
            if last:
                self._model = self._model.with_layers(self._n_layers)
            fit = self._fit(sites, poses, information, last, thermal=spec.thermal and steady)
            places_A = carry_along(places_A, sites.positions_A, fit.sites.positions_A)
            sites, poses = fit.sites, fit.poses
            keep = (sites.occupancy >= spec.min_occupancy) & drop_duplicates(sites, spec.min_distance_A)
            sites, information = sites.select(keep), information[keep]
            if last and self._lens.asks_for_a_round(i_round):
                last, poses = False, self._align(sites, forget_images(self._model, poses)) if spec.poses else poses
            last = last or not len(sites)
            if i_round == 0 and not last and spec.hand in ("choose", "auto"):
                twin = self._fit_twin(sites, poses, information)
                self._mirrored = twin.clearly_better
                sites, poses, information, places_A = twin.better(sites, poses, information, places_A)
            n_new = 0
            if not last:
                new = self._propose(sites, poses, information, i_round == spec.n_rounds - 2)
                n_new = len(new)
                sites, information = self._rename(join(sites, new), poses, n_new)
            self._rounds.append({"round": i_round + 1, "n_sites": len(sites), "n_gone": int((~keep).sum()),
                                 "n_new": n_new, "passes": self._n_passes, "cost": fit.descent.cost,
                                 "remaining_standard_errors": fit.remaining})
            if last or not len(sites):
                break
        factors, end = self._model.data.factors, Left.of(self._model, sites, poses)
        self.kept = why_kept(places_A, sites.positions_A, left.per_value(factors), end.per_value(factors))
        self._lost = count_lost(places_A, sites.positions_A)
        if not len(sites):
            return self.keep(traced, poses)
        refined = self._finish(fit, sites, poses)
        return refined if self.kept or spec.hand == "none" else self._judge_hand(refined, sites, poses, information)

    def _fit_twin(self, sites: Sites, poses: Poses, information: np.ndarray) -> Twin:
        return fit_twin(self._model, sites, poses, information, self._spec, next(self._seeds),
                        lambda cost: self._passed(f"mirror image, cost {cost:.6g}"))

    def _judge_hand(self, refined: RefinedAtoms, sites: Sites, poses: Poses, information: np.ndarray) -> RefinedAtoms:
        """Return the refined atoms with the evidence of their hand, or their mirror image on request."""
        spec = self._spec
        twin = self._fit_twin(sites, poses, information)
        taken = twin.clearly_better and spec.hand in ("choose", "auto")
        if taken:
            fit = self._fit(twin.sites, twin.poses, twin.information, True, thermal=spec.thermal)
            keep = (fit.sites.occupancy >= spec.min_occupancy) & drop_duplicates(fit.sites, spec.min_distance_A)
            refined = self._finish(fit, fit.sites.select(keep), fit.poses)
        of_hand = twin.summary(self._model, poses, taken=taken) | {"mirrored": float(taken != self._mirrored)}
        return replace(refined, summary=refined.summary | of_hand)

    def keep(self, traced: TracedAtoms, poses: Poses) -> RefinedAtoms:
        """Return the traced atoms, and say why they are kept."""
        summary = {"stopped": self.kept or "there are no traced atoms", "passes": self._n_passes}
        return keep_traced(mirror_traced(traced) if self._mirrored else traced, poses, self._model, self._first_cost,
                           tuple(self._rounds), summary)

    def _align(self, sites: Sites, poses: Poses) -> Poses:
        """Search for the poses and fit them to the images, with fixed sites."""
        spec = self._spec
        poses = align_tilts(self._model, sites, poses, heights_A=HEIGHTS_A, reach_A=REACH_A)
        self._passed(f"{self._model.n_tilts} tilts aligned")
        if spec.imaging:
            poses, _ = self._calibrated(sites, poses)
        information = sample_pose_information(self._model, sites, poses, self._few, next(self._seeds))
        return fit_poses(self._model, sites, poses, information, n_passes=spec.n_passes, tolerance=3 * spec.tolerance,
                         on_pass=lambda cost: self._passed(f"poses, cost {cost:.6g}"))[0]

    def _calibrated(self, sites: Sites, poses: Poses) -> tuple[Poses, bool]:
        """Fit what each image has of its own; return poses and whether the first step changed little."""
        settled = []
        for _ in range(N_CALIBRATIONS):
            self._images = step = calibrate_images(self._model, sites, poses, self._spec)
            poses, self._model = step.poses, step.model
            settled.append(step.found(self._spec.tolerance))
            self._passed(step.describe(self._spec))
            if settled[-1]:
                break
        return take_common(poses, self._model.data.present) if self._spec.poses else poses, settled[0]

    def _corrected(self, model: AtomModel, sites: Sites, poses: Poses) -> AtomModel:
        """Return ``model``, on request with the correction for its sampling at these atoms."""
        if self._spec.sampling == "coarse":
            return model
        self._passed("sampling of the model")
        return correct_sampling(model, sites, poses)

    def _resample(self, sites: Sites, poses: Poses) -> None:
        """Correct the sampling on request, at thermal factors relaxed from those of the latest correction."""
        self._model = self._corrected(relaxed_thermal(self._model, self._resampled_A2), sites, poses)
        self._resampled_A2 = self._model.thermal_A2 if self._model.data.corrects_sampling else None

    def _weigh(self, sites: Sites, poses: Poses) -> None:
        """Set the robust weights of the images."""
        self._model = weigh_images(self._model, sites, poses)
        self._passed(f"{int((self._model.data.factors < 1).sum())} images fit much worse than the others")

    def _fit(self, sites: Sites, poses: Poses, information: np.ndarray, last: bool, *, thermal: bool) -> Fit:
        """Fit, after a calibration of the images on request; the last fit is repeated until both agree."""
        spec = self._spec
        if last or thermal:
            self._resample(sites, poses)
        if spec.imaging:
            poses, _ = self._calibrated(sites, poses)
        if spec.robust:
            self._weigh(sites, poses)
        shared = self._shared_information(sites, poses, thermal)
        fit = self._fit_once(sites, poses, information, shared, last)
        for i in range(n_settling(spec) * last):
            self._resample(fit.sites, fit.poses)
            poses, settled = self._calibrated(fit.sites, fit.poses) if spec.imaging else (fit.poses, True)
            fit = replace(fit, poses=poses)
            self._model, found = self._lens.take(self._model, fit.sites, poses)
            if settled and found and (i > 0 or spec.sampling == "coarse"):
                break
            if spec.robust and self._model.data.corrects_sampling:
                self._weigh(fit.sites, poses)
            fit = self._fit_once(fit.sites, poses, information, shared, last)
        return fit

    def _shared_information(self, sites: Sites, poses: Poses, thermal: bool) -> Shared:
        """Return JᵀJ of the pose of a tilt, and of each site with its thermal factor; None for what is not fitted."""
        spec, of_poses = self._spec, None
        if spec.poses:
            of_poses = sample_pose_information(self._coarse, sites, poses, self._few, next(self._seeds))
            if spec.imaging:
                of_poses = of_poses[:5, :5]
        return of_poses, self._information(sites, poses, self._few, thermal=True) if thermal else None

    def _fit_once(self, sites: Sites, poses: Poses, information: np.ndarray, shared: Shared, last: bool) -> Fit:
        spec, (of_poses, of_thermal) = self._spec, shared
        n_passes = spec.n_passes_last if last else spec.n_passes
        fit = fit_to_images(self._model, sites, poses, information, n_passes=n_passes, tolerance=spec.tolerance,
                            pose_information=of_poses, thermal_information=of_thermal,
                            on_pass=lambda cost: self._passed(f"{len(sites)} sites, cost {cost:.6g}"))
        if of_thermal is not None:
            self._model = self._model.with_thermal(fit.thermal_A2)
        if spec.contrast and len(sites):
            fit = replace(fit, sites=at_usual_occupancy(fit.sites, information))
        return fit

    def _propose(self, sites: Sites, poses: Poses, information: np.ndarray, all_at_once: bool) -> Sites:
        model = self._model
        residual = ResidualVolume(model.shape_zxy, model.n_layers_per_slice, poses, model.voxel_A)
        for _ in model.gradients(sites, poses, on_slices=residual.add):
            pass
        self._passed("search for missing sites")
        proposed = propose_sites(residual.volume, sites, information, model,
                                 min_distance_A=self._spec.min_distance_A, max_distance_A=self._spec.max_distance_A)
        self._passed(f"{len(proposed)} sites proposed")
        around = self._surroundings(proposed.positions_A, sites, own=False)
        return judge_proposals(proposed, sites, poses, information, model,
                               favour=around[:, lightest_kind(model)] - around[:, -1],
                               min_significance=self._spec.min_significance, noisy=self._noisy,
                               all_at_once=all_at_once)

    def _surroundings(self, places_A: np.ndarray, sites: Sites, *, own: bool) -> np.ndarray:
        """Return log-likelihoods (P, K + 1) of each element and of no atom from the neighbours; 0 if switched off."""
        spec, n_kinds = self._spec, len(self._model.elements)
        if not spec.surroundings:
            return np.zeros((len(places_A), n_kinds + 1))
        return log_surroundings(places_A, sites, n_kinds, own=own, min_distance_A=spec.min_distance_A,
                                max_distance_A=spec.max_distance_A, seed=next(self._seeds))

    def _try_elements(self, sites: Sites, poses: Poses, n_passes: int) -> tuple[np.ndarray, ...]:
        """Return gradients of :func:`try_elements` and, between them, JᵀJ of positions and amounts."""
        by_amount, by_tilt = try_elements(self._model, sites, poses)
        self._passed("elements tried")
        full = sample_information(self._coarse, sites, poses, n_passes, next(self._seeds),
                                  tried=tuple(range(len(self._model.elements))))
        self._passed("information", n_passes)
        return by_amount, full, by_tilt

    def _rename(self, sites: Sites, poses: Poses, n_new: int) -> tuple[Sites, np.ndarray]:
        """Return sites with their likeliest elements, and their information.

        Sites that are probably no atom are dropped; new sites keep their element.
        """
        by_amount, full, _ = self._try_elements(sites, poses, self._few + 1)
        posterior = name_sites(sites.occupancy, sites.kinds, by_amount, full, self._model.data.mean_electrons(poses),
                               USUAL_FACTOR, self._surroundings(sites.positions_A, sites, own=True))
        new = np.arange(len(sites)) >= len(sites) - n_new
        keep = new | (posterior[:, -1] < 0.5)
        sites, posterior, full, new = sites.select(keep), posterior[keep], full[keep], new[keep]
        kinds = np.where(new, sites.kinds, posterior[:, :-1].argmax(axis=1))
        occupancy = exchanged_occupancy(sites.occupancy, sites.kinds, kinds, full)
        return replace(sites, kinds=kinds, occupancy=occupancy), own_information(
            full, kinds, np.maximum(1.0, GROWN_OCCUPANCY / np.maximum(occupancy, 0.05)))

    def _information(self, sites: Sites, poses: Poses, n_passes: int, *, thermal: bool = False) -> np.ndarray:
        information = sample_information(self._coarse, sites, poses, n_passes, next(self._seeds), thermal=thermal)
        self._passed("information", n_passes)
        return information

    def _sample(self, sites: Sites, poses: Poses, bars: ErrorBars) -> Sampled:
        n_steps, seed = (self._spec.n_sampled, next(self._seeds)) if self._noisy else (0, 0)
        return sample_atoms(self._coarse, sites, poses, bars.information, bars.linear, n_steps=n_steps,
                            spec=self._spec, misfit=bars.misfit, seed=seed,
                            on_pass=lambda cost: self._passed(f"sampling, cost {cost:.6g}"))

    def _finish(self, fit: Fit, sites: Sites, poses: Poses) -> RefinedAtoms:
        spec, model, n_electrons = self._spec, self._model, self._model.data.mean_electrons(poses)
        by_amount, full, by_tilt = self._try_elements(sites, poses, self._many)
        bars = ErrorBars.of(model, self._coarse, sites, poses, full, by_tilt, next(self._seeds))
        self._passed("overlap")
        sampled = self._sample(sites, poses, bars)
        thermal_A2, thermal_error_A2 = unbiased_thermal(
            model.thermal_A2, fit.thermal_information, sites.kinds, bars.linear, n_electrons) if spec.thermal else (
            model.thermal_A2, np.zeros(len(model.elements)))
        errors, there = bars.stated(sampled, sites.kinds), sampled.present
        odds = odds_of_best_place(sites.occupancy, sites.kinds, full, n_electrons, bars.name_factor, free_volume_A3(
            sites.positions_A, spec.min_distance_A, spec.max_distance_A))[there]
        summary = {"passes": self._n_passes, "traced_lost": self._lost, "neighbour_correlation": neighbour_correlation(
            bars.information, by_tilt[model.data.present.any(axis=1)])} | bars.summary(sites.kinds, sampled)
        sites, errors = replace(sites, positions_A=sampled.positions_A).select(there), errors[there]
        posterior = name_sites(sites.occupancy, sites.kinds, by_amount[there], full[there], n_electrons,
                               bars.name_factor, self._surroundings(sites.positions_A, sites, own=True), odds)
        posterior = with_presence(posterior, sampled.names[there], sampled.presence[there])
        kinds = posterior[:, :-1].argmax(axis=1)
        scale = exchanged_occupancy(sampled.occupancy_factor[sites.kinds], sites.kinds, kinds, full[there])
        occupancy = sites.occupancy * scale
        errors[:, 3] *= scale
        scattering = occupancy * model.tables.weight.sum(axis=1)[kinds] * model.voxel_A**3
        order = np.lexsort(sites.positions_A[:, [1, 0, 2]].T)
        order = order[posterior[order, -1] < 0.5]
        return RefinedAtoms(
            positions_A=sites.positions_A[order], occupancy=occupancy[order],
            scattering_V_A3=scattering[order].astype(np.float64), numbers=np.array(model.elements)[kinds[order]],
            position_error_A=errors[order, :3], occupancy_error=errors[order, 3],
            probability=posterior[order, :-1].max(axis=1), posterior=posterior[order, :-1],
            not_atom_probability=posterior[order, -1], poses=poses, thermal_A2=thermal_A2,
            thermal_error_A2=thermal_error_A2, cost=np.array(fit.descent.costs), rounds=tuple(self._rounds),
            summary=summary | summarize_fit(fit, model, n_electrons)
            | summarize_images(spec, model, poses, thermal_A2, self._images) | self._lens.summary())

    @property
    def _coarse(self) -> AtomModel:
        return self._model.with_layers(self._n_coarse_layers)

    def _passed(self, detail: str, n_passes: int = 1) -> None:
        for _ in range(n_passes):
            self._n_passes += 1
            if self._report is not None:
                self._report(self._n_passes, detail)
