"""Measure how long parts of a run take on this machine, in short trials before the run.

A trial counts the seconds of the processor where they are fewer than those of the clock: other programs that keep the
cores busy do not make a run look longer. On an idle machine the clock counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.spec import RunSpec, tilt_angles_deg

#: Measured seconds by trial and the settings that it depends on.
_tried: dict[tuple[str, ...], float] = {}
#: Tilts of the trial of a refinement.
_REFINED_TILTS = 2


def once(trial: Callable[[RunSpec], float], spec: RunSpec, *groups: str) -> float:
    """Return the seconds that ``trial`` measures, or has measured before for equal settings of ``groups``."""
    key = (trial.__qualname__, *(repr(getattr(spec, group)) for group in groups))
    if key not in _tried:
        _tried[key] = trial(spec)
    return _tried[key]


def measure_s(work: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that ``work`` takes on the processor, at most those of the clock."""
    start, used = time.perf_counter(), time.process_time()
    work(*arguments)
    return min(time.perf_counter() - start, time.process_time() - used)


def refined_pass_s(spec: RunSpec, atoms: Atoms, n_layers_per_slice: int) -> float:
    """Return the seconds of one pass of a refinement of ``atoms`` over all tilts, from a few tilts."""
    from aetlab.refinement.model import AtomModel, Sites

    defocus_A = 10.0 * np.array(spec.defocus.planes_nm)
    shape = spec.scale.shape_zxy
    images = np.ones((_REFINED_TILTS, len(defocus_A), *shape[1:]), np.float32)
    series = TiltSeries(images, np.linspace(20.0, 50.0, _REFINED_TILTS), defocus_A, spec.scale.voxel_A)
    elements = tuple(sorted(set(atoms.numbers.tolist())))
    model = AtomModel(series, shape, elements, microscope=spec.microscope, n_layers_per_slice=n_layers_per_slice,
                      parametrization=spec.refine.parametrization, debye_waller_A2=spec.refine.debye_waller_A2)
    sites = Sites(atoms.positions_A, np.ones(len(atoms)), np.searchsorted(elements, atoms.numbers))
    poses = Poses.nominal(series.tilt_deg, series.n_defoci)

    def work() -> None:
        for _ in model.gradients(sites, poses):
            pass

    work()
    return measure_s(work) / _REFINED_TILTS * len(tilt_angles_deg(spec.tilts, spec.wedge))
