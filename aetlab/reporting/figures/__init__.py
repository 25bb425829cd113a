"""Figures, drawn to files: no display, no window system and no folder of the user is needed."""

import os
from contextlib import suppress

from aetlab.core.scratch import scratch_folder, user_folder, writable

_folder = user_folder("XDG_CONFIG_HOME", ".config")
if "MPLCONFIGDIR" not in os.environ and not (_folder and writable(_folder)) and scratch_folder():
    os.environ["MPLCONFIGDIR"] = str(scratch_folder())  # Matplotlib would make another one in every process
# Matplotlib cannot be imported while MPLBACKEND names no backend.
_backend = os.environ.pop("MPLBACKEND", "")
import matplotlib  # noqa: E402

if _backend:
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend
        os.environ["MPLBACKEND"] = _backend
