"""Kinds of figures: what draws each, what it reads of each record, and its caption.

A figure is drawn where its records hold what :class:`Needs` states, and left out with a reason otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from matplotlib.figure import Figure

from aetlab.reporting.figures.accuracy import plot_accuracy
from aetlab.reporting.figures.atoms import MATCH_ARRAYS, TRACED_ARRAYS
from aetlab.reporting.figures.convergence import plot_binning, plot_convergence
from aetlab.reporting.figures.depth import plot_depths
from aetlab.reporting.figures.geometry import plot_geometry
from aetlab.reporting.figures.images import plot_images
from aetlab.reporting.figures.panels import plot_panels
from aetlab.reporting.figures.quality import plot_quality
from aetlab.reporting.figures.refined import plot_refined
from aetlab.reporting.figures.seams import SEAM, plot_seams
from aetlab.reporting.figures.vacancies import plot_vacancies
from aetlab.reporting.figures.validation import plot_chemistry, plot_fit, plot_halves, plot_residuals
from aetlab.reporting.stored_run import StoredRun


@dataclass(frozen=True)
class Needs:
    """Names of the arrays and metrics that a figure reads; metrics are written ``metrics/NAME``.

    A star stands for any part of a name, and ``|`` separates alternatives, the first of which is preferred; at least
    one stored name must match. ``always`` is read of every record,
    ``with_truth`` in addition where all records of the figure have a truth, ``without_truth`` where one has none.
    ``without_truth`` is None for figures that need the truth. ``where_stored`` is drawn if it is there.
    """

    always: tuple[str, ...] = ()
    with_truth: tuple[str, ...] = ()
    without_truth: tuple[str, ...] | None = None
    where_stored: tuple[str, ...] = ()

    def names(self, *, truth: bool) -> tuple[str, ...]:
        """Return the names that must be there for records with or without a ``truth``."""
        return self.always + (self.with_truth if truth else self.without_truth or ())


@dataclass(frozen=True)
class FigureTask:
    """A figure to draw: its kind, title, records, and their labels and letters where the kind takes them.

    ``high_V`` is the upper limit of the colour scale of slices; None lets it fit the data. ``timed`` are the records
    that give the times where ``runs`` do not.
    """

    name: str
    kind: str
    title: str
    runs: tuple[StoredRun, ...]
    labels: tuple[str, ...] = ()
    letters: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    high_V: float | None = None
    timed: tuple[StoredRun, ...] = ()

    @property
    def has_truth(self) -> bool:
        """True if all records of the figure have a truth."""
        return all(run.has_truth for run in self.runs)

    @property
    def caption(self) -> str:
        """Caption of the figure."""
        kind = KINDS[self.kind]
        return kind.caption if self.has_truth or not kind.caption_without_truth else kind.caption_without_truth

    def make(self) -> Figure:
        """Draw the figure."""
        return KINDS[self.kind].draw(self)

    def obstacle(self) -> str:
        """Return why the figure cannot be drawn from its records; empty where it can."""
        needs = KINDS[self.kind].needs
        if needs.without_truth is None and not self.has_truth:
            return f"it needs a truth, and {_records([run for run in self.runs if not run.has_truth])} has none"
        for run in self.runs:
            stored = (*run.array_names, *(f"metrics/{name}" for name in run.metrics))
            lacking = [name for name in needs.names(truth=self.has_truth)
                       if not any(matches(held, name) for held in stored)]
            if lacking:
                return f"{_records([run])}{'' if run.has_truth else ' without a truth'} lacks {', '.join(lacking)}"
        counts = [run.metrics[name] for run in self.runs for name in _COUNTS if name in run.metrics]
        if counts and max(counts) < KINDS[self.kind].fewest_atoms:
            return (f"{_records(self.runs)} has {max(counts):.0f} atoms; distributions need "
                    f"{KINDS[self.kind].fewest_atoms}")
        return ""


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure; ``caption_without_truth`` replaces ``caption`` where a record has no truth.

    At least one record must have ``fewest_atoms`` true or traced atoms.
    """

    draw: Callable[[FigureTask], Figure]
    needs: Needs
    caption: str
    caption_without_truth: str = ""
    fewest_atoms: int = 0


