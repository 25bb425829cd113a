"""``python -m aetlab.trace``: trace the atoms of a volume from any program."""

import sys

from aetlab.core import console

if __name__ == "__main__":
    console.stop_at_once()

from aetlab.cli.trace_volume import main

if __name__ == "__main__":
    sys.exit(main())
