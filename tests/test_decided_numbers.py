"""Numbers derived from settings, and the settings that the identities of stored results depend on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aetlab import flow, keeper
from aetlab.core.progress import SILENT
from aetlab.core.seeds import generator
from aetlab.reconstruction.weight import rule_weight
from aetlab.samples import build_sample
from aetlab.scoring import potential_error
from aetlab.spec import RunSpec, leaves_counts_out, tilt_angles_deg
from aetlab.spec.reconstruction import OWNERS
from aetlab.store import cache
from aetlab.store.identity import NOT_IN_IDENTITY, canonical_json, identity, record_id
from aetlab.store.record import Places
from tests.words import spec_of

#: For each group that the noise-free tilt series depends on, a setting and another value of it.
OF_THE_SERIES = {
    "sample": {"debye_waller_A2": {"default": 0.6}}, "scale": {"voxel_A": 0.4}, "tilts": {"n_tilts": 50},
    "wedge": {"missing_deg": 20.0}, "defocus": {"planes_nm": (-20.0, 45.0, 100.0)},
    "microscope": {"energy_keV": 200.0}, "simulate": {"band_limit": 0.5}}
#: The same for groups that it does not depend on.
NOT_OF_THE_SERIES = {
    "dose": {"total_e_A2": 7000.0}, "reg": {"kind": "lasso"}, "binning": {"n_layers": 4}, "engine": {"step": 1.0},
    "align": {"reach_A": 3.0}, "trace": {"smoothing": 0.1}, "refine": {"kind": "atoms"},
    "score": {"max_distance_A": 0.5}, "validate": {"kind": "images"}, "tile": {"n": 2}}


@pytest.fixture
def key_of(monkeypatch: pytest.MonkeyPatch, smoke_spec: RunSpec, tmp_path: Path) -> Callable[[RunSpec], str]:
    """Return a function that gives the cache key of the noise-free tilt series; nothing is computed."""
    atoms = build_sample(smoke_spec.sample, smoke_spec.scale, generator(0, "sample"))

    def key(spec: RunSpec) -> str:
        seen: list[str] = []
        n_images = len(tilt_angles_deg(spec.tilts, spec.wedge)), len(spec.defocus.planes_nm)

        def shared_stage(folder: Path, stage: str, key: Any, *rest: object) -> dict[str, np.ndarray]:
            seen.append(f"{stage} {canonical_json(key)}")
            return {"images": np.ones((*n_images, 2, 2), np.float32)}

        monkeypatch.setattr(cache, "shared_stage", shared_stage)
        keeper.ideal_tilt_series(spec, atoms, Places(tmp_path), SILENT)
        return seen[0]

    return key


def test_every_group_has_a_test_value() -> None:
    groups = {field.name for field in dataclasses.fields(RunSpec)} - {"seed", "data"}
    assert groups == set(OF_THE_SERIES) | set(NOT_OF_THE_SERIES)


@pytest.mark.parametrize("group", OF_THE_SERIES)
def test_settings_of_the_tilt_series_change_its_key(
        group: str, key_of: Callable[[RunSpec], str], smoke_spec: RunSpec, change: Callable[..., RunSpec]) -> None:
    assert key_of(change(smoke_spec, group, **OF_THE_SERIES[group])) != key_of(smoke_spec)


def test_the_seed_changes_the_key_of_the_tilt_series(key_of: Callable[[RunSpec], str], smoke_spec: RunSpec) -> None:
    assert key_of(dataclasses.replace(smoke_spec, seed=1)) != key_of(smoke_spec)


@pytest.mark.parametrize("group", NOT_OF_THE_SERIES)
def test_settings_of_later_stages_keep_the_key_of_the_tilt_series(
        group: str, key_of: Callable[[RunSpec], str], smoke_spec: RunSpec, change: Callable[..., RunSpec]) -> None:
    assert key_of(change(smoke_spec, group, **NOT_OF_THE_SERIES[group])) == key_of(smoke_spec)


@pytest.mark.parametrize("group", {**OF_THE_SERIES, **NOT_OF_THE_SERIES})
def test_every_group_is_part_of_the_identity(group: str, smoke_spec: RunSpec, change: Callable[..., RunSpec]) -> None:
    values = {**OF_THE_SERIES, **NOT_OF_THE_SERIES}[group]
    assert record_id(change(smoke_spec, group, **values)) != record_id(smoke_spec)


def test_the_identity_leaves_out_only_labels_paths_and_the_device(smoke_spec: RunSpec) -> None:
    assert NOT_IN_IDENTITY == {"scale": ("name",), "microscope": ("name",),
                               "engine": ("device", "devices", "n_threads")}
    settings = identity(smoke_spec)
    of_others = {name for name, kinds in OWNERS.items() if "tv" not in kinds}
    assert "metric_at" in of_others
    assert set(settings) == {field.name for field in dataclasses.fields(RunSpec)} - {"tile"}  # there is one tile
    assert settings["data"]["kind"] == "simulated"
    for group in set(settings) - {"seed"}:
        left_out = {field.name for field in dataclasses.fields(getattr(smoke_spec, group))} - set(settings[group])
        assert left_out == {"scale": {"name"}, "microscope": {"name"}, "engine": {"device", "devices", "n_threads"},
                            "sample": {"path", "digest", "frame"}, "data": {"path"},
                            "reg": of_others}.get(group, set())


def test_a_setting_of_another_regulariser_changes_no_identity(smoke_spec: RunSpec,
                                                              change: Callable[..., RunSpec]) -> None:
    assert record_id(change(smoke_spec, "reg", metric_at=9)) == record_id(smoke_spec)
    atoms = change(smoke_spec, "reg", kind="atoms")
    assert record_id(change(atoms, "reg", metric_at=9)) != record_id(atoms)
    assert record_id(change(atoms, "reg", warm_start=not atoms.reg.warm_start)) == record_id(atoms)


def test_an_identity_is_sixteen_digits_of_sha256(smoke_spec: RunSpec) -> None:
    import hashlib

    assert record_id(smoke_spec) == hashlib.sha256(canonical_json(identity(smoke_spec)).encode()).hexdigest()[:16]


def test_electrons_of_a_vacuum_pixel_by_hand(smoke_spec: RunSpec, change: Callable[..., RunSpec]) -> None:
    """50 000 e/Å² over 60 tilts and 3 defoci, pixels of 0.5 Å: 69.44; a quarter of the area, half the efficiency."""
    assert flow.electrons_per_pixel(smoke_spec) == pytest.approx(69.4444444)
    assert flow.electrons_per_pixel(change(smoke_spec, "scale", voxel_A=0.25)) == pytest.approx(17.3611111)
    assert flow.electrons_per_pixel(change(smoke_spec, "microscope", dqe=0.5)) == pytest.approx(34.7222222)
    assert flow.electrons_per_pixel(change(smoke_spec, "defocus", planes_nm=(20.0,))) == pytest.approx(208.333333)
    assert flow.electrons_per_pixel(change(smoke_spec, "wedge", missing_deg=30.0)) == pytest.approx(83.3333333)
    assert math.isinf(flow.electrons_per_pixel(change(smoke_spec, "dose", total_e_A2=math.inf)))


def test_the_variance_of_noise_is_one_over_the_electrons(smoke_spec: RunSpec) -> None:
    """Vacuum has the variance 1/n_e, whatever the number of tilts and defoci."""
    series = flow.as_acquired(smoke_spec, np.ones((60, 3, 40, 40), np.float32))
    noisy = flow.add_noise(smoke_spec, series)
    assert noisy.electrons_per_pixel == pytest.approx(69.4444444)
    n_values = noisy.images.size
    assert noisy.images.var() == pytest.approx(1 / 69.4444444, rel=4 * math.sqrt(2 / n_values))
    assert noisy.images.mean() == pytest.approx(1, abs=4 / math.sqrt(69.4 * n_values))


def test_a_series_as_acquired_has_its_angles_defoci_and_pixel() -> None:
    spec = spec_of("tilts.angles_deg=[5,-5]", "defocus.planes_nm=[-12.5,30]")
    series = flow.as_acquired(spec, np.ones((2, 2, 4, 4), np.float32))
    np.testing.assert_array_equal(series.tilt_deg, [5, -5])
    np.testing.assert_array_equal(series.defocus_A, [[-125, 300], [-125, 300]])
    assert series.pixel_A == 0.5


def test_the_weight_of_the_rule_by_hand(smoke_spec: RunSpec) -> None:
    """0.37 σ Δz √180 √(1/(4 · 69.44) + 0.01²), σ = 6.5262e-4 rad/(V Å) at 300 keV; without noise the floor alone."""
    assert smoke_spec.reg.rule_factor == 0.37
    series = flow.as_acquired(smoke_spec, np.ones((60, 3, 4, 4), np.float32))
    noisy = dataclasses.replace(series, electrons_per_pixel=69.4444444)
    by_hand = 0.37 * 6.5262e-4 * 0.5 * math.sqrt(180) * math.sqrt(0.0036 + 0.0001)
    assert rule_weight(smoke_spec, noisy) == pytest.approx(by_hand, rel=1e-4)
    assert by_hand == pytest.approx(9.853e-5, rel=1e-3)
    assert rule_weight(smoke_spec, dataclasses.replace(series, electrons_per_pixel=math.inf)) == pytest.approx(
        0.37 * 6.5262e-4 * 0.5 * math.sqrt(180) * 0.01, rel=1e-4)


def test_the_error_of_the_potential_by_hand() -> None:
    """The Euclidean norm: √(3² + 4²) over √(6² + 8²), in the rows that count; the others may be anything."""
    true, found = np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 3), np.float32)
    true[0, 0, 0], true[1, 1, 2] = 6, 8
    found[0, 0, 0], found[1, 1, 2] = 9, 4
    true[0, 1, 1], found[0, 1, 1] = 100, -50
    rows = np.array([True, False, True])
    assert potential_error(found, true, rows) == pytest.approx(0.5)
    assert potential_error(found, true, np.ones(3, bool)) == pytest.approx(math.sqrt((25 + 150**2) / (100 + 100**2)))
    assert potential_error(0 * true, true, rows) == 1 and potential_error(true, true, rows) == 0
    assert math.isnan(potential_error(found, true, np.array([False, False, False])))


@pytest.mark.parametrize(("words", "does"), [
    (["reg=pos", "dose=7k"], True), (["reg=pos", "dose=inf"], False), (["reg=tv", "dose=7k"], False),
    (["reg=pos", "dose=7k", "reg.iterations_factor=0"], False), (["reg=tv", "reg.iterations_factor=1"], True),
    (["reg=pos", "dose=7k", "align=true"], False)])
def test_counts_are_left_out_where_noise_could_be_fitted(words: list[str], does: bool) -> None:
    assert leaves_counts_out(spec_of(*words)) is does


def test_random_numbers_of_purposes_are_independent_and_fixed() -> None:
    """Each purpose has a seed of its own; the draws are those of NumPy's PCG64."""
    from zlib import crc32

    for purpose in ("noise", "sample"):
        expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(5, spawn_key=(crc32(purpose.encode()),))))
        np.testing.assert_array_equal(generator(5, purpose).random(4), expected.random(4))
    assert len({generator(seed, purpose).random() for seed in (5, 6) for purpose in ("noise", "sample")}) == 4
