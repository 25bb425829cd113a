"""Define all metrics of a record: label, unit, digits, which direction is better, whether the truth is needed.

A row's name is the name of the metric in ``metrics.json``. A row can stand for several metrics: ``{element}`` and
``{other}`` are chemical symbols, ``{axis}`` is x, y or z, ``{region}`` a number. :func:`find_metric` returns the row of
a metric. :data:`HEADLINES` holds the four scores of the paper's Table I.

This module imports no numerical code, so that commands can import it quickly.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    ``unit`` is ``"1"`` for a number without a unit. ``digits`` counts decimals. ``better`` is ``"neither"`` for counts,
    settings and quantities whose best value is inside their range; ``meaning`` then states that value.
    ``needs_truth`` is True if the metric is computed from the true atoms, potential or tilts. ``short`` is the label
    for narrow tables, by default ``label``.
    """

    name: str
    label: str
    unit: str
    digits: int
    better: Better
    needs_truth: bool
    meaning: str
    short: str = ""

    @property
    def heading(self) -> str:
        """Return label and unit, for example ``"position error (pm)"``."""
        return _with_unit(self.label, self.unit)

    @property
    def short_heading(self) -> str:
        """Return short label and unit, for example ``"error (pm)"``."""
        return _with_unit(self.short or self.label, self.unit)

    def text(self, value: float | None, missing: str = "") -> str:
        """Return ``value`` with the metric's digits, or ``missing`` for None and NaN."""
        return missing if value is None or value != value else f"{value:.{self.digits}f}"


def _with_unit(label: str, unit: str) -> str:
    return label if unit == "1" else f"{label} ({unit})"


#: The scores of the paper's Table I, in its order.
HEADLINES = (
    Metric("position_error_pm", "position error", "pm", 2, "lower", True,
          "mean 3D distance between found and true atoms", "error"),
    Metric("found_percent", "found", "%", 2, "higher", True, "true atoms that were found, of the true atoms"),
    Metric("false_positive_percent", "false positives", "%", 3, "lower", True,
          "traced atoms without a true atom, of the true atoms", "false"),
    Metric("correct_species_percent", "correct species", "%", 2, "higher", True,
          "found atoms with the right element, of the found atoms", "species"),
)


def best_name(score: Metric, metrics: Collection[str]) -> str:
    """Return the name of ``score`` for the best atoms of a run with these ``metrics``: the refined ones if any."""
    refined = f"refined_{score.name}"
    return refined if refined in metrics else score.name


def count_atoms(metrics: Mapping[str, float]) -> str:
    """Return number and kind of the best atoms of a run, such as ``"4496 refined"``; empty where none were counted."""
    for kind in ("refined", "traced"):
        if (count := metrics.get(f"n_atoms_{kind}")) is not None:
            return f"{count:.0f} {kind}"
    return ""


