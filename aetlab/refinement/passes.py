"""Number of passes over the data that a refinement takes: at most, and usually."""

from __future__ import annotations

import math

from aetlab.refinement.aberrations import MOST_ROUNDS
from aetlab.refinement.fisher import N_OVERLAP, information_passes
from aetlab.refinement.hand import N_CORRECTED, N_MIRRORED
from aetlab.refinement.path import N_LANCZOS
from aetlab.refinement.start import CLEAR
from aetlab.spec import RefineSpec

#: Largest number of steps in defocus and brightness between fits.
N_CALIBRATIONS = 4
#: Largest number of repetitions of the last fit: after a calibration of the images, after a correction of the sampling.
N_SETTLING, N_RESAMPLED = 3, 1
#: Time of a correction of the sampling in passes.
RESAMPLING_PASSES = 4
#: Time in passes that the draws of the sites add to a step: 1.2 in 120³ voxels, 2 in 240³.
DRAW_PASSES = 1.6
#: Usual numbers of rounds, of passes in a round and of passes in the last one.
_ROUNDS, _PASSES, _PASSES_LAST = 4, 9, 5
#: Where noise imitates atoms there are as many rounds as are allowed, up to this number.
_ROUNDS_IN_NOISE = 10
#: Standard deviations of the noise of one atom of oxygen at 1 000 e/Å² (measured at 7 000: 6.0), and the power of the
#: atomic number that they grow with (silicon: 11.4).
_CLEARNESS, _POWER = 2.27, 1.15


def n_settling(spec: RefineSpec) -> int:
    """Return the largest number of repetitions of the last fit."""
    if spec.imaging or spec.aberrations == "fitted":
        return N_SETTLING
    return N_RESAMPLED if spec.sampling == "corrected" else 0


def sampling_passes(spec: RefineSpec) -> int:
    """Return the passes that sample a posterior: those of its start and the steps."""
    return 1 + N_LANCZOS + spec.n_sampled if spec.n_sampled else 0


def expects_sampling(spec: RefineSpec, dose_e_A2: float, lightest: int = 8) -> bool:
    """Return whether noise is expected to imitate atoms of the number ``lightest``, so that a path is sampled."""
    clearness = _CLEARNESS * math.sqrt(dose_e_A2 / 1000) * (lightest / 8) ** _POWER
    return spec.min_occupancy * clearness < CLEAR


def most_passes(spec: RefineSpec, n_tilts: int) -> int:
    """Return the largest number of passes over the data of a refinement of ``n_tilts`` tilts."""
    few, many = information_passes(spec, n_tilts)
    n_sampled = sampling_passes(spec)
    beside = (N_CALIBRATIONS if spec.imaging else 0) + (few if spec.thermal else 0)
    between = spec.n_passes + 4 + few + beside
    most = (1 + few + (spec.n_rounds - 1) * between + spec.n_passes_last + beside + many + 2 + n_sampled
            + (spec.n_passes + 1 if spec.poses else 0))
    most += n_settling(spec) * (spec.n_passes_last + beside) + (N_CALIBRATIONS if spec.imaging and spec.poses else 0)
    resampling = RESAMPLING_PASSES if spec.sampling == "corrected" else 0
    most += (1 + spec.n_rounds + n_settling(spec)) * resampling
    most += spec.n_rounds + n_settling(spec) if spec.robust else 0
    last = spec.n_passes_last + beside + resampling + spec.robust
    if spec.aberrations == "fitted":  # rounds that go on for an aberration are fitted like the last one
        most += MOST_ROUNDS * ((1 + n_settling(spec)) * last + (spec.n_passes + few + N_CALIBRATIONS + 1) * spec.poses)
    if spec.hand == "none":
        return most
    most += N_CORRECTED * resampling
    again = (1 + n_settling(spec)) * last + many + 2 + n_sampled
    return most + N_MIRRORED + (again if spec.hand in ("choose", "auto") else 0)


def usual_passes(spec: RefineSpec, n_tilts: int, dose_e_A2: float = math.inf, lightest: int = 8) -> tuple[int, int]:
    """Return about how many passes over the data a refinement takes, with fine slices and with coarse ones.

    ``dose_e_A2`` is that of the series, ``lightest`` the least atomic number of the sample.
    """
    few, many = information_passes(spec, n_tilts)
    noisy = expects_sampling(spec, dose_e_A2, lightest)
    n_sampled = sampling_passes(spec) + math.ceil(DRAW_PASSES * spec.n_sampled)
    beside = N_CALIBRATIONS if spec.imaging else 0
    n_passes, n_last = min(spec.n_passes, _PASSES), min(spec.n_passes_last, _PASSES_LAST)
    n_rounds = min(spec.n_rounds, _ROUNDS_IN_NOISE if noisy else _ROUNDS)
    coarse = few + (n_rounds - 1) * (n_passes + 4 + few + beside) + many + N_OVERLAP + noisy * n_sampled
    coarse += n_passes + 1 if spec.poses else 0
    resampling = RESAMPLING_PASSES if spec.sampling == "corrected" else 0
    n_fits = 1 + (n_settling(spec) > 0)
    fine = 2 + resampling + n_fits * (n_last + beside + (few if spec.thermal else 0) + resampling)
    fine += N_MIRRORED + N_CORRECTED * resampling if spec.hand != "none" else 0
    return fine, coarse