def matches(name: str, need: str) -> bool:
    """Return whether the array or metric ``name`` is one that ``need`` names; see :class:`Needs`."""
    return any(fnmatchcase(name, pattern) for pattern in need.split("|"))


def keep_drawable(tasks: Sequence[FigureTask]) -> tuple[list[FigureTask], list[str]]:
    """Return the figures that can be drawn, and one line on each of the others."""
    obstacles = [task.obstacle() for task in tasks]
    kept = [task for task, obstacle in zip(tasks, obstacles, strict=True) if not obstacle]
    lines = [f"{task.title}: left out: {obstacle}" for task, obstacle in zip(tasks, obstacles, strict=True) if obstacle]
    return kept, lines


def _records(runs: Sequence[StoredRun]) -> str:
    return f"record {', '.join(run.identity for run in runs)}"


def _with_letters(plot: Callable[..., Figure], task: FigureTask) -> Figure:
    return plot(task.runs, task.labels, task.letters or "abcd", task.high_V)


#: Metrics that count atoms.
_COUNTS = ("n_true", "n_atoms_traced")
_ATOMS = ("traced/positions_A", "traced/numbers")
_TRUE_ATOMS = ("truth/positions_A", "truth/numbers")
_KEPT_IMAGES = ("tilt_series/kept_tilts", "tilt_series/tilt_deg", "tilt_series/defocus_nm", "tilt_series/weight")

