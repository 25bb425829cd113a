"""The needle: its shape, its crystal and shell, its counts at every scale, vacancies, and needles that do not fit."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from aetlab.core.grid import rotation_matrix
from aetlab.core.nouns import Atoms
from aetlab.samples import build_sample, in_scoring_region, sample_elements
from aetlab.samples.build import LEAST_MARGIN_A, remove_vacancies
from aetlab.samples.needle import SILICON_A, build_needle, needle_shape
from aetlab.spec import SampleSpec, ScaleSpec, SpecError, VacancyRegion
from aetlab.spec.bind import bind

SCALES = Path(__file__).parents[1] / "conf" / "scale"
NEEDLE = SampleSpec()
NON_CUBIC = ScaleSpec(name="test", shape_zxy=(90, 84, 100), voxel_A=0.5, core_radius_A=10, shell_thickness_A=6,
                      length_A=44, taper_deg=2, apex_gap_A=3, scoring_diameter_A=28)


def scale(name: str) -> ScaleSpec:
    return bind(ScaleSpec, yaml.safe_load((SCALES / f"{name}.yaml").read_text()))


def build(scale_: ScaleSpec, sample: SampleSpec = NEEDLE, seed: int = 1) -> Atoms:
    return build_sample(sample, scale_, np.random.default_rng(seed))


@pytest.mark.parametrize("name, n_atoms", [("smoke", 220), ("small", 2160), ("medium", 38350)])
def test_needles_fit_their_volume_at_every_tilt(name, n_atoms):
    scale_ = scale(name)
    atoms = build(scale_)
    assert len(atoms) == pytest.approx(n_atoms, rel=0.05)
    assert atoms.counts == {"n_all": len(atoms), "n_in_volume": len(atoms), "n_vacancies": 0}
    n_z, n_x, n_y = scale_.shape_zxy
    room_A = np.array([n_x, n_y, n_z]) * scale_.voxel_A / 2 - LEAST_MARGIN_A
    for tilt_deg in (0, 31, 45, 90):
        assert np.all(np.abs(atoms.positions_A @ rotation_matrix(tilt_deg).T) <= room_A)
    middle_A = (atoms.positions_A.max(0) + atoms.positions_A.min(0)) / 2
    np.testing.assert_allclose(middle_A, 0, atol=0.6)
    assert in_scoring_region(atoms.positions_A, NEEDLE, scale_).all()
    assert sample_elements(atoms) == (8, 14)


def test_paper_needle_has_the_paper_s_counts():
    scale_ = scale("paper")
    atoms = build(scale_)
    n_scored = int(in_scoring_region(atoms.positions_A, NEEDLE, scale_).sum())
    assert atoms.counts["n_all"] == pytest.approx(150_847, rel=0.003)
    assert atoms.counts["n_in_volume"] == len(atoms) == pytest.approx(120_000, rel=0.005)
    assert n_scored == pytest.approx(62_402, rel=0.01)
    assert 2 * scale_.core_radius_A == pytest.approx(100, abs=1)
    assert 2 * atoms.positions_A[atoms.part == 0][:, 0].max() == pytest.approx(91, abs=1)  # the widest in view
    assert atoms.positions_A[:, 1].min() < -119


def test_core_is_a_silicon_crystal_within_its_shape():
    atoms = build(NON_CUBIC)
    core_A = atoms.positions_A[atoms.part == 0]
    assert set(atoms.numbers[atoms.part == 0]) == {14}
    assert needle_shape(NON_CUBIC).depth_A(core_A).min() >= NON_CUBIC.shell_thickness_A
    distances, _ = cKDTree(core_A).query(core_A, 5)
    inner = needle_shape(NON_CUBIC).depth_A(core_A) > NON_CUBIC.shell_thickness_A + 3
    inner &= core_A[:, 1] > -22 + 3
    np.testing.assert_allclose(distances[inner, 1:], SILICON_A * math.sqrt(3) / 4, atol=1e-9)
    # cube axes along x, y, z: every site is a whole number of quarter cells from every other
    quarters = (core_A - core_A[0]) / (SILICON_A / 4)
    np.testing.assert_allclose(quarters, np.round(quarters), atol=1e-6)


def test_shell_is_silica_around_core_and_apex():
    atoms = build(NON_CUBIC)
    shape = needle_shape(NON_CUBIC)
    shell_A, numbers = atoms.positions_A[atoms.part == 1], atoms.numbers[atoms.part == 1]
    depth_A = shape.depth_A(shell_A)
    assert 0 <= depth_A.min() < 0.2 and NON_CUBIC.shell_thickness_A - 0.3 < depth_A.max() < NON_CUBIC.shell_thickness_A
    assert np.mean(numbers == 8) == pytest.approx(2 / 3, abs=0.03)
    assert shell_A[:, 1].max() > shape.apex_y_A - 1
    core = cKDTree(atoms.positions_A[atoms.part == 0])
    assert core.query(shell_A)[0].min() >= NEEDLE.min_distance_A
    silicon = cKDTree(shell_A[numbers == 14])
    deep = (numbers == 8) & (depth_A > 2) & (depth_A < 4) & (shell_A[:, 1] > -20)
    assert np.mean([len(near) == 2 for near in silicon.query_ball_point(shell_A[deep], 2.0)]) > 0.95
    # 2.20 g/cm³ of silica is 0.0662 atoms to the Å³
    grid = np.random.default_rng(0).uniform([-21, -22, -21], [21, 22, 21], (200_000, 3))
    grid_depth_A = shape.depth_A(grid)
    volume_A3 = 42 * 42 * 44 * np.mean((grid_depth_A >= 0) & (grid_depth_A < NON_CUBIC.shell_thickness_A))
    assert 0.92 * 0.0662 < len(shell_A) / volume_A3 < 1.02 * 0.0662


def test_least_distance_is_a_setting():
    counts = [len(build(NON_CUBIC, SampleSpec(min_distance_A=d))) for d in (0.0, 1.2, 2.4)]
    assert counts[0] > counts[1] > counts[2]
    near = build(NON_CUBIC, SampleSpec(min_distance_A=2.4))
    distance_A, _ = cKDTree(near.positions_A[near.part == 0]).query(near.positions_A[near.part == 1])
    assert distance_A.min() >= 2.4


def test_seed_turns_the_silica_and_leaves_the_crystal():
    one, same, other = build(NON_CUBIC, seed=1), build(NON_CUBIC, seed=1), build(NON_CUBIC, seed=2)
    np.testing.assert_array_equal(one.positions_A, same.positions_A)
    np.testing.assert_array_equal(one.positions_A[one.part == 0], other.positions_A[other.part == 0])
    nearest_A, _ = cKDTree(one.positions_A[one.part == 1]).query(other.positions_A[other.part == 1])
    assert np.median(nearest_A) > 0.3


@settings(max_examples=60, deadline=None)
@given(taper_deg=st.floats(0, 8), core=st.floats(8, 40), shell=st.floats(0, 20), length=st.floats(80, 120))
def test_depth_and_radius_describe_one_surface(taper_deg, core, shell, length):
    try:
        shape = needle_shape(dataclasses.replace(NON_CUBIC, taper_deg=taper_deg, core_radius_A=core,
                                                 shell_thickness_A=shell, length_A=length))
    except SpecError:
        return
    y_A = np.linspace(shape.base_y_A, shape.apex_y_A, 50)
    radius_A = shape.outer_radius_A(y_A)
    surface = np.column_stack([radius_A * math.cos(0.4), y_A, radius_A * math.sin(0.4)])
    np.testing.assert_allclose(shape.depth_A(surface), 0, atol=1e-6)
    assert np.all(np.diff(radius_A) <= 1e-9)
    assert radius_A[0] == pytest.approx(shape.base_radius_A)
    # the core at the base has the radius that was asked for
    base = np.array([[core, shape.base_y_A, 0.0]])
    assert shape.depth_A(base)[0] == pytest.approx(shell, abs=1e-6)
    assert np.all(shape.outer_radius_A(np.array([shape.apex_y_A + 0.1, 1e3])) == 0)


@pytest.mark.parametrize(("taper_deg", "position_A", "depth_A"), [
    (0, (10, -5, 0), 6), (0, (0, 20, 0), 2), (0, (6, 14, 0), 6), (0, (12, 14, 9), -1), (0, (0, -5, 17), -1),
    (10, (10, -22, 0), (10 + 6 / math.cos(math.radians(10)) - 10) * math.cos(math.radians(10))),
])
def test_depth_is_the_distance_from_cylinder_apex_and_cone(taper_deg, position_A, depth_A):
    """A cylinder of 16 Å ends in a sphere about y = 6 Å; a cone's depth is measured across its side."""
    shape = needle_shape(dataclasses.replace(NON_CUBIC, taper_deg=taper_deg))
    assert shape.depth_A(np.array([position_A], float))[0] == pytest.approx(depth_A, abs=1e-9)


