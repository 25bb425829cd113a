"""Coarse slices first: the rule of their thickness, and fits that continue with fine ones, also if interrupted."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from aetlab import flow
from aetlab.core.progress import SILENT
from aetlab.core.tilt_series import TiltSeries
from aetlab.reconstruction.fit import StagedFit, fit_stages, fit_volume, make_model
from aetlab.reconstruction.iterations import find_iterations
from aetlab.reconstruction.resumable import Resumption
from aetlab.spec import BinningSpec, RunSpec, SpecError, coarse_layers, coarse_refinement_layers
from aetlab.spec.choices import settings

STAGED = BinningSpec(n_layers=4, coarse=16, fine_iterations=3)


class Kept:
    """Checkpoints in memory: the state after each iteration, and the one to continue from."""

    def __init__(self, found: tuple[Any, ...] | None = None) -> None:
        self.found, self.saved = found, []

    def due(self) -> bool:
        return True

    def save(self, arrays: dict[str, np.ndarray], values: dict[str, Any], rng: np.random.Generator) -> None:
        copies = {key: list(value) if isinstance(value, list) else value for key, value in values.items()}
        self.saved.append(({name: a.copy() for name, a in arrays.items()}, copies, rng.bit_generator.state))

    def load(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        if self.found is None:
            return None
        arrays, values, rng.bit_generator.state = self.found
        return dict(arrays), dict(values)


@pytest.fixture(scope="module")
def tiny() -> tuple[RunSpec, TiltSeries]:
    spec = settings(scale="smoke", dose=1e6, overrides={
        "tilts.n_tilts": 4, "engine.n_iterations": 6, "simulate.n_layers": 16, "engine.n_threads": 1})
    return spec, flow.simulate(spec, flow.sample(spec))


@pytest.mark.parametrize(("microscope", "voxel_A", "n_layers"), [
    ("aberration_corrected_300kV", 0.5, 20),  # λ = 0.019687 Å, q = 1/Å: 0.2 · 50.8 Å = 10.2 Å
    ("aberration_corrected_300kV", 0.25, 40),
    ("aberration_corrected_80kV", 0.25, 19),  # λ = 0.041757 Å, q = 1/Å: 0.2 · 23.9 Å = 4.8 Å
    ("aberration_corrected_80kV", 0.5, 10),  # 9 layers are fewer than those of a fine slice
])
def test_a_coarse_slice_has_a_fifth_of_the_depth_of_focus(microscope: str, voxel_A: float, n_layers: int) -> None:
    spec = settings(scale="small", microscope=microscope, binning="coarse_first", overrides={"scale.voxel_A": voxel_A})
    assert coarse_layers(spec) == n_layers
    assert coarse_refinement_layers(spec) == n_layers


def test_coarse_slices_are_no_thicker_than_the_volume_and_no_thinner_than_fine_ones() -> None:
    spec = settings(scale="smoke", binning="coarse_first", overrides={"binning.n_layers": 4})
    assert coarse_layers(replace(spec, binning=BinningSpec(n_layers=4, coarse=100))) == 48
    assert coarse_layers(replace(spec, binning=BinningSpec(n_layers=45, coarse="rule"))) == 45
    assert coarse_layers(replace(spec, binning=BinningSpec(n_layers=4))) == 4


@pytest.mark.parametrize(("coarse", "reason"), [(4, "have more layers than"), (3, "have more layers than"),
                                                ("best", "a number of layers, or rule")])
def test_coarse_slices_that_are_none_are_refused(coarse: int | str, reason: str) -> None:
    with pytest.raises(SpecError, match=f"binning.coarse={coarse!r} cannot be used: .*{reason}"):
        BinningSpec(n_layers=4, coarse=coarse)


@pytest.mark.parametrize(("n_iterations", "wanted"), [
    (8, [(16, 5, 0.02), (4, 3, 0.0)]), (4, [(16, 1, 0.02), (4, 3, 0.0)]), (3, [(4, 3, 0.02)]), (2, [(4, 2, 0.02)])])
def test_the_last_iterations_have_fine_slices(tiny: tuple[RunSpec, TiltSeries], n_iterations: int,
                                              wanted: list[tuple[int, int, float]]) -> None:
    engine = replace(tiny[0].engine, tolerance=0.02)
    stages = fit_stages(replace(tiny[0], binning=STAGED, engine=engine), n_iterations)
    assert [(stage.spec.binning.n_layers, stage.n_iterations, stage.tolerance) for stage in stages] == wanted


def test_a_staged_fit_is_that_of_two_models_with_one_state(tiny: tuple[RunSpec, TiltSeries]) -> None:
    spec, series = replace(tiny[0], binning=STAGED), tiny[1]
    fit = StagedFit(fit_stages(spec, 6), series, np.arange(4), Resumption(None, 0), SILENT).run(lambda model: 1e-5)
    rng, state = Resumption(None, 0).begin("reconstruct")
    for n_layers, end in ((16, 3), (4, 6)):
        part = replace(spec, binning=BinningSpec(n_layers=n_layers))
        model = make_model(part, series, lambda text: None)
        solution = fit_volume(part, model, np.arange(4), 1e-5, n_iterations=end, rng=rng, resume=state)
        state = solution.state
        state.renewals.append(end)
    np.testing.assert_array_equal(fit.solution.volume, solution.volume)
    assert fit.solution.state.renewals == [3]


@pytest.mark.parametrize(("align", "tolerance", "n_done"), [("false", 0, 6), ("true", 0, 6), ("false", 0.99, 5)])
def test_a_fit_that_was_interrupted_anywhere_continues_bit_for_bit(tiny: tuple[RunSpec, TiltSeries], align: str,
                                                                   tolerance: float, n_done: int) -> None:
    """After coarse iterations, between the stages, after fine iterations, and after the last one."""
    spec = replace(tiny[0], binning=STAGED, align=settings(align=align).align,
                   engine=replace(tiny[0].engine, tolerance=tolerance))
    spec = replace(spec, align=replace(spec.align, at=(1, 4))) if align == "true" else spec
    kept = Kept()
    whole = flow.reconstruct(spec, tiny[1], checkpoints=kept)
    assert len(kept.saved) == n_done
    for saved in kept.saved:
        resumed = flow.reconstruct(spec, tiny[1], checkpoints=Kept(saved))
        np.testing.assert_array_equal(resumed.volume.potential_V, whole.volume.potential_V)
        np.testing.assert_array_equal(resumed.cost, whole.cost)


def test_the_number_of_iterations_is_sought_with_coarse_slices(tiny: tuple[RunSpec, TiltSeries],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(tiny[0], binning=STAGED, reg=settings(reg="pos").reg)
    made = []
    monkeypatch.setattr("aetlab.reconstruction.iterations.make_model",
                        lambda spec, series, say: made.append(spec.binning) or make_model(spec, series, say))
    find_iterations(spec, tiny[1], np.arange(4), SILENT)
    assert made == [BinningSpec(n_layers=16)]


def test_a_fit_ends_when_the_volume_hardly_changes(tiny: tuple[RunSpec, TiltSeries]) -> None:
    """The changes are those of the proximal points, computed here from the checkpoints."""
    kept = Kept()
    flow.reconstruct(tiny[0], tiny[1], checkpoints=kept)
    points = [arrays["proximal"].astype(np.float64) for arrays, _, _ in kept.saved]
    assert not kept.saved[-1][1]["restarts"]
    changes = [np.linalg.norm(new - old) / np.linalg.norm(new) for old, new in pairwise(points)]
    tolerance = (changes[1] + changes[2]) / 2
    spec = replace(tiny[0], engine=replace(tiny[0].engine, tolerance=tolerance))
    found = flow.reconstruct(spec, tiny[1])
    assert len(found.cost) == 4  # the second iteration made changes[0], the fourth changes[2]
    np.testing.assert_array_equal(found.cost, [values["cost"] for _, values, _ in kept.saved][3])
    assert found.stopped == f"the volume changed by less than {tolerance:g} of itself"
    staged = flow.reconstruct(replace(spec, binning=STAGED), tiny[1])
    assert len(staged.cost) == 6  # three coarse iterations do not reach it


def test_a_tolerance_waits_for_the_schedule_of_the_regulariser_and_for_the_alignment(
        tiny: tuple[RunSpec, TiltSeries]) -> None:
    hasty = replace(tiny[0], engine=replace(tiny[0].engine, tolerance=0.99))
    assert len(flow.reconstruct(hasty, tiny[1]).cost) == 2  # the first iteration changes the volume by 1 of itself
    of_atoms = settings(reg="atoms", overrides={"reg.metric_at": 1, "reg.reweight_at": [3]}).reg
    assert len(flow.reconstruct(replace(hasty, reg=of_atoms), tiny[1]).cost) == 5
    aligned = replace(settings(align="true").align, at=(1, 3))
    assert len(flow.reconstruct(replace(hasty, align=aligned), tiny[1]).cost) == 5
