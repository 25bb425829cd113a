"""Small pictures of what the preparation did, for the check page."""

from __future__ import annotations

import numpy as np

#: Greatest side in pixels of a picture.
_MOST_PX = 360
#: Most rows of a picture of lines.
_MOST_LINES = 400


def shrink(image: np.ndarray, most_px: int = _MOST_PX) -> np.ndarray:
    """Return an image (X, Y) of at most ``most_px`` pixels along each side: means over squares of whole pixels."""
    step = -(-max(image.shape) // most_px)
    if step == 1:
        return np.array(image, np.float32)
    x, y = image.shape[0] // step * step, image.shape[1] // step * step
    return np.asarray(image[:x, :y].reshape(x // step, step, y // step, step).mean(axis=(1, 3)), np.float32)


def along_axis(images: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return the mean darkness across the vertical axis of the images at the last defocus, float32 (T, Y).

    Every row has mean 0 and variance 1; rows of images that are not ``usable`` (T, F) are 0. In an aligned series all
    rows have their features at the same place.
    """
    darkness = np.stack([1 - row[-1].mean(axis=0) for row in images])
    darkness = darkness - darkness.mean(axis=1, keepdims=True)
    rows = darkness / np.maximum(darkness.std(axis=1, keepdims=True), 1e-12) * usable[:, -1:]
    return np.asarray(rows[:: -(-len(rows) // _MOST_LINES)], np.float32)
