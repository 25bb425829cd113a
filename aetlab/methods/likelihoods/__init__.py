"""The table of likelihoods: every file of this folder is one, and its name is a value of ``engine.likelihood``."""

from __future__ import annotations

from aetlab.methods import find_rows
from aetlab.methods.likelihood import Likelihood

#: Likelihoods by name.
LIKELIHOODS = find_rows(__name__, __path__, Likelihood)
