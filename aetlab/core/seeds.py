"""Split the seed of a run by purpose, so that a change in one stage does not affect the random numbers of others."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the random generator for one ``purpose`` (for example ``"noise"``) of the run with ``seed``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()),)))
