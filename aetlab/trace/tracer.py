"""From a volume to named atoms: the rounds of the paper's tracing code, in our own words and at once for all atoms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aetlab.backend import to_numpy
from aetlab.data import TracedAtoms, Volume
from aetlab.spec import TraceSpec
from aetlab.trace.candidates import find_candidates
from aetlab.trace.sites import fit_sites, merge_sites
from aetlab.trace.species import name_species

#: Called with rounds done, rounds at most, and what the latest did.
RoundReport = Callable[[int, int, str], None]


def trace_atoms(volume: Volume, spec: TraceSpec, elements: tuple[int, ...],
                report: RoundReport | None = None) -> TracedAtoms:
    """Find the atoms of a volume, fit a Gaussian to each, and name them.

    Candidates are fitted, subtracted and the residual searched for more; then all sites are refined against the volume
    less their neighbours, near ones merged and weak ones dropped, in rounds until few go and none moves. Voxels that are
    not finite are missing data: no fit uses them. A flat or empty volume has no atoms.

    Parameters
    ----------
    volume : Volume
        (Z, X, Y) in V.
    spec : TraceSpec
    elements : tuple of int
        Atomic numbers that the sample holds.
    report : callable, optional
        ``report(done, total, detail)`` after each round.

    Returns
    -------
    TracedAtoms
        In the order of z, x, y; positions in Å about the volume's centre.

    Raises
    ------
    ValueError
        If the volume is not three-dimensional and real, or the elements cannot be told apart.
    """
    given = volume.potential_V
    if given.ndim != 3 or given.dtype.kind not in "fiu":
        raise ValueError(f"a volume is a real array (Z, X, Y), not {given.dtype} with shape {given.shape}")
    potential_V = np.ascontiguousarray(to_numpy(given), dtype=np.float32)
    searched = potential_V if isinstance(given, np.ndarray) else given.astype(np.float32)
    sites, _ = fit_sites(potential_V, find_candidates(searched, spec), spec, subtract_neighbours=False)
    for _ in range(spec.n_residual_searches):
        more = find_candidates(searched, spec, subtract=sites)
        fitted, _ = fit_sites(potential_V, np.concatenate([sites, more]), spec)
        sites = np.concatenate([sites, fitted[len(sites):]])
    sites, rounds = _refine_in_rounds(potential_V, sites, spec, report)
    return _describe(potential_V.shape, volume.voxel_A, sites, elements, rounds)


def _refine_in_rounds(potential_V: np.ndarray, sites: np.ndarray, spec: TraceSpec, report: RoundReport | None,
                      ) -> tuple[np.ndarray, tuple[dict[str, float], ...]]:
    rounds: list[dict[str, float]] = []
    total = spec.n_refine_first + 1 + spec.n_rounds_max
    for i_round in range(total):
        n_before = len(sites)
        is_first = i_round == spec.n_refine_first
        if i_round >= spec.n_refine_first:
            sites = merge_sites(sites, spec.merge_distance)
            keep = sites[:, 3] >= spec.min_intensity_V
            sites = sites[keep if is_first else keep & (sites[:, 4] >= spec.min_width)]
        fitted, _ = fit_sites(potential_V, sites, spec)
        shift2 = ((fitted[:, :3] - sites[:, :3]) ** 2).sum(axis=1)
        sites = fitted
        shift = float(np.sqrt(shift2.mean())) if len(sites) else 0.0
        rounds.append({"round": i_round + 1, "n_sites": len(sites), "n_gone": n_before - len(sites),
                       "shift_rms_voxels": shift})
        if report is not None:
            report(i_round + 1, total, f"{len(sites)} sites, {n_before - len(sites)} gone, RMS shift {shift:.4f} voxels")
        if i_round > spec.n_refine_first and n_before - len(sites) < spec.stop_sites and shift < spec.stop_shift:
            break
    return sites, tuple(rounds)


def _describe(shape_zxy: tuple[int, ...], voxel_A: float, sites: np.ndarray, elements: tuple[int, ...],
              rounds: tuple[dict[str, float], ...]) -> TracedAtoms:
    centre = (np.asarray(shape_zxy) - 1) / 2
    positions_A = ((sites[:, :3] - centre) * voxel_A)[:, [1, 2, 0]]
    species = name_species(sites[:, 3] * sites[:, 4], elements)
    unknown = np.full(len(sites), np.nan)
    return TracedAtoms(
        positions_A=positions_A, intensity_V=sites[:, 3], width_A=sites[:, 4] * voxel_A, signal=sites[:, 3] * sites[:, 4],
        numbers=species.numbers, position_error_A=np.full((len(sites), 3), np.nan), intensity_error_V=unknown,
        width_error_A=unknown, probability=species.probability, flag=np.zeros(len(sites), dtype=np.uint8),
        residual_V=unknown, posterior=species.posterior, not_atom_probability=np.zeros(len(sites)),
        species=species.summary, rounds=rounds)
