"""Aberrations that a refinement finds and gives to its model, in addition to those that the series states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aetlab.core.doubts import MOST_ABERRATION, is_clear_aberration
from aetlab.core.poses import Poses
from aetlab.refinement.aberrations import SETTLED_RAD, FoundAberration, find_aberrations, with_found
from aetlab.refinement.model import AtomModel, Sites
from aetlab.spec import MicroscopeSpec, RefineSpec

#: Rounds at most that a refinement goes on for an aberration.
MOST_ROUNDS = 2
#: Aberrations in words, by their names in the settings.
WORDS = {"A1": "two-fold astigmatism", "B2": "axial coma", "A2": "three-fold astigmatism"}


class Lens:
    """The aberrations that a refinement has taken from its images.

    An aberration is taken when it is clear, by the rule of the doubts. From then on each search moves it.
    """

    def __init__(self, spec: RefineSpec) -> None:
        self._spec = spec
        self._found: dict[str, FoundAberration] = {}
        self._changed, self._n_rounds = False, 0

    def take(self, model: AtomModel, sites: Sites, poses: Poses) -> tuple[AtomModel, bool]:
        """Return ``model`` with the aberrations that its images clearly have, and whether it had them before.

        Without ``refine.aberrations=fitted`` the model stays as it is.
        """
        if self._spec.aberrations == "stated":
            return model, True
        found = find_aberrations(model, sites, poses)
        taken = {name for name, one in found.items()
                 if name in self._found or is_clear_aberration(one.missing_rad, one.error_rad)}
        if not taken:
            return model, True
        found = find_aberrations(model, sites, poses, taken)
        change_rad = max(one.missing_rad for one in found.values())
        self._changed |= change_rad > MOST_ABERRATION
        self._found = found
        return model.with_microscope(with_found(model.microscope, found)), change_rad < SETTLED_RAD

    def asks_for_a_round(self, i_round: int) -> bool:
        """Return whether round ``i_round`` found and named its sites through a lens that was clearly another."""
        changed = self._changed and self._n_rounds < MOST_ROUNDS and i_round < self._spec.n_rounds - 1
        self._changed = False
        self._n_rounds += changed
        return changed

    def summary(self) -> dict[str, float]:
        """Return amplitude and azimuth of each aberration that was taken, and the standard error of the amplitude."""
        return {f"lens_{name}_{key}": getattr(one, key) for name, one in self._found.items()
                for key in ("nm", "deg", "error_nm")}


def found_lens(stated: MicroscopeSpec, summary: Mapping[str, Any]) -> MicroscopeSpec:
    """Return the microscope of refined atoms, from the ``stated`` one and the summary of their refinement."""
    lens: dict[str, Any] = {name: float(summary[f"lens_{name}"]) for aberration in WORDS
                            for name in (f"{aberration}_nm", f"{aberration}_deg") if f"lens_{name}" in summary}
    return replace(stated, **lens)


def describe_lens(summary: Mapping[str, Any], stated: MicroscopeSpec) -> list[str]:
    """Return a line for each aberration that a refinement found; none without any."""
    return [f"{words} of {summary[f'lens_{name}_nm']:.3g} ± {summary[f'lens_{name}_error_nm']:.2g} nm at "
            f"{summary[f'lens_{name}_deg']:.0f}° was found in the images and fitted; the series states "
            f"{getattr(stated, f'{name}_nm'):.3g} nm at {getattr(stated, f'{name}_deg'):.3g}°"
            for name, words in WORDS.items() if f"lens_{name}_nm" in summary]
