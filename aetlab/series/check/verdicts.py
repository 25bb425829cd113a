"""Verdicts on a measured series, as a microscopist gives them: each with its reason and what to do."""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.physics import wavelength_A
from aetlab.series.check.nouns import Item, Reach, Spectra
from aetlab.series.collect import PIXEL_DOUBT
from aetlab.series.facts import ImageFacts
from aetlab.series.imported import ImportedSeries

_PER_MAD = 1.4826
#: Tilts from which a reconstruction has any chance, and range in degrees from which atoms keep their shape along z.
_FEW_TILTS, _SMALL_RANGE_DEG = 10, 120.0
#: A gap between tilts over the median step.
_GAP = 2.5
#: Electrons per pixel of an image below which edges of the sample are lost in noise, and alignment with them.
_FEW_ELECTRONS = 5.0
#: Robust standard deviations of an odd image, and relative changes that are worth a look in any case.
_ODD, _LEVEL_CHANGE, _SHARPNESS_CHANGE = 5.0, 0.3, 0.25
#: Defocus found against nominal, in nm and in part.
_DEFOCUS_NM, _DEFOCUS_PART = 5.0, 0.1
#: Distance in Å between neighbouring atoms that images must resolve.
_NEIGHBOURS_A = 2.2
#: Least position error in pm that is worth a look: a tenth of a bond.
_POOR_PM = 25.0
_ADVICE = {
    "bad pixels": "Compare the pixels before and after; set bad_pixels=keep if they belong to the sample.",
    "gain residue": "Take a new gain reference.",
    "vacuum": "Give rectangles of vacuum (vacuum=rectangles), or vacuum=mean, which leaves the brightness to the "
              "alignment.",
    "electrons per pixel": "Give the dose in the table or the counts per electron, and choose one with electrons=….",
    "bad images": "Look at the images that are left out; bad_frames=keep uses the blank, doubled and drifted ones, "
                  "shifts=keep those whose place is not known.",
    "drift between defoci": "Look at the images that are left out. If the defoci of each tilt are aligned already, set "
                            "shifts=keep.",
    "tilt axis": "Give the direction (axis_deg in the microscope's file), or the energy if it is missing.",
    "shifts": "Look at the images that are named: their displacement is taken out, but its cause may have done more.",
    "region": "Choose a larger region, or one further from the border.",
    "sense of the tilt": "Calibrate it once with a sample of known handedness, or a gold particle tilted about a known "
                         "side, and write sense: right or left into the microscope's file.",
    "sign of the defocus": "Overfocus is positive in the table; take images on both sides of focus if you do not "
                           "know it.",
}


def judge(imported: ImportedSeries, facts: ImageFacts, spectra: Spectra, reach: Reach | None) -> tuple[Item, ...]:
    """Return the verdicts on a series: on what was recorded, on each step of its preparation, and on its reach."""
    return (_tilts(imported), _dose(imported, facts), _levels(facts), _sharpness(facts), _sampling(imported),
            _field_of_view(imported), *_steps(imported), _defocus(imported, spectra), _limit(imported, spectra),
            _microscope(imported), *_reached(reach))


def _tilts(imported: ImportedSeries) -> Item:
    series = imported.series
    tilt = np.sort(series.tilt_deg[(series.weight > 0).any(axis=1)])
    span, steps = float(np.ptp(tilt)), np.diff(tilt)
    steps = steps[steps > 0.01]
    reason = f"{len(tilt)} tilts over {span:.0f}°, the largest step {steps.max(initial=0):.1f}°"
    if len(tilt) < _FEW_TILTS:
        return Item("tilts", "cannot be used", f"{reason}: too few for three dimensions", "Record more tilts.")
    doubts = []
    if span < _SMALL_RANGE_DEG:
        doubts.append("atoms smear along the beam by the missing wedge")
    if steps.max() > _GAP * np.median(steps):
        at = int(np.argmax(steps))
        doubts.append(f"a gap of {steps.max():.1f}° near {tilt[at] + steps.max() / 2:.0f}°")
    if not doubts:
        return Item("tilts", "ok", reason)
    return Item("tilts", "look", f"{reason}; {'; '.join(doubts)}", "Use refine=atoms, whose model knows no missing "
                "wedge, or record the missing tilts.")


