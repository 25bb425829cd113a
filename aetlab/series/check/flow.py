"""The check of a measured series."""

from __future__ import annotations

from aetlab.core.errors import AetlabError, SeriesError
from aetlab.series.check.nouns import SeriesCheck
from aetlab.series.check.reach import Reach, find_reach
from aetlab.series.check.spectra import measure_spectra
from aetlab.series.check.verdicts import judge
from aetlab.series.imported import ImportedSeries


def check_series(imported: ImportedSeries, *, bound: bool = True) -> SeriesCheck:
    """Return the check of a measured series; ``bound`` says whether to compute what it can reach.

    Raises
    ------
    SeriesError
        If the series was not made by an import, which finds what is checked.
    """
    if imported.facts is None:
        raise SeriesError("the series holds no facts of its images: import it again from its files")
    spectra = measure_spectra(imported.series, imported.radius_A, imported.microscope)
    reach, no_reach = _reach(imported) if bound else (None, "not asked for")
    return SeriesCheck(imported, judge(imported, imported.facts, spectra, reach), spectra, reach, no_reach)


def _reach(imported: ImportedSeries) -> tuple[Reach | None, str]:
    if not imported.elements:
        return None, "no elements are named"
    try:
        return find_reach(imported.series, imported.radius_A, imported.seen_by(), imported.elements), ""
    except (AetlabError, ArithmeticError, ValueError) as error:
        return None, str(error)
