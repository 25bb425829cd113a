"""Reasons to doubt the atoms of a run, from its metrics alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

#: Contrast of the images over that of the model which the named elements, whole and in place, explain: vibration,
#: inelastic scattering and a rounded MTF lower it by some per cent (0.957 to 0.999 in seven series whose atoms were
#: right); nothing raises it but other atoms.
EXPLAINED_CONTRAST = (0.85, 1.08)
#: Relative error of the scale of the defocus that is doubted, and the standard errors that it needs: it was right
#: within 1 % in eight series, and within two standard errors in a ninth whose planes lie 25 nm apart. All distances are
#: wrong by half of it where the pixel is the reason.
DEFOCUS_OFF, SURE = 0.02, 4.0
#: Share of the atoms that may have odd occupancies, and share of pairs that may be too near.
MOST_ODD, MOST_NEAR = 0.02, 0.01
#: χ² per degree of freedom of refined atoms: at most 1.055 in nine series whose atoms and electrons were right.
MOST_LEFT = 1.15
#: Root mean square displacement of an atom over the distance of its neighbours above which no solid vibrates: by
#: Lindemann's criterion crystals melt at 0.1 to 0.15. B of ten series lay below half of the limit.
LINDEMANN = 0.15
#: Scatter of the occupancies of an element over their standard errors, and share of the atoms that may be named wrongly
#: by their own probabilities: the scatter was 0.9 to 1.3 in 19 series whose atoms and elements were right, and 1.5 in
#: one with the wrong focal spread.
MOST_SCATTER, MOST_MISNAMED = 1.6, 0.02
#: Usual occupancy of the atoms of an element where noise imitates atoms: 0.99 to 1.04 in series of which 88 % and more
#: of the atoms were found (0.86 in one with all errors of a microscope), 1.08 where 45 % were, 1.66 where 25 % were.
USUAL_OCCUPANCY = (0.8, 1.25)
#: Correlation of what neighbouring tilts ask of an atom: independent errors make it negative, -0.07 to -0.16 in nine
#: right series, 0.09 to 0.35 in five whose atoms moved or whose model was wrong.
MOST_ALIKE = 0.04
#: Phase in rad at the edge of what the lens passes by which a stated aberration may be wrong: the usual limit, π/4.
MOST_ABERRATION = math.pi / 4
#: Standard errors by which one of two mirror images must fit better.
CLEAR_HAND = 3.0


def doubts(metrics: Mapping[str, float]) -> list[str]:
    """Return a line for each reason to doubt the atoms that ``metrics`` of a run, by name, give; none without any."""
    return [*_of_fit(metrics), *_of_lens(metrics), *_of_atoms(metrics), *_of_hand(metrics)]


def is_clear_aberration(missing_rad: float, error_rad: float) -> bool:
    """Return whether an aberration that a model lacks, by its phase at the edge of the lens, is large and sure."""
    return missing_rad > max(MOST_ABERRATION, SURE * error_rad)


def _of_fit(metrics: Mapping[str, float]) -> list[str]:
    """Return doubts from the misfit and the contrast of the images."""
    found = []
    of_volume, of_atoms = (metrics.get(f"chi_square_{name}", float("nan")) for name in ("volume", "atoms"))
    # A volume of many voxels may follow the noise, below 1.
    if of_atoms > 1 + abs(of_volume - 1):
        found.append(f"the atoms explain the images worse than the volume in which they were traced, χ² per value "
                     f"{of_atoms:.3f} against {of_volume:.3f}: atoms are missing, false or misplaced")
    left = metrics.get("chi_square_reduced_atoms", float("nan"))
    if left > MOST_LEFT:
        found.append(f"the atoms leave χ² per value at {left:.3f}: the model is not that of the images (energy, pixel, "
                     "tilt angles, aberrations or elements), or the electrons of a pixel are not those stated")
    contrast = metrics.get("refined_contrast", float("nan"))
    low, high = EXPLAINED_CONTRAST
    if contrast > high:
        found.append(f"the images have {contrast:.2f} times the contrast of the model: are there heavier elements than "
                     "those that were named, or does the MTF fall too fast?")
    if contrast < low:
        found.append(f"the images have {contrast:.2f} of the contrast of the model: are there lighter elements than "
                     "those that were named, is the detector's MTF missing, or are angles, energy or defoci wrong?")
    return found


def _of_lens(metrics: Mapping[str, float]) -> list[str]:
    """Return doubts about envelopes, aberrations and the scale of the defocus."""
    found = []
    blurred = {element: (B, limit) for element, B, limit in _thermal_limits(metrics) if B > limit}
    if blurred:
        listed = " and ".join(f"{element} {B:.1f} Å²" for element, (B, _) in blurred.items())
        limit = max(limit for _, limit in blurred.values())
        found.append(f"the thermal factor B of {listed} is more than that of a solid before it melts ({limit:.1f} Å²): "
                     "the images are blurred more than the model says (focal spread, convergence, MTF, drift, energy), "
                     "or atoms move during the series")
    for name, words in (("A1", "astigmatism"), ("B2", "coma"), ("A2", "three-fold astigmatism")):
        nm, deg, error, missing, uncertain = (metrics.get(f"aberration_{name}_{key}", float("nan")) for key in (
            "nm", "deg", "error_nm", "missing_rad", "error_rad"))
        if is_clear_aberration(missing, uncertain):
            found.append(f"the images fit with {words} of {nm:.3g} ± {error:.2g} nm, {missing:.1f} rad at the edge of "
                         f"what the lens passes from that of the model: import again with {name}_nm: {nm:.3g} and "
                         f"{name}_deg: {deg:.0f} in the microscope's file (where the import rotated the images by an "
                         "angle, less that angle)")
    scale, error = (metrics.get(f"defocus_scale{name}", float("nan")) for name in ("", "_error"))
    if abs(scale - 1) > max(DEFOCUS_OFF, SURE * error):
        ratio = math.sqrt(abs(scale))
        found.append(f"the defoci that fit are {scale:.3f} ± {error:.1g} times the given ones: the pixel is stated "
                     f"{100 * abs(ratio - 1):.1f} % too {'large' if scale > 1 else 'small'}, the wavelength is "
                     f"{scale:.3f} times that of the stated energy, or the defocus is not calibrated")
    return found


def _of_atoms(metrics: Mapping[str, float]) -> list[str]:
    """Return doubts from occupancies, names and distances of the atoms."""
    found = []
    n_odd, n_atoms = metrics.get("n_odd_occupancies", 0.0), metrics.get("n_atoms_refined", float("inf"))
    if n_odd > max(MOST_ODD * n_atoms, 1):
        found.append(f"{n_odd:.0f} of {n_atoms:.0f} atoms scatter otherwise than their element does: there are other "
                     "elements than those that were named, vacancies, or two atoms in one place")
    usual = metrics.get("refined_sampled_occupancy", 1.0)
    if not USUAL_OCCUPANCY[0] <= usual <= USUAL_OCCUPANCY[1]:
        found.append(f"noise imitates atoms, and those of an element scatter {usual:.2f} times as much as tabulated: "
                     "many atoms are missing or false, or contrast or elements are wrong")
    scatter = metrics.get("occupancy_scatter", float("nan"))
    if scatter > MOST_SCATTER:
        found.append(f"the occupancies of the atoms of one element scatter by {scatter:.1f} times their standard "
                     "errors: the model lacks something in all images (aberrations, absorption, envelopes), or atoms "
                     "move; elements and positions are less certain than stated")
    alike = metrics.get("refined_neighbour_correlation", float("nan"))
    if alike > MOST_ALIKE:
        found.append(f"neighbouring tilts ask the atoms for the same displacements (correlation {alike:.2f}; "
                     "independent errors have a negative one): atoms move during the series, or the model lacks "
                     "something in all images; standard errors are too small")
    n_misnamed = metrics.get("n_expected_misnamed", 0.0)
    if n_misnamed > max(MOST_MISNAMED * n_atoms, 1):
        found.append(f"by their probabilities, about {n_misnamed:.0f} of {n_atoms:.0f} atoms are named wrongly")
    n_near = metrics.get("n_too_near", 0.0)
    if n_near > max(MOST_NEAR * n_atoms, 1):
        found.append(f"{n_near:.0f} pairs of {n_atoms:.0f} atoms are nearer than any bond: the atoms are wrong, or the "
                     "pixel is larger than the series says")
    return found


def _of_hand(metrics: Mapping[str, float]) -> list[str]:
    """Return a doubt where the mirror image of the atoms fits the images better, or as well."""
    hand = metrics.get("refined_hand", float("nan"))
    if hand < -CLEAR_HAND:
        return [f"the mirror image of the atoms fits the images better, by {-hand:.1f} standard errors "
                f"({_both_hands(metrics)}): the tilt counts in the other sense than the series states; import the "
                "series again with that sense (--set sense=left, or right), or set refine.hand=choose"]
    if hand <= CLEAR_HAND:
        return [f"the images do not tell the atoms from their mirror image, {hand:.1f} standard errors "
                f"({_both_hands(metrics)}): either may be right"]
    return []


def _thermal_limits(metrics: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Return element, B and the B at which a solid melts, both in Å², where B and the distance of a bond are known.

    B = 8π²/3 ⟨u²⟩, and Lindemann's criterion limits the root of ⟨u²⟩ to a part of the shortest bond of the element.
    """
    known = []
    for name, B in metrics.items():
        if name.startswith("refined_thermal_"):
            element = name.split("_")[2]
            bonds = [value for key, value in metrics.items() if key.startswith("distance_") and value > 0
                     and element in key.split("_")[1:3]]
            known += [(element, B, 8 * math.pi**2 / 3 * (LINDEMANN * min(bonds)) ** 2)] if bonds else []
    return known


def describe_hand(metrics: Mapping[str, float]) -> str:
    """Return a line on the hand that the images chose, by the metrics of a run; empty if nothing was chosen."""
    if not metrics.get("refined_mirrored", 0):
        return ""
    return (f"the mirror image of the atoms fitted the images better, by {metrics['refined_hand']:.1f} standard errors "
            f"({_both_hands(metrics)}), and the series does not state the sense of its tilt: atoms, volume and tilt "
            "angles of this record are the mirror image of what the series gives, with the opposite angles")


def _both_hands(metrics: Mapping[str, float]) -> str:
    """Return χ² of the atoms and of their mirror image in words."""
    own, other = (metrics.get(f"refined_hand_chi_square{name}", float("nan")) for name in ("", "_mirrored"))
    return f"χ² per value {own:.4f} of the atoms, {other:.4f} of their mirror image"
