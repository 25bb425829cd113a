"""The error of files and tables that cannot become a tilt series."""

from __future__ import annotations

from aetlab.core.errors import DataError


class SeriesError(DataError):
    """A file, a table or a collection of images that cannot be used; the message is one line with the reason."""
