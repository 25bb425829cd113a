"""Refined atoms in records and in their figure: invented atoms whose errors are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fake_records import fake_spec

from aetlab import flow
from aetlab.core.nouns import Atoms, Match, Reconstruction, RefinedAtoms, TracedAtoms, Volume
from aetlab.core.poses import Poses
from aetlab.core.progress import PlainReporter
from aetlab.reporting.figures.choose import refined_tasks
from aetlab.reporting.figures.refined import errors_with_bounds, has_refined, plot_refined, position_error_pm
from aetlab.reporting.stored_run import read_runs
from aetlab.scoring import compare_errors, errors_of_pairs
from aetlab.spec import RefineSpec, SpecError
from aetlab.store.contents import describe_match, describe_refined
from aetlab.store.record import Dataset, History, write_record
from tests.trace_volumes import make_traced

N = 600


def make_refinement(sigma_A: float = 0.03) -> tuple[RefinedAtoms, Match, Atoms]:
    rng = np.random.default_rng(0)
    atoms = Atoms(rng.choice([8, 14], N), rng.uniform(-6, 6, (N, 3)), np.zeros(N, int))
    error_A = rng.normal(0, sigma_A, (N, 3))
    error_A[0, 0] = 0.9  # an outlier: another atom
    pairs, none = np.arange(N), np.zeros(0, int)
    refined = RefinedAtoms(
        positions_A=atoms.positions_A + error_A, occupancy=rng.normal(1, 0.05, N), scattering_V_A3=np.ones(N),
        numbers=atoms.numbers, position_error_A=np.full((N, 3), sigma_A), occupancy_error=np.full(N, 0.05),
        probability=np.ones(N), posterior=np.ones((N, 2)) / 2, not_atom_probability=np.zeros(N),
        poses=Poses.nominal(np.zeros(5), 3), thermal_A2=np.full(2, 0.5), thermal_error_A2=np.zeros(2),
        cost=np.array([3.0, 2.0]), rounds=(),
        summary={"stopped": "converged", "passes": 30, "chi_square": 0.98})
    match = Match(pairs, pairs, none, none, {"position_error_pm": 4.8, "found_percent": 100.0}, pairs, pairs,
                  np.zeros((3, 3), int), np.array([8, 14, 0]))
    return refined, match, atoms


def errors_of(refined: RefinedAtoms, match: Match, atoms: Atoms) -> dict[str, float]:
    error_A = errors_of_pairs(refined.positions_A, atoms.positions_A, match)
    return compare_errors(error_A, refined.position_error_A[match.traced])


def test_errors_are_compared_with_standard_errors() -> None:
    metrics = errors_of(*make_refinement())
    assert metrics["calibration"] == pytest.approx(1, abs=0.05)
    assert metrics["bound_pm"] == pytest.approx(3 * np.sqrt(8 / np.pi))
    assert metrics["error_over_bound"] == pytest.approx(1, abs=0.06)
    assert metrics["outlier_percent"] == pytest.approx(100 / N)


def test_the_summary_of_a_refinement_needs_no_truth() -> None:
    refined = make_refinement()[0]
    reconstruction = Reconstruction(Volume(np.zeros((1, 1, 1)), 0.5), np.array([2.0, 1.0]), np.ones(2), (), (), "", 0.1,
                                    float("nan"))
    metrics = flow.measure(reconstruction, make_traced(np.zeros((2, 3)), np.full(2, 14)), refined)
    assert metrics["refined_passes"] == 30 and metrics["refined_chi_square"] == 0.98 and metrics["final_cost"] == 1.0
    assert "refined_stopped" not in metrics
    assert metrics["n_atoms_traced"] == 2 and metrics["n_atoms_refined"] == N


def test_the_refinement_runs_only_if_set_and_reports_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    spec = dataclasses.replace(fake_spec(n_voxels=36, n_tilts=8, n_layers=4),
                               refine=RefineSpec(kind="atoms", n_rounds=2, n_information_last=2))
    places_A = np.stack(np.meshgrid(*3 * [np.array([-2.6, 0.1, 2.5])], indexing="ij"), -1).reshape(-1, 3)
    atoms = Atoms(np.where(np.arange(27) % 2, 8, 14), places_A, np.zeros(27, int))
    series = flow._simulate(spec, atoms, np.arange(8) * 22.5, 10.0 * np.array(spec.defocus.planes_nm), "phonons")
    blank = np.zeros(27)
    unaligned = Reconstruction(Volume(np.zeros((1, 1, 1)), 0.5), blank, blank, (), (), "", 0.0, 0.0)
    traced = TracedAtoms(places_A + np.random.default_rng(2).normal(0, 0.08, (27, 3)), blank, blank, blank,
                         atoms.numbers, np.zeros((27, 3)), blank, blank, blank, np.zeros(27, np.uint8), blank,
                         np.zeros((27, 2)), blank)
    refined = flow.refine(spec, series, unaligned, traced, elements=(8, 14), progress=PlainReporter("run"))
    assert refined is not None and len(refined) == 27 and not refined.position_error_A.any()
    moved = np.linalg.norm(refined.positions_A[:, None] - places_A[None], axis=2)
    assert moved.min(axis=1).max() < 0.03  # no noise: the rest comes from binning and the limited number of passes
    assert "27 atoms, converged" in capsys.readouterr().out
    with pytest.raises(SpecError, match="refine.kind='none' cannot be used"):
        flow.refine(dataclasses.replace(spec, refine=RefineSpec()), series, unaligned, traced, elements=(8, 14))


def test_a_record_has_fitted_poses_and_thermal_factors_with_their_units() -> None:
    arrays = describe_refined(make_refinement()[0])
    units = {name: arrays[f"refined/{name}"].unit for name in ("thermal_A2", "thermal_error_A2", "turn_deg", "shift_A",
                                                               "defocus_A", "brightness")}
    assert units == {"thermal_A2": "Å²", "thermal_error_A2": "Å²", "turn_deg": "degree", "shift_A": "Å",
                     "defocus_A": "Å", "brightness": "1"}


def test_noise_free_runs_have_no_bound() -> None:
    assert errors_of(*make_refinement(sigma_A=0.0)) == {}


def test_the_figure_shows_traced_and_refined_errors_of_the_record(tmp_path: Path) -> None:
    refined, match, atoms = make_refinement()
    rng = np.random.default_rng(1)
    arrays = {"truth/positions_A": Dataset(atoms.positions_A, "Å"), "truth/numbers": Dataset(atoms.numbers, "1"),
              "traced/positions_A": Dataset(atoms.positions_A + rng.normal(0, 0.1, (N, 3)), "Å"),
              "match/traced": Dataset(np.arange(N), "1"), "match/true": Dataset(np.arange(N), "1")}
    write_record(tmp_path / "records", fake_spec(), metrics={"n_true": N}, history=History(np.ones(1), np.ones(1)),
                 arrays=arrays | describe_refined(refined) | describe_match(match, "refined_match"),
                 environment={}, log="fake\n")
    run = read_runs(tmp_path)[0][0]
    assert has_refined(run)
    assert position_error_pm(run, "refined").mean() < 0.6 * position_error_pm(run, "traced").mean()
    error, sigma = errors_with_bounds(run)
    assert error.shape == sigma.shape == (N, 3) and sigma[0, 0] == pytest.approx(3)
    figure = plot_refined([run], ["fake"])
    left = figure.axes[0]
    assert [axes.get_xlabel() for axes in figure.axes[:4]] == [
        "position error (pm)", "standard error (pm)", "|error| / standard error", "occupancy"]
    assert len(left.patches) == 2
    tasks = refined_tasks([run])
    assert [task.name for task in tasks] == [f"refined_{run.identity[:8]}"]
    assert refined_tasks([]) == []
