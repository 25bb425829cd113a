"""The table of likelihoods: every file of this folder is one, and its name is a value of ``engine.likelihood``."""

from __future__ import annotations

from aetlab.methods.likelihood import Likelihood
from aetlab.methods.table import find_rows

#: Likelihoods by name.
LIKELIHOODS = find_rows(__name__, __path__, Likelihood)
