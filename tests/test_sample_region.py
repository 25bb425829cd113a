"""The region of the sample in large frames: found in counts alone, wherever the stage drifts."""

import numpy as np
import pytest

from aetlab.series.import_files import import_files
from aetlab.series.prepare.sample_region import find_sample_region

SHAPE = (700, 620)


def frames(centres, half, rng, other=0.0):
    """Yield images of 40 electrons per pixel and 3 counts per electron with a lattice at each of ``centres``."""
    x, y = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    for centre in centres:
        electrons = np.full(SHAPE, 40.0)
        for (x_0, y_0), strength in ((centre, 0.5), ((600, 90), other)):
            inside = (np.abs(x - x_0) <= half[0]) & (np.abs(y - y_0) <= half[1])
            electrons *= 1 + strength * inside * np.cos(2 * np.pi * x / 6) * np.cos(2 * np.pi * y / 5)
        image = 3.0 * rng.poisson(electrons).astype(np.float32)
        image[650, 500] = 4000  # a hot pixel
        image[:, 20] = 0  # a dead line
        yield image


def found(centres, half, axis_deg, other=0.0):
    rng = np.random.default_rng(3)
    return find_sample_region(frames(centres, half, rng, other), SHAPE, 0.5, reach_A=10.0, axis_deg=axis_deg)


def test_the_region_holds_the_sample_wherever_the_stage_drifts():
    centres = np.array([[300, 280], [330, 280], [300, 310], [318, 290], [310, 270], [305, 290]])
    region = found(centres, (40, 40), None)
    x_from, x_to, y_from, y_to = region.rectangle
    # The sample and 20 Å, 40 pixels, of fringes and vacuum; blocks of 12 pixels, and a circle for an unknown axis.
    assert 300 - 40 - 40 - 60 < x_from <= 300 - 40 - 40 and 330 + 40 + 40 <= x_to < 330 + 40 + 40 + 60
    assert 270 - 40 - 40 - 60 < y_from <= 270 - 40 - 40 and 310 + 40 + 40 <= y_to < 310 + 40 + 40 + 60
    assert f"region={[x_from, x_to, y_from, y_to]}" in region.line


def test_a_needle_is_held_before_and_after_its_images_are_turned_to_the_axis():
    centres = [[350, 300]] * 3
    upright = found(centres, (30, 150), (-2.0, 2.0)).rectangle
    assert upright[1] - upright[0] < 2 * (30 + 40 + 20) and upright[3] - upright[2] >= 2 * (150 + 40)
    lying = found(centres, (150, 30), (85.0, 95.0)).rectangle
    # Turned by 90° it stands upright, so that the region must be as high as the needle is long.
    assert lying[3] - lying[2] >= 2 * (150 + 40) and lying[1] - lying[0] >= 2 * (150 + 40)


def test_other_objects_and_their_places_are_reported():
    region = found([[250, 330]] * 3, (40, 40), (0.0, 0.0), other=0.4)
    assert region.rectangle[1] < 600 - 40
    assert "other objects, at x 60" in region.line and "are left out" in region.line


@pytest.mark.parametrize("half, words", [((0, 0), "no sample stands out"), ((300, 280), "which are used whole")])
def test_images_are_used_whole_where_no_smaller_region_is_found(half, words):
    region = found([[350, 310]] * 3, half, None)
    assert region.rectangle is None and words in region.line


def test_an_import_reads_the_region_of_large_frames_and_says_so(tmp_path):
    rng = np.random.default_rng(4)
    tilts = (-40.0, -20.0, 0.0, 20.0, 40.0)
    np.save(tmp_path / "a.npy", np.stack([image.T for image in frames([[300, 280]] * 5, (40, 40), rng)]))
    rows = "".join(f"{tilt},-50,480\n" for tilt in tilts)
    (tmp_path / "a.csv").write_text("tilt_deg,defocus_nm,dose_e_A2\n" + rows, encoding="utf-8")
    (tmp_path / "a.yaml").write_text("energy_keV: 300\naperture_mrad: 20\npixel_A: 0.5\n", encoding="utf-8")
    said = []
    imported = import_files([tmp_path / "a.npy"], table=tmp_path / "a.csv", microscope=tmp_path / "a.yaml",
                            elements="Pt", say=said.append)
    line = next(line for line in said if "the sample was found" in line)
    shape = imported.series.images.shape[2:]
    assert max(shape) < 350 and f"of {SHAPE[0]} x {SHAPE[1]} pixels" in line
    assert line in imported.provenance["notes"]
    assert abs(imported.series.electrons_per_pixel.mean() / 40 - 1) < 0.05
