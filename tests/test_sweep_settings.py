"""The settings of a sweep made from few compositions are those that Hydra composes for each job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aetlab.cli import compose
from aetlab.cli.compose import compose_all
from aetlab.cli.sweep_settings import Composition, SweepSettings
from aetlab.spec import SpecError


@pytest.fixture
def n_composed(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Return the list of overrides that Hydra has composed as a whole, for jobs and for the launcher."""
    composed: list[Sequence[str]] = []
    whole = compose._compose_whole
    monkeypatch.setattr(compose, "_compose_whole", lambda words: composed.append(words) or whole(words))
    return composed


@pytest.mark.parametrize(("words", "most"), [
    (["dose=inf,50k", "reg=tv,lasso", "engine.step=1.2,1e0", "seed=range(5)"], 3),
    (["experiment=fig4a,sparse", "defocus.planes_nm=[10],[20,30]", "reg.weight=rule,0.5", "scale.name=a,'b c'"], 3),
])
def test_sweeps_of_choices_and_values_have_the_settings_of_single_jobs(
        words: list[str], most: int, n_composed: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Sequence[str], Composition]] = []
    short = SweepSettings.compose

    def recording(self: SweepSettings, words: Sequence[str]) -> Composition:
        seen.append((words, short(self, words)))
        if len(seen) % 8 == 0:
            assert self._compose(words) == seen[-1][1]
            n_composed.pop()
        return seen[-1][1]

    monkeypatch.setattr(SweepSettings, "compose", recording)
    jobs = compose_all(words, multirun=True).jobs
    assert len(seen) == len(jobs) and len(n_composed) <= most
    assert len({repr(job.spec) for job in jobs}) == len(jobs)


def test_a_wrong_key_of_a_sweep_is_refused_as_for_one_job() -> None:
    with pytest.raises(SpecError, match=r"sample\.debye_waller_A2\.Pt"):
        compose_all(["sample.debye_waller_A2.Pt=0.3,0.4"], multirun=True)


def make(settings: dict[str, Any]) -> tuple[SweepSettings, list[Sequence[str]]]:
    """Return the settings of a sweep over invented groups ``a`` and ``b``; ``a=3`` changes both."""
    composed: list[Sequence[str]] = []

    def whole(words: Sequence[str]) -> Composition:
        composed.append(words)
        content: dict[str, Any] = {"a": {"x": 1, "y": {"z": 0}}, "b": {"x": 1}, "seed": 0}
        for word in words:
            key, value = word.lstrip("+").split("=")
            if key in ("a", "b"):
                content[key] = {**content[key], "x": int(value)}
                if key == "a" and value == "3":
                    content["b"] = {"x": 33}
            elif key == "seed":
                content["seed"] = int(value)
            else:
                group, name = key.split(".")[0], key.split(".")[-1]
                (content[group]["y"] if key.count(".") == 2 else content[group])[name] = int(value)
        return Composition(content, bool(settings.get("refers")))

    return SweepSettings(whole, lambda word: int(word.split("=")[1]), {"a": (), "b": ()}), composed


@pytest.mark.parametrize(("jobs", "n_whole"), [
    ([["a=1", "a.y.z=5"], ["a=2", "a.y.z=6"], ["a=2", "a.y.z=7"]], 2),
    ([["b=1", "a=1"], ["b=1", "a=3"], ["b=2", "a=3"]], 5),  # a=3 changes b as well
    ([["+a.new=1"], ["+a.new=2"]], 2),
    ([["b.x=1"], ["b.w=2"]], 2),
])
def test_what_does_not_fit_is_composed_as_a_whole(jobs: list[list[str]], n_whole: int) -> None:
    shared, composed = make({})
    made = [shared.compose(words) for words in jobs]
    assert len(composed) == n_whole
    assert [each.settings for each in made] == [make({})[0]._compose(words).settings for words in jobs]


def test_references_between_settings_are_composed_as_a_whole() -> None:
    shared, composed = make({"refers": True})
    for words in (["a.x=1"], ["a.x=2"], ["a.x=3"]):
        assert shared.compose(words).settings["a"]["x"] == int(words[0][-1])
    assert len(composed) == 3
