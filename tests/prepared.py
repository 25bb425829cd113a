"""Import and set up once what every command of a run needs; the server of tests/commands.py forks from here."""

from __future__ import annotations

from importlib import import_module

import numba

from aetlab.cli.compose import compose_jobs

for _name in ("aetlab.cli.estimates", "aetlab.cli.launch", "aetlab.cli.precompile", "aetlab.cli.sweep",
              "aetlab.keeper.tiles", "aetlab.reconstruction.on_gpu", "aetlab.refinement", "aetlab.store.listing",
              "numba.np.ufunc.parallel", "rich.progress", "rich.table"):
    import_module(_name)
compose_jobs(["scale=smoke"], multirun=True)  # Hydra looks for its plugins
numba.njit(lambda x: x + 1)(1)  # Numba loads what reads compiled kernels; this starts no threads