def _dose(imported: ImportedSeries, facts: ImageFacts) -> Item:
    series = imported.series
    present = series.weight > 0
    n = series.electrons_per_pixel[present]
    total = float(n.sum()) / (series.pixel_A**2 * imported.microscope.dqe)
    reason = f"{total:.3g} e/Å² in all, {n.mean():.3g} electrons per pixel of an image"
    if n.mean() < _FEW_ELECTRONS:
        return Item("dose", "look", f"{reason}: outlines are lost in noise", "Record fewer images of higher dose; "
                    "shifts and axis may be wrong.")
    if not np.isfinite(facts.dose_e_A2[present]).all():
        return Item("dose", "look", f"{reason}, by the noise alone: no table or header gives a dose",
                    "Give dose_e_A2 in the table, so that the two can be compared.")
    return Item("dose", "ok", reason)


def _levels(facts: ImageFacts) -> Item:
    level = facts.measures.level_counts
    known = level[np.isfinite(level)]
    if not known.size:
        return Item("vacuum level per image", "look", "no level was measured", "See the step vacuum.")
    off = np.abs(level / np.median(known) - 1)
    odd = np.isfinite(level) & (off > max(_LEVEL_CHANGE, _ODD * _PER_MAD * float(np.nanmedian(off))))
    reason = f"levels scatter by {100 * float(known.std() / known.mean()):.1f} % rms"
    if odd.any():
        return Item("vacuum level per image", "look", f"{reason}; {_named(facts, odd)} far from the others",
                    "Exclude them in the table if the exposure failed; the level is divided out.")
    return Item("vacuum level per image", "ok", reason)


def _sharpness(facts: ImageFacts) -> Item:
    sharp = facts.measures.sharpness_per_A
    with np.errstate(invalid="ignore"):
        relative = np.full(sharp.shape, np.nan)
        for j in range(sharp.shape[1]):
            own = sharp[:, j][np.isfinite(sharp[:, j]) & (sharp[:, j] > 0)]
            if len(own) >= 5:
                relative[:, j] = sharp[:, j] / np.median(own) - 1
        spread = _PER_MAD * float(np.nanmedian(np.abs(relative))) if np.isfinite(relative).any() else 0.0
        blurred = relative < -max(_SHARPNESS_CHANGE, _ODD * spread / 2)
    if not np.isfinite(relative).any():
        reason = ("fewer than five tilts at each defocus: not compared" if np.isfinite(sharp).any() else
                  "not measured: bad_frames=keep looks for no bad images")
        return Item("sharpness and drift", "look", reason, "")
    drift = facts.measures.drift_A
    reason = f"mean frequency of the signal {np.nanmedian(sharp[sharp > 0]):.2f} 1/Å; motion while recorded up to " \
             f"{np.nanmax(drift):.1f} Å"
    if blurred.any():
        return Item("sharpness and drift", "look", f"{reason}; {_named(facts, blurred)} less sharp than the others at "
                    "the same defocus", "Compare them on the contact sheet; exclude blurred ones in the table.")
    return Item("sharpness and drift", "ok", reason)


def _sampling(imported: ImportedSeries) -> Item:
    nyquist, aperture = 0.5 / imported.series.pixel_A, imported.microscope.aperture_per_A
    reason = (f"pixel {imported.series.pixel_A:.4g} Å resolves up to {nyquist:.2f} 1/Å; the aperture passes "
              f"{aperture:.2f}")
    if nyquist < 1 / _NEIGHBOURS_A:
        return Item("sampling", "cannot be used", f"{reason}: atoms {_NEIGHBOURS_A} Å apart are not resolved",
                    "Record at a higher magnification.")
    doubts = [note.removeprefix(PIXEL_DOUBT) for note in imported.provenance.get("notes", [])
              if note.startswith(PIXEL_DOUBT)]
    if doubts:
        return Item("sampling", "look", f"{reason}; {'; '.join(doubts)}",
                    "Calibrate the pixel: all distances follow it.")
    if nyquist < aperture:
        return Item("sampling", "look", f"{reason}: higher frequencies fold back into the images",
                    "Record at a higher magnification, or with a smaller aperture.")
    return Item("sampling", "ok", reason)