def test_scoring_region_is_where_the_needle_is_narrow_enough():
    atoms = build(NON_CUBIC)
    inside = in_scoring_region(atoms.positions_A, NEEDLE, NON_CUBIC)
    border_A = atoms.positions_A[inside, 1].min()
    assert 0 < inside.sum() < len(atoms)
    assert np.all(atoms.positions_A[~inside, 1] <= border_A)
    assert 2 * needle_shape(NON_CUBIC).outer_radius_A(np.array([border_A]))[0] == pytest.approx(28, abs=0.2)
    points = np.array([(0, 24, 0), (0, 25.1, 0), (20.9, 20, 0), (21.1, 20, 0), (0, 20, 22.4), (0, 20, 22.6)])
    assert in_scoring_region(points, NEEDLE, NON_CUBIC).tolist() == [True, False, True, False, True, False]


def test_needle_longer_than_the_volume_leaves_through_the_bottom():
    long = dataclasses.replace(NON_CUBIC, length_A=70, taper_deg=0)
    atoms = build(long)
    whole = build_needle(long, 1.2, np.random.default_rng(1))
    assert atoms.counts["n_all"] == len(whole) > len(atoms) == atoms.counts["n_in_volume"]
    assert atoms.positions_A[:, 1].min() == pytest.approx(-25, abs=0.5)


