"""The nouns of the flow: frozen records of arrays with their units. Positions are (x, y, z) in Å about the centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aetlab.core.poses import Poses
from aetlab.core.tilt_series import TiltSeries as TiltSeries

Array = Any  # numpy.ndarray on the CPU, cupy.ndarray on the GPU


@dataclass(frozen=True)
class Atoms:
    """True atoms: ``numbers`` (N,) atomic numbers, ``positions_A`` (N, 3) x, y, z, ``part`` (N,) of ``part_names``.

    ``part`` says which part of the sample an atom belongs to (the needle: core, shell); ``counts`` what was counted
    while the sample was built (atoms in all, left outside the volume, removed as vacancies), for the record.
    """

    numbers: np.ndarray
    positions_A: np.ndarray
    part: np.ndarray
    part_names: tuple[str, ...] = ("all",)
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, keep: np.ndarray) -> Atoms:
        """The atoms where ``keep`` (mask or indices) says so."""
        return Atoms(self.numbers[keep], self.positions_A[keep], self.part[keep], self.part_names, self.counts)


@dataclass(frozen=True)
class Volume:
    """Electrostatic potential in V averaged over each voxel, float32 (Z, X, Y)."""

    potential_V: Array
    voxel_A: float


@dataclass(frozen=True)
class Reconstruction:
    """The volume with its history: one entry an iteration of cost (eq. 5 halved) and seconds, and why it stopped.

    ``restarts`` are the iterations after which momentum was reset, ``halvings`` those after which the step was halved.
    ``weight_per_V`` is the regulariser's; ``held_out_cost`` the mean cost of a tilt that was left out of the fit (NaN
    where none was), ``device`` what computed it, ``poses`` those that the alignment found (None: it was off).
    """

    volume: Volume
    cost: np.ndarray
    seconds: np.ndarray
    restarts: tuple[int, ...]
    halvings: tuple[int, ...]
    stopped: str
    weight_per_V: float
    held_out_cost: float
    device: str = "cpu"
    poses: Poses | None = None


@dataclass(frozen=True)
class TracedAtoms:
    """Atoms found in a volume: N rows, K elements.

    ``positions_A`` (N, 3) x, y, z; ``intensity_V`` peak I and ``width_A`` s of the fitted I·exp(-r²/2s²);
    ``signal`` I·s in V·voxel, what species are told by; ``numbers`` the atomic number given to each;
    ``*_error_*`` are standard errors; ``probability`` that of the species given; ``flag`` 0 where the fit is sound,
    else bits of :class:`aetlab.tracing.errors.Flag`. ``residual_V`` is the standard deviation of the fit's residual,
    ``posterior`` (N, K) the probability of each element in the order of their atomic numbers, and
    ``not_atom_probability`` that of being none. ``species`` tells how the names came about, ``rounds`` of each tracing
    round (sites left, sites gone, RMS shift in voxels).
    """

    positions_A: np.ndarray
    intensity_V: np.ndarray
    width_A: np.ndarray
    signal: np.ndarray
    numbers: np.ndarray
    position_error_A: np.ndarray
    intensity_error_V: np.ndarray
    width_error_A: np.ndarray
    probability: np.ndarray
    flag: np.ndarray
    residual_V: np.ndarray
    posterior: np.ndarray
    not_atom_probability: np.ndarray
    species: dict[str, Any] = field(default_factory=dict)
    rounds: tuple[dict[str, float], ...] = ()

    def __len__(self) -> int:
        return len(self.intensity_V)


@dataclass(frozen=True)
class RefinedAtoms:
    """Atoms fitted to the images themselves: N rows, K elements, T tilts of F images.

    ``positions_A`` (N, 3) x, y, z; ``occupancy`` in atoms of ``numbers``; ``scattering_V_A3`` occupancy times the
    integral of the potential; ``position_error_A`` (N, 3) and ``occupancy_error`` are standard errors from the Fisher
    information of the images, ignorance of all other atoms included; ``posterior`` (N, K) the probability of each
    element in the order of their atomic numbers, ``probability`` that of the one given and ``not_atom_probability``
    that of none. ``poses`` are those of the tilts as fitted (nominal where they were not refined). ``thermal_A2`` (K,)
    is the B of each element, in the order of their atomic numbers, and ``thermal_error_A2`` (K,) its standard error (0
    where B was assumed). ``cost`` holds the passes of the last fit, ``rounds`` what each round did, ``summary`` how it
    ended.
    """

    positions_A: np.ndarray
    occupancy: np.ndarray
    scattering_V_A3: np.ndarray
    numbers: np.ndarray
    position_error_A: np.ndarray
    occupancy_error: np.ndarray
    probability: np.ndarray
    posterior: np.ndarray
    not_atom_probability: np.ndarray
    poses: Poses
    thermal_A2: np.ndarray
    thermal_error_A2: np.ndarray
    cost: np.ndarray
    rounds: tuple[dict[str, float], ...]
    summary: dict[str, Any]

    def __len__(self) -> int:
        return len(self.occupancy)


@dataclass(frozen=True)
class Match:
    """Traced atoms against true ones: index pairs and the figures made of them.

    ``traced`` and ``true`` (M,) pair up; ``unmatched_traced`` are false positives, ``unmatched_true`` are missing, all
    inside the scoring region. ``strict_traced`` and ``strict_true`` are the pairs of the optimal assignment.
    ``confusion`` (K + 1, K + 1) counts true elements (rows) by the names given (columns) in the order of
    ``confusion_numbers``, the last of each being "not an atom", number 0: its row holds the false positives, its column
    the missing. ``metrics`` holds the scores by name, unit in the name; ``*_low`` and ``*_high`` bound their confidence
    intervals.
    """

    traced: np.ndarray
    true: np.ndarray
    unmatched_traced: np.ndarray
    unmatched_true: np.ndarray
    metrics: dict[str, float]
    strict_traced: np.ndarray
    strict_true: np.ndarray
    confusion: np.ndarray
    confusion_numbers: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What is known of a simulated sample and of no measured one; it enters the score alone.

    ``atoms`` are the true ones, ``ideal`` the noise-free tilt series (None where it was not kept), ``poses`` the
    true poses of the tilts (None if they are nominal).
    """

    atoms: Atoms
    ideal: TiltSeries | None = None
    poses: Poses | None = None


