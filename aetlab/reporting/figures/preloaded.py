"""Import what figures need, and make and load their fonts; processes that draw figures are forked from here."""

from __future__ import annotations

import aetlab.reporting.build  # noqa: F401
from aetlab.reporting.figures.small_font import font_families

font_families()