def _field_of_view(imported: ImportedSeries) -> Item:
    """Judge whether fringes lie in the images: a wave of frequency q is moved by λ Δf q."""
    series, microscope = imported.series, imported.microscope
    q = min(microscope.aperture_per_A, 0.5 / series.pixel_A)
    fringes = wavelength_A(microscope.energy_keV) * float(np.abs(series.defocus_A[series.weight > 0]).max()) * q
    half = min(series.images.shape[2:]) * series.pixel_A / 2
    reason = (f"sample of {2 * imported.radius_A:.0f} Å, fringes reach {fringes:.0f} Å further, images are "
              f"{2 * half:.0f} Å wide")
    if imported.radius_A >= half:
        return Item("field of view", "look", f"{reason}: the sample leaves the images",
                    "Reconstruct a region that stays inside at all tilts, or record a larger field.")
    if imported.radius_A + fringes > half:
        return Item("field of view", "look", f"{reason}: fringes of the edge leave the images",
                    "Choose a larger region or size; pixels beyond the images have weight 0.")
    return Item("field of view", "ok", reason)


def _steps(imported: ImportedSeries) -> list[Item]:
    steps = imported.provenance.get("steps", [])
    return [Item(step["name"], step["verdict"], step["line"],
                 "" if step["verdict"] == "ok" else _ADVICE.get(step["name"], "")) for step in steps]


def _defocus(imported: ImportedSeries, spectra: Spectra) -> Item:
    found = spectra.defocus_nm
    known = np.isfinite(found) & (imported.series.weight > 0)
    if known.sum() < 3:
        return Item("defocus", "ok", "the rings support no defocus (a crystal, or too little signal): the nominal ones "
                    "are taken", "Let align=true find them.")
    nominal = imported.series.defocus_A / 10
    off = found[known] - nominal[known]
    reason = (f"rings of {known.sum()} of {int((imported.series.weight > 0).sum())} images support a defocus: found - "
              f"nominal {np.median(off):+.1f} nm, scatter {_PER_MAD * np.median(np.abs(off - np.median(off))):.1f} nm")
    limit = np.maximum(_DEFOCUS_NM, _DEFOCUS_PART * np.abs(nominal[known]))
    if (np.abs(off) > limit).mean() > 0.5:
        return Item("defocus", "look", reason, "Correct the table by the offset, or let align=true find the defoci.")
    return Item("defocus", "ok", reason)


def _limit(imported: ImportedSeries, spectra: Spectra) -> Item:
    limits = spectra.limit_A
    if not np.isfinite(limits).any():
        return Item("information limit", "cannot be used", "no signal exceeds the noise at any frequency",
                    "Check that the files hold images of the sample.")
    best = float(np.nanmin(limits))
    edge = max(2 * imported.series.pixel_A, 1 / imported.microscope.aperture_per_A)
    reason = f"signal exceeds the noise up to {best:.2f} Å; sampling and aperture allow {edge:.2f} Å"
    if best > _NEIGHBOURS_A:
        return Item("information limit", "cannot be used", f"{reason}: atoms {_NEIGHBOURS_A} Å apart are not resolved",
                    "Record with more dose or a better corrected microscope.")
    return Item("information limit", "ok", reason)


def _microscope(imported: ImportedSeries) -> Item:
    notes = [note.removeprefix("microscope: ") for note in imported.provenance.get("notes", [])
             if note.startswith("microscope:")]
    doubts = [note for note in notes if "default" in note or "ideal" in note]
    reason = f"{imported.microscope.energy_keV:g} keV, Cs {imported.microscope.Cs_mm:g} mm"
    if doubts:
        return Item("microscope", "look", f"{reason}; {'; '.join(doubts)}", "Give them in the microscope's file: the "
                    "images depend on them.")
    return Item("microscope", "ok", reason)


def _reached(reach: Reach | None) -> list[Item]:
    if reach is None:
        return []
    worst = max(reach.position_pm.values())
    reason = ", ".join(f"{symbol} {value:.1f} pm" for symbol, value in reach.position_pm.items())
    reason = f"least position error of a stand-in of {reach.n_atoms} atoms: {reason}"
    if not math.isnan(reach.confused_percent):
        reason += f"; {reach.confused_percent:.2g} % of the elements mistaken"
    if worst > _POOR_PM:
        return [Item("what the series can reach", "look", reason, "No reconstruction can do better: record more dose.")]
    return [Item("what the series can reach", "ok", reason)]


def _named(facts: ImageFacts, odd: np.ndarray) -> str:
    names = [facts.names[t][f] for t, f in np.argwhere(odd)]
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} ({len(names)} images) are"
