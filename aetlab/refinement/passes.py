"""Number of passes over the data that a refinement takes: at most, and usually."""

from __future__ import annotations

from dataclasses import replace

from aetlab.refinement.hand import N_MIRRORED
from aetlab.spec import RefineSpec

#: Largest number of steps in defocus and brightness between fits, and of repetitions of the last fit.
N_CALIBRATIONS, N_SETTLING = 4, 3
#: Usual numbers of rounds, of passes in a round and of passes in the last one (14 refinements of 110 to 4 500 atoms).
_ROUNDS, _PASSES, _PASSES_LAST = 3, 9, 20


def most_passes(spec: RefineSpec) -> int:
    """Return the largest number of passes over the data of a refinement."""
    beside = (N_CALIBRATIONS if spec.imaging else 0) + (spec.n_information if spec.thermal else 0)
    between = spec.n_passes + 4 + spec.n_information + beside
    most = (1 + spec.n_information + (spec.n_rounds - 1) * between + spec.n_passes_last + beside
            + spec.n_information_last + 2 + (spec.n_passes + 1 if spec.poses else 0))
    if spec.imaging:
        most += N_SETTLING * (spec.n_passes_last + beside) + (N_CALIBRATIONS if spec.poses else 0)
    most += spec.n_rounds if spec.robust else 0
    if spec.hand == "none":
        return most
    last = spec.n_passes_last + beside
    again = (1 + N_SETTLING if spec.imaging else 1) * last + spec.n_information_last + 2 + spec.robust
    return most + N_MIRRORED + (again if spec.hand in ("choose", "auto") else 0)


def usual_passes(spec: RefineSpec) -> int:
    """Return about how many passes over the data a refinement takes."""
    return most_passes(replace(spec, n_rounds=min(spec.n_rounds, _ROUNDS), n_passes=min(spec.n_passes, _PASSES),
                               n_passes_last=min(spec.n_passes_last, _PASSES_LAST)))
