"""Runs in tiles along the tilt axis: their rule, the join of their atoms, decisions made once, records and refusals."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

import aetlab
from aetlab import keeper
from aetlab.cli.ledger import read_result
from aetlab.core.tiling import Tile, divide_rows
from aetlab.forward import add_shot_noise
from aetlab.reconstruction.refined_tiles import _join_summaries
from aetlab.reconstruction.seams import Part, join_found
from aetlab.reconstruction.tiles import halo_rows, margin_rows, row_weights, tile_runs, tiles_of
from aetlab.reporting.figures.choose import seam_tasks
from aetlab.reporting.figures.seams import plot_seams
from aetlab.reporting.stored_run import StoredRun
from aetlab.spec import RunSpec, SpecError, TileSpec
from aetlab.store.array_file import read_container
from aetlab.store.identity import identity, record_id
from aetlab.store.reading import read_poses, read_reconstruction
from aetlab.store.record import Record, array_names, list_records, read_array, read_history
from aetlab.tracing import FoundSites
from aetlab.validation.images import compare_images
from aetlab.validation.predict import predict_whole
from tests.commands import perform
from tests.conftest import Once
from tests.test_cif_file import make_refined
from tests.test_sweep import ENVIRONMENT, assert_equal

#: Overrides of a needle of 900 atoms in 48 x 48 x 144 voxels, which two seams of three tiles cross.
NEEDLE = {"scale.shape_zxy": [48, 48, 144], "scale.length_A": 66.0, "defocus.planes_nm": [20.0],
          "engine.n_iterations": 10, "engine.n_threads": 1, "simulate.n_layers": 8}
WORDS = ("scale=smoke", "tilts=20", "dose=50k", "reg=pos",
         *(f"{key}={str(value).replace(' ', '')}" for key, value in NEEDLE.items()))


def settings(**overrides: object) -> RunSpec:
    """Return the settings of the needle with other ``overrides``, two underscores for each dot."""
    return aetlab.settings(scale="smoke", tilts=20, dose="50k", reg="pos", overrides=NEEDLE | {
        key.replace("__", "."): value for key, value in overrides.items()})


@pytest.fixture(scope="session")
def divided(once: Once) -> Path:
    """A folder with a sweep of the needle at once and in three tiles; tests must not change it."""

    def fill(folder: Path) -> str:
        result = perform("run", ["-m", *WORDS, "tile.n=1,3"], folder, ENVIRONMENT, 240)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return once("divided", fill)[0]


def records(folder: Path) -> dict[int, Record]:
    """Return the record of the whole by -2, that of the joined tiles by -1, and those of the tiles by their index."""
    sound, broken = list_records(folder / "outputs" / "records", verify=True)
    assert broken == []
    return {record.spec.tile.index if record.spec.tile.enabled else -2: record for record in sound}


def test_joined_tiles_hold_the_atoms_of_the_whole_once(divided: Path) -> None:
    made = records(divided)
    assert sorted(made) == [-2, -1, 0, 1, 2]
    whole_A, joined_A = (read_array(made[i], "traced/positions_A").values for i in (-2, -1))
    assert abs(len(whole_A) - len(joined_A)) <= 2 and len(whole_A) > 850
    assert cKDTree(joined_A).query(joined_A, k=2)[0][:, 1].min() > 1.1
    distance_A, partner = cKDTree(joined_A).query(whole_A)
    near = distance_A < 0.5
    assert near.sum() >= len(whole_A) - 2
    seam_A = np.abs(np.abs(whole_A[:, 1]) - 12)  # the seams are at ±12 Å
    for part in (near & (seam_A < 2), near & (seam_A > 4)):
        assert np.sqrt((distance_A[part] ** 2).mean()) < 0.05
    for i in (-2, -1):
        assert made[i].metrics["found_percent"] > 99 and made[i].metrics["false_positive_percent"] < 0.5
    assert made[-1].metrics["position_error_pm"] == pytest.approx(made[-2].metrics["position_error_pm"], abs=0.5)
    assert not {"found_percent", "potential_error"} & set(made[0].metrics)  # a tile alone has no score


def test_the_joined_volume_is_made_of_the_cores(divided: Path) -> None:
    made = records(divided)
    joined = read_array(made[-1], "volume/potential_V").values
    assert joined.shape == (48, 48, 144)
    margin = margin_rows(made[-1].spec)
    for i in range(3):
        part = read_array(made[i], "volume/potential_V").values
        below = margin if i else 0
        assert part.shape[2] == 48 + margin * (1 if i in (0, 2) else 2)
        np.testing.assert_array_equal(joined[..., 48 * i:48 * (i + 1)], part[..., below:below + 48])
    own = {name for name in array_names(made[-1]) if name.startswith("profiles/seam/")}
    assert set(array_names(made[-1])) - own == set(array_names(made[-2]))
    np.testing.assert_array_equal(read_array(made[-1], "tilt_series/images_of_kept_tilts").values,
                                  read_array(made[-2], "tilt_series/images_of_kept_tilts").values)
    removed = made[-1].environment["removed"]
    assert removed["seam"] > 50 and made[-1].environment["candidates"] - sum(removed.values()) == len(
        read_array(made[-1], "traced/numbers").values)


def test_scores_at_the_seams_are_those_elsewhere(divided: Path) -> None:
    """Bins of 0 to 1, 1 to 2 Å ... from the nearer seam; each true atom is in one."""
    record = records(divided)[-1]
    profile = {name: read_array(record, f"profiles/seam/{name}").values for name in (
        "edges_A", "n_true", "found_percent", "false_positive_percent", "position_error_pm")}
    np.testing.assert_array_equal(profile["edges_A"][:6], [0, 1, 2, 3, 4, 6])
    assert profile["n_true"].sum() == record.metrics["n_true"] and profile["n_true"][:4].min() > 20
    near, far = slice(0, 3), slice(3, None)
    for part in (near, far):
        n_true = profile["n_true"][part]
        assert np.average(profile["found_percent"][part], weights=n_true) > 99
        assert np.average(profile["false_positive_percent"][part], weights=n_true) < 0.7
    error = [np.average(profile["position_error_pm"][part], weights=profile["n_true"][part]) for part in (near, far)]
    assert error[0] == pytest.approx(error[1], rel=0.15)


def test_the_figure_of_the_seams_draws_the_stored_profiles(divided: Path) -> None:
    run = StoredRun(records(divided)[-1])
    figure = plot_seams([run], ["3 tiles"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["position error (pm)", "found (%)", "false positives (%)"]
    for axes, name in zip(figure.axes, ("position_error_pm", "found_percent", "false_positive_percent"), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), run.array(f"profiles/seam/{name}"))
        np.testing.assert_allclose(axes.lines[0].get_xdata()[:5], [0.5, 1.5, 2.5, 3.5, 5])
    assert [task.kind for task in seam_tasks([run, StoredRun(records(divided)[-2])])] == ["seams"]


def test_atoms_are_measured_by_a_job_of_each_tile(divided: Path) -> None:
    """The joining job finds the parts of all tiles."""
    results = [read_result(divided / "outputs" / "sweeps" / "0001", number) for number in range(8)]
    labels = [f"tile.n=3 tile {i}/3" for i in (1, 2, 3)]
    assert [result.label for result in results if result] == [
        "tile.n=1", *labels, *(f"{label} atoms" for label in labels), "tile.n=3"]
    assert all(result.status == "done" for result in results if result)
    parts = sorted((divided / "outputs" / "cache" / "tile_traced").iterdir())
    n_atoms = sum(len(read_container(path)[0]["positions_A"]) for path in parts)
    assert len(parts) == 3 and n_atoms == records(divided)[-1].metrics["n_atoms_traced"]


def test_the_number_of_iterations_is_found_once_for_all_tiles(divided: Path) -> None:
    made = records(divided)
    counts = {len(read_history(made[i]).cost) for i in range(3)}
    assert len(counts) == 1 and len(list((divided / "outputs" / "cache" / "tile_decisions").iterdir())) == 1
    (count,) = counts
    assert 2 <= count < 10
    cost = sum(read_history(made[i]).cost for i in range(3))
    np.testing.assert_allclose(read_history(made[-1]).cost, cost)


@pytest.mark.slow
def test_joined_atoms_are_refined_in_tiles_of_the_images(divided: Path, tmp_path: Path) -> None:
    """The tiles are those of the joined run without refinement; each atom is refined once, at a seam as well."""
    folder = Path(shutil.copytree(divided, tmp_path / "again"))
    few = ("refine.n_rounds=2", "refine.n_passes=4", "refine.n_passes_last=6", "refine.n_information_last=2")
    result = perform("run", [*WORDS, "tile.n=3", "refine=atoms", *few], folder, ENVIRONMENT, 240)
    assert result.returncode == 0, result.stderr
    assert "tile 3/3 refine" in result.stdout and "tile 1/3 reconstruct" not in result.stdout
    all_made = list_records(folder / "outputs" / "records")[0]
    (made,) = [record for record in all_made if record.spec.refine.kind == "atoms"]
    refined_A = read_array(made, "refined/positions_A").values
    assert len(list((folder / "outputs" / "cache" / "tile_refined").iterdir())) == 3
    assert cKDTree(refined_A).query(refined_A, k=2)[0][:, 1].min() > 1.1
    assert made.metrics["refined_found_percent"] > 99 and made.metrics["refined_false_positive_percent"] < 0.5
    assert made.metrics["refined_position_error_pm"] < 0.8 * made.metrics["position_error_pm"]
    traced, true = (read_array(made, f"refined_match/{name}").values for name in ("traced", "true"))
    true_A = read_array(made, "truth/positions_A").values[true]
    error_A = np.linalg.norm(refined_A[traced] - true_A, axis=1)
    near = np.abs(np.abs(true_A[:, 1]) - 12) < 2
    assert near.sum() > 50 and error_A[near].mean() < 1.3 * error_A[~near].mean()


@pytest.fixture(scope="session")
def aligned(once: Once) -> Path:
    """A folder with a run of misaligned tilts in three tiles, with a tilt held out; tests must not change it."""
    words = ("scale=smoke", "scale.shape_zxy=[48,48,144]", "scale.length_A=66", "defocus.planes_nm=[20]", "tilts=8",
             "dose=50k", "reg=pos", "simulate=misaligned", "simulate.n_layers=8", "align=true", "align.at=[1]",
             "align.angles_from=1", "align.reach_A=1", "engine.n_iterations=2", "engine.n_threads=1", "tile.n=3",
             "reg.held_out=0.1", "validate=images")

    def fill(folder: Path) -> str:
        result = perform("run", [*words], folder, ENVIRONMENT, 240)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return once("aligned", fill)[0]


def test_counts_of_refined_tiles_add_up_and_an_unstable_path_is_told() -> None:
    """Tiles of 31 and 62 atoms; the path of the second became unstable and tells no usual occupancy."""
    one = make_refined()
    one.summary.update(stopped="converged", sampled_moved=2.0, sampled_gone=3.0, sampled_unstable=0.0, left=1.0,
                       sampled_occupancy=1.2)
    two = dataclasses.replace(one, occupancy=np.ones(62), summary={
        "stopped": "converged", "sampled_moved": 5.0, "sampled_gone": 0.0, "sampled_unstable": 1.0, "left": 4.0})
    joined = _join_summaries([one, two], one)
    assert joined == {"stopped": "2 tiles: converged", "sampled_moved": 7.0, "sampled_gone": 3.0,
                      "sampled_unstable": 1.0, "left": pytest.approx(3.0), "sampled_occupancy": 1.2}


def test_poses_are_found_once_for_all_tiles(aligned: Path) -> None:
    """A turn φ of the axis moves images of a tile whose centre lies at y by -y sin φ along x, y (cos φ - 1) along y."""
    made = records(aligned)
    voxel_A = made[-1].spec.scale.voxel_A
    common = read_poses(made[-1])
    assert 0.1 < np.abs(common.angles_deg[:, 1]).max() < 3 and np.abs(common.shift_A).max() > 0.1
    for i, tile in enumerate(tiles_of(made[-1].spec)):
        poses, y_A = read_poses(made[i]), tile.offset_A(voxel_A)
        axis = np.deg2rad(common.angles_deg[:, 1])
        by_A = poses.shift_A - common.shift_A
        np.testing.assert_allclose(poses.angles_deg, common.angles_deg, atol=1e-6)
        np.testing.assert_allclose(by_A[:, 0], -y_A * np.sin(axis), atol=1e-6)
        np.testing.assert_allclose(by_A[:, 1], y_A * (np.cos(axis) - 1), atol=1e-6)
        np.testing.assert_allclose(poses.brightness, common.brightness, atol=1e-12)


def test_images_of_joined_tiles_are_those_of_the_joined_volume(aligned: Path) -> None:
    """The R factor of each image agrees with that of all rows at once."""
    made = records(aligned)
    spec, whole = made[-1].spec, dataclasses.replace(made[-1].spec, tile=TileSpec())
    series = aetlab.simulate(whole, aetlab.sample(whole))
    fit = compare_images(series, predict_whole(whole, series, read_reconstruction(made[-1]), (8, 14)), 0)
    found = read_array(made[-1], "validation/images/r_factor_volume").values
    assert found.shape == (8, 1) and spec.validate.kind == "images"
    np.testing.assert_allclose(found, fit.r_factor, rtol=5e-3)


def test_the_cost_of_held_out_tilts_is_the_sum_over_the_tiles(aligned: Path) -> None:
    made = records(aligned)
    assert made[-1].metrics["held_out_cost"] == pytest.approx(sum(made[i].metrics["held_out_cost"] for i in range(3)))


def fail_in_the_second_tile() -> None:
    """Let the run of the second tile fail."""
    run = keeper.run

    def broken(spec: RunSpec, **options: object) -> object:
        if spec.tile.index == 1:
            raise MemoryError("no room")
        return run(spec, **options)  # type: ignore[arg-type]

    keeper.run = broken  # type: ignore[assignment]


def test_a_failed_tile_fails_its_join_by_name_and_is_made_by_the_next_command(divided: Path, tmp_path: Path) -> None:
    """One command, without a sweep, skips the tiles that are there and makes the same record again."""
    folder = Path(shutil.copytree(divided, tmp_path / "again"))
    before = records(divided)
    for i in (-1, 1):
        shutil.rmtree(folder / "outputs" / "records" / before[i].id)
    failed = perform("run", ["-m", *WORDS, "tile.n=3"], folder, ENVIRONMENT, 240, fail_in_the_second_tile)
    assert failed.returncode == 1
    assert "tile 1/3 atoms: FAILED after 0.0 s: it needs the result of run tile 2/3, which failed" in failed.stdout
    assert sorted(records(folder)) == [-2, 0, 2]
    result = perform("run", [*WORDS, "tile.rows=48"], folder, ENVIRONMENT, 240)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("reconstruct ") >= 1 and "tile 2/3 reconstruct" in result.stdout
    assert "tile 1/3 reconstruct" not in result.stdout
    after = records(folder)
    for i in (-1, 1):
        assert_equal(after[i], before[i])
    assert not list((folder / "outputs" / "work").glob("*/*"))


def test_tiles_do_not_change_the_identity_of_a_whole_run() -> None:
    whole = settings()
    assert "tile" not in identity(whole)
    by_number, by_rows = settings(tile__n=3), settings(tile__rows=48)
    assert record_id(by_number) == record_id(by_rows) != record_id(whole)
    ids = {record_id(run) for run in (*tile_runs(by_number), by_number, whole)}
    assert len(ids) == 5


def test_the_halo_follows_from_the_optics() -> None:
    """λ q (Δf + half the depth) = 0.0196875 · 1 · (200 + 12) Å = 4.17 Å = 9 rows, and 12 rows of margin."""
    spec = settings(tile__n=2)
    assert (halo_rows(spec), margin_rows(spec)) == (9 + 12, 12)
    assert halo_rows(settings(tile__n=2, tile__halo_A=6.0)) == 12
    assert halo_rows(settings(tile__n=2, defocus__planes_nm=[-100.0, 20.0])) == 40 + 12  # 19.92 Å
    for tile in tiles_of(spec):
        assert min(tile.below, tile.above) >= 21


def test_rows_near_the_ends_of_a_tile_count_less_the_greater_the_defocus() -> None:
    spec = settings(tile__n=2, defocus__planes_nm=[20.0, 40.0])
    tile = divide_rows(144, 2, 20)[0]
    series = aetlab.TiltSeries(np.ones((2, 2, 4, 144), np.float32), np.zeros(2), np.array([200.0, 400.0]), 0.5)
    weights = row_weights(spec, series, tile)
    assert weights.shape == (2, 2, tile.n_rows)
    np.testing.assert_allclose(weights, weights[:, :, ::-1])
    reach = 0.0196875 * 212 / np.sqrt(1 - 0.0196875**2) / 0.5
    np.testing.assert_allclose(weights[0, 0, :8], np.sin(np.pi / 2 * (np.arange(8) + 0.5) / reach) ** 2, rtol=1e-4)
    assert (weights[0, 0, 9:-9] == 1).all() and weights[0, 1, 10] < 0.95 and (weights[..., tile.core] == 1).all()


def test_the_noise_of_a_tile_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    ideal = aetlab.TiltSeries(rng.uniform(0.5, 1.5, (3, 2, 5, 40)).astype(np.float32), np.zeros(3), np.zeros(2), 0.5)
    rows = np.array([38, 39, 0, 1, 2])
    for electrons in (30.0, np.inf):
        whole = add_shot_noise(ideal, electrons, np.random.default_rng(7))
        part = add_shot_noise(ideal, electrons, np.random.default_rng(7), rows)
        np.testing.assert_array_equal(part.images, whole.images[..., rows])


def found(*sites: tuple[float, ...]) -> FoundSites:
    table = np.array(sites).reshape(-1, 5)
    return FoundSites(table, np.arange(len(table)).astype(np.uint8), (), len(table), {"seam": 0, "faint": 0})


def test_an_atom_at_a_seam_is_found_once() -> None:
    """Two tiles of 10 rows with margins of 4; the seam is at row 9.5. Sites are (z, x, row, I, s)."""
    low, high = Tile(0, 0, 10, 0, 4, 20), Tile(1, 10, 20, 4, 0, 20)
    lower = found((5, 5, 9.6, 100, 1), (8, 8, 9.3, 100, 1), (2, 2, 9.4, 90, 1), (5, 9, 3.0, 50, 1), (9, 1, 12.0, 60, 1))
    # The same atoms in rows of the upper tile, which begins at row 6: on the other side of the seam, and twice missing.
    upper = found((5, 5, 3.2, 100, 1), (8, 8, 3.6, 100, 1), (9, 1, 6.1, 60, 1), (2, 3, 5.0, 95, 1))
    joined, owner = join_found([Part(low, lower), Part(high, upper)], least=2.25)
    expected = [(2, 3, 11.0), (5, 5, 9.6), (5, 9, 3.0), (8, 8, 9.3), (9, 1, 12.1)]
    # 5, 5: mean 9.4 is below the seam. 8, 8: 9.45 is below. 2, 2 is 1.9 voxels from a stronger site of the other tile.
    np.testing.assert_allclose(joined.sites[:, :3], expected)
    np.testing.assert_array_equal(owner, [1, 0, 0, 0, 1])
    assert joined.removed["seam"] == 9 - 5 and joined.n_candidates == 9


@pytest.mark.parametrize(("overrides", "words"), [
    ({"tile.n": 3, "tile.index": 0, "refine.kind": "atoms"}, "refine.kind='atoms'"),
    ({"tile.n": 3, "validate.kind": "halves"}, "validate.kind='halves'"),
    ({"tile.n": 3, "tile.rows": 20}, "tile.rows=20"),
    ({"tile.halo_A": 20.0}, "tile.halo_A=20.0"),
    ({"tile.index": 0}, "tile.index=0"),
    ({"tile.n": 3, "tile.index": 3}, "tile.index=3")])
def test_what_tiles_cannot_do_is_refused_by_name(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=f"{words} cannot be used"):
        aetlab.settings(scale="small", overrides=overrides)


def test_tiles_that_are_no_smaller_than_the_volume_are_refused(change: Callable[..., RunSpec]) -> None:
    spec = aetlab.settings(scale="small", overrides={"tile.n": 3})
    with pytest.raises(SpecError, match=r"tile.n=3 cannot be used: .* halo of 52 rows .* no number of tiles is "
                       r"shorter than the volume: leave out tile.n, or shorten the halo \(tile.halo_A\)"):
        tiles_of(spec)
    longer = change(change(spec, "scale", shape_zxy=(96, 96, 204)), "tile", n=2)
    with pytest.raises(SpecError, match=r"has 216 rows, the volume 204; .* choose 3 to 204 tiles \(tile.n\)"):
        tiles_of(longer)
    assert len(tiles_of(change(longer, "tile", n=3))) == 3
    with pytest.raises(SpecError, match=r"tile.rows=20 cannot be used"):
        tiles_of(change(spec, "tile", n=1, rows=20))
    series = aetlab.TiltSeries(np.ones((2, 1, 96, 96), np.float32), np.zeros(2), np.zeros(1), 0.5)
    with pytest.raises(SpecError, match="python -m aetlab.run"):
        aetlab.reconstruct(dataclasses.replace(spec), series)
