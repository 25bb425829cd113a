"""Counts of 16 bits that were saved with a sign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from series_files import rows_up, write_mrc

from aetlab.core.errors import SeriesError
from aetlab.series.collect import collect
from aetlab.series.readers import open_frames

TABLE = "tilt_deg,defocus_nm\n0,-20\n3,-20\n"


def counts(level: float) -> np.ndarray:
    """Return two images (2, 40, 30) of smooth contrast and counting noise about ``level``, in whole numbers."""
    x, y = np.mgrid[:40, :30]
    smooth = level * (1 + 0.3 * np.sin(x / 5) * np.cos(y / 4))
    return np.random.default_rng(4).poisson(np.stack([smooth, smooth[::-1]])).astype(np.int64)


@pytest.mark.parametrize("kind", ["<i2", ">i2"])
def test_counts_that_wrapped_are_read_as_unsigned_and_it_is_noted(tmp_path: Path, kind: str) -> None:
    images = counts(33000)
    assert images.min() < 2**15 < images.max() < 2**16
    wrapped = images.astype(np.uint16).view(np.int16)
    np.save(tmp_path / "a.npy", rows_up(wrapped).astype(kind))
    write_mrc(tmp_path / "a.mrc", wrapped)
    tifffile.imwrite(tmp_path / "a.tif", rows_up(wrapped)[:, ::-1])
    (tmp_path / "t.csv").write_text(TABLE)
    for name in ("a.npy", "a.mrc", "a.tif"):
        source = open_frames(tmp_path / name)
        np.testing.assert_array_equal(np.stack([source.read(0), source.read(1)]), images)
        assert source.dtype == np.uint16
    collection = collect([tmp_path / "a.mrc"], tmp_path / "t.csv", pixel_A=1)
    assert "a.mrc: counts above 32767 were saved as negative numbers of 16 bits: they are read as unsigned, by the " \
           "differences of neighbours" in collection.notes
    np.testing.assert_array_equal(np.sort(collection.read_all(), axis=None), np.sort(images, axis=None))


def test_counts_about_0_keep_their_sign_and_their_number_is_noted(tmp_path: Path) -> None:
    """Images minus a dark reference have noise on both sides of 0."""
    images = counts(20) - 20
    write_mrc(tmp_path / "a.mrc", images)
    (tmp_path / "t.csv").write_text(TABLE)
    collection = collect([tmp_path / "a.mrc"], tmp_path / "t.csv", pixel_A=1)
    np.testing.assert_array_equal(collection.read_all()[:, 0], images)
    assert f"2 images hold counts below 0, down to {images.min()}" in collection.notes


@pytest.mark.parametrize("images", [counts(49000) - 2**16, counts(900) - 2**15], ids=["wrapped", "minus 32768"])
def test_counts_that_are_all_negative_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    write_mrc(tmp_path / "a.mrc", images)
    with pytest.raises(SeriesError, match="all of its counts are negative, .* save them as unsigned"):
        open_frames(tmp_path / "a.mrc")
