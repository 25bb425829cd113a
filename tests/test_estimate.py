"""Estimates of memory and time before a run, and the refusal of runs that do not fit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aetlab.cli.compose import compose_jobs
from aetlab.cli.estimates import Work, print_estimates
from aetlab.core import backend
from aetlab.core.seeds import generator
from aetlab.reconstruction import trials
from aetlab.reconstruction.estimate import (
    Estimate,
    estimate,
    estimate_before_run,
    is_short,
    usual_iterations,
    usual_length,
)
from aetlab.reconstruction.fit import fit_stages
from aetlab.reconstruction.memory import BASE_BYTES, memory_by_stage, require_memory
from aetlab.refinement import usual_passes
from aetlab.samples import build_sample
from aetlab.spec import RunSpec, SpecError
from tests.words import spec_of

STAGES = ["simulate", "reconstruct", "trace", "score"]


def test_memory_of_the_papers_size_is_that_of_its_arrays() -> None:
    """Iterate, proximal point and twice three dual variables; three sets of images; rotation matrices."""
    needed = memory_by_stage(spec_of("scale=paper", "reg=tv"))
    volume, images = 4 * 480**3, 4 * 180 * 480**2
    arrays = 8 * volume + 3 * images + 256e6
    assert needed["reconstruct"] == pytest.approx(BASE_BYTES + arrays, rel=0.05)
    assert max(needed.values()) == needed["reconstruct"] < 5e9
    lasso = memory_by_stage(spec_of("scale=paper", "reg=lasso"))
    assert needed["reconstruct"] - lasso["reconstruct"] == pytest.approx(6 * volume)


def test_a_run_that_does_not_fit_is_refused_with_the_shortfall_and_advice() -> None:
    spec = spec_of("scale=paper", "reg=tv")
    needed = memory_by_stage(spec)["reconstruct"]
    require_memory(spec, needed + 1)
    with pytest.raises(SpecError, match=r"reconstruct needs 4\.\d GB, 2\.5 GB more than are free; choose a smaller "
                                        "scale or reg=lasso, or stop other programs"):
        require_memory(spec, needed - 2.5e9)


def test_a_correction_of_the_sampling_that_does_not_fit_is_refused() -> None:
    """The finer slices of a tilt are four times as large, and the difference is a set of images."""
    settings = ["scale=paper", "reg=lasso", "refine=atoms", "engine.n_threads=1"]
    coarse, corrected = (memory_by_stage(spec_of(*settings, f"refine.sampling={name}"))["refine"]
                         for name in ("coarse", "corrected"))
    finer, images = 4 * 4 * 120 * 480**2, 4 * 180 * 480**2
    assert finer + images < corrected - coarse < 1.5 * finer + images
    with pytest.raises(SpecError, match=r"^refine.sampling=corrected cannot be used: refine needs \d.\d GB, .*=coarse"):
        require_memory(spec_of(*settings, "refine.sampling=corrected", "binning=1"), corrected)


def test_a_path_through_the_posterior_needs_memory_where_noise_imitates_atoms() -> None:
    settings, volume = ["scale=paper", "reg=lasso", "refine=atoms"], 4.0 * 480**3
    clear, noisy, none = (memory_by_stage(spec_of(*settings, *more))["refine"]
                          for more in (["dose=50k"], ["dose=7k"], ["dose=7k", "refine.n_sampled=0"]))
    assert clear == none and 4 * volume < noisy - clear < 6 * volume


def test_the_memory_of_refined_tiles_is_that_of_the_largest_and_the_series() -> None:
    settings = ["scale=paper", "reg=lasso", "refine=atoms", "dose=50k"]
    whole, tiles = (memory_by_stage(spec_of(*settings, *more))["refine"] for more in ([], ["tile.n=4"]))
    assert 0.3 * whole < tiles < 0.9 * whole


def test_estimate_has_every_stage_and_follows_the_work() -> None:
    spec = spec_of("scale=smoke", "reg=tv", "engine.n_iterations=10")
    atoms = build_sample(spec.sample, spec.scale, generator(0, "sample"))
    found = estimate(spec, atoms)
    assert list(found.memory_bytes) == list(found.seconds) == STAGES
    assert all(seconds > 0 for seconds in found.seconds.values())
    hundredfold = estimate(spec_of("scale=smoke", "reg=tv", "engine.n_iterations=1000"), atoms)
    assert hundredfold.seconds["reconstruct"] > 10 * found.seconds["reconstruct"]


def test_a_trial_is_reused_only_by_runs_with_the_same_work(change: Callable[..., RunSpec]) -> None:
    spec = spec_of("scale=smoke", "reg=tv")
    atoms = build_sample(spec.sample, spec.scale, generator(0, "sample"))
    first = estimate(spec, atoms).seconds
    other_dose, other_prior = change(spec, "dose", total_e_A2=1000.0), change(spec, "reg", kind="pos")
    assert estimate(other_dose, atoms).seconds == first
    again = estimate(other_prior, atoms).seconds
    assert again["simulate"] == first["simulate"] and again["reconstruct"] != first["reconstruct"]
    for group, value in (("scale", {"shape_zxy": (48, 48, 40)}), ("defocus", {"planes_nm": (5.0, 7.0)})):
        other = estimate(change(spec, group, **value), atoms).seconds
        assert all(other[stage] != first[stage] for stage in ("simulate", "reconstruct"))


def test_an_estimate_is_written_as_a_line_and_as_a_table() -> None:
    found = Estimate({"simulate": 1e9, "reconstruct": 4.4e9}, {"simulate": 160.0, "reconstruct": 7200.0})
    assert found.in_one_line() == ("needs about 4.40 GB and 2.0 h on the CPU (simulate 3 min, reconstruct 2.0 h; "
                                   "by a short trial)")
    assert found.as_table().splitlines()[2].split() == ["reconstruct", "4.40", "2.0", "h"]


def test_the_estimate_flag_prints_and_writes_no_file(aetlab: Callable[..., subprocess.CompletedProcess[str]],
                                                     tmp_path: Path) -> None:
    result = aetlab("run", "-m", "dose=inf,50k", "scale=smoke", "--estimate")
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"needs about 0\.\d\d GB", result.stdout)) == 2
    assert result.stdout.count("reconstruct ") >= 4
    assert list(tmp_path.iterdir()) == []
    wrong = aetlab("run", "dose=8x", "--estimate")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


def test_waiting_threads_sleep_before_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of the threads reads how they wait when it is loaded, which the first question for them does."""
    called: list[str] = []
    monkeypatch.setattr(backend, "prepare_process", lambda: called.append("sleep"))
    monkeypatch.setattr(backend, "n_threads", lambda: called.append("threads") or 1)
    print_estimates(["scale=smoke", "tilts=3"], multirun=False, config_dir=None)
    assert called[:2] == ["sleep", "threads"]


