"""Define the data types of the flow: frozen dataclasses of arrays with units.

Positions are (x, y, z) in Å relative to the centre of the volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from aetlab.core.errors import DataError
from aetlab.core.physics import SYMBOLS
from aetlab.core.poses import Poses
from aetlab.core.tilt_series import TiltSeries as TiltSeries

Array = Any  # numpy.ndarray on the CPU, cupy.ndarray on the GPU


@dataclass(frozen=True)
class Atoms:
    """True atoms: ``numbers`` (N,) atomic numbers, ``positions_A`` (N, 3) x, y, z, ``part`` (N,) of ``part_names``.

    ``part`` is the index of the part of the sample that an atom belongs to (for the needle: core, shell). ``counts``
    holds counts from building the sample for the record: all atoms, atoms in the volume, vacancies. ``notes`` holds
    what was decided on reading a structure file, one line each. The number 0 is an unknown element, which can be shown
    and written, but not simulated.

    Raises
    ------
    DataError
        For wrong shapes, numbers beyond Cf (98), positions that are not finite, and parts without a name.
    """

    numbers: np.ndarray
    positions_A: np.ndarray
    part: np.ndarray
    part_names: tuple[str, ...] = ("all",)
    counts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("numbers", "positions_A", "part"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        n = len(self.numbers)
        for name, shape, kinds in (("numbers", (n,), "iu"), ("positions_A", (n, 3), "iuf"), ("part", (n,), "iu")):
            values = getattr(self, name)
            if values.shape != shape or (n and values.dtype.kind not in kinds):
                raise DataError(f"Atoms.{name}: {values.dtype} of shape {values.shape}, wanted "
                                f"{'whole ' if kinds == 'iu' else ''}numbers of shape {shape}")
        for name, n_allowed in (("numbers", len(SYMBOLS)), ("part", len(self.part_names))):
            values = getattr(self, name)
            wrong = values[(values < 0) | (values >= n_allowed)] if n else values
            if len(wrong):
                raise DataError(f"Atoms.{name}: {wrong[0]}, wanted numbers from 0 to {n_allowed - 1}")
        lost = ~np.isfinite(self.positions_A).all(axis=1) if n else np.zeros(0, bool)
        if lost.any():
            raise DataError(f"Atoms.positions_A: NaN or infinity for {int(lost.sum())} of {n} atoms, wanted finite "
                            "numbers")

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, keep: np.ndarray) -> Atoms:
        """Return the atoms selected by ``keep`` (mask or indices)."""
        return replace(self, numbers=self.numbers[keep], positions_A=self.positions_A[keep], part=self.part[keep])


@dataclass(frozen=True)
class Volume:
    """Electrostatic potential in V averaged over each voxel, float32 (Z, X, Y).

    ``notes`` holds what was decided on reading a file, one line each.
    """

    potential_V: Array
    voxel_A: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values: Array = np.array(self.potential_V) if isinstance(self.potential_V, (list, tuple)) else self.potential_V
        object.__setattr__(self, "potential_V", values)
        dtype, shape = values.dtype, values.shape
        if len(shape) != 3 or dtype.kind not in "fiu":
            raise DataError(f"Volume.potential_V: {dtype} of shape {shape}, wanted real numbers (Z, X, Y)")
        if not isinstance(self.voxel_A, (int, float, np.number)) or not 0 < self.voxel_A < float("inf"):
            raise DataError(f"Volume.voxel_A: {self.voxel_A!r}, wanted a finite number greater than 0")


@dataclass(frozen=True)
class Reconstruction:
    """The reconstructed volume and the history of its fit.

    ``cost`` (equation 5, halved) and ``seconds`` have one entry for each iteration; ``stopped`` is the reason why the
    fit ended. ``restarts`` are the iterations after which momentum was reset, ``halvings`` those after which the step
    was halved. ``weight_per_V`` is the weight of the regulariser. ``held_out_cost`` is the mean cost of a tilt that was
    left out of the fit (NaN if none was). ``device`` names the device that computed the volume. ``poses`` are the poses
    found by the alignment, and ``image_weights`` (T, F) the robust weights that it gave the images, 1 for those that do
    not stand out (both None without alignment).
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
    image_weights: np.ndarray | None = None


