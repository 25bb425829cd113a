"""The table of metrics: every metric of a record has one row with heading, unit and meaning."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from aetlab.core.metrics import HEADLINES, METRICS, find_metric
from aetlab.core.nouns import Atoms
from aetlab.core.poses import Poses
from aetlab.scoring import compare_structure, match_atoms, pose_errors
from tests.trace_volumes import make_traced

#: Further names of metrics of records, which made_metrics does not return.
OTHERS = """potential_error final_cost held_out_cost weight_per_V n_all_atoms n_in_volume_atoms n_vacancies_atoms
n_vacancies_0_atoms n_partial_atoms n_drawn_atoms
refined_position_error_pm refined_found_percent_high refined_correct_species_percent_O
refined_error_over_sigma_x_low refined_n_true refined_bound_pm refined_error_over_bound refined_calibration
refined_outlier_percent refined_passes refined_remaining_standard_errors refined_chi_square
refined_variance_factor_position refined_variance_factor_occupancy refined_thermal_Si_A2 refined_defocus_offset_rms_A
refined_brightness_rms_percent""".split()


def made_metrics() -> list[str]:
    """Return the names of the metrics of two atoms, their structure and the errors of three tilts."""
    positions_A = np.array([[0.0, 0.0, 0.0], [1.6, 0.0, 0.0]])
    numbers = np.array([14, 8])
    traced, atoms = make_traced(positions_A, numbers), Atoms(numbers, positions_A, np.zeros(2, dtype=np.int64))
    inside = np.ones(2, dtype=bool)
    match = match_atoms(traced, atoms, traced_inside=inside, true_inside=inside, max_distance_A=1.0, n_resamples=5)
    structure = compare_structure(match, traced, atoms, traced_inside=inside, true_inside=inside)[1]
    nominal = Poses.nominal(np.array([0.0, 60.0, 120.0]), 2)
    return [*match.metrics, *structure, *pose_errors(nominal, nominal)]


def test_every_metric_has_a_row_with_its_unit_from_its_name() -> None:
    units = {"pm": "pm", "percent": "%", "A": "Å", "deg": "°", "A2": "Å²", "V": "1/V", "nm": "nm"}
    names = [*made_metrics(), *OTHERS]
    assert len(set(names)) > 100
    for name in names:
        score = find_metric(name)
        assert score.name == name and "{" not in score.heading + score.meaning and score.digits >= 0
        named = [units[word] for word in name.split("_") if word in units]
        assert score.unit == (named[0] if named else "1"), name


def test_a_row_follows_from_the_parts_of_its_name() -> None:
    assert find_metric("position_error_pm").heading == "position error (pm)"
    assert find_metric("position_error_pm").short_heading == "error (pm)"
    low = find_metric("refined_found_percent_Si_low")
    assert low.label == "found, Si, refined, lower bound" and low.unit == "%" and low.better == "higher"
    assert find_metric("angle_Si_O_true_deg").meaning == "mean angle between the bonds of two O to one Si"
    assert [find_metric(f"bond_Si_O_{kind}_A").needs_truth for kind in ("true", "traced")] == [True, False]
    assert not find_metric("held_out_cost").needs_truth and find_metric("potential_error").needs_truth


@pytest.mark.parametrize("name", ["", "found", "n_true_low", "found_percent_si", "refined_potential_error",
                                  "found_percent_low_low", "refined_refined_n_true", "bond_Si_true_A"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(KeyError, match="is not a metric of a record"):
        find_metric(name)


def test_rows_are_unique_and_the_headlines_are_those_of_the_paper() -> None:
    assert len({score.name for score in METRICS}) == len(METRICS)
    assert [(score.heading, score.digits, score.better) for score in HEADLINES] == [
        ("position error (pm)", 2, "lower"), ("found (%)", 2, "higher"), ("false positives (%)", 3, "lower"),
        ("correct species (%)", 2, "higher")]
    assert all(score.needs_truth for score in HEADLINES)


def test_values_have_the_digits_of_their_score() -> None:
    assert HEADLINES[2].text(0.12345) == "0.123" and HEADLINES[0].text(2.0) == "2.00"
    assert HEADLINES[0].text(None) == HEADLINES[0].text(math.nan) == "" and HEADLINES[0].text(None, "–") == "–"


def test_the_table_imports_no_numerical_library() -> None:
    code = ("import sys, aetlab.core.metrics\n"
            "print([name for name in ('numba', 'scipy', 'h5py', 'ase', 'pandas') if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert result.stdout.strip() == "[]"