def test_work_that_jobs_share_is_counted_once(tmp_path: Path) -> None:
    """Runs of two doses share their tilt series, those of two tracings their fit as well, and a repeated one all."""
    words = ["scale=smoke", "dose=50k,7k", "trace=smoothed,paper", f"outputs={tmp_path}"]
    jobs, work = compose_jobs(words, multirun=True), Work()
    seconds = {"simulate": 8.0, "reconstruct": 4.0, "trace": 2.0, "score": 1.0}
    assert [sum(work.left(job, seconds, 0.0).values()) for job in jobs] == [15, 3, 7, 3]
    assert work.left(jobs[0], seconds, 0.0) == {} and (work.n_jobs, work.n_complete) == (4, 1)
    n_bytes = 4 * 48**3
    assert work.seconds == pytest.approx(28 + 4 * (0.9 + n_bytes / 200e6), abs=1e-6)


def test_usual_trials_are_counted() -> None:
    """The root of 69.4 electrons a pixel, 50 000 e/Å² over 180 images and 0.25 Å², times 0.3 and 2 is 5 iterations."""
    assert usual_iterations(spec_of("dose=50k", "reg=pos")) == 5
    assert usual_iterations(spec_of("dose=7k", "reg=pos")) == 2
    assert usual_iterations(spec_of("dose=inf", "reg=pos")) == usual_iterations(spec_of("reg=tv")) == 40
    assert usual_iterations(spec_of("dose=7k", "reg=tv", "reg.iterations_factor=1")) == 28
    spec = spec_of("scale=smoke", "tilts=6", "reg=pos", "refine=atoms", "validate=images")
    found = estimate(spec, build_sample(spec.sample, spec.scale, generator(0, "sample")))
    assert list(found.seconds) == ["simulate", "decide", "reconstruct", "trace", "refine", "validate", "score"]
    assert usual_passes(spec.refine, n_tilts=6) == (7, 91)
    # 209 to sample, 320 for the draws and six rounds of 18 more where noise imitates atoms: O at 7 000 e/Å², not at
    # 50 000, not Pt.
    in_noise = [usual_passes(spec.refine, 6, *which)[1] for which in ((7e3, 8), (5e4, 8), (7e3, 78))]
    assert in_noise == [91 + 209 + 320 + 6 * 18, 91, 91]


