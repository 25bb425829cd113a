"""Strict binding of plain settings to dataclasses and back."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aetlab
from aetlab.cli.compose import JobSettings
from aetlab.cli.help import format_help
from aetlab.core.setting import About, about
from aetlab.spec import DefocusSpec, DoseSpec, EngineSpec, RunSpec, SampleSpec, SpecError
from aetlab.spec.bind import bind, bind_run, unbind
from aetlab.spec.folders import group_choices


def test_settings_survive_a_round_trip_through_json(smoke_spec: RunSpec) -> None:
    assert bind_run(json.loads(json.dumps(unbind(smoke_spec), allow_nan=False))) == smoke_spec


def test_a_single_text_is_a_list_of_one() -> None:
    """``sample.elements=Pt`` of a command line is ``sample.elements=[Pt]``."""
    given = {"kind": "file", "path": "a.xyz"}
    assert bind(SampleSpec, given | {"elements": "Pt"}, "sample") == bind(SampleSpec, given | {"elements": ["Pt"]},
                                                                          "sample")


@pytest.mark.parametrize(("key", "value", "told"), [
    ("dosee", {}, "did you mean dose?"),
    ("engine.stepp", 1, "did you mean engine.step?"),
    ("engine.step", "fast", "engine.step='fast' cannot be used: it takes a number"),
    ("engine.step", True, "engine.step=True cannot be used: it takes a number"),
    ("engine.step", math.nan, "it takes a number, not nan"),
    ("engine.n_iterations", 1.5, "engine.n_iterations=1.5 cannot be used: it takes a whole number"),
    ("engine.n_iterations", True, "it takes a whole number"),
    ("engine.device", 3, "engine.device=3 cannot be used: choose one of auto, cpu, gpu"),
    ("reg.warm_start", 1, "reg.warm_start=1 cannot be used: it takes true or false"),
    ("scale.shape_zxy", [8, 8], "scale.shape_zxy=[8, 8] cannot be used: it takes a list of 3"),
    ("scale.shape_zxy", [8, 8, "x"], "scale.shape_zxy[2]='x' cannot be used"),
    ("defocus.planes_nm", 20, "defocus.planes_nm=20 cannot be used: it takes a list such as [1, 2]"),
    ("sample.elements", 14, "sample.elements=14 cannot be used: it takes a list such as [Si, O]"),
    ("dose.total_e_A2", -5, "dose.total_e_A2=-5.0 cannot be used: it must be greater than 0"),
    ("sample.debye_waller_A2", 0.5, "sample.debye_waller_A2=0.5 cannot be used: it takes a mapping"),
    ("sample.debye_waller_A2", {"default": "x"}, "sample.debye_waller_A2.default='x'"),
    ("sample.debye_waller_A2", {"Xx": 1, "default": 1}, "sample.debye_waller_A2='Xx' cannot be used: name elements by"),
    ("refine.debye_waller_A2", {"Xx": 1, "default": 1}, "refine.debye_waller_A2='Xx' cannot be used: name elements by"),
    ("refine.debye_waller_A2", {"Si": -1, "default": 1}, "refine.debye_waller_A2.Si=-1.0 cannot be used"),
    ("refine.debye_waller_A2", {"Si": 0.5}, "it needs the entry default"),
    ("dose", 7000, "dose=7000 cannot be used: it takes a mapping with total_e_A2"),
    ("seed", None, "seed=None cannot be used: it takes a whole number"),
    ("seed", 10**400, "seed="),
])
def test_unusable_values_are_refused_in_one_line(smoke_spec: RunSpec, key: str, value: object, told: str) -> None:
    settings = copy.deepcopy(unbind(smoke_spec))
    *path, last = key.split(".")
    place = settings
    for part in path:
        place = place[part]
    place[last] = value
    with pytest.raises(SpecError) as refusal:
        bind_run(settings)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 700


def test_a_missing_key_is_named(smoke_spec: RunSpec) -> None:
    settings = unbind(smoke_spec)
    del settings["binning"]["n_layers"]
    with pytest.raises(SpecError, match="binning.n_layers is missing: it takes a whole number"):
        bind_run(settings)


def test_equal_numbers_of_different_types_bind_alike() -> None:
    assert bind(DoseSpec, {"total_e_A2": 1000}) == bind(DoseSpec, {"total_e_A2": 1000.0})
    assert type(bind(DoseSpec, {"total_e_A2": 1000}).total_e_A2) is float
    assert type(bind(EngineSpec, {"n_iterations": 40.0}).n_iterations) is int
    assert bind(DoseSpec, {"total_e_A2": "inf"}).total_e_A2 == math.inf
    assert bind(DefocusSpec, {"planes_nm": (1, 2.5)}).planes_nm == (1.0, 2.5)
    assert bind(SampleSpec, {"vacancies": [{"fraction": 0.5, "x_A": ["-inf", 0]}]}).vacancies[0].x_A == (-math.inf, 0.0)


#: Units by the ending of a setting's name, the longest first.
UNITS = {"_e_A2": "e/Å²", "_per_A": "1/Å", "_waller_A2": "Å²", "_mrad": "mrad", "_keV": "keV", "_deg": "°", "_mm": "mm",
         "_um": "µm", "_nm": "nm", "_A": "Å", "_V": "V"}


def test_every_setting_is_described_in_help_with_the_unit_of_its_name(smoke_spec: RunSpec) -> None:
    text = " ".join(format_help(group_choices(), smoke_spec, JobSettings()).split())
    for group in dataclasses.fields(smoke_spec):
        settings = getattr(smoke_spec, group.name)
        for field in dataclasses.fields(settings) if dataclasses.is_dataclass(settings) else ():
            described = about(type(settings), field.name)
            unit = next((unit for ending, unit in UNITS.items() if field.name.endswith(ending)), None)
            assert unit is None or described.unit == unit, f"{group.name}.{field.name}"
            assert f" {group.name}.{field.name}=" in text and f" {described.meaning}" in text
            assert f"{field.name} : " in str(type(settings).__doc__)
    only = format_help(group_choices(), smoke_spec, JobSettings(), ["dose"])
    assert only.splitlines()[-3:] == [
        "dose: Total dose of the series.", "  dose.total_e_A2=50000  (e/Å²; greater than 0)",
        "      electrons summed over all images; inf for images without noise"]


@pytest.mark.parametrize(("within", "allowed", "refused"), [
    ("(0, 1]", (1e-9, 1), (0, -1, 1.1, math.inf, math.nan)), ("[0, inf)", (0, 1e300), (-1e-9, math.inf)),
    ("(0, inf]", (1, math.inf), (0,)), ("(-inf, inf)", (-1e9, 0), (-math.inf, math.inf)),
    ("[2, 5)", (2, 4.9), (1.9, 5)),
])
def test_an_interval_holds_its_ends_as_its_brackets_say(within: str, allowed: tuple[float, ...],
                                                        refused: tuple[float, ...]) -> None:
    described = About(meaning="a number", within=within)
    assert all(described.allows(value) for value in allowed) and not any(described.allows(value) for value in refused)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
                    max_leaves=12)


@given(JSON, st.data())
def test_any_settings_bind_or_are_refused_clearly(smoke_spec: RunSpec, junk: object, data: st.DataObject) -> None:
    settings = copy.deepcopy(unbind(smoke_spec))
    group = data.draw(st.sampled_from(sorted(settings)))
    if isinstance(settings[group], dict) and data.draw(st.booleans()):
        settings[group][data.draw(st.sampled_from(sorted(settings[group])) | st.text(max_size=8))] = junk
    else:
        settings[group] = junk
    try:
        assert isinstance(bind_run(settings), RunSpec)
    except SpecError as refusal:
        assert "\n" not in str(refusal)


@pytest.mark.parametrize("group", ["sample", "refine"])
def test_no_part_of_the_settings_can_be_changed(group: str) -> None:
    """Settings that are bound are shared: a factor that one user changed was in all later settings of the process."""
    settings = aetlab.settings(scale="smoke")
    factors = getattr(settings, group).debye_waller_A2
    for change in (lambda: factors.update({"Si": 9.0}), lambda: factors.pop("default"), factors.clear,
                   lambda: factors.__setitem__("Si", 9.0), lambda: factors.__ior__({"Si": 9.0})):
        with pytest.raises(TypeError, match="settings cannot be changed"):
            change()
    assert dict(factors) == {"default": 0.5}
    copies = pickle.loads(pickle.dumps(settings)), copy.deepcopy(settings)
    assert all(each == settings and hash(each) == hash(settings) for each in copies)
    with pytest.raises(TypeError, match="settings cannot be changed"):
        getattr(copies[0], group).debye_waller_A2["Si"] = 9.0
