"""Define the classes of the errors that a user of aetlab can correct."""

from __future__ import annotations


class AetlabError(Exception):
    """Invalid input; the message is one line that names it and states what to change."""


class DataError(AetlabError, ValueError):
    """Arrays that cannot be used: a wrong shape, numbers that are not finite, or values out of range."""


class GpuError(AetlabError, RuntimeError):
    """No GPU, or none that can be used; the message is one line."""


class SeriesError(DataError):
    """A file, a table or a collection of images that cannot be used; the message is one line with the reason."""
