"""The bound of an experiment that settings describe: :mod:`aetlab.refinement.bound` joined with the settings."""

from __future__ import annotations

import numpy as np

from aetlab.core.arguments import ArgumentError
from aetlab.core.nouns import Atoms
from aetlab.core.seeds import generator
from aetlab.refinement import bound
from aetlab.refinement.bound import Bound
from aetlab.samples import require_box, require_elements
from aetlab.spec import RunSpec, tilt_angles_deg


def compute_bound(settings: RunSpec, atoms: Atoms, *, n_passes: int = 4, joint: bool = True) -> Bound:
    """Return the least errors of ``atoms`` that the images of ``settings`` allow (Cramér–Rao), for one electron.

    No method reaches smaller errors without further knowledge. The information is proportional to the dose:
    ``bound.position_pm(aetlab.electrons_per_pixel(settings))`` is the mean position error at the dose of ``settings``.
    Nothing is reconstructed.

    Parameters
    ----------
    settings : RunSpec
        Volume, tilts, defoci, microscope and dose.
    atoms : Atoms
        The known structure.
    n_passes : int
        Random passes that sample the information. The bound of one atom has a relative error of about
        1/√(2·n_passes·tilts), means over atoms a much smaller one.
    joint : bool
        Whether all other atoms are unknown as well, which takes about a dozen passes more; else the bound is lower.
    """
    if n_passes < 1:
        raise ArgumentError(f"n_passes={n_passes} cannot be used: it must be at least 1")
    require_box(settings.scale)
    require_elements(atoms)
    return bound.compute_bound(
        atoms, settings.scale.shape_zxy, settings.scale.voxel_A,
        np.array(tilt_angles_deg(settings.tilts, settings.wedge)), 10.0 * np.array(settings.defocus.planes_nm),
        microscope=settings.microscope, n_layers_per_slice=settings.binning.n_layers,
        parametrization=settings.simulate.parametrization, debye_waller_A2=settings.sample.debye_waller_A2,
        n_passes=n_passes, seed=int(generator(settings.seed, "bound").integers(2**31)), joint=joint)
