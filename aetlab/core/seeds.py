"""One seed for a run, split by purpose, so that a change in one stage never shifts the random numbers of another."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Random generator of one ``purpose`` (for example ``"noise"``) of the run with ``seed``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()),)))
