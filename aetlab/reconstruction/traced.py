"""Settings of a run joined with its tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aetlab import forward, tracing
from aetlab.core.nouns import TracedAtoms
from aetlab.core.progress import Reporter
from aetlab.spec import RunSpec, TraceSpec


def tracing_of(settings: RunSpec, numbers: Sequence[int],
               voxel_A: float) -> tuple[TraceSpec, Mapping[int, float] | None]:
    """Return the settings of the tracing at voxels of ``voxel_A``, and the expected signal in V voxel of each element.

    The latter is None if the elements ``numbers`` are not known (0).
    """
    spec = tracing.at_voxel(settings.trace, voxel_A)
    return spec, None if 0 in numbers else forward.expected_signals(
        tuple(numbers), voxel_A, fit_radius=spec.fit_radius, blur_A=spec.smoothing * voxel_A,
        parametrization=settings.simulate.parametrization, debye_waller_A2=settings.sample.debye_waller_A2)


def report_traced(traced: TracedAtoms, progress: Reporter) -> None:
    """Report how many atoms were traced, the numbers of sites removed by each rule, and that of undecided names."""
    progress.step("trace", len(traced.rounds), len(traced.rounds), f"{len(traced)} atoms")
    for line in tracing.describe(traced):
        progress.say(f"trace: {line}")
