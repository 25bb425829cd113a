"""Settings of the alignment, and runs with align=true: swept, interrupted, traced again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aetlab import keeper
from aetlab.scoring import pose_errors
from aetlab.spec import AlignSpec, RunSpec, SpecError
from aetlab.spec.derived import alignment_smoothing_A
from aetlab.store import checkpoint
from aetlab.store.contents import POSES
from aetlab.store.reading import read_poses
from aetlab.store.record import Places, Record, array_names, list_records, read_array
from tests.conftest import TINY
from tests.words import spec_of


@pytest.mark.parametrize(("words", "told"), [
    (["align=true", "engine.n_iterations=3"], "engine.n_iterations=3 cannot be used"),
    (["align=true", "reg.weight=auto"], "reg.weight='auto' cannot be used"),
    (["align=true", "refine=atoms", "refine.poses=false"], "refine.poses=False cannot be used"),
    (["align=true", "align.at=[5,4]"], "align.at"),
    (["align=true", "align.at=[0,4]"], "align.at"),
    (["align=true", "align.smoothing_A=[]"], "align.smoothing_A"),
    (["align=true", "align.smoothing_A=[-1]"], "align.smoothing_A=-1.0"),
    (["align=true", "align.reach_nm=-1"], "align.reach_nm=-1.0"),
    (["align=true", "align.angles_from=-1"], "align.angles_from=-1"),
    (["simulate=voxels", "simulate.tilt_error_deg=1"], "simulate.tilt_error_deg=1.0 cannot be used"),
    (["simulate.shift_error_A=-1"], "simulate.shift_error_A=-1.0"),
    (["simulate.brightness_error=0.5"], "simulate.brightness_error=0.5"),
])
def test_unusable_settings_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(SpecError, match=re.escape(told)):
        spec_of("scale=smoke", *words)


def test_the_last_smoothing_serves_all_further_alignments() -> None:
    spec = AlignSpec(at=(2, 3, 5), smoothing_A=(1.0, 0.5))
    assert [alignment_smoothing_A(spec, i) for i in spec.at] == [1.0, 0.5, 0.5]


@pytest.mark.slow(25)
def test_a_sweep_recovers_misaligned_tilts(aetlab: Callable, tmp_path: Path) -> None:
    """Without alignment almost no atom is found; with it the result is that of a series without errors."""
    result = aetlab("run", "-m", "scale=smoke", "simulate=misaligned", "align=false,true", "engine.n_iterations=20")
    assert result.returncode == 0, result.stderr
    assert "align=true: the truth is turned by" in result.stdout and "align=false: the truth" not in result.stdout
    records, broken = list_records(tmp_path / "outputs" / "records", verify=True)
    assert broken == []
    without, aligned = sorted(records, key=lambda record: record.spec.align.enabled)
    assert without.metrics["found_percent"] < 5 and without.metrics["shift_error_A_rms"] > 0.8
    metrics = aligned.metrics
    assert metrics["found_percent"] > 98 and metrics["false_positive_percent"] < 1
    assert metrics["correct_species_percent"] > 98 and metrics["position_error_pm"] < 9
    assert metrics["shift_error_A_rms"] < 0.05 and metrics["defocus_error_nm_rms"] < 0.3
    assert metrics["tilt_error_deg_rms"] < 0.3 and metrics["axis_error_deg_rms"] < 0.2
    assert pose_errors(read_poses(aligned), read_poses(aligned, "truth/poses")).items() <= metrics.items()
    shown = json.loads(aetlab("runs", aligned.id, "--json").stdout)
    assert "shift_error_A_rms" in json.dumps(shown)


def _run(spec: RunSpec, folder: Path) -> Record:
    return keeper.run(spec, places=Places(folder)).record


def test_an_interrupted_aligned_run_resumes_to_the_same_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(*TINY, "engine.n_iterations=6", "simulate=misaligned", "align=true", "align.at=[1,2,4]",
                   "align.angles_from=2", "align.images=true", "align.magnification=true")
    whole = _run(spec, tmp_path / "whole")
    assert read_poses(whole).image_shift_A.any() and (read_poses(whole).magnification != 1).all()
    monkeypatch.setattr(checkpoint.Schedule, "due", lambda self: True)
    stopped = RuntimeError("the power failed")

    def cut(path: Path, arrays: dict, values: dict, rng: np.random.Generator, *, run: str,
            data: str) -> None:
        save(path, arrays, values, rng, run=run, data=data)
        if len(values["cost"]) == 3:
            raise stopped

    save = checkpoint.save_checkpoint
    monkeypatch.setattr(checkpoint, "save_checkpoint", cut)
    with pytest.raises(RuntimeError, match="the power failed"):
        _run(spec, tmp_path / "cut")
    monkeypatch.undo()
    again = _run(spec, tmp_path / "cut")
    assert json.loads((again.folder / "environment.json").read_text(encoding="utf-8"))["resumed"]
    assert array_names(again) == array_names(whole)
    for name in array_names(whole):
        np.testing.assert_array_equal(read_array(again, name).values, read_array(whole, name).values, err_msg=name)
    np.testing.assert_equal(again.metrics, whole.metrics)


def test_another_tracing_takes_the_alignment_from_the_first_record(tmp_path: Path) -> None:
    words = [*TINY, "engine.n_iterations=4", "simulate=misaligned", "align=true", "align.at=[1,2]"]
    first = _run(spec_of(*words), tmp_path)
    second = _run(spec_of(*words, "trace.min_significance=5"), tmp_path)
    environment = json.loads((second.folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["reconstruction_of"] == first.id
    for name in POSES:
        np.testing.assert_array_equal(getattr(read_poses(second), name), getattr(read_poses(first), name))
    shutil.rmtree(tmp_path)