#: Metrics of a match with the true atoms. All except the counts have ``*_low`` and ``*_high``. All exist for the
#: refined atoms too, as ``refined_*``.
_OF_A_MATCH = (
    *HEADLINES,
    Metric("found_percent_{element}", "found, {element}", "%", 2, "higher", True,
          "true {element} atoms that were found, of the true {element} atoms"),
    Metric("position_error_pm_{element}", "position error, {element}", "pm", 2, "lower", True,
          "mean 3D distance between found and true {element} atoms"),
    Metric("correct_species_percent_{element}", "correct species, {element}", "%", 2, "higher", True,
          "found {element} atoms with the right element, of the found {element} atoms"),
    Metric("sigma_{axis}_pm", "σ{axis}", "pm", 2, "lower", True,
          "standard deviation along {axis} of traced minus true position"),
    Metric("strict_precision", "precision, strict", "1", 4, "higher", True,
          "pairs of the optimal assignment, of the traced atoms"),
    Metric("strict_recall", "recall, strict", "1", 4, "higher", True,
          "pairs of the optimal assignment, of the true atoms"),
    Metric("strict_f1", "F1, strict", "1", 4, "higher", True, "harmonic mean of strict precision and recall"),
    Metric("strict_rmsd_pm", "RMSD, strict", "pm", 2, "lower", True,
          "root mean square 3D distance over the pairs of the optimal assignment"),
    Metric("strict_species_percent", "correct species, strict", "%", 2, "higher", True,
          "true atoms that were found by the optimal assignment with the right element, of all true atoms"),
    Metric("error_over_sigma_{axis}", "error / standard error, {axis}", "1", 3, "neither", True,
          "root mean square of position error over standard error along {axis}; 1 is right"),
    Metric("within_sigma_percent", "within one standard error", "%", 1, "neither", True,
          "position errors along x, y, z that are below their standard error; 68.3 is right"),
)
_COUNTS_OF_A_MATCH = (
    Metric("n_true", "true atoms", "1", 0, "neither", True, "true atoms in the scoring region"),
    Metric("n_traced", "traced atoms", "1", 0, "neither", True, "found atoms and false positives"),
    Metric("n_found", "found atoms", "1", 0, "neither", True, "traced atoms that are paired with a true atom"),
)
_OF_STRUCTURE = tuple(
    Metric(name.format(kind=kind), f"{label}, {kind} atoms", unit, digits, "neither", kind == "true", meaning)
    for kind in ("true", "traced")
    for name, label, unit, digits, meaning in (
        ("bond_{{element}}_{{other}}_{kind}_A", "bond length {element}-{other}", "Å", 3,
         "mean distance between bonded {element} and {other}"),
        ("angle_{{element}}_{{other}}_{kind}_deg", "bond angle {other}-{element}-{other}", "°", 2,
         "mean angle between the bonds of two {other} to one {element}"),
        ("coordination_{{element}}_{{other}}_{kind}", "coordination of {element} by {other}", "1", 3,
         "mean number of {other} bonded to one {element}"),
        ("tetrahedra_n_{kind}", "tetrahedra", "1", 0, "tetrahedra of one Si and four O"))
) + (
    Metric("tetrahedra_n_common", "tetrahedra in common", "1", 0, "neither", True,
          "traced tetrahedra whose five atoms pair with those of a true one"),
    Metric("tetrahedra_recall", "tetrahedra, recall", "1", 4, "higher", True, "common tetrahedra, of the true ones"),
    Metric("tetrahedra_precision", "tetrahedra, precision", "1", 4, "higher", True,
          "common tetrahedra, of the traced ones"),
)
_OF_REFINEMENT = (
    Metric("refined_bound_pm", "position error by the standard errors, refined", "pm", 2, "lower", True,
          "mean position error of the found atoms that their standard errors predict"),
    Metric("refined_error_over_bound", "position error / predicted, refined", "1", 3, "neither", True,
          "mean position error over the one that the standard errors predict; 1 is right"),
    Metric("refined_calibration", "error / standard error, refined", "1", 3, "neither", True,
          "root mean square of position error over standard error along x, y, z without outliers; 1 is right"),
    Metric("refined_outlier_percent", "outliers, refined", "%", 2, "lower", True,
          "pairs that are more than six standard errors apart along an axis, of all pairs"),
    Metric("refined_passes", "passes, refined", "1", 0, "lower", False, "passes over all images"),
    Metric("refined_remaining_standard_errors", "remaining change, refined", "1", 3, "lower", False,
          "root mean square of the last proposed change of a parameter in its standard errors"),
    Metric("refined_chi_square", "χ² per value, refined", "1", 4, "neither", False,
          "misfit of the images per recorded value in units of its variance; 1 is expected"),
    Metric("refined_variance_factor_position", "variance factor of positions, refined", "1", 3, "lower", False,
          "factor by which the uncertainty of all other atoms raises the variance of a coordinate"),
    Metric("refined_tilt_factor_position", "variance factor by tilts, refined", "1", 3, "lower", False,
          "factor by which the tilts differ more in the positions than the counts explain"),
    Metric("refined_plane_factor_position", "variance factor by planes, refined", "1", 3, "lower", False,
          "factor by which the planes of defocus differ more in the positions than the spread of the tilts explains"),
    Metric("refined_plane_factor_occupancy", "variance factor of occupancies by planes, refined", "1", 3, "lower",
          False, "factor by which the planes differ more in the occupancies than the spread of the tilts explains"),
    Metric("refined_neighbour_correlation", "correlation of neighbouring tilts, refined", "1", 3, "lower", False,
          "correlation along the tilt axis of the displacements that neighbouring tilts ask of an atom"),
    Metric("refined_sampled_factor_position", "variance factor by sampling, refined", "1", 3, "lower", False,
          "factor by which the positions vary over the posterior more than a linear response of the images explains"),
    Metric("refined_sampled_moved", "moved sites, refined", "1", 0, "neither", False,
          "sites that are oftener at another place than where they were fitted, by sampling"),
    Metric("refined_sampled_renamed", "renamed sites, refined", "1", 0, "neither", False,
          "sites that are oftener of another element than they were fitted as, by sampling"),
    Metric("refined_sampled_gone", "sites without an atom, refined", "1", 0, "neither", False,
          "fitted sites that are left out, since an atom is there in less than half of the samples"),
    Metric("refined_sampled_occupancy", "usual occupancy, refined", "1", 3, "neither", False,
          "usual occupancy of an element by sampling, the one farthest from 1"),
    Metric("refined_sampled_cooled", "unstable steps, refined", "1", 0, "lower", False,
          "steps of the sampling that were too long for a site or for all, after which the next ones are shorter"),
    Metric("refined_sampled_unstable", "unstable sampling, refined", "1", 0, "lower", False,
          "1 if the path through the posterior became unstable and was discarded: the fitted positions, linear errors "
          "and odds of the best place are stated"),
    Metric("refined_variance_factor_occupancy", "variance factor of occupancies, refined", "1", 3, "lower", False,
          "factor by which the uncertainty of all other atoms raises the variance of an occupancy"),
    Metric("refined_thermal_{element}_A2", "thermal factor B of {element}, refined", "Å²", 3, "neither", False,
          "fitted B of {element}"),
    Metric("refined_contrast", "contrast, refined", "1", 4, "neither", False,
          "fitted factor of the modulation of all images"),
    Metric("refined_contrast_error", "error of the contrast, refined", "1", 5, "lower", False,
          "standard error of the contrast"),
    Metric("refined_hand", "evidence of the hand, refined", "standard errors", 1, "higher", False,
          "by how many standard errors of the tilts the mirror image of the atoms fits worse than they do"),
    Metric("refined_n_weakened_images", "images of less weight, refined", "1", 0, "lower", False,
          "images that fit much worse than the others and lost weight"),
    Metric("refined_mirrored", "mirror image taken, refined", "1", 0, "neither", False,
          "1 if the mirror image of what the stated angles give fitted better and is the result"),
    Metric("refined_hand_chi_square", "χ² per value when hands were compared", "1", 4, "neither", False,
          "misfit of the atoms when they were compared with their mirror image"),
    Metric("refined_hand_chi_square_mirrored", "χ² per value of the mirror image", "1", 4, "neither", False,
          "misfit of the mirror image of the atoms, fitted as well"),
    Metric("refined_traced_lost", "traced sites lost, refined", "1", 0, "lower", False,
          "well-traced sites without a refined atom near them"),
    Metric("refined_defocus_offset_rms_A", "defocus offset, refined", "Å", 2, "neither", False,
          "root mean square of the fitted defocus offsets of the images"),
    Metric("refined_brightness_rms_percent", "brightness offset, refined", "%", 3, "neither", False,
          "root mean square of the fitted vacuum intensities minus 1"),
)
_OF_VALIDATION = (
    *(Metric(f"{held}{name}_{model}", f"{label}, {words}{', held-out images' if held else ''}", "1", digits,
             "neither" if name == "chi_square" else "lower", False, f"{meaning}, {words}{later}")
      for model, words in (("volume", "volume"), ("atoms", "refined atoms"))
      for held, later in (("", ""), ("held_out_", "; of images that no step was fitted to"))
      for name, label, digits, meaning in (
          ("r_factor", "R factor", 4, "sum of |measured - modelled| over that of measured amplitudes"),
          ("chi_square", "χ² per value", 4, "misfit of the images per pixel in units of its variance, 1 is expected"))),
    *(Metric(f"r_factor_counts_{model}", f"R factor of counting noise, {words}", "1", 4, "neither", False,
             f"R factor if counting noise alone separated the images from the {words}")
      for model, words in (("volume", "volume"), ("atoms", "refined atoms"))),
    Metric("chi_square_reduced_atoms", "reduced χ², refined atoms", "1", 4, "neither", False,
          "misfit of the images by the refined atoms over the degrees of freedom; 1 is expected"),
    Metric("n_outlying_images", "outlying images", "1", 0, "lower", False,
          "images whose misfit lies far above that of the others"),
    *(Metric(f"resolution_{name}{end}_A", f"resolution at {criterion}{words}", "Å", 3, "lower", False,
             f"length at which the Fourier shell correlation of two halves{words} falls below {criterion}; not finer "
             "than two voxels")
      for end, words in (("", ""), ("_axis", ", along the tilt axis"), ("_wedge", ", along the missing wedge"),
                         ("_across", ", across the tilt axis and the missing wedge"))
      for name, criterion in (("0143", "0.143"), ("05", "0.5"))),
    Metric("resolution_half_bit_A", "resolution at half a bit", "Å", 3, "lower", False,
          "length at which the Fourier shell correlation of two halves falls below the half-bit curve"),
    Metric("halves_n_first", "atoms of half 1", "1", 0, "neither", False, "atoms found in the first half"),
    Metric("halves_n_second", "atoms of half 2", "1", 0, "neither", False, "atoms found in the second half"),
    Metric("halves_n_common", "atoms of both halves", "1", 0, "neither", False, "atoms that both halves found"),
    Metric("halves_n_unconfirmed", "unconfirmed atoms", "1", 0, "lower", False, "atoms that no half found"),
    Metric("halves_found_by_half_percent", "found by a half, estimated", "%", 2, "higher", False,
          "probability that a half finds a true atom, by capture and recapture"),
    Metric("halves_found_percent", "found, estimated", "%", 2, "higher", False,
          "atoms that were found, of those there by capture and recapture in two halves"),
    Metric("halves_false_percent", "false positives, estimated", "%", 3, "lower", False,
          "atoms without a true atom, of the true atoms, estimated from two halves"),
    Metric("halves_distance_pm", "distance of the halves", "pm", 2, "lower", False,
          "median distance of an atom in one half from the same one in the other"),
    Metric("halves_position_error_pm", "position error, estimated", "pm", 2, "lower", False,
          "mean 3D error of positions, half the mean distance between two halves"),
    Metric("halves_sigma_{axis}_pm", "σ{axis}, estimated", "pm", 2, "lower", False,
          "error of positions along {axis}, half the root mean square difference of two halves"),
    Metric("halves_names_agree_percent", "names that agree", "%", 2, "higher", False,
          "atoms of both halves that have the same element in both"),
    Metric("halves_species_percent", "correct species, estimated", "%", 2, "higher", False,
          "atoms with the right element, estimated from the names that agree"),
    Metric("distance_{element}_{other}_A", "bond length {element}-{other}, measured", "Å", 3, "neither", False,
          "median distance of bonded {element} and {other}"),
    Metric("coordination_{element}", "coordination of {element}", "1", 2, "neither", False,
          "mean number of bonds of one {element}"),
    Metric("density_per_A3", "number density", "1/Å³", 4, "neither", False, "atoms per volume in the interior"),
    Metric("density_g_cm3", "density", "g/cm³", 2, "neither", False, "mass per volume in the interior"),
    Metric("n_too_near", "pairs that are too near", "1", 0, "lower", False,
          "pairs of atoms nearer than 0.75 of the sum of their covalent radii"),
    Metric("defocus_scale", "defocus, found over given", "1", 4, "neither", False,
          "ratio of the fitted and the given differences of defocus between the images of a tilt"),
    Metric("defocus_scale_error", "error of the scale of the defocus", "1", 4, "lower", False,
          "standard error of the ratio by its scatter between the tilts"),
    *(Metric(f"aberration_{name}_{key}", f"{words}{label}", unit, 2, "neither", False, f"{words} {meaning}")
      for name, words in (("A1", "two-fold astigmatism"), ("B2", "axial coma"), ("A2", "three-fold astigmatism"))
      for key, label, unit, meaning in (
          ("nm", " that fits", "nm", "by which the images fit the refined atoms best, in all"),
          ("deg", ", azimuth", "°", "by which the images fit best: azimuth from +x towards +y"),
          ("error_nm", ", error", "nm", "by which the images fit best: standard error by the spread of the images"),
          ("missing_rad", " not in the model", "rad", "that the model of the atoms lacks: phase at the edge of what "
           "the lens passes"),
          ("error_rad", " not in the model, error", "rad", "that the model of the atoms lacks: standard error of its "
           "phase"))),
    *(Metric(f"refined_lens_{name}_{key}", f"{words}, fitted{label}", unit, 2, "neither", False, f"{words} {meaning}")
      for name, words in (("A1", "two-fold astigmatism"), ("B2", "axial coma"), ("A2", "three-fold astigmatism"))
      for key, label, unit, meaning in (
          ("nm", "", "nm", "that the refinement found and has in its model, in all"),
          ("deg", ", azimuth", "°", "that the refinement found: azimuth from +x towards +y"),
          ("error_nm", ", error", "nm", "that the refinement found: standard error by the spread of the images"))),
    Metric("n_odd_occupancies", "odd occupancies", "1", 0, "lower", False,
          "refined atoms whose occupancy differs from that of their element by 0.2 and five standard errors"),
    Metric("occupancy_scatter", "scatter of occupancies / standard error", "1", 2, "neither", False,
          "largest scatter of the occupancies of the atoms of an element in units of their standard errors"),
    Metric("n_expected_misnamed", "atoms named wrongly, expected", "1", 1, "lower", False,
          "sum over the refined atoms of the probability of another element than the assigned one"),
    Metric("n_isolated", "isolated atoms", "1", 0, "lower", False, "atoms without a bond to another one"),
)
_OF_A_RUN = (
    Metric("potential_error", "relative error of the potential", "1", 4, "lower", True,
          "norm of reconstructed minus true potential over the norm of the true one, in the scored rows"),
    Metric("final_cost", "final cost", "1", 2, "neither", False, "cost of the last iteration"),
    Metric("held_out_cost", "held-out cost", "1", 4, "lower", False,
          "mean cost of a tilt that the fit did not use; comparable between runs with the same images"),
    Metric("weight_per_V", "regulariser's weight", "1/V", 8, "neither", False, "weight of the regulariser"),
    Metric("tilt_error_deg_rms", "tilt angle error", "°", 4, "lower", True,
          "root mean square error of the tilt angles, less a motion of the whole sample"),
    Metric("axis_error_deg_rms", "tilt axis error", "°", 4, "lower", True,
          "root mean square error of the axis angles, less a motion of the whole sample"),
    Metric("shift_error_A_rms", "shift error", "Å", 4, "lower", True,
          "root mean square error of the shifts of the images, less a motion of the whole sample"),
    Metric("defocus_error_nm_rms", "defocus error", "nm", 3, "lower", True,
          "root mean square error of the defocus of the tilts, less a motion of the whole sample"),
    Metric("brightness_error_rms", "brightness error", "1", 5, "lower", True,
          "root mean square error of the vacuum intensities of the tilts"),
    Metric("n_atoms_traced", "traced atoms of the volume", "1", 0, "neither", False, "atoms that were traced"),
    Metric("n_atoms_refined", "refined atoms of the volume", "1", 0, "neither", False,
          "atoms after the refinement against the images"),
    Metric("n_all_atoms", "atoms of the sample", "1", 0, "neither", True, "atoms of the sample before vacancies"),
    Metric("n_in_volume_atoms", "atoms in the volume", "1", 0, "neither", True,
          "atoms of the sample inside the volume before vacancies"),
    Metric("n_vacancies_atoms", "vacancies", "1", 0, "neither", True, "atoms that were removed"),
    Metric("n_vacancies_{region}_atoms", "vacancies, region {region}", "1", 0, "neither", True,
          "atoms that were removed from region {region}"),
    Metric("n_partial_atoms", "partially occupied sites", "1", 0, "neither", True,
          "sites of the structure file that are occupied in part"),
    Metric("n_drawn_atoms", "atoms of partially occupied sites", "1", 0, "neither", True,
          "atoms that were drawn for the partially occupied sites"),
)
#: Every metric of a record; a name with placeholders stands for several.
METRICS = (*_OF_A_MATCH, *_COUNTS_OF_A_MATCH, *_OF_STRUCTURE, *_OF_REFINEMENT, *_OF_VALIDATION, *_OF_A_RUN)

