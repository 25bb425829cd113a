"""Reasons to doubt the atoms of a run, from its metrics alone."""

from __future__ import annotations

from collections.abc import Mapping

#: Contrast of the images over that of the model which the named elements, whole and in place, explain: vibration,
#: inelastic scattering and a rounded MTF lower it by some per cent; nothing raises it but other atoms.
EXPLAINED_CONTRAST = (0.7, 1.15)
#: Standard errors by which one of two mirror images must fit better.
CLEAR_HAND = 3.0


def doubts(metrics: Mapping[str, float]) -> list[str]:
    """Return a line for each reason to doubt the atoms that ``metrics`` of a run, by name, give; none without any."""
    found = []
    of_volume, of_atoms = (metrics.get(f"chi_square_{name}", float("nan")) for name in ("volume", "atoms"))
    # A volume of many voxels may follow the noise, below 1.
    if of_atoms > 1 + abs(of_volume - 1):
        found.append(f"the atoms explain the images worse than the volume in which they were traced, χ² per value "
                     f"{of_atoms:.3f} against {of_volume:.3f}: atoms are missing, false or misplaced")
    contrast = metrics.get("refined_contrast", float("nan"))
    low, high = EXPLAINED_CONTRAST
    if contrast > high:
        found.append(f"the images have {contrast:.2f} times the contrast of the model: are there heavier elements than "
                     "those that were named, or does the MTF fall too fast?")
    if contrast < low:
        found.append(f"the images have {contrast:.2f} of the contrast of the model: are there lighter elements than "
                     "those that were named, or is the detector's MTF missing?")
    hand = metrics.get("refined_hand", float("nan"))
    if hand < -CLEAR_HAND:
        found.append(f"the mirror image of the atoms fits the images better, by {-hand:.1f} standard errors: the tilt "
                     "counts in the other sense; import the series again with that sense (--set sense=left, or right)")
    elif hand <= CLEAR_HAND:
        found.append(f"the images do not tell the atoms from their mirror image ({hand:.1f} standard errors)")
    return found