#: Every kind of figure by name.
KINDS: dict[str, FigureKind] = {
    "geometry": FigureKind(
        draw=lambda task: plot_geometry(*task.runs),
        needs=Needs(
            always=(*_KEPT_IMAGES, "tilt_series/ideal_of_kept_tilts|tilt_series/images_of_kept_tilts"),
            with_truth=_TRUE_ATOMS,
            without_truth=_ATOMS,
        ),
        caption="Oblique view of the tilted needle with the slices of the multislice model and the defocused planes "
        "(a), and ideal images at two tilts of the series (b).",
        caption_without_truth="Oblique view of the traced atoms with the slices of the multislice model and the "
        "defocused planes (a), and recorded images at two tilts of the series (b).",
    ),
    "images": FigureKind(
        draw=lambda task: plot_images(*task.runs),
        needs=Needs(
            with_truth=(*_TRUE_ATOMS, "views/tilt_deg", "views/projected_V_A", "views/ideal", "views/recorded"),
            without_truth=(*_ATOMS, *_KEPT_IMAGES, "tilt_series/images_of_kept_tilts", "volume/potential_V"),
        ),
        caption="Slice of atoms normal to the beam (a), projected potentials (b, c), ideal images at the greatest "
        "defocus (d, e), and as recorded at the dose of one image (f, g).",
        caption_without_truth="Slice of traced atoms normal to the beam (a), the reconstructed potential projected "
        "along z and x (b, c), and recorded images at two tilts of the series and the greatest defocus (d, e).",
    ),
    "depths": FigureKind(
        draw=lambda task: _with_letters(plot_depths, task),
        needs=Needs(always=("volume/potential_V", *TRACED_ARRAYS), with_truth=MATCH_ARRAYS, without_truth=()),
        caption="1 Å slices normal to the beam (square root of the potential); the tilt axis is "
        "vertical. Arrows mark the height of the slices normal to the tilt axis in figure 4.",
        caption_without_truth="1 Å slices normal to the beam (square root of the potential); the tilt "
        "axis is vertical. Arrows mark the height at which the sample is thickest.",
    ),
    "panels": FigureKind(
        draw=lambda task: _with_letters(plot_panels, task),
        needs=Needs(
            always=("volume/potential_V", *TRACED_ARRAYS),
            with_truth=(*MATCH_ARRAYS, *(f"metrics/sigma_{axis}_pm" for axis in "xyz")),
            without_truth=("traced/position_error_A",),
        ),
        caption="From top to bottom: 1 Å slice normal to the tilt axis where the sample is thickest (square root of "
        "the potential); traced atoms of that slice with tetrahedra whose centre lies in it; site "
        "intensities of the found atoms by true element, with the threshold between the species assigned; 3D "
        "position errors of the found atoms with their standard deviation along x, y and z.",
        caption_without_truth="From top to bottom: 1 Å slice normal to the tilt axis where the sample is thickest "
        "(square root of the potential); traced atoms of that slice by assigned element; site "
        "intensities of the traced atoms by assigned element, with the threshold between the species; standard "
        "errors of the traced positions along x, y and z with their medians.",
    ),
    "convergence": FigureKind(
        draw=lambda task: plot_convergence(task.runs, task.labels),
        needs=Needs(without_truth=()),
        caption="Cost against iteration (a), and its excess over the lowest cost reached (b); one line for each "
        "record.",
    ),
    "binning": FigureKind(
        draw=lambda task: plot_binning(task.runs, task.timed),
        needs=Needs(with_truth=("metrics/potential_error",)),
        caption="Median time of an iteration saved (left) and relative error of the potential in the scored part "
        "(right) against the layers binned; the dotted line is the paper's bound on the thickness of a slice. The "
        "error that remains with thin slices is of spatial frequencies that the images hardly hold: below 0.1/Å, "
        "where phase contrast is weak, and towards the aperture and beyond it.",
    ),
    "quality": FigureKind(
        draw=lambda task: plot_quality(task.runs, task.labels),
        needs=Needs(with_truth=tuple(f"metrics/{name}" for name in (
            "position_error_pm", "found_percent", "false_positive_percent", "correct_species_percent"))),
        caption="Scores of the traced atoms against the time of all iterations of the reconstruction; each point is a "
        "run with its own number of iterations.",
    ),
    "vacancies": FigureKind(
        draw=lambda task: plot_vacancies(*task.runs),
        needs=Needs(
            always=("volume/potential_V",),
            with_truth=("truth/positions_A", "truth/potential_zy_V", "truth/potential_zx_V"),
        ),
        caption="1 Å slices through the middle along (top) and across (bottom) the tilt axis: true potential with "
        "vacancies (a), reconstruction of the whole needle (b) and of the one with vacancies (c); rings mark the "
        "removed atoms.",
    ),
    "accuracy": FigureKind(
        draw=lambda task: plot_accuracy(task.runs, task.labels),
        fewest_atoms=10,
        needs=Needs(
            always=(
                "structure/angle_edges_deg",
                *(f"structure/*/{name}" for name in ("length_edges_A", "length_traced", "angle_traced",
                                                     "coordination_traced")),
            ),
            with_truth=(
                "truth/positions_A",
                "match/traced",
                "match/true",
                "traced/positions_A",
                "traced/position_error_A",
                *(f"structure/*/{name}" for name in ("length_true", "angle_true", "coordination_true")),
            ),
            without_truth=(),
            where_stored=("profiles/axis/*", "profiles/surface/*", "structure/pair_distribution/*"),
        ),
        caption="|error| over standard error along each axis of the found atoms, and the half-normal density of "
        "correct error bars: a tail beyond it shows errors that a fit to one volume cannot detect, such as the "
        "regulariser's bias. Scores with 95 % intervals against distance from the tilt axis and depth below the "
        "surface, where they change. Bond lengths, bond angles, coordination and, where it reaches a second shell, "
        "pair distribution of the traced atoms, and of the true atoms of the first record.",
        caption_without_truth="Bond lengths, bond angles, coordination and pair distribution of the traced atoms.",
    ),
    "seams": FigureKind(
        draw=lambda task: plot_seams(task.runs, task.labels),
        needs=Needs(with_truth=(f"{SEAM}/edges_A", *(f"{SEAM}/{score}{bound}" for bound in ("", "_low", "_high")
                                                      for score in ("position_error_pm", "found_percent",
                                                                    "false_positive_percent")))),
        caption="Position error, found and false atoms of joined tiles against the distance from the nearest seam, "
        "with 95 % intervals. A tile finds each atom of its core once; the scores at a seam should be those elsewhere.",
    ),
    "refined": FigureKind(
        draw=lambda task: plot_refined(task.runs, task.labels),
        needs=Needs(
            always=("refined/positions_A", "refined/occupancy", "refined/position_error_A", "traced/positions_A"),
            with_truth=("match/traced", "match/true", *_TRUE_ATOMS, "refined_match/traced", "refined_match/true"),
            without_truth=("traced/position_error_A", "refined/numbers", "refined/probability"),
            where_stored=("refined_match/rotation", "refined_match/shift_A"),
        ),
        caption="Position errors of the found atoms, traced (dashed) and refined. Root mean square error of the "
        "refined atoms along each axis against their standard errors from the Fisher information of the images, in "
        "bins of equal counts; on the dashed line they agree. |error| over standard error with the half-normal "
        "density. Occupancy by true element.",
        caption_without_truth="Standard errors of the positions, traced (dashed) and refined. Distance from each "
        "refined atom to the nearest traced one. Occupancy by assigned element, and, where any is uncertain, the "
        "probability of the assigned element.",
    ),
    "fit": FigureKind(
        draw=lambda task: plot_fit(*task.runs),
        needs=Needs(
            always=("validation/images/held_out", "tilt_series/tilt_deg", "tilt_series/weight",
                    "tilt_series/defocus_nm", "validation/images/chi_square_volume|validation/images/r_factor_volume"),
            without_truth=(),
            where_stored=("validation/images/*_atoms", "refined/shift_A", "refined/image_shift_A", "refined/defocus_A",
                          "alignment/shift_A", "alignment/image_shift_A", "alignment/defocus_A"),
        ),
        caption="Misfit of each image (a): full symbols are those of the best model, the refined atoms where there are "
        "any, open ones those of the volume; without noise R, else χ² per value, which is 1 (dashed) where counting "
        "noise alone separates image and model. Rings mark images that no step was fitted to. Shift (b) and change of "
        "the defocus (c) of each image that the alignment or the refinement found.",
    ),
    "residuals": FigureKind(
        draw=lambda task: plot_residuals(*task.runs),
        needs=Needs(
            always=("validation/images/worst", "validation/images/worst_measured", "validation/images/worst_residual",
                    "tilt_series/tilt_deg", "tilt_series/defocus_nm",
                    "validation/images/chi_square_atoms|validation/images/chi_square_volume",
                    "validation/images/r_factor_atoms|validation/images/r_factor_volume"),
            without_truth=(),
        ),
        caption="The images that fit worst, the worst first: measured amplitude above, measured less modelled "
        "amplitude below, in standard deviations of the counting noise (blue: the model is too bright). "
        "Structure in a residual is what the model lacks.",
    ),
    "halves": FigureKind(
        draw=lambda task: plot_halves(*task.runs),
        needs=Needs(
            always=(*(f"validation/fsc/{name}" for name in ("frequency_per_A", "all", "axis", "wedge", "across",
                                                             "half_bit")), "validation/halves/difference_A"),
            without_truth=(),
        ),
        caption="Fourier shell correlation of two reconstructions from independent halves of the data (a), over all "
        "directions and within 30° of the tilt axis, of the beam at the middle tilt, about which the missing wedge "
        "lies, and of the direction across both. Positions of the atoms that both halves found, one less the other "
        "(b); the errors of the whole are half as wide.",
    ),
    "chemistry": FigureKind(
        draw=lambda task: plot_chemistry(*task.runs),
        needs=Needs(
            always=("validation/chemistry/distance_edges_A", "validation/chemistry/distances/*",
                    "validation/chemistry/coordination/*"),
            without_truth=(),
            where_stored=("validation/chemistry/pair_distribution/*",),
        ),
        caption="Distances between the atoms by pair of elements (a); number of bonds of an atom, within 1.2 of the "
        "sum of the covalent radii (b); pair distribution about the atoms deep below the surface (c).",
    ),
}
