"""``python -m aetlab.series``: measured images in, from the files of a microscope to a checked tilt series."""

from __future__ import annotations

from aetlab.core import console

if __name__ == "__main__":
    console.stop_at_once()

import sys

from aetlab.cli.measured_series import main

if __name__ == "__main__":
    sys.exit(main())