_ELEMENT = "[A-Z][a-z]?"
_PLACEHOLDERS = {"element": _ELEMENT, "other": _ELEMENT, "axis": "[xyz]", "region": "[0-9]+"}


def find_metric(name: str) -> Metric:
    """Return the row of the metric ``name`` with its placeholders filled in.

    ``refined_*`` is the same score of the refined atoms; ``*_low`` and ``*_high`` are the bounds of
    a confidence interval. Label and meaning are changed accordingly.

    Raises
    ------
    KeyError
        If no record holds a metric of this name.
    """
    for score in METRICS:
        filled = _fill(score, name)
        if filled is not None:
            return filled
    for suffix, bound in (("_low", "lower bound"), ("_high", "upper bound")):
        base = name.removesuffix(suffix)
        if base != name:
            return _changed(_find_of_a_match(base, _OF_A_MATCH, name), name, f", {bound}", f"; {bound} of the interval")
    return _find_of_a_match(name, (*_OF_A_MATCH, *_COUNTS_OF_A_MATCH), name)


def _find_of_a_match(base: str, rows: tuple[Metric, ...], name: str) -> Metric:
    plain = base.removeprefix("refined_")
    for score in rows:
        filled = _fill(score, plain)
        if filled is not None:
            return filled if plain == base else _changed(filled, base, ", refined", "; refined atoms")
    raise KeyError(f"{name} is not a metric of a record")


def _changed(score: Metric, name: str, label: str, meaning: str) -> Metric:
    return dataclasses.replace(score, name=name, label=score.label + label, meaning=score.meaning + meaning,
                               short=score.short + label if score.short else "")


def _fill(score: Metric, name: str) -> Metric | None:
    """Return ``score`` for the metric ``name``, or None if the name does not match this row."""
    pattern = score.name
    for placeholder, values in _PLACEHOLDERS.items():
        pattern = pattern.replace(f"{{{placeholder}}}", f"(?P<{placeholder}>{values})")
    found = re.fullmatch(pattern, name)
    if found is None:
        return None
    given = found.groupdict()
    return dataclasses.replace(score, name=name, label=score.label.format(**given),
                               meaning=score.meaning.format(**given))
