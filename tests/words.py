"""Settings from words of a command line, without Hydra, which takes a fifth of a second for each run.

The tests in tests/test_api.py show that both ways give the same settings.
"""

from __future__ import annotations

from typing import Any

import yaml

from aetlab.spec import RunSpec
from aetlab.spec.choices import settings


def spec_of(*words: str) -> RunSpec:
    """Return the settings of ``group=choice`` and ``key=value``, as ``compose_spec`` does."""
    chosen: dict[str, Any] = {}
    single: dict[str, Any] = {}
    for word in words:
        key, text = word.split("=", 1)
        if "." in key:
            single[key] = _value(text)
        else:
            chosen[key] = int(text) if key == "seed" else text
    return settings(**chosen, overrides=single)


def _value(text: str) -> Any:
    try:
        return float(text) if "e" in text.lower() or "inf" in text else yaml.safe_load(text)
    except ValueError:  # not a number
        return yaml.safe_load(text.replace("inf", ".inf"))
