"""Settings that nothing reads under the given choices are refused, and no others."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from aetlab import flow
from aetlab.cli.compose import compose_jobs
from aetlab.methods.regularisers import REGULARISERS
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import bind_run
from aetlab.spec.choices import default_choices, read_choice, settings
from aetlab.spec.folders import experiments_folder, group_choices
from aetlab.spec.reconstruction import OWNERS
from aetlab.spec.unread import conditions, refuse_unread, why_unread

OF_FILES = {f"sample.{name}" for name in (
    "path", "digest", "frame", "repeat", "rotate_deg", "tilt_axis", "crop", "crop_size_A")}
OF_NEEDLE = {"sample.min_distance_A"} | {
    f"scale.{name}" for name in ("core_radius_A", "shell_thickness_A", "length_A", "taper_deg", "apex_gap_A",
                                 "scoring_diameter_A")}
OF_ATOMS_PRIOR = {f"reg.{name}" for name in (
    "blur_A", "step", "metric_at", "metric_floor", "reweight_at", "reweight_softness", "reweight_gain",
    "reweight_sigma_A")}
OF_TV = {"reg.inner_iterations", "reg.warm_start"}
#: The settings of each regulariser alone: by hand those of tv and atoms, which no other row changes.
OF_REGULARISER = {kind: {f"reg.{name}" for name, kinds in OWNERS.items() if kind in kinds} for kind in REGULARISERS}
OF_NO_OTHER = set[str]().union(*OF_REGULARISER.values())
OF_ALIGNMENT = {f"align.{name}" for name in ("at", "smoothing_A", "angles_from", "reach_A", "reach_nm",
                                           "contrast", "robust", "images", "magnification")}
OF_ROTATED_ATOMS = {f"simulate.{name}" for name in (
    "n_frozen_phonons", "tilt_error_deg", "axis_error_deg", "shift_error_A", "defocus_error_nm", "brightness_error")}
OF_IMAGES = {"validate.n_residuals", "data.held_out"}
OF_HALVES = {"validate.split", "validate.max_distance_A"}
OF_SERIES = {"data.path", "data.depth_A", "data.digest"}
AZIMUTHS = {f"microscope.{name}_deg" for name in ("A1", "B2", "A2", "S3", "A3", "D4", "B4", "A4", "S5", "R5", "A5")}
#: Of the settings unread by default, those that a choice reads; and of the others, those that it does not.
READ_WITH: dict[tuple[str, str], set[str]] = {
    ("sample", "file"): OF_FILES - {"sample.crop_size_A"},
    ("binning", "coarse_first"): {"binning.fine_iterations"},
    ("align", "true"): OF_ALIGNMENT, ("validate", "images"): OF_IMAGES, ("validate", "halves"): OF_IMAGES | OF_HALVES,
    ("microscope", "aberration_corrected_80kV"): {f"microscope.{name}_deg" for name in ("A1", "B2", "A2")},
}
UNREAD_WITH: dict[tuple[str, str], set[str]] = {
    ("sample", "file"): OF_NEEDLE, ("reg", "atoms"): {"engine.step"}, ("reg", "pos"): {"reg.weight", "reg.rule_factor"},
    ("reg", "none"): {"reg.weight", "reg.rule_factor"}, ("align", "true"): {"reg.iterations_factor"},
    ("simulate", "voxels"): OF_ROTATED_ATOMS, ("dose", "inf"): {"reg.iterations_factor", "microscope.dqe"},
    ("trace", "paper"): {"trace.link_factor", "trace.n_sharp_fits"}, ("engine", "cpu"): {"engine.devices"},
    ("refine", "atoms"): {"refine.focal_spread"},
}
CHOICES = [(group, choice) for group, choices in group_choices().items() for choice in choices
           if group != "experiment" and (group, choice) not in {("data", "measured"), ("scale", "fit")}]


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    """The default settings, composed but not bound."""
    return {"seed": 0} | {group: read_choice(group, choice) for group, choice in default_choices().items()}


def keys(spec: RunSpec) -> Iterator[str]:
    for group in dataclasses.fields(spec):
        if dataclasses.is_dataclass(getattr(spec, group.name)):
            yield from (f"{group.name}.{field.name}" for field in dataclasses.fields(getattr(spec, group.name)))


def test_every_setting_is_read_or_refused_under_every_choice(defaults: dict[str, Any]) -> None:
    """Against tables written by hand; ``refine`` has all its settings but one read or unread together."""
    assert OF_REGULARISER["atoms"] == OF_ATOMS_PRIOR and OF_REGULARISER["tv"] == OF_TV
    assert not OF_REGULARISER["lasso"] | OF_REGULARISER["pos"] | OF_REGULARISER["none"]
    by_default = OF_FILES | OF_ALIGNMENT | OF_SERIES | AZIMUTHS | OF_IMAGES | OF_HALVES | {
        "validate.refined", "microscope.mtf_cycles_per_pixel", "binning.fine_iterations"}
    assert len(CHOICES) > 50
    for group, choice in CHOICES:
        changed = defaults | {group: read_choice(group, choice)}
        if (group, choice) == ("sample", "file"):
            changed["sample"] |= {"path": "particle.xyz"}
        spec = bind_run(changed)
        unread = (by_default - READ_WITH.get((group, choice), set())) | UNREAD_WITH.get((group, choice), set())
        unread |= OF_NO_OTHER - OF_REGULARISER[spec.reg.kind]
        if (group, choice) != ("refine", "atoms"):
            unread |= {key for key in keys(spec) if key.startswith("refine.") and key != "refine.kind"}
        assert {key for key in keys(spec) if why_unread(spec, key)} == unread, (group, choice)


def test_a_setting_is_read_once_the_advice_of_its_refusal_is_followed(defaults: dict[str, Any]) -> None:
    spec = bind_run(defaults)
    values: dict[str, dict[str, Any]] = {
        "sample=file": {"kind": "file", "path": "a.xyz"},
        "align=true": {"enabled": True}, "validate=images|halves": {"kind": "images"},
        "validate=halves": {"kind": "halves"}, "refine=atoms": {"kind": "atoms"},
        "data=measured": {"kind": "measured", "path": "a.h5"}, "refine.sampling=corrected": {"sampling": "corrected"},
        "data=measured|given": {"kind": "measured", "path": "a.h5"},
        "microscope.mtf_values!=[]": {"mtf_cycles_per_pixel": [0, 0.5], "mtf_values": [1, 0.5]},
        "binning.coarse!=0": {"coarse": 40}, "sample.crop!=none": {"crop": "sphere", "crop_size_A": [9]}}
    for key in keys(spec):
        if why_unread(spec, key):
            assert key in why_unread(spec, key) and "\n" not in why_unread(spec, key)
            changed = {group: dict(value) if isinstance(value, dict) else value for group, value in defaults.items()}
            for condition in conditions(spec, key):
                group = condition.split("=")[0].split(".")[0].rstrip("!>")
                name = condition.split(".")[-1].split("!")[0]
                if condition.startswith("reg="):
                    changed["reg"] |= {"kind": condition.removeprefix("reg=").split("|")[0]}
                elif condition in values or condition.endswith("!=0"):
                    changed[group] |= values.get(condition, {name: 1})
            assert not why_unread(bind_run(changed), key), key


@pytest.mark.parametrize(("words", "told"), [
    (["sample.path=x.xyz"], "sample.path cannot be set with sample.kind=needle, for nothing reads it then: it needs "
                            "sample=file"),
    (["reg=pos", "reg.weight=0.1"], "reg.weight cannot be set with reg.kind=pos"),
    (["reg.weight=0.1", "reg.rule_factor=1"], "reg.rule_factor cannot be set with reg.weight=0.1"),
    (["hydra.sweep.dir=elsewhere"], "hydra.sweep.dir=elsewhere cannot be used: of Hydra's own settings"),
])
def test_a_command_line_with_an_unread_setting_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(SpecError) as refusal:
        compose_jobs(words, multirun=False)
    assert told in str(refusal.value)


def test_a_sweep_needs_one_run_that_reads_a_setting_and_notes_the_others() -> None:
    tv, pos = compose_jobs(["reg=tv,pos", "reg.inner_iterations=4"], multirun=True)
    needs = "reg.inner_iterations cannot be set with reg.kind=pos, for nothing reads it then: it needs reg="
    assert tv.notes == () and len(pos.notes) == 1 and pos.notes[0].startswith(needs) and "tv" in pos.notes[0]
    with pytest.raises(SpecError, match="reg.inner_iterations cannot be set with reg.kind=lasso"):
        compose_jobs(["reg=lasso,pos", "reg.inner_iterations=4"], multirun=True)


def test_experiments_set_only_what_is_read() -> None:
    for path in experiments_folder().glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec = settings(experiment=path.stem)
        for group, values in content.items():
            if group != "defaults" and isinstance(values, dict):
                refuse_unread(spec, [f"{group}.{name}" for name in values])


def test_python_refuses_what_the_command_line_refuses() -> None:
    with pytest.raises(SpecError, match="align.reach_A cannot be set with align.enabled=false"):
        settings(overrides={"align.reach_A": 3})
    with pytest.raises(SpecError, match="tilts cannot be set with data=measured"):
        refuse_unread(dataclasses.replace(settings(), data=dataclasses.replace(
            settings().data, kind="measured", path="a.h5")), ["tilts"])


def test_a_run_reads_the_settings_that_the_conditions_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded at every access outside the settings' own checks. Azimuths are read, and multiplied by 0."""
    spec = settings(scale="smoke", overrides={"tilts.n_tilts": 4, "engine.n_iterations": 2, "simulate.n_layers": 8})
    read: set[str] = set()

    def recording(group: str, kind: type) -> Any:
        names, own = {field.name for field in dataclasses.fields(kind)}, kind.__getattribute__

        def get(self: object, name: str) -> Any:
            caller = sys._getframe(1).f_globals["__name__"]
            if name in names and not caller.startswith(("dataclasses", "aetlab.spec.")):
                read.add(f"{group}.{name}")
            return own(self, name)

        return get

    for field in dataclasses.fields(spec):
        kind = type(getattr(spec, field.name))
        if dataclasses.is_dataclass(kind):
            monkeypatch.setattr(kind, "__getattribute__", recording(field.name, kind))
    atoms = flow.sample(spec)
    reconstruction = flow.reconstruct(spec, flow.simulate(spec, atoms))
    flow.score(spec, flow.trace(spec, reconstruction), atoms)
    declared = {key for key in keys(spec) if not why_unread(spec, key)}
    labels = {"scale.name", "microscope.name"}
    derived = {key for key in declared if key.startswith(("tilts.", "wedge.", "dose.", "tile."))}  # in spec/
    assert read - AZIMUTHS <= declared and declared - read <= labels | derived | {
        "data.kind", "reg.iterations_factor", "refine.kind"}
