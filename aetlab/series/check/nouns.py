"""Nouns of the check of a series: findings and verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aetlab.series.imported import ImportedSeries

#: Verdicts, from the best to the worst.
VERDICTS = ("ok", "look", "cannot be used")


@dataclass(frozen=True)
class Spectra:
    """Spectra of a series at Q ring frequencies ``q_per_A``.

    Attributes
    ----------
    signal_over_noise : (F, Q)
        Mean over the images of each defocus.
    limit_A : (F,)
        Information limit in Å, NaN where no signal is significant.
    power : (F, x, y)
        Mean power spectrum of each defocus, frequency 0 in the middle, over its noise.
    spottiness : (F,)
        Mean power of the rings over what their median gives; 1 for an amorphous object.
    defocus_nm : (T, F)
        Defocus that the rings show, NaN where they support none.
    """

    q_per_A: np.ndarray
    signal_over_noise: np.ndarray
    limit_A: np.ndarray
    power: np.ndarray
    spottiness: np.ndarray
    defocus_nm: np.ndarray


@dataclass(frozen=True)
class Reach:
    """Bounds for a stand-in of ``n_atoms`` atoms in a sphere of ``radius_A``.

    ``position_pm`` holds the least mean position error of each element in pm, ``confused_percent`` the least percentage
    of mistaken elements (NaN for one element).
    """

    n_atoms: int
    radius_A: float
    position_pm: dict[str, float]
    confused_percent: float


@dataclass(frozen=True)
class Item:
    """One thing that was looked at: its verdict, the reason in a sentence, and what to do (empty where all is well)."""

    name: str
    verdict: str
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class SeriesCheck:
    """The check of a series: its items, spectra, and what it can reach (None: not computed, ``no_reach`` says why)."""

    imported: ImportedSeries
    items: tuple[Item, ...]
    spectra: Spectra
    reach: Reach | None
    no_reach: str = ""

    @property
    def verdict(self) -> str:
        """The worst verdict of all items."""
        return max((item.verdict for item in self.items), key=VERDICTS.index, default="ok")
