"""The optional library that reads files of other programs, imported when a file needs it."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.exchange.units import is_reciprocal, length_A
from aetlab.series.frames import one_line


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings and log lines of the libraries off the screen meanwhile: a refusal is one line."""
    loggers = [logging.getLogger(name) for name in ("tifffile", "rsciio")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before):
            logger.disabled = disabled


def import_library(name: str, path: Path) -> ModuleType:
    """Return a module of the extra ``formats``; raises SeriesError that says how to install it."""
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError:
        raise SeriesError(f"{path} needs a library to be read: pip install 'aetlab[formats]'") from None


def read_signals(module: str, path: Path) -> list[dict[str, Any]]:
    """Return what a reader of rosettasciio finds in a file: dictionaries with ``data``, ``axes`` and metadata."""
    reader = import_library(module, path)
    try:
        with quiet():
            signals = reader.file_reader(str(path), lazy=True)
    except Exception as error:  # the library raises whatever parsing meets
        raise SeriesError(f"{path} cannot be read: {one_line(error)}") from None
    return list(signals)


def only_images(path: Path, signals: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the one stack of images among ``signals``.

    Raises
    ------
    SeriesError
        If there are none or several, or they are spectra, diffraction patterns, or of other than real numbers.
    """
    if len(signals) != 1:
        shapes = ", ".join(str(tuple(signal["data"].shape)) for signal in signals[:4])
        raise SeriesError(f"{path} holds {len(signals)} sets of data{': ' if shapes else ''}{shapes}; wanted one stack "
                          "of images")
    data, axes = signals[0]["data"], signals[0]["axes"]
    if data.ndim not in (2, 3) or not data.size:
        raise SeriesError(f"{path} holds data of shape {tuple(data.shape)}, wanted images (image, row, column)")
    if np.dtype(data.dtype).kind not in "iuf":
        raise SeriesError(f"{path} holds no images of real numbers (a colour image, a Fourier transform or a mask)")
    for axis in axes[-2:]:
        if is_reciprocal(axis["units"]):
            raise SeriesError(f"{path} holds diffraction patterns (axes in {axis['units']}), no images")
        if str(axis["units"]).strip().casefold() in ("ev", "kev"):
            raise SeriesError(f"{path} holds spectra, no images")
    return signals[0]


def pixel_of(axes: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Return the pixel along x and y in Å of the last two axes, None where their unit is no length."""
    factors = [length_A(axis["units"]) for axis in axes[-2:]]
    steps = [abs(float(axis["scale"])) for axis in axes[-2:]]
    if factors[0] is None or factors[1] is None or min(steps) <= 0:
        return None
    return steps[1] * factors[1], steps[0] * factors[0]