@dataclass(frozen=True)
class TracedAtoms:
    """Atoms found in a volume: N rows, K elements.

    ``positions_A`` (N, 3) are x, y, z. ``intensity_V`` and ``width_A`` are peak I and width s of the fitted
    I·exp(-r²/2s²). ``signal`` is I·s in V·voxel, which determines the species. ``numbers`` are the assigned atomic
    numbers. ``*_error_*`` are standard errors. ``probability`` is that of the assigned species. ``flag`` is 0 for a
    valid fit, else bits of :class:`aetlab.tracing.errors.Flag`. ``residual_V`` is the standard deviation of the fit's
    residual. ``posterior`` (N, K) is the probability of each element in the order of atomic numbers, and
    ``not_atom_probability`` that of being no atom. ``species`` describes the classification, ``rounds`` each tracing
    round (sites kept, sites removed, RMS shift in voxels). ``n_candidates`` is the number of fitted candidates, and
    ``removed`` counts the sites that each rule removed or merged into another: N is the former minus the sum of the
    latter.
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
    n_candidates: int = 0
    removed: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.intensity_V)

    def select(self, keep: np.ndarray) -> TracedAtoms:
        """Return the atoms selected by ``keep`` (mask or indices), with the description of all."""
        each = {field.name: getattr(self, field.name)[keep] for field in fields(self)
                if isinstance(getattr(self, field.name), np.ndarray)}
        return replace(self, **each)


@dataclass(frozen=True)
class RefinedAtoms:
    """Atoms fitted directly to the images: N rows, K elements, T tilts of F images.

    ``positions_A`` (N, 3) are x, y, z. ``occupancy`` counts atoms of the element ``numbers``. ``scattering_V_A3`` is
    the occupancy times the integral of the potential. ``position_error_A`` (N, 3) and ``occupancy_error`` are standard
    errors from the Fisher information of the images; they include the uncertainty of all other atoms. ``posterior``
    (N, K) is the probability of each element in the order of atomic numbers, ``probability`` that of the assigned
    element and ``not_atom_probability`` that of no atom. ``poses`` are the fitted poses of the tilts (nominal if they
    were not refined). ``thermal_A2`` (K,) is the B of each element in the order of atomic numbers, and
    ``thermal_error_A2`` (K,) its standard error (0 if B was assumed). ``cost`` is the cost in each pass of the last
    fit. ``rounds`` describes each round, and ``summary`` the end of the refinement.
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

    def as_traced(self) -> TracedAtoms:
        """Return the atoms as traced ones, for scoring; intensity and signal are the scattering."""
        n = len(self)
        unknown = np.full(n, np.nan)
        return TracedAtoms(
            positions_A=self.positions_A, intensity_V=self.scattering_V_A3, width_A=unknown,
            signal=self.scattering_V_A3, numbers=self.numbers, position_error_A=self.position_error_A,
            intensity_error_V=unknown, width_error_A=unknown, probability=self.probability, flag=np.zeros(n, np.uint8),
            residual_V=unknown, posterior=self.posterior, not_atom_probability=self.not_atom_probability)


@dataclass(frozen=True)
class Match:
    """The match of traced atoms with true atoms: index pairs and scores.

    ``traced`` and ``true`` (M,) are the indices of matched pairs. ``unmatched_traced`` are false positives and
    ``unmatched_true`` missing atoms. All lie inside the scoring region. ``strict_traced`` and ``strict_true`` are the
    pairs of the optimal assignment. ``confusion`` (K + 1, K + 1) counts true elements (rows) by assigned elements
    (columns) in the order of ``confusion_numbers``. The last row and column stand for "not an atom", number 0: the row
    counts false positives, the column missing atoms. ``metrics`` holds the scores by name, with the unit in the name;
    ``*_low`` and ``*_high`` are the bounds of their confidence intervals.
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
    """The truth of a simulated sample; only the score uses it.

    ``atoms`` are the true atoms, ``ideal`` is the noise-free tilt series (None if it was not kept), ``poses`` are the
    true poses of the tilts (None if they are nominal).
    """

    atoms: Atoms
    ideal: TiltSeries | None = None
    poses: Poses | None = None


@dataclass(frozen=True)
class Views:
    """Views of the true sample at the tilts ``tilt_deg`` (V,) and the greatest defocus of the series, each (V, X, Y).

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
    """The score of traced atoms, and of refined atoms if there are any, against the true atoms.

    ``atoms`` are the true atoms; if the tilts were aligned, they are registered to the traced atoms by a rigid motion.
    ``inside`` (N,) marks those in the scoring region. ``refined`` is the match of the refined atoms, or None.
    ``refined_motion`` is the rotation (3, 3) and shift (3,) in Å from refined positions to the frame of ``atoms``:
    ``positions_A @ rotation.T + shift_A``. ``profiles`` are scores against distances by name. ``structure`` holds
    arrays of bonds, angles and similar quantities. ``metrics`` holds all scores by name, with the unit in the name.
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
class Validation:
    """Results that speak for or against a run without a truth.

    ``metrics`` are described in :mod:`aetlab.core.metrics`. ``arrays`` have the names under which a record keeps them,
    below ``validation/``; their units are the ends of the names. ``split`` states how the halves were made: counts,
    images, or empty without halves.
    """

    metrics: dict[str, float]
    arrays: Mapping[str, np.ndarray]
    split: str = ""


@dataclass(frozen=True)
class Comparison:
    """All results of a run that need the truth: the score, the true potential, true images, and ``metrics``.

    ``potential`` is the true potential at the voxels of the reconstruction. ``ideal`` holds the noise-free images (None
    if they were not kept). ``poses`` are the true poses of the tilts (None if they are nominal). ``metrics`` includes
    the metrics of ``score``.
    """

    score: Score
    potential: Volume
    views: Views
    metrics: dict[str, float]
    ideal: TiltSeries | None = None
    poses: Poses | None = None
