"""The number of iterations of fits that only early stopping keeps from fitting noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aetlab import flow, forward, keeper, samples
from aetlab.core.nouns import TiltSeries
from aetlab.core.progress import PlainReporter
from aetlab.core.seeds import generator
from aetlab.reconstruction import iterations
from aetlab.reconstruction.iterations import find_iterations, split_counts, vertex
from aetlab.spec import RunSpec
from aetlab.store.record import Places, read_array, read_history
from tests.words import spec_of

SMOKE = ("scale=smoke", "tilts=20", "defocus=3", "reg=pos")


@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 0.95), n_e=st.floats(0.5, 200))
def test_every_count_is_kept_or_left_out(seed: int, share: float, n_e: float) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(n_e, (2, 6, 5))
    kept, left_out = split_counts((counts / n_e).astype(np.float32), n_e, share, rng)
    np.testing.assert_allclose((1 - share) * kept + share * left_out, counts / n_e, rtol=1e-5, atol=1e-5)
    out = left_out.astype(np.float64) * share * n_e
    np.testing.assert_allclose(out, np.rint(out), atol=1e-3)
    assert kept.min() >= 0 and left_out.min() >= 0


def test_both_parts_are_poisson_and_independent() -> None:
    rng, n_e, share = np.random.default_rng(1), 9.0, 0.2
    counts = rng.poisson(n_e, (3, 200, 200))
    kept, left_out = split_counts((counts / n_e).astype(np.float32), n_e, share, rng)
    for part, electrons in ((kept, (1 - share) * n_e), (left_out, share * n_e)):
        assert part.mean() == pytest.approx(1, abs=0.005)
        assert part.var() * electrons == pytest.approx(1, abs=0.015)
    assert abs(np.corrcoef(kept.ravel(), left_out.ravel())[0, 1]) < 0.01


@given(place=st.floats(0.6, 6.4), bend=st.floats(0.1, 10), n=st.integers(9, 14))
def test_the_vertex_of_a_parabola_is_found(place: float, bend: float, n: int) -> None:
    assert vertex([bend * (k - place) ** 2 for k in range(n)]) == pytest.approx(place, abs=1e-6)


@pytest.mark.parametrize(("costs", "place"), [([3.0, 2.0, 1.0], 2.0), ([1.0, 2.0, 3.0], 0.0), ([2.0, 2.0, 2.0], 0.0)])
def test_a_vertex_at_an_end_is_that_end(costs: list[float], place: float) -> None:
    assert vertex(costs) == place


def _recorded(spec: RunSpec) -> TiltSeries:
    atoms = samples.build_sample(spec.sample, spec.scale, generator(spec.seed, "sample"))
    ideal = forward.simulate_tilt_series(
        atoms, spec.scale.shape_zxy, spec.scale.voxel_A, flow._tilts_deg(spec), flow._defocus_A(spec),
        microscope=spec.microscope, simulate=spec.simulate, debye_waller_A2=spec.sample.debye_waller_A2,
        rng=generator(spec.seed, "phonons"))
    return forward.add_shot_noise(ideal, flow.electrons_per_pixel(spec), generator(spec.seed, "noise"))


def _found(*words: str) -> int:
    spec = spec_of(*SMOKE, *words)
    return find_iterations(spec, _recorded(spec), np.arange(20), PlainReporter("test"))


@pytest.mark.parametrize(("words", "expected"), [
    ([], 9), (["reg.iterations_factor=3"], 13), (["engine.n_iterations=7"], 7), (["reg.iterations_factor=0.1"], 2)])
def test_the_fit_takes_a_multiple_of_the_iterations_that_predict_best(words: list[str], expected: int,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs of prediction are a parabola with its vertex at 4.4, and the factor is 2 by default."""
    monkeypatch.setattr(iterations, "_costs_of_prediction", lambda *rest: ([(k - 4.4) ** 2 for k in range(8)], 0))
    spec = spec_of(*SMOKE, "dose=50k", *words)
    series = TiltSeries(np.ones((20, 3, 2, 2), np.float32), flow._tilts_deg(spec), flow._defocus_A(spec), 0.5)
    assert find_iterations(spec, series, np.arange(20), PlainReporter("test")) == expected


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
def test_less_noise_takes_more_iterations(likelihood: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = [_found(f"dose.total_e_A2={dose}", f"engine.likelihood={likelihood}") for dose in (2e3, 3e4, 1e6)]
    assert 2 <= found[0] < found[1] < found[2] <= 40
    assert f"the fit takes {found[0]}\n" in capsys.readouterr().out


def test_the_schedule_of_a_prior_ends_before_the_search_does() -> None:
    """A metric and new weights, the last after 18 iterations, disturb the prediction, whatever the noise."""
    assert _found("dose=7k", "reg=atoms", "reg.iterations_factor=1") >= 19


def test_the_setting_limits_the_iterations() -> None:
    assert _found("dose=50k", "engine.n_iterations=2") == 2


@pytest.mark.parametrize("words", [("dose=inf",), ("dose=50k", "reg.iterations_factor=0"), ("dose=50k", "align=true")])
def test_runs_without_early_stopping_take_all_iterations(words: tuple[str, ...]) -> None:
    spec = spec_of(*SMOKE, *words)
    series = TiltSeries(np.ones((20, 3, 48, 48), np.float32), flow._tilts_deg(spec), flow._defocus_A(spec), 0.5)
    assert find_iterations(spec, series, np.arange(20), PlainReporter("test")) == 40


def test_discarded_iterations_do_not_end_the_search() -> None:
    """With a step far too long the first ones diverge and change nothing."""
    assert _found("dose=50k", "engine.step=300", "engine.n_iterations=30") > 5
    assert _found("dose=50k", "engine.step=1e9", "engine.n_iterations=3") == 3


def test_a_run_that_stops_early_is_nearer_to_the_truth(tmp_path_factory: pytest.TempPathFactory) -> None:
    errors = []
    for factor in (2, 0):
        spec = spec_of(*SMOKE, "dose=7k", f"reg.iterations_factor={factor}", "reg.held_out=0.1")
        places = Places(tmp_path_factory.mktemp("outputs"))
        record = keeper.run(spec, places=places).record
        n_done = len(read_history(record).cost)
        assert n_done < 10 if factor else n_done == 40
        truth = read_array(record, "truth/potential_zx_V").values
        volume = read_array(record, "volume/potential_V").values
        errors.append(float(np.mean((volume[:, :, volume.shape[2] // 2] - truth) ** 2)))
    assert errors[0] < 0.5 * errors[1]
