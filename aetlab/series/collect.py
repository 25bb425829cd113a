"""Files of a microscope joined into one ordered set of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aetlab.series.frames import FrameInfo, FrameSource, Region
from aetlab.series.microscope import Microscope


@dataclass(frozen=True)
class Collection:
    """Images in a grid of T tilts and F defoci; every image is read from its file when asked for.

    Parameters
    ----------
    sources : tuple of FrameSource
        The files.
    places : tuple of (int, int)
        For each image the number of its file in ``sources`` and its number in that file.
    infos : tuple of FrameInfo
        For each image the facts that hold: those of the table where it has them, else those of the headers.
    grid : int (T, F)
        Number of the image in each cell, into ``places`` and ``infos``; -1: no image. Excluded images stay in the grid.
    weight : float (T, F)
        1; 0 for an empty cell and for an excluded image.
    tilt_deg : float (T,)
        Tilt angle of each row, in rising order; the mean over its images.
    defocus_A : float (T, F)
        Defocus in Å, overfocus positive; in an empty cell the mean of its column.
    dose_e_A2 : float (T, F)
        Electrons per Å² of each exposure; NaN: not known.
    shape_xy : (int, int)
        Size of an image as read, (X, Y): that of ``region``.
    pixel_A : float
        Pixel in Å.
    region : (slice, slice) or None
        Part of each image that is read.
    microscope : Microscope or None
        The microscope, where a file or headers describe it.
    elements : tuple of str
        Elements of the sample; empty: not given.
    header : dict
        Facts that hold for all images, see :class:`~aetlab.series.frames.FrameSource`.
    notes : tuple of str
        One line for everything found, taken, overruled or guessed.
    """

    sources: tuple[FrameSource, ...]
    places: tuple[tuple[int, int], ...]
    infos: tuple[FrameInfo, ...]
    grid: np.ndarray
    weight: np.ndarray
    tilt_deg: np.ndarray
    defocus_A: np.ndarray
    dose_e_A2: np.ndarray
    shape_xy: tuple[int, int]
    pixel_A: float
    region: Region | None = None
    microscope: Microscope | None = None
    elements: tuple[str, ...] = ()
    header: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_frames(self) -> int:
        """Number of images."""
        return len(self.places)

    def read(self, i_frame: int) -> np.ndarray:
        """Return image ``i_frame``, float32 (X, Y), in the counts of its file."""
        i_source, index = self.places[i_frame]
        return self.sources[i_source].read(index, self.region)

    def read_all(self) -> np.ndarray:
        """Return all images, float32 (T, F, X, Y), in the counts of their files; 0 in empty cells."""
        images = np.zeros((*self.grid.shape, *self.shape_xy), np.float32)
        for i_tilt, i_defocus in np.argwhere(self.grid >= 0):
            images[i_tilt, i_defocus] = self.read(int(self.grid[i_tilt, i_defocus]))
        return images