def test_a_tolerance_ends_the_coarse_slices_after_their_usual_number() -> None:
    """18 iterations at 0.02 and 27 at 0.01, and five with fine slices; not before the last alignment."""
    def lengths(*words: str) -> list[int]:
        spec = spec_of("reg=tv", *words)
        return [usual_length(stage) for stage in fit_stages(spec, usual_iterations(spec))]

    assert lengths() == [40] and lengths("binning=coarse_first") == [35, 5]
    assert lengths("engine.tolerance=0.02") == [18] and lengths("engine.tolerance=0.001") == [40]
    assert lengths("binning=coarse_first", "engine.tolerance=0.01") == [27, 5]
    assert lengths("engine.tolerance=0.02", "align=true", "align.at=[2,25]") == [27]


def test_only_the_support_of_a_sample_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A needle of 24 Å in a volume of 80 Å; each trial takes a second. 10 e/Å² show no position to be vacuum."""
    monkeypatch.setattr("aetlab.reconstruction.trials._tried", {})
    monkeypatch.setattr("aetlab.reconstruction.trials.measure_s", lambda work, *arguments: 1.0)
    words = ["scale.shape_zxy=[160,160,48]", "reg=lasso", "dose=inf", "engine.n_iterations=10"]
    atoms = build_sample(spec_of("scale=smoke").sample, spec_of("scale=smoke").scale, generator(0, "sample"))
    whole, part, noisy = (estimate(spec_of(*words, *more), atoms).seconds["reconstruct"]
                          for more in ([], ["engine.support=images"], ["engine.support=images", "dose.total_e_A2=10"]))
    assert 0.1 * whole < part < 0.5 * whole and noisy == whole
    assert trials.n_ffts(24, 3) == 4 * 23 + 6 + 2


def test_the_time_of_a_run_of_seconds_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial would take a tenth of a run of 60 tilts of 96³ voxels, which has 3.2e9 visits of a voxel or as long."""
    monkeypatch.setattr("aetlab.reconstruction.trials.measure_s", None)
    spec = spec_of("scale=small", "reg=tv")
    found = estimate_before_run(spec, build_sample(spec.sample, spec.scale, generator(0, "sample")))
    assert found.memory_bytes == memory_by_stage(spec) and found.seconds == {}
    assert found.in_one_line() == "needs about 0.38 GB on the CPU (too short a run for a trial of its time)"
    assert is_short(spec)
    for words in (["scale=medium"], ["refine=atoms"], ["validate=images"], ["align=true"], ["reg.weight=auto"],
                  ["engine.rotation=fourier"], ["simulate.n_frozen_phonons=8"], ["tile.n=2"]):
        assert not is_short(spec_of("scale=small", "reg=tv", *words))


def test_an_estimate_of_images_that_are_not_read_is_an_upper_bound() -> None:
    found = Estimate({"reconstruct": 4.4e9}, {"reconstruct": 7200.0}, at_most=True)
    assert found.in_one_line().startswith("needs about 4.40 GB and at most 2.0 h on the CPU (reconstruct 2.0 h; ")


def test_coarse_slices_of_a_refinement_are_counted_beside_the_fine_ones() -> None:
    """96 layers are 24 slices of 4 and 5 of 20; a wave has 8 bytes a pixel, each of three images 4 waves.

    A slice has a wave, half a wave of its own, and a propagator to the last slice.
    """
    words = ("scale=small", "binning=4", "refine=atoms", "engine.n_threads=1")
    without, with_coarse = (memory_by_stage(spec_of(*words, f"refine.coarse={n}"))["refine"] for n in (0, 20))
    assert with_coarse - without == pytest.approx(8 * 96 * 96 * (2.5 * 5 + 4 * 3 + 4))
