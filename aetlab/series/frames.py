"""Images as files hold them, read one at a time.

An image is an array (X, Y): axis 0 is x, to the right on the screen; axis 1 is y, upwards (docs/conventions.md). A file
holds rows of constant y. The first row is the lowest one in MRC, Berkeley EMD, HDF5 and NPY, and the highest one in the
formats of images: TIFF, DM3/DM4, SER and Velox EMD.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aetlab.core.errors import SeriesError

#: Part of an image: slices of x and y without a step.
Region = tuple[slice, slice]
#: Note of the readers whose files hold no nominal defocus.
LENS_READING = "the defocus in its header is the reading of the lens, from where the operator set it to 0"


@dataclass(frozen=True)
class FrameInfo:
    """The facts about one image. None: not known.

    Parameters
    ----------
    source : str
        Name of the file.
    index : int
        Number of the image in its file, from 0.
    tilt_deg : float or None
        Tilt angle in degrees.
    defocus_nm : float or None
        Defocus in nm, overfocus positive.
    dose_e_A2 : float or None
        Electrons per Å² of this exposure.
    exclude : str
        Reason to leave the image out; empty: it is used.
    order : int
        Place in the order of acquisition.
    """

    source: str
    index: int
    tilt_deg: float | None = None
    defocus_nm: float | None = None
    dose_e_A2: float | None = None
    exclude: str = ""
    order: int = 0

    @property
    def name(self) -> str:
        """File and number of the image, as messages name it."""
        return f"{self.source} image {self.index}"


class FrameSource(Protocol):
    """A file of images of one size.

    ``header`` holds what the file says of all its images, where it says so: ``counts_per_electron``, ``axis_deg`` (from
    image y towards -x, as SerialEM counts), ``fei_axis_deg`` (as FEI counts, in a sense that is not documented),
    ``energy_keV``, ``Cs_mm``, ``mode`` ("TEM", "STEM").
    """

    @property
    def path(self) -> Path: ...
    @property
    def n_frames(self) -> int: ...
    @property
    def shape_xy(self) -> tuple[int, int]: ...
    @property
    def pixel_A(self) -> tuple[float, float] | None: ...
    @property
    def infos(self) -> tuple[FrameInfo, ...]: ...
    @property
    def header(self) -> Mapping[str, Any]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def dtype(self) -> np.dtype:
        """Type of the values in the file."""

    def read(self, index: int, region: Region | None = None) -> np.ndarray:
        """Return image ``index`` or a ``region`` of it, float32 (X, Y)."""


@dataclass(frozen=True)
class StackFile:
    """The :class:`FrameSource` of every format.

    Parameters
    ----------
    path : Path
        The file.
    take : callable
        ``take(index, rows, columns)`` returns that part of an image, (rows, columns), in the order of the file.
    rows_columns : (int, int)
        Size of an image.
    first_row_on_top : bool
        Whether the first row is the highest one on the screen.
    dtype : numpy.dtype
        Type of the values in the file.
    infos : tuple of FrameInfo
        One per image.
    pixel_A : (float, float) or None
        Pixel along x and y in Å.
    header, notes
        See :class:`FrameSource`.
    """

    path: Path
    take: Callable[[int, slice, slice], np.ndarray]
    rows_columns: tuple[int, int]
    first_row_on_top: bool
    dtype: np.dtype
    infos: tuple[FrameInfo, ...]
    pixel_A: tuple[float, float] | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_frames(self) -> int:
        """Number of images."""
        return len(self.infos)

    @property
    def shape_xy(self) -> tuple[int, int]:
        """Size of an image, (X, Y)."""
        return self.rows_columns[1], self.rows_columns[0]

    def read(self, index: int, region: Region | None = None) -> np.ndarray:
        """Return image ``index`` or a ``region`` of it, float32 (X, Y).

        Raises
        ------
        SeriesError
            If there is no such image or region, or the file cannot be read.
        """
        if not 0 <= index < self.n_frames:
            raise SeriesError(f"{self.path} has no image {index}; it holds {self.n_frames}")
        columns, up = (slice(0, n) for n in self.shape_xy) if region is None else check_region(region, self.shape_xy)
        n_rows = self.rows_columns[0]
        rows = slice(n_rows - up.stop, n_rows - up.start) if self.first_row_on_top else up
        try:
            part = self.take(index, rows, columns)
        except SeriesError:
            raise
        except Exception as error:  # a damaged file fails in as many ways as there are libraries
            raise SeriesError(f"{self.path}: image {index} cannot be read: {one_line(error)}") from None
        if part.shape != (rows.stop - rows.start, columns.stop - columns.start):
            raise SeriesError(f"{self.path}: image {index} has shape {part.shape}; the first one has another")
        if self.first_row_on_top:
            part = part[::-1]
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite
            return np.ascontiguousarray(part.T, dtype=np.float32)


def make_infos(path: Path, n: int, known: Mapping[str, Sequence[float | None]]) -> tuple[FrameInfo, ...]:
    """Return the facts of ``n`` images of a file in its order; ``known`` holds fields of FrameInfo, one per image."""
    def fact(name: str, i: int) -> float | None:
        value = known[name][i] if name in known else None
        return None if value is None else float(value)

    return tuple(FrameInfo(path.name, i, fact("tilt_deg", i), fact("defocus_nm", i), fact("dose_e_A2", i), order=i)
                 for i in range(n))


def check_region(region: Region, shape_xy: tuple[int, int]) -> Region:
    """Return ``region`` with its ends filled in; raises SeriesError where an image (X, Y) does not contain it."""
    filled = []
    for axis, part, n in zip("xy", region, shape_xy):
        start, stop = part.start or 0, n if part.stop is None else part.stop
        if part.step not in (None, 1) or not 0 <= start < stop <= n:
            raise SeriesError(f"region: {axis} from {start} to {stop} is not inside an image of {n} pixels")
        filled.append(slice(int(start), int(stop)))
    return filled[0], filled[1]


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
