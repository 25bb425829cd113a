"""The bound of a plan: its dependence on dose, symmetry and neighbours, and the command line that compares plans."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from aetlab.bound import main, split_plans
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.refinement.bound import Bound, compute_bound, maxima_per_A3, searched_volume_A3
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.surroundings import free_volume_A3
from aetlab.spec import MicroscopeSpec

OPTIONS = {"microscope": MicroscopeSpec(), "n_layers_per_slice": 4, "parametrization": "lobato",
           "debye_waller_A2": {"default": 0.5}}


def bound_of(numbers: list[int], positions_A: list[list[float]], tilt_deg: np.ndarray, n_passes: int = 40, **options):
    atoms = Atoms(np.array(numbers), np.array(positions_A), np.zeros(len(numbers), int))
    return compute_bound(atoms, (36, 36, 36), 0.5, tilt_deg, np.array([200.0, 1000.0]), n_passes=n_passes, seed=1,
                         **OPTIONS, **options)


def test_the_bound_follows_from_the_derivatives_of_the_images() -> None:
    """Compare with JᵀJ from central differences of the amplitudes, for two atoms."""
    numbers, places, tilt_deg = [8, 14], [[-2.3, 0.1, 0.2], [2.6, 0.4, -0.7]], np.arange(0, 180, 15.0)
    bound = bound_of(numbers, places, tilt_deg, n_passes=150, joint=False)
    vacuum = TiltSeries(np.ones((12, 2, 36, 36), np.float32), tilt_deg, np.array([200.0, 1000.0]), 0.5)
    model, poses = AtomModel(vacuum, (36, 36, 36), (8, 14), **OPTIONS), Poses.nominal(tilt_deg, 2)

    def amplitude(i_atom: int, parameter: int, by: float) -> np.ndarray:
        positions_A, occupancy = np.array(places), np.ones(2)
        if parameter < 3:
            positions_A[i_atom, parameter] += by
        else:
            occupancy[i_atom] += by
        return np.sqrt(model.images(Sites(positions_A, occupancy, np.arange(2)), poses)).astype(float)

    for i_atom in range(2):
        jacobian = [(amplitude(i_atom, p, 0.01) - amplitude(i_atom, p, -0.01)).ravel() / 0.02 for p in range(4)]
        exact = np.sqrt(np.diagonal(np.linalg.inv(4 * np.array(jacobian) @ np.array(jacobian).T)))
        assert bound.sigma_A[i_atom] == pytest.approx(exact[:3], rel=0.08)  # sampled: a deviation of 0.02
        assert bound.sigma_occupancy[i_atom] == pytest.approx(exact[3], rel=0.08)


def test_the_error_is_least_along_the_tilt_axis_and_one_element_is_never_confused() -> None:
    bound = bound_of([14], [[0.3, 0.1, -0.2]], np.arange(0, 180, 15.0), joint=False)
    assert bound.sigma_A[0, 1] < 0.75 * min(bound.sigma_A[0, 0], bound.sigma_A[0, 2])
    assert math.isnan(bound.confused_percent(100.0))


def test_mean_error_and_confusion_of_known_bounds() -> None:
    """The mean length of a normal vector is σ √(8/π); Φ(-1) = 15.8655 % and Φ(-2) = 2.2750 %."""
    sigma_A = np.array([[0.02, 0.02, 0.02], [0.06, 0.06, 0.06]])
    bound = Bound(np.array([8, 14]), sigma_A, np.full(2, 0.1), np.array([2.0, math.nan]))
    assert bound.position_pm(1.0, 8) == pytest.approx(3.191538)
    assert bound.position_pm(1.0) == pytest.approx(2 * 3.191538)
    assert bound.position_pm(4.0, 14) == pytest.approx(1.5 * 3.191538)
    assert bound.confused_percent(1.0) == pytest.approx(15.86553)
    assert bound.confused_percent(4.0) == pytest.approx(2.275013)


def test_an_ideal_observer_finds_what_exceeds_the_maxima_of_the_noise() -> None:
    """Drawn: the amount at an atom, raised by the three coordinates that follow the noise."""
    rng, detectability = np.random.default_rng(5), np.array([3.0, 4.5, 6.0])
    amount, coordinates = detectability + rng.standard_normal((200_000, 3)), rng.chisquare(3, (200_000, 3))
    bound = Bound(np.full(3, 8), np.ones((3, 3)), 1 / detectability, np.full(3, np.nan), 12.0, 0.8)
    # The threshold that leaves 2 % of false atoms in 12 Å³ for each atom.
    threshold = 3.95913
    assert 12.0 * maxima_per_A3(threshold, 0.8) == pytest.approx(0.02, rel=1e-3)
    found = np.sqrt(amount**2 + coordinates) > threshold
    assert bound.found_percent(1.0, 2.0) == pytest.approx(100 * found.mean(), abs=1.0)
    assert bound.found_percent(4.0) > bound.found_percent(1.0) > bound.found_percent(1.0, 0.1)
    assert bound.found_percent(1e4) == pytest.approx(100)


def test_maxima_of_noise_are_as_many_as_in_drawn_fields() -> None:
    rng, n, step_A = np.random.default_rng(3), 64, 0.125
    frequency = np.fft.fftfreq(n, step_A)
    inside = sum(np.meshgrid(*[frequency**2] * 3, indexing="ij"), start=np.zeros((n,) * 3)) <= 0.9**2
    counted, n_fields = 0, 12
    for _ in range(n_fields):
        field = np.fft.ifftn(np.fft.fftn(rng.standard_normal((n,) * 3)) * inside).real
        field /= field.std()
        counted += int(((field == maximum_filter(field, 3, mode="wrap")) & (field > 2.5)).sum())
    assert counted > 400
    assert counted / (n_fields * (n * step_A) ** 3) == pytest.approx(maxima_per_A3(2.5, 0.9), rel=0.15)


def test_the_free_volume_of_two_atoms_is_that_of_two_balls_less_two_others() -> None:
    def lens(radius: float) -> float:  # of two balls at the distance 1
        return np.pi * (4 * radius + 1) * (2 * radius - 1) ** 2 / 12

    expected = sum(sign * (2 * 4 / 3 * np.pi * r**3 - lens(r)) for sign, r in ((1, 2.0), (-1, 0.7))) / 2
    pair_A = np.array([[0.0, 0, 0], [0, 0, 1.6]])
    assert searched_volume_A3(pair_A) == pytest.approx(expected * 1.6**3, rel=0.02)
    assert free_volume_A3(pair_A, 0.7 * 1.6, 2 * 1.6) == searched_volume_A3(pair_A)
    assert free_volume_A3(pair_A[:1], 1.1, 3.2) == searched_volume_A3(pair_A[:1]) == 1


def test_errors_fall_as_the_root_of_the_dose_and_with_the_atomic_number() -> None:
    bound = bound_of([8, 14], [[-3.0, 0.1, 0.2], [3.0, 0.0, -0.1]], np.arange(0, 180, 15.0))
    assert bound.position_pm(400.0) == pytest.approx(bound.position_pm(100.0) / 2)
    assert bound.position_pm(100.0, 14) < bound.position_pm(100.0, 8)
    assert bound.confused_percent(400.0) < bound.confused_percent(1.0) < 50


def test_unknown_close_neighbours_raise_the_bound_as_in_the_whole_information() -> None:
    """Eight pairs 0.6 Å apart: compare with the inverse of the whole JᵀJ of 64 parameters and of its 16 blocks.

    The factor that neighbours contribute is the median over 16 atoms of one draw, so that it is known to about 10 %.
    """
    rng, tilt_deg = np.random.default_rng(2), np.arange(0, 180, 30.0)
    middles = np.stack(np.meshgrid(*3 * [np.array([-3.6, 3.6])], indexing="ij"), -1).reshape(-1, 3)
    half = rng.standard_normal((8, 3))
    half *= 0.3 / np.linalg.norm(half, axis=1)[:, None]
    places = np.concatenate([middles - half, middles + half])
    alone, together = (bound_of([14] * 16, places.tolist(), tilt_deg, n_passes=60, joint=joint).position_pm(1.0)
                       for joint in (False, True))
    vacuum = TiltSeries(np.ones((6, 2, 36, 36), np.float32), tilt_deg, np.array([200.0, 1000.0]), 0.5)
    model, poses = AtomModel(vacuum, (36, 36, 36), (14,), **OPTIONS), Poses.nominal(tilt_deg, 2)

    def amplitude(by: np.ndarray) -> np.ndarray:
        sites = Sites(places + by[:, :3], 1 + by[:, 3], np.zeros(16, int))
        return np.sqrt(model.images(sites, poses)).astype(float).ravel()

    steps = 0.01 * np.eye(64).reshape(64, 16, 4)
    jacobian = np.array([(amplitude(step) - amplitude(-step)) / 0.02 for step in steps])
    information = 4 * jacobian @ jacobian.T
    blocks = np.array([information[i:i + 4, i:i + 4] for i in range(0, 64, 4)])
    variances = (np.diagonal(np.linalg.inv(blocks), axis1=1, axis2=2),
                 np.diagonal(np.linalg.inv(information)).reshape(16, 4))
    exact = [100 * np.sqrt(8 / (3 * np.pi) * variance[:, :3].sum(axis=1)).mean() for variance in variances]
    assert alone == pytest.approx(exact[0], rel=0.03)
    assert exact[1] > 1.5 * exact[0] and together / alone == pytest.approx(exact[1] / exact[0], rel=0.12)


def test_a_second_plan_inherits_settings_from_the_first() -> None:
    words = ["scale=smoke", "dose=7k", "tilts=20", "defocus=9", ",", "tilts=60", "defocus=3"]
    assert split_plans(words) == [["scale=smoke", "dose=7k", "tilts=20", "defocus=9"],
                                  ["scale=smoke", "dose=7k", "tilts=60", "defocus=3"]]


def test_the_command_compares_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scale=smoke", "dose=7k,50k", "tilts=15", "binning=16", "scale.shape_zxy=[40,40,40]", "scale.length_A=15",
          "scale.core_radius_A=4", "scale.shell_thickness_A=2.5", "--passes", "1", "--single", "--csv",
          str(tmp_path / "bound.csv"), "--figure", str(tmp_path / "bound.png")])
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3 and table[0].split()[0] == "plan"
    with (tmp_path / "bound.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    low, high = (float(row["position_pm"]) for row in rows)
    assert low / high == pytest.approx(math.sqrt(50 / 7), rel=1e-6)
    assert (tmp_path / "bound.png").stat().st_size > 5000


@pytest.mark.parametrize(("words", "says"), [
    (["dosee=7k"], "dosee=7k is not a group or setting"),
    (["scale=smoke", "reg=tv"], "reg cannot be set: nothing is simulated, reconstructed, traced or kept"),
    (["scale=smoke", "scale.core_radius_A=40", "scale.length_A=200"], "scale.core_radius_A=40.0 cannot be used"),
    (["--passes", "0"], "--passes=0 cannot be used: it must be at least 1")])
def test_invalid_settings_are_refused_in_one_line(words: list[str], says: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    said = capsys.readouterr().err
    assert said.startswith(f"aetlab: {says}") and said.count("\n") == 1