@dataclass(frozen=True)
class Views:
    """The true sample at the tilts ``tilt_deg`` (V,) and the greatest defocus of the series, each (V, X, Y).

    ``projected_V_A`` is the projected potential in V Å; ``ideal`` and ``recorded`` are images with vacuum 1, the latter
    at the dose of one image of the series.
    """

    tilt_deg: tuple[float, ...]
    defocus_nm: float
    projected_V_A: np.ndarray
    ideal: np.ndarray
    recorded: np.ndarray


@dataclass(frozen=True)
class Score:
    """Traced atoms, and refined ones where there are any, against the true atoms.

    ``atoms`` are the true atoms, moved as a whole to where the traced ones lie if the tilts were aligned, and
    ``inside`` (N,) marks those of the scoring region. ``refined`` is ``None``, or the match of the refined atoms;
    ``refined_motion`` the rotation (3, 3) and shift (3,) in Å that take refined positions to the frame of ``atoms``:
    ``positions_A @ rotation.T + shift_A``. ``profiles`` are scores against distances by name, ``structure`` arrays of
    bonds, angles and the like. ``metrics`` holds all scores by name, unit in the name.
    """

    atoms: Atoms
    inside: np.ndarray
    match: Match
    metrics: dict[str, float]
    profiles: Mapping[str, Mapping[str, np.ndarray]]
    structure: Mapping[str, np.ndarray]
    refined: Match | None = None
    refined_motion: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Comparison:
    """All of a run that needs the truth: the score, the true potential and images, and ``metrics`` made of them.

    ``potential`` is the true one at the voxels of the reconstruction; ``ideal`` holds the noise-free images, None where
    they were not kept; ``poses`` the true poses of the tilts, None if they are nominal. ``metrics`` holds
    those of ``score`` as well.
    """

    score: Score
    potential: Volume
    views: Views
    metrics: dict[str, float]
    ideal: TiltSeries | None = None
    poses: Poses | None = None
