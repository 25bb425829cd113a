"""Tilt angles as equal steps, a list or a range, defoci of either sign, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from aetlab import bound, flow, keeper
from aetlab.cli.compose import compose_jobs, compose_spec
from aetlab.core.seeds import generator
from aetlab.reconstruction.memory import memory_by_stage
from aetlab.reconstruction.on_gpu import gpu_bytes
from aetlab.reconstruction.weight import smaller_problem
from aetlab.reporting.columns import settings_row
from aetlab.reporting.figures.labels import span_label
from aetlab.samples import build_sample
from aetlab.spec import (
    RunSpec,
    SpecError,
    TiltsSpec,
    WedgeSpec,
    dose_per_image_e_A2,
    missing_wedge_deg,
    tilt_angles_deg,
    tilt_span_deg,
    with_fewer_tilts,
)
from aetlab.store.identity import record_id
from aetlab.store.record import Places, Record, read_array
from tests.words import spec_of

NO_WEDGE = WedgeSpec()
RANGE = ["tilts.start_deg=-70", "tilts.stop_deg=70", "tilts.step_deg=10"]


def angles(*words: str) -> list[float]:
    spec = spec_of(*words)
    return list(tilt_angles_deg(spec.tilts, spec.wedge))


def test_equal_steps_end_one_short_of_the_span_and_the_wedge_removes_the_end() -> None:
    assert angles("tilts=15") == [0, 12, 24, 36, 48, 60, 72, 84, 96, 108, 120, 132, 144, 156, 168]
    assert angles("tilts=15", "wedge=30") == [0, 12, 24, 36, 48, 60, 72, 84, 96, 108, 120, 132, 144]
    assert angles("tilts.n_tilts=4", "tilts.span_deg=90") == [0, 22.5, 45, 67.5]
    assert len(angles()) == 60 and angles()[-1] == 177
    assert len(angles("wedge=30")) == 50 and angles("wedge=30")[-1] == 147  # the tilt at 150° is the wedge's


def test_a_list_keeps_its_order_and_spacing() -> None:
    assert angles("tilts.angles_deg=[0,-3,3,-6.5,6.5,-6.5]") == [0, -3, 3, -6.5, 6.5, -6.5]


def test_a_range_includes_the_stop_where_a_step_reaches_it() -> None:
    assert angles(*RANGE) == [-70, -60, -50, -40, -30, -20, -10, 0, 10, 20, 30, 40, 50, 60, 70]
    assert angles("tilts=pm70_by_2")[:3] == [-70, -68, -66] and angles("tilts=pm70_by_2")[-1] == 70
    assert len(angles("tilts=pm70_by_2")) == 71
    assert angles("tilts.start_deg=-10", "tilts.stop_deg=15", "tilts.step_deg=10") == [-10, 0, 10]
    assert angles("tilts.start_deg=6", "tilts.stop_deg=-6", "tilts.step_deg=-4") == [6, 2, -2, -6]
    tenths = angles("tilts.start_deg=0", "tilts.stop_deg=0.3", "tilts.step_deg=0.1")
    np.testing.assert_allclose(tenths, [0, 0.1, 0.2, 0.3])


def test_a_sweep_over_lists_and_choices_of_angles() -> None:
    jobs = compose_jobs(["tilts.angles_deg=[-60,0,60],[0,90]", "scale=smoke"], multirun=True)
    assert [job.spec.tilts.angles_deg for job in jobs] == [(-60, 0, 60), (0, 90)]
    jobs = compose_jobs(["tilts=20,pm70_by_2", "scale=smoke"], multirun=True)
    assert [len(tilt_angles_deg(job.spec.tilts, job.spec.wedge)) for job in jobs] == [20, 71]


@pytest.mark.parametrize(("words", "told"), [
    (["tilts.n_tilts=20", *RANGE], "tilts='tilts.n_tilts and tilts.start_deg and tilts.stop_deg and tilts.step_deg' "
                                   "cannot be used: give exactly one of tilts.n_tilts (equal steps over "
                                   "tilts.span_deg), tilts.angles_deg (a list), or tilts.start_deg with tilts.stop_deg "
                                   "and tilts.step_deg"),
    (["tilts.angles_deg=[0,10]", "tilts.n_tilts=2"], "tilts='tilts.n_tilts and tilts.angles_deg' cannot be used"),
    (["tilts.angles_deg=[0,10]", "tilts.step_deg=2"], "tilts='tilts.angles_deg and tilts.step_deg' cannot be used"),
    (["tilts=pm70_by_2", "tilts.n_tilts=30"], "give exactly one of tilts.n_tilts"),
    (["experiment=fig3a", *RANGE], "give exactly one of tilts.n_tilts"),
    (["tilts.n_tilts=null"], "tilts=None cannot be used: give exactly one of"),
    (["tilts.start_deg=-70"], "tilts.stop_deg=None cannot be used: a range takes tilts.start_deg, tilts.stop_deg and"),
    (["tilts.start_deg=-70", "tilts.stop_deg=70"], "tilts.step_deg=None cannot be used: a range takes"),
    (["tilts.start_deg=0", "tilts.stop_deg=70", "tilts.step_deg=0"], "tilts.step_deg=0.0 cannot be used"),
    (["tilts.start_deg=0", "tilts.stop_deg=70", "tilts.step_deg=-2"],
     "tilts.step_deg=-2.0 cannot be used: it must lead from tilts.start_deg=0.0 to tilts.stop_deg=70.0"),
    (["tilts.start_deg=0", "tilts.stop_deg=70", "tilts.step_deg=71"], "tilts.step_deg=71.0 cannot be used"),
    (["tilts.start_deg=0", "tilts.stop_deg=70", "tilts.step_deg=1e-9"], "tilts.step_deg=1e-09 cannot be used"),
    (["tilts.start_deg=0", "tilts.stop_deg=400", "tilts.step_deg=2"],
     "tilts.stop_deg=400.0 cannot be used: it must lie in [-360, 360] °"),
    (["tilts.start_deg=-400", "tilts.stop_deg=40", "tilts.step_deg=2"], "tilts.start_deg=-400.0 cannot be used"),
    (["tilts.angles_deg=[5]"], "tilts.angles_deg=(5.0,) cannot be used: give 2 to 10000 angles"),
    (["tilts.angles_deg=[0,inf]"], "tilts.angles_deg=inf cannot be used: it must lie in [-360, 360] °"),
    (["tilts.angles_deg=5"], "tilts.angles_deg=5 cannot be used: it takes a list such as [1, 2]"),
    (["tilts.n_tilts=1"], "tilts.n_tilts=1 cannot be used: it must lie in [2, 10000]"),
    (["tilts.n_tilts=10001"], "tilts.n_tilts=10001 cannot be used: it must lie in [2, 10000]"),
    (["tilts=pm70_by_2", "tilts.span_deg=140"],
     "tilts.span_deg=140.0 cannot be used: it is the span of equal steps (tilts.n_tilts)"),
    (["tilts=pm70_by_2", "wedge=30"], "wedge.missing_deg=30.0 cannot be used: it leaves out the end of equal steps "
                                      "(tilts.n_tilts); a list or a range says itself which tilts there are"),
    (["tilts.angles_deg=[0,10]", "wedge.missing_deg=1"], "wedge.missing_deg=1.0 cannot be used: it leaves out the end"),
    (["defocus.planes_nm=[]"], "defocus.planes_nm=() cannot be used: give at least one finite defocus"),
    (["defocus.planes_nm=[10,inf]"], "give at least one finite defocus"),
    (["data.kind=invented"], "data.kind='invented' cannot be used: choose one of simulated, measured"),
])
def test_contradictory_settings_are_refused_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(SpecError) as refusal:
        spec_of(*words)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


def test_limits_are_inclusive() -> None:
    assert len(tilt_angles_deg(TiltsSpec(n_tilts=10_000), NO_WEDGE)) == 10_000
    assert tilt_angles_deg(TiltsSpec(angles_deg=(-360, 360)), NO_WEDGE) == (-360, 360)
    assert tilt_angles_deg(TiltsSpec(start_deg=0, stop_deg=2, step_deg=2), NO_WEDGE) == (0, 2)
    assert TiltsSpec(n_tilts=2, span_deg=180).n_tilts == 2


@pytest.mark.parametrize(("words", "span_deg", "missing_deg"), [
    ([], 180, 0), (["wedge=30"], 150, 30), (["tilts.span_deg=120"], 120, 0), (RANGE, 140, 40),
    (["tilts.angles_deg=[0,-3,3,61.5]"], 64.5, 115.5), (["tilts.angles_deg=[0,90,350]"], 180, 0)])
def test_span_and_missing_wedge_are_those_of_the_angles(words: list[str], span_deg: float, missing_deg: float) -> None:
    spec = spec_of(*words)
    assert tilt_span_deg(spec.tilts, spec.wedge) == span_deg
    assert missing_wedge_deg(spec.tilts, spec.wedge) == missing_deg
    row = settings_row(spec)
    assert (row["tilt_span_deg"], row["missing_wedge_deg"]) == (span_deg, missing_deg)
    assert span_label(spec) == f"tilts over {span_deg:g}°"


def test_the_dose_is_shared_by_all_images_of_all_tilts() -> None:
    """The total over tilts × defoci, whatever way the angles are given."""
    assert dose_per_image_e_A2(spec_of("dose=50k", "tilts=60", "defocus=3")) == pytest.approx(50_000 / 180)
    assert dose_per_image_e_A2(spec_of("dose=50k", "tilts=60", "defocus=9")) == pytest.approx(92.592592)
    assert dose_per_image_e_A2(spec_of("dose=50k", "tilts=60", "defocus=9", "wedge=60")) == pytest.approx(
        50_000 / 360)
    of_range = spec_of(*RANGE, "dose=7k", "defocus.planes_nm=[-60,-40,30,-60]")
    assert dose_per_image_e_A2(of_range) == pytest.approx(7_000 / 60)
    assert math.isinf(dose_per_image_e_A2(spec_of("dose=inf")))


def test_memory_depends_only_on_the_number_of_tilts() -> None:
    words = ["scale=small", "dose=50k"]
    steps, of_list = spec_of(*words, "tilts=15"), spec_of(*words, *RANGE)
    assert memory_by_stage(of_list) == memory_by_stage(steps) and gpu_bytes(of_list) == gpu_bytes(steps)
    more = spec_of(*words, "tilts=pm70_by_2")
    images = 4 * 71 * 3 * 96 * 96
    few = spec_of(*words, "tilts=20")
    assert memory_by_stage(more)["trace"] - memory_by_stage(few)["trace"] == pytest.approx(2 * images * 51 / 71)
    assert settings_row(more)["n_tilts"] == 71
    assert bound._plan(more) == "small 71 × 3, wedge 40°" and bound._plan(few) == "small 20 × 3"


def test_fewer_tilts_keep_the_span_and_the_extremes() -> None:
    pm70 = spec_of("tilts=pm70_by_2").tilts
    assert with_fewer_tilts(pm70, 71 / 15).angles_deg == tuple(range(-70, 71, 10))
    assert with_fewer_tilts(TiltsSpec(angles_deg=(9, -9, 0, 1, 2)), 2).angles_deg == (-9, 9)
    assert with_fewer_tilts(TiltsSpec(angles_deg=(9, -9, 0, 1, 2)), 1).angles_deg == (-9, 0, 1, 2, 9)
    assert with_fewer_tilts(TiltsSpec(n_tilts=60, span_deg=120), 4) == TiltsSpec(n_tilts=15, span_deg=120)


def test_the_smaller_problem_of_a_range_is_as_sparse_and_as_noisy() -> None:
    spec = spec_of("scale=medium", "tilts=pm70_by_2", "reg.weight=auto", "dose=50k")
    small = smaller_problem(spec)
    assert small is not None and small.scale.shape_zxy == (120, 120, 120)
    found = tilt_angles_deg(small.tilts, small.wedge)
    assert len(found) == 36 and (found[0], found[-1]) == (-70, 70)
    np.testing.assert_allclose(np.diff(found), 4, atol=2.001)
    assert dose_per_image_e_A2(small) == pytest.approx(50_000 / (71 * 3))
    assert small.wedge.missing_deg == 0 and smaller_problem(spec_of("scale=small", *RANGE)) is None


def test_each_list_of_angles_and_defoci_has_its_own_identity() -> None:
    words = (["tilts=15"], RANGE, ["tilts.angles_deg=[-70,70]"], ["tilts.angles_deg=[70,-70]"], ["defocus=1"],
             ["defocus.planes_nm=[-100]"])
    assert len({record_id(spec_of(*each)) for each in words}) == 6
    one, other = (compose_spec([f"tilts.angles_deg={given}"]) for given in ("[-70,70]", "[-70.0,7e1]"))
    assert record_id(one) == record_id(other)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Record]:
    spec = spec_of("scale=smoke", *RANGE, "defocus.planes_nm=[-60,-40,30]", "engine.n_threads=1",
                         "engine.n_iterations=25")
    return spec, keeper.run(spec, places=Places(tmp_path_factory.mktemp("tilts"))).record


def test_a_whole_run_of_a_range_and_defoci_of_both_signs(made: tuple[RunSpec, Record]) -> None:
    spec, record = made
    np.testing.assert_array_equal(read_array(record, "tilt_series/tilt_deg").values, np.arange(-70, 71, 10))
    np.testing.assert_array_equal(read_array(record, "tilt_series/defocus_nm").values, np.tile([-60, -40, 30], (15, 1)))
    assert record.spec == spec
    assert record.metrics["found_percent"] > 99 and record.metrics["position_error_pm"] < 12
    assert record.metrics["false_positive_percent"] < 1 and record.metrics["correct_species_percent"] > 97
    assert record.metrics["potential_error"] < 0.5


def test_images_on_either_side_of_focus_have_opposite_contrast(smoke_spec: RunSpec,
                                                               change: Callable[..., RunSpec]) -> None:
    """Near focus a phase object's contrast is Δf λ/4π ∇²φ: it changes its sign with the defocus."""
    spec = change(smoke_spec, "dose", total_e_A2=math.inf)
    atoms = build_sample(spec.sample, spec.scale, generator(0, "sample"))
    under, focus, over = (flow.make_views(change(spec, "defocus", planes_nm=(defocus_nm,)), atoms).ideal[0]
                          for defocus_nm in (-20.0, 0.0, 20.0))
    correlation = np.corrcoef((under - focus).ravel(), (over - focus).ravel())[0, 1]
    assert correlation < -0.3
