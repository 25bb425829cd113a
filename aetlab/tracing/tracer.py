"""Named atoms from a volume, by the rounds of the paper's tracing method, applied to all atoms at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.nouns import Array, TracedAtoms, Volume
from aetlab.core.structure import least_distance_A
from aetlab.spec import TraceSpec
from aetlab.tracing.candidates import Search, find_candidates, smooth
from aetlab.tracing.errors import Flag, estimate_errors
from aetlab.tracing.noise import measure_noise
from aetlab.tracing.sites import (
    Fitter,
    Removed,
    canonical_order,
    drop_crowded_sites,
    drop_doubtful_sites,
    drop_lone_sites,
    fit_on_cpu,
    fit_sites,
    longest_bond_A,
    merge_sites,
)
from aetlab.tracing.species import Species, name_species

#: The noise is measured again after a round that drops a larger share of the sites.
MANY_GONE = 0.01
#: Candidates whose first fits end closer than this many voxels are maxima of one atom: fitted separately, each would be
#: fitted to the volume minus the other, where nothing is left.
SAME_ATOM = 1.0
#: Shares of the least significance that are required one after the other before the rounds. As long as noise is fitted
#: as atoms, the noise is underestimated, and a site's intensity may still grow.
EARLY_SIGNIFICANCE = (0.5, 0.75)
#: Least probability of a name that counts as the likely one; half, for any two elements.
LIKELY = 0.5 - 1e-6
#: Voxel in Å for which the settings give lengths in voxels, and the greatest radius of a fit on finer ones.
USUAL_VOXEL_A, GREATEST_RADIUS = 0.5, 8.0
_LENGTHS = ("smoothing", "cylinder_margin", "filter_sigma_narrow", "filter_sigma_wide", "fit_radius",
            "max_shift_per_fit", "width_start", "neighbour_radius", "merge_distance", "min_width", "stop_shift")


@dataclass(frozen=True)
class Work:
    """The device of the work on a volume: ``search`` finds candidates, ``fit`` fits sites."""

    search: Search = find_candidates
    fit: Fitter = fit_on_cpu


#: The work by the CPU.
ON_CPU = Work()
#: Called with rounds done, rounds at most, and a text about the latest.
RoundReport = Callable[[int, int, str], None]


def trace_atoms(volume: Volume, spec: TraceSpec, elements: tuple[int, ...], report: RoundReport | None = None, *,
                expected_signal: Mapping[int, float] | None = None, in_volts: bool = False,
                work: Work = ON_CPU) -> TracedAtoms:
    """Find the atoms of a volume, fit a Gaussian to each, and name them.

    If the settings ask for it, the volume is smoothed, and cut to the cylinder inside the field of view of all tilts.
    Candidates are fitted and subtracted, and the residual is searched for more. Then all sites are refined in rounds
    against the volume minus their neighbours; close sites are merged, weak and lone ones dropped, until few are dropped
    and none moves. Voxels that are not finite are missing data: no fit uses them. A flat or empty volume has no atoms.

    Parameters
    ----------
    volume : Volume
        (Z, X, Y) in V.
    spec : TraceSpec
    elements : tuple of int
        Atomic numbers of the elements of the sample.
    report : callable, optional
        ``report(done, total, detail)`` after each round.
    expected_signal : mapping, optional
        Signal in V voxel of an isolated atom of each element (:func:`aetlab.forward.expected_signals`), up to a common
        factor and power; by default a power of the atomic number.
    in_volts : bool
        Whether the volume is a potential in V, so that the factor is near 1.
    work : Work
        Where candidates are searched for and sites are fitted.

    Returns
    -------
    TracedAtoms
        In the order of z, x, y; positions in Å about the volume's centre.

    Raises
    ------
    ValueError
        If an element occurs twice or there is none.
    """
    found = find_sites(volume, spec, elements, report, work=work)
    return name_found(volume, found, spec, elements, expected_signal=expected_signal, in_volts=in_volts, work=work)


def name_found(volume: Volume, found: FoundSites, spec: TraceSpec, elements: tuple[int, ...], *,
               expected_signal: Mapping[int, float] | None = None, in_volts: bool = False,
               work: Work = ON_CPU) -> TracedAtoms:
    """Return the sites ``found`` in ``volume`` as named atoms; the parameters are those of :func:`trace_atoms`."""
    found = found.without("faint", found.bright(elements, spec.min_signal, expected_signal, in_volts))
    measured = measure_sites(volume, found.sites, found.status, spec, work=work)
    return found.named(measured, name_species(found.signal, elements, expected_signal, in_volts=in_volts))


@dataclass(frozen=True)
class FoundSites:
    """Sites of the searched volume before faint ones are dropped and all are named.

    ``sites`` (N, 5) are z, x, y, I, s in voxels of the volume and V, in canonical order; ``status`` (N,) is that of
    their last fits. ``rounds``, ``n_candidates`` and ``removed`` are those of :class:`~aetlab.core.nouns.TracedAtoms`.
    """

    sites: np.ndarray
    status: np.ndarray
    rounds: tuple[dict[str, float], ...]
    n_candidates: int
    removed: Mapping[str, int]

    @property
    def signal(self) -> np.ndarray:
        """Return the signal I·s (N,) in V·voxel."""
        return np.asarray(self.sites[:, 3] * self.sites[:, 4])

    def bright(self, elements: tuple[int, ...], share: float, expected_signal: Mapping[int, float] | None,
               in_volts: bool) -> np.ndarray:
        """Return which sites have at least ``share`` of the median signal of the lightest element's, bool (N,).

        The lightest is that of the least expected signal. Its sites are those that it is given with a probability of at
        least a half: where the images do not tell it from others, no site is dropped. The parameters are those of
        :func:`trace_atoms`.
        """
        signal = self.signal
        if not share:
            return np.ones(len(signal), bool)
        species = name_species(signal, elements, expected_signal, in_volts=in_volts)
        faintest = min(elements, key=lambda z: expected_signal[z]) if expected_signal else min(elements)
        lightest = (species.numbers == faintest) & (species.probability >= LIKELY)
        return signal >= share * np.median(signal[lightest]) if lightest.any() else np.ones(len(signal), bool)

    def without(self, rule: str, keep: np.ndarray) -> FoundSites:
        """Return the sites to ``keep``, bool (N,), and count the others as removed by ``rule``."""
        return replace(self, sites=self.sites[keep], status=self.status[keep],
                       removed={**self.removed, rule: self.removed[rule] + int((~keep).sum())})

    def named(self, measured: MeasuredSites, species: Species) -> TracedAtoms:
        """Return the sites, ``measured`` in their order, with their names as traced atoms."""
        return TracedAtoms(
            positions_A=measured.positions_A, intensity_V=measured.intensity_V, width_A=measured.width_A,
            signal=self.signal, numbers=species.numbers, position_error_A=measured.position_error_A,
            intensity_error_V=measured.intensity_error_V, width_error_A=measured.width_error_A,
            probability=species.probability,
            flag=measured.flag | np.where(species.not_atom > 0.5, Flag.NOT_ATOM, 0).astype(np.uint8),
            residual_V=measured.residual_V, posterior=species.posterior, not_atom_probability=species.not_atom,
            species=species.summary, rounds=self.rounds, n_candidates=self.n_candidates, removed=self.removed)


@dataclass(frozen=True)
class MeasuredSites:
    """Final fits of N sites: positions (x, y, z) in Å about the volume's centre, intensity, width, and their errors."""

    positions_A: np.ndarray
    intensity_V: np.ndarray
    width_A: np.ndarray
    position_error_A: np.ndarray
    intensity_error_V: np.ndarray
    width_error_A: np.ndarray
    flag: np.ndarray
    residual_V: np.ndarray


