"""Tiles along the tilt axis: rows, the cut of series, poses and atoms, and the reach of a wave."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.core.tiling import Tile, cut_atoms, cut_poses, cut_series, distance_to_nearest, divide_rows
from aetlab.exchange.series_file import read_series, write_series
from aetlab.forward.reach import lateral_reach_A
from aetlab.forward.simulate import simulate_tilt_series
from aetlab.spec import MicroscopeSpec, SimulateSpec

SHAPE, VOXEL_A = (16, 32, 240), 0.5
TILT_DEG, DEFOCUS_A = np.array([-35.0, 10.0, 60.0]), np.array([200.0, 300.0])


def sample() -> Atoms:
    """Return 300 silicon atoms about the tilt axis, not within 3 Å of the faces: potentials are not periodic."""
    rng = np.random.default_rng(5)
    x, z = rng.uniform(-2.5, 2.5, (2, 300))
    positions_A = np.stack([x, rng.uniform(-57, 57, 300), z], axis=1)
    return Atoms(np.full(300, 14), positions_A, np.zeros(300, int))


def images(atoms: Atoms, n_rows: int, poses: Poses | None) -> TiltSeries:
    return simulate_tilt_series(
        atoms, (*SHAPE[:2], n_rows), VOXEL_A, TILT_DEG, DEFOCUS_A, microscope=MicroscopeSpec(),
        simulate=SimulateSpec(n_layers=1), debye_waller_A2={"default": 0.5}, rng=np.random.default_rng(0), poses=poses)


@pytest.mark.parametrize(("n_rows", "n_tiles", "halo"), [(240, 3, 20), (101, 2, 5), (97, 4, 0)])
def test_every_row_belongs_to_one_core(n_rows: int, n_tiles: int, halo: int) -> None:
    tiles = divide_rows(n_rows, n_tiles, halo)
    np.testing.assert_array_equal(np.concatenate([tile.rows[tile.core] for tile in tiles]), np.arange(n_rows))
    assert max(tile.n_core for tile in tiles) - min(tile.n_core for tile in tiles) <= 1
    y_A = np.linspace(-0.3 * n_rows, 0.3 * n_rows, 1000)  # beyond the faces as well
    assert (sum(tile.owns(y_A, VOXEL_A).astype(int) for tile in tiles) == 1).all()
    for tile in tiles:
        assert min(tile.below, tile.above) >= halo and tile.n_rows % 4 == 0 and len(tile.rows) == tile.n_rows
        middle = (np.arange(tile.n_rows) - (tile.n_rows - 1) / 2) * VOXEL_A + tile.offset_A(VOXEL_A)
        whole_A = (np.arange(n_rows) - (n_rows - 1) / 2) * VOXEL_A
        np.testing.assert_allclose(middle[tile.core], whole_A[tile.first:tile.stop])
        kept = tile.within(3)
        np.testing.assert_array_equal(tile.rows[kept.part_of(tile)], kept.rows)
        assert kept.first - kept.below >= 0 and kept.stop + kept.above <= n_rows


@pytest.mark.parametrize(("n_tiles", "halo"), [(0, 0), (300, 0), (2, 70)])
def test_tiles_that_save_nothing_are_refused(n_tiles: int, halo: int) -> None:
    with pytest.raises(ValueError, match="tile"):
        divide_rows(240, n_tiles, halo)


def posed() -> Poses:
    """Return poses with all errors, among them those that a cut turns into shifts."""
    rng = np.random.default_rng(3)
    return Poses(TILT_DEG, rng.normal(0, 0.5, (3, 3)), rng.normal(0, 1.0, (3, 3)), rng.normal(0, 5.0, (3, 2)),
                 rng.normal(1, 0.05, (3, 2)), np.zeros((3, 2, 2)), np.ones(2))


@pytest.mark.parametrize(("index", "poses"), [(0, None), (1, None), (1, posed())], ids=["face", "inner", "posed"])
def test_the_images_of_a_cut_sample_are_the_cut_images(index: int, poses: Poses | None) -> None:
    """Waves reach 12 rows; behind them the ringing of the hard aperture is left, which falls with the halo.

    The first tile has its lower halo at the other end of the volume. Errors are the greatest of all pixels of the core,
    in units of the contrast. Without the shift of the cut, the posed tile would be off by 0.3 Å.
    """
    atoms = sample()
    whole = images(atoms, SHAPE[2], poses)
    contrast = float(whole.images.std())
    worst = []
    for halo in (4, 12, 24, 40):
        tile = divide_rows(SHAPE[2], 5, halo)[index]
        own = None if poses is None else cut_poses(poses, tile.offset_A(VOXEL_A))
        cut = images(cut_atoms(atoms, tile, VOXEL_A), tile.n_rows, own)
        difference = cut.images - cut_series(whole, tile).images
        worst.append(float(np.abs(difference[..., tile.core]).max()) / contrast)
    assert worst == sorted(worst, reverse=True) and worst[0] > 0.4 and worst[1] < 0.3 and worst[-1] < 0.08, worst


def test_a_cut_keeps_weights_and_multiplies_those_of_rows() -> None:
    rng = np.random.default_rng(0)
    series = TiltSeries(rng.random((2, 3, 4, 24)).astype(np.float32), np.zeros(2), np.zeros(3), 0.5,
                        pixel_weight=rng.random((2, 3, 4, 24)).astype(np.float32))
    tile = Tile(0, 0, 8, 3, 5, 24)
    by_row = rng.random((2, 3, 16))
    cut = cut_series(series, tile, weight=by_row)
    np.testing.assert_array_equal(cut.images[..., :3], series.images[..., -3:])
    np.testing.assert_allclose(cut.pixel_weight[1, 2, 3], series.pixel_weight[1, 2, 3][tile.rows] * by_row[1, 2],
                               rtol=1e-6)
    plain = cut_series(dataclasses.replace(series, pixel_weight=None), tile, weight=by_row)
    np.testing.assert_allclose(plain.weights_of(1)[2, 0], by_row[1, 2], rtol=1e-6)


def test_the_reach_is_that_of_the_scattered_wave() -> None:
    """20 Å at 100 nm of defocus and 1 Å⁻¹; at 5 Å⁻¹ of C3 = 1 mm θ³, which a defocus of the other sign opposes."""
    sharp = MicroscopeSpec(energy_keV=300.0, aperture_per_A=1.0)
    assert lateral_reach_A(sharp, 1000.0, 0.0, 0.5) == pytest.approx(19.69, abs=0.01)
    assert lateral_reach_A(sharp, -1000.0, 0.0, 0.5) == pytest.approx(19.69, abs=0.01)
    assert lateral_reach_A(sharp, 1000.0, 200.0, 0.5) == pytest.approx(21.66, abs=0.01)
    assert lateral_reach_A(sharp, 1000.0, 0.0, 1.0) == pytest.approx(9.84, abs=0.01)  # Nyquist at 0.5 Å⁻¹
    spherical = dataclasses.replace(sharp, Cs_mm=1.0)
    assert lateral_reach_A(spherical, 0.0, 0.0, 0.5) == pytest.approx(1e7 * 0.0196875**3, rel=1e-3)
    assert lateral_reach_A(spherical, 1000.0, 0.0, 0.5) == pytest.approx(19.69 + 76.31, abs=0.05)
    astigmatic = dataclasses.replace(sharp, A1_nm=10.0)
    assert lateral_reach_A(astigmatic, -1000.0, 0.0, 0.5) == pytest.approx(19.69 + 100 * 0.0196875, abs=0.02)


def test_a_series_file_is_cut_while_it_is_read(tmp_path: Path) -> None:
    """Rows of both ends, as the halo of the first tile has them; the whole is never held."""
    rng = np.random.default_rng(2)
    series = TiltSeries(rng.random((2, 3, 4, 24)).astype(np.float32), np.array([0.0, 5.0]), np.zeros(3), 0.5, 30.0,
                        pixel_weight=rng.random((2, 3, 4, 24)).astype(np.float32))
    path = tmp_path / "one.series.h5"
    write_series(path, series)
    tile = Tile(0, 0, 8, 3, 5, 24)
    assert read_series(path, tile.rows).digest() == cut_series(series, tile).digest()


def test_the_nearest_of_many_places() -> None:
    np.testing.assert_allclose(distance_to_nearest(np.array([-3.0, 0.2, 2.6, 9.0]), np.array([0.0, 3.0, 4.0])),
                               [3.0, 0.2, 0.4, 5.0])
