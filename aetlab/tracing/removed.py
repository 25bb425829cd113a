"""Counts of the sites that each rule of the tracing removed or merged into another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: Rules in the order in which they are applied, and what each removed.
RULES = {
    "same_atom": "maxima of one atom",
    "close": "merged with a site nearer than trace.merge_distance",
    "crowded": "nearer to a stronger site than atoms lie (trace.min_bond_part)",
    "weak": "below trace.min_intensity_V",
    "insignificant": "within the noise (trace.min_significance)",
    "narrow": "narrower than trace.min_width",
    "lone": "in groups of fewer than trace.min_group",
    "seam": "in the margin of a tile and not its own",
    "faint": "below trace.min_signal of the lightest element",
}


class Removed:
    """Counts by rule; every rule of :data:`RULES` has one."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(RULES, 0)

    def by(self, rule: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Count the sites of ``before`` that ``rule`` left out of ``after``; return ``after``."""
        self.counts[rule] += len(before) - len(after)
        return after

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the counts of several rules."""
        for rule, count in counts.items():
            self.counts[rule] += count