def find_sites(volume: Volume, spec: TraceSpec, elements: tuple[int, ...],
               report: RoundReport | None = None, *, work: Work = ON_CPU) -> FoundSites:
    """Return the sites that the rounds of tracing find and keep; the parameters are those of :func:`trace_atoms`."""
    searched = _prepare(volume, spec, smoothed=True)
    potential_V = np.ascontiguousarray(to_numpy(searched))
    removed = Removed()
    candidates = work.search(searched, spec)
    n_candidates = len(candidates)
    sites, _ = fit_sites(potential_V, candidates, spec, subtract_neighbours=False, fit=work.fit)
    sites = removed.by("same_atom", sites, merge_sites(sites, SAME_ATOM))
    for _ in range(spec.n_residual_searches):
        more = work.search(searched, spec, subtract=sites)
        n_candidates += len(more)
        sites, _ = fit_sites(potential_V, np.concatenate([sites, more]), spec, n_fixed=len(sites), fit=work.fit)
        sites = removed.by("same_atom", sites, merge_sites(sites, SAME_ATOM))
    bond = longest_bond_A(elements) / volume.voxel_A if spec.min_group > 1 else 0.0
    least = least_distance_A(elements, spec.min_bond_part) / volume.voxel_A if spec.min_bond_part else 0.0
    sites, status, rounds = _refine_in_rounds(potential_V, searched, sites, spec, bond, least, removed, report, work)
    order = canonical_order(sites)
    return FoundSites(sites[order], status[order], rounds, n_candidates, removed.counts)


def measure_sites(volume: Volume, sites: np.ndarray, status: np.ndarray, spec: TraceSpec, *,
                  work: Work = ON_CPU) -> MeasuredSites:
    """Return the last fits of ``sites`` (N, 5), to the volume as given where it was smoothed for the search.

    ``sites`` and ``status`` (N,) are rows of :class:`FoundSites`, in their order.
    """
    sharp = bool(spec.smoothing and spec.n_sharp_fits)
    potential_V = np.ascontiguousarray(to_numpy(_prepare(volume, spec, smoothed=not sharp)))
    if sharp:
        sites, status = _sharpen(potential_V, sites, spec, work)
    errors = estimate_errors(potential_V, sites, status, spec)
    centre = (np.asarray(potential_V.shape) - 1) / 2
    voxel_A = volume.voxel_A
    zxy_to_xyz = [1, 2, 0]
    return MeasuredSites(((sites[:, :3] - centre) * voxel_A)[:, zxy_to_xyz], sites[:, 3], sites[:, 4] * voxel_A,
                         errors.std[:, zxy_to_xyz] * voxel_A, errors.std[:, 3], errors.std[:, 4] * voxel_A,
                         errors.flag, errors.residual_V)