@pytest.mark.parametrize("change, setting", [
    ({"core_radius_A": 20}, "scale.core_radius_A=20"),
    ({"shell_thickness_A": 12}, "scale.core_radius_A=10"),
    ({"apex_gap_A": 1.0}, "scale.apex_gap_A=1.0"),
    ({"length_A": 46}, "scale.length_A=46"),
    ({"length_A": 8}, "scale.length_A=8"),
    ({"taper_deg": 20}, "scale.taper_deg=20"),
    ({"core_radius_A": 0.1, "taper_deg": 0}, "scale.core_radius_A=0.1"),
])
def test_needles_that_do_not_fit_name_the_setting(change, setting):
    with pytest.raises(SpecError, match=setting) as caught:
        build(dataclasses.replace(NON_CUBIC, **change))
    assert "\n" not in str(caught.value)


def test_vacancies_are_a_fraction_drawn_by_the_seed():
    sample = SampleSpec(vacancies=(VacancyRegion(fraction=0.05),))
    whole, some, same = build(NON_CUBIC), build(NON_CUBIC, sample), build(NON_CUBIC, sample)
    assert some.counts["n_vacancies"] == round(0.05 * len(whole)) == len(whole) - len(some)
    np.testing.assert_array_equal(some.positions_A, same.positions_A)
    kept = {tuple(p) for p in whole.positions_A}
    assert all(tuple(p) in kept for p in some.positions_A)
    assert some.counts["n_in_volume"] == len(whole)


def test_vacancy_regions_have_their_own_fractions():
    regions = (VacancyRegion(fraction=0.3, part="core", y_A=(0.0, 10.0)), VacancyRegion(fraction=1.0, part="shell",
               x_A=(5.0, math.inf), z_A=(-math.inf, 0.0)))
    whole, some = build(NON_CUBIC), build(NON_CUBIC, SampleSpec(vacancies=regions))
    x, y, z = whole.positions_A.T
    core = (whole.part == 0) & (y >= 0) & (y < 10)
    shell = (whole.part == 1) & (x >= 5) & (z < 0)
    assert some.counts["n_vacancies_0"] == round(0.3 * core.sum()) > 5
    assert some.counts["n_vacancies_1"] == shell.sum() > 5
    kept = {tuple(p) for p in some.positions_A}
    gone = np.array([tuple(p) not in kept for p in whole.positions_A])
    assert not gone[~core & ~shell].any() and gone[shell].all()
    assert gone[core].sum() == some.counts["n_vacancies_0"]


def test_overlapping_regions_draw_from_what_is_left_and_empty_ones_are_refused():
    atoms = Atoms(np.full(100, 14), np.zeros((100, 3)), np.zeros(100, dtype=int))
    half = VacancyRegion(fraction=0.5)
    left = remove_vacancies(atoms, (half, half), np.random.default_rng(0))
    assert (len(left), left.counts) == (25, {"n_vacancies_0": 50, "n_vacancies_1": 25, "n_vacancies": 75})
    with pytest.raises(SpecError, match=r"sample\.vacancies\[1\].*no atoms"):
        remove_vacancies(atoms, (half, VacancyRegion(fraction=0.1, x_A=(50.0, 60.0))), np.random.default_rng(0))


def test_vacancies_that_leave_no_atom_are_refused():
    atoms = Atoms(np.full(4, 14), np.zeros((4, 3)), np.zeros(4, dtype=int))
    with pytest.raises(SpecError, match=r"sample\.vacancies=\[0\.5, 1\.0\] .* no atom of the sample is left"):
        remove_vacancies(atoms, (VacancyRegion(fraction=0.5), VacancyRegion(fraction=1.0)), np.random.default_rng(0))