def _prepare(volume: Volume, spec: TraceSpec, *, smoothed: bool) -> Array:
    """Return the volume in V, float32 (Z, X, Y), smoothed on request; voxels outside the cylinder are NaN."""
    potential_V = volume.potential_V.astype(np.float32)
    if smoothed:
        potential_V = smooth(potential_V, spec.smoothing)
    if spec.cylinder_margin >= 0:
        potential_V[_outside_cylinder(potential_V.shape, spec.cylinder_margin)] = np.nan
    return potential_V


def _outside_cylinder(shape_zxy: tuple[int, ...], margin: float) -> np.ndarray:
    """Return which columns (Z, X) are outside the cylinder ``margin`` voxels inside the faces along z and x, bool."""
    n_z, n_x, _ = shape_zxy
    z, x = np.arange(n_z)[:, None] - (n_z - 1) / 2, np.arange(n_x) - (n_x - 1) / 2
    return np.hypot(z, x) > min(n_z, n_x) / 2 - margin


def _sharpen(potential_V: np.ndarray, sites: np.ndarray, spec: TraceSpec,
             work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Fit sites of the smoothed volume to the given volume, where neighbours overlap less; return sites and status."""
    sharp = sites.copy()
    low, high = spec.width_bounds
    sharp[:, 4] = np.clip(np.sqrt(np.maximum(sites[:, 4] ** 2 - spec.smoothing**2, 0)), low, high)
    sharp[:, 3] *= (sites[:, 4] / sharp[:, 4]) ** 3
    for _ in range(spec.n_sharp_fits):
        sharp, status = fit_sites(potential_V, sharp, spec, fit=work.fit)
    return sharp, status


def _refine_in_rounds(potential_V: np.ndarray, searched: Array, sites: np.ndarray, spec: TraceSpec, bond: float,
                      least: float, removed: Removed, report: RoundReport | None, work: Work,
                      ) -> tuple[np.ndarray, np.ndarray, tuple[dict[str, float], ...]]:
    """Return the sites, the status of their last fits, and a summary of each round; count in ``removed``.

    ``bond`` is the length of the longest bond in voxels, ``least`` the least distance of two atoms.
    """
    rounds: list[dict[str, float]] = []
    total = spec.n_refine_first + 1 + spec.n_rounds_max
    noise = measure_noise(searched, sites, spec)
    for part in EARLY_SIGNIFICANCE:
        sites, counts = drop_doubtful_sites(potential_V, sites, spec, noise, part=part, narrow=False)
        removed.add(counts)
        noise = measure_noise(searched, sites, spec)
    for i_round in range(total):
        n_before = len(sites)
        if i_round >= spec.n_refine_first:
            sites = removed.by("close", sites, merge_sites(sites, spec.merge_distance))
            if least > spec.merge_distance and i_round > spec.n_refine_first:
                sites = removed.by("crowded", sites, drop_crowded_sites(sites, least))
            sites = removed.by("weak", sites, sites[sites[:, 3] >= spec.min_intensity_V])
            sites, counts = drop_doubtful_sites(potential_V, sites, spec, noise, narrow=i_round > spec.n_refine_first)
            removed.add(counts)
            sites = removed.by("lone", sites, drop_lone_sites(sites, spec.link_factor, spec.min_group, bond=bond))
        n_gone = n_before - len(sites)
        if n_gone > MANY_GONE * n_before:
            noise = measure_noise(searched, sites, spec)
        fitted, status = fit_sites(potential_V, sites, spec, fit=work.fit)
        shift2 = ((fitted[:, :3] - sites[:, :3]) ** 2).sum(axis=1)
        sites = fitted
        shift = float(np.sqrt(shift2.mean())) if len(sites) else 0.0
        rounds.append({"round": i_round + 1, "n_sites": len(sites), "n_gone": n_gone, "shift_rms_voxels": shift})
        if report is not None:
            report(i_round + 1, total, f"{len(sites)} sites, {n_gone} gone, RMS shift {shift:.4f} voxels")
        if i_round > spec.n_refine_first and n_gone < spec.stop_sites and shift < spec.stop_shift:
            break
    return sites, status, tuple(rounds)


def at_voxel(spec: TraceSpec, voxel_A: float) -> TraceSpec:
    """Return the settings for finer voxels of ``voxel_A``: each length in Å is that of voxels of 0.5 Å.

    Atoms are as wide as the resolution makes them, whatever the voxel. On coarser voxels the settings stay, because a
    fit needs as many voxels; on very fine ones the radius of a fit limits the factor.
    """
    factor = max(min(USUAL_VOXEL_A / voxel_A, GREATEST_RADIUS / spec.fit_radius), 1.0)
    if factor == 1:
        return spec
    low, high = spec.width_bounds
    return replace(spec, width_bounds=(factor * low, factor * high),
                   **{name: factor * getattr(spec, name) for name in _LENGTHS})
