"""Part of the report page that shows one record: its atoms in 3D beside slices through the depth.

Positions, groups, elements and errors of the atoms are packed as small integers, all slices as one picture.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from aetlab.core.files import StorageError
from aetlab.reporting import html
from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.slices import COLUMNS, average_slab, fitting_high_V
from aetlab.reporting.figures.style import element_colours
from aetlab.reporting.report_contents import Report
from aetlab.reporting.stored_run import StoredRun

_COLOURS = (("kind", "found, missing, false"), ("species", "element"), ("error", "position error"),
            ("sigma", "error bar"))
#: Largest number of atoms of one record that the page holds; more found or traced atoms are thinned out.
MAX_ATOMS = 20_000
#: Groups of atoms, in the order of the numbers that the page holds. Records without a truth have traced atoms only.
GROUPS = ("found", "missing", "false positive", "traced")
FOUND, MISSING, FALSE, TRACED = range(4)
#: Number that stands for an atom without an error or an error bar, and the unit of the others in pm.
NO_VALUE, UNIT_PM = 65535, 0.1
#: Largest number of slices of one record, and of pixels along their longer side.
MAX_SLICES, MAX_PIXELS = 48, 160
#: Thickness of a slice, and margin around the atoms, in Å.
THICKNESS_A, MARGIN_A = 1.0, 2.5


def viewer_section(report: Report) -> str:
    """Return the controls and the two pictures that the script draws."""
    if not report.runs:
        return ""
    options = "".join(
        f'<option value="{html.escape(run.identity)}"{html.shown_with([run.identity])}>'
        f"{html.escape(report.labels.get(run.identity, run.identity))}</option>"
        for run in report.runs
    )
    boxes = "".join(
        f'<label><input type="checkbox" id="show-{i}" checked> {name}</label>' for i, name in enumerate(GROUPS)
    )
    colours = "".join(f'<option value="{value}">{text}</option>' for value, text in _COLOURS)
    missing = " Missing atoms have their true element." if any(run.has_truth for run in report.runs) else ""
    return (
        f'<div class="controls"><label>Record <select id="view-run">{options}</select></label>'
        f'<label>Colour <select id="view-colour">{colours}</select></label>{boxes}'
        '<button type="button" id="view-reset">Reset view</button></div>'
        '<div class="viewer"><div><canvas id="view" tabindex="0" role="img" aria-label="Atoms; drag or press the '
        'arrow keys to rotate, use the wheel or plus and minus to zoom"></canvas></div>'
        '<div><canvas id="slice" tabindex="0" role="img" aria-label="Slice of the reconstruction normal to the beam '
        'with the atoms in it; press the arrow keys to go through the depth"></canvas>'
        '<label class="depth">Depth <input type="range" id="slice-depth" min="0" max="0" value="0"> '
        '<output id="slice-place" for="slice-depth"></output></label></div></div>'
        '<div class="legend" id="view-legend"></div>'
        "<p>In 3D, drag or press the arrow keys to rotate and + and − to zoom; the frame is the slice shown. Slices "
        "are 1 Å thick and normal to the beam (square root of the potential); the slider or the arrow keys go through "
        "the depth. The wheel zooms and goes through the depth in the picture that was clicked last. y is the tilt "
        "axis, z is along the beam. Error bars are root mean squares of the standard errors of x, y and z."
        f"{missing}</p>"
    )


def viewer_data(report: Report) -> dict[str, Any]:
    """Return what the script draws: atoms and slices of each record, and the unit of errors."""
    return {"runs": [_shown(run) for run in report.runs], "noValue": NO_VALUE, "unitPm": UNIT_PM}


def _shown(run: StoredRun) -> dict[str, Any]:
    try:
        return pack_atoms(run) | {"slices": pack_slices(run)}
    except (StorageError, ValueError, KeyError, IndexError) as error:
        return no_atoms(str(error)) | {"slices": None}


@dataclass(frozen=True)
class _Group:
    """Atoms of one group: positions (N, 3) in Å, atomic numbers, errors and error bars in pm, NaN where unknown."""

    positions_A: np.ndarray
    numbers: np.ndarray
    error_pm: np.ndarray
    sigma_pm: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def taken(self, index: np.ndarray) -> _Group:
        """Return the atoms at ``index``."""
        return _Group(self.positions_A[index], self.numbers[index], self.error_pm[index], self.sigma_pm[index])


def pack_atoms(run: StoredRun) -> dict[str, Any]:
    """Return the atoms of ``run`` by group (:data:`GROUPS`), refined ones where the record has any, base64.

    Positions are 16 bit integers of 0.01 Å; ``errors`` (distance to the true atom) and ``sigmas`` (root mean square
    standard error of x, y and z) are 16 bit integers of :data:`UNIT_PM`, :data:`NO_VALUE` where there is none.
    ``counts`` holds the number of atoms of each group, None for groups that the record does not have. Found or traced
    atoms are thinned evenly where there are more than :data:`MAX_ATOMS`; the others are kept.
    """
    source = _source(run)
    groups = _groups(run, source)
    counts = [len(groups[i]) if i in groups else None for i in range(len(GROUPS))]
    i_main = TRACED if TRACED in groups else FOUND
    n_main = len(groups[i_main])
    room = max(MAX_ATOMS - sum(len(group) for i, group in groups.items() if i != i_main), 1)
    if n_main > room:
        groups[i_main] = groups[i_main].taken(np.linspace(0, n_main - 1, room).astype(int))
    positions_A, numbers, error_pm, sigma_pm = (
        np.concatenate([getattr(group, name) for group in groups.values()])
        for name in ("positions_A", "numbers", "error_pm", "sigma_pm")
    )
    kinds = np.repeat(list(groups), [len(group) for group in groups.values()])
    known, species = np.unique(numbers, return_inverse=True)
    return {
        "positions": _base64(np.clip(np.rint(positions_A * 100), -32768, 32767).astype("<i2")),
        "kinds": _base64(kinds.astype(np.uint8)),
        "species": _base64(species.astype(np.uint8)),
        "speciesNames": [element_name(int(number)) for number in known],
        "speciesColours": list(element_colours(known).values()),
        "errors": _base64(_in_units(error_pm)),
        "sigmas": _base64(_in_units(sigma_pm)),
        "counts": counts,
        "source": source,
        "note": f"{room} of the {GROUPS[i_main]} atoms are drawn" if n_main > room else "",
    }


def no_atoms(reason: str) -> dict[str, Any]:
    """Return the place of a record whose atoms cannot be shown, with the ``reason``."""
    return {"positions": "", "kinds": "", "species": "", "speciesNames": [], "speciesColours": [], "errors": "",
            "sigmas": "", "counts": [None] * len(GROUPS), "source": "traced", "note": f"not shown: {reason}"}


def _source(run: StoredRun) -> str:
    """Return whether the atoms shown are the refined or the traced ones of ``run``."""
    names = run.array_names
    matched = not run.has_truth or "refined_match/unmatched_true" in names
    return "refined" if "refined/positions_A" in names and matched else "traced"


def _groups(run: StoredRun, source: str) -> dict[int, _Group]:
    """Return the atoms of each group by its index."""
    positions_A, numbers = run.array(f"{source}/positions_A"), run.array(f"{source}/numbers")
    sigma_A = run.array(f"{source}/position_error_A")
    sigma_pm = np.where((sigma_A > 0).all(axis=1), 100 * np.sqrt((sigma_A**2).mean(axis=1)), np.nan)
    if not run.has_truth:
        return {TRACED: _Group(positions_A, numbers, np.full(len(numbers), np.nan), sigma_pm)}
    where = "refined_match" if source == "refined" else "match"
    if f"{where}/rotation" in run.array_names:
        positions_A = positions_A @ run.array(f"{where}/rotation").T + run.array(f"{where}/shift_A")
    found, true, false, missing = (
        run.array(f"{where}/{name}") for name in ("traced", "true", "unmatched_traced", "unmatched_true")
    )
    true_A, true_numbers = run.array("truth/positions_A"), run.array("truth/numbers")
    error_pm = np.full(len(numbers), np.nan)
    error_pm[found] = 100 * np.linalg.norm(positions_A[found] - true_A[true], axis=1)
    atoms = _Group(positions_A, numbers, error_pm, sigma_pm)
    unknown = np.full(len(missing), np.nan)
    return {FOUND: atoms.taken(found), MISSING: _Group(true_A[missing], true_numbers[missing], unknown, unknown),
            FALSE: atoms.taken(false)}


def _in_units(values_pm: np.ndarray) -> np.ndarray:
    units = np.clip(np.rint(np.nan_to_num(values_pm, nan=NO_VALUE) / UNIT_PM), 0, NO_VALUE - 1)
    return np.where(np.isfinite(values_pm), units, NO_VALUE).astype("<u2")


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def pack_slices(run: StoredRun) -> dict[str, Any]:
    """Return slices of ``run`` normal to the beam through the depth of its atoms, as one WebP picture.

    The picture holds the slices row by row, ``columns`` in a row, each of ``width`` × ``height`` pixels with x to the
    right and y upwards, cropped to the atoms and a margin. Slice ``i`` lies at z = ``firstA`` + ``i`` × ``stepA`` and
    covers x and y from the first to the second of ``xA`` and ``yA``, all in Å. Grey is the square root of the potential
    from 0 to ``highV``.
    """
    volume = np.asarray(run.array("volume/potential_V"), np.float32)
    voxel_A = run.voxel_A
    positions_A = run.array("truth/positions_A" if run.has_truth else "traced/positions_A")
    half_A = 0.5 * voxel_A * np.array(volume.shape)[[1, 2, 0]]
    low_A, high_A = _extent(positions_A, half_A)
    z, y = COLUMNS["z"], COLUMNS["y"]
    n_slices = min(max(math.ceil((high_A[z] - low_A[z]) / THICKNESS_A), 1), MAX_SLICES)
    step_A = (high_A[z] - low_A[z]) / n_slices
    first_A = low_A[z] + step_A / 2
    i_x, i_y = (slice(*_voxels(low_A[axis], high_A[axis], half_A[axis], voxel_A)) for axis in (COLUMNS["x"], y))
    planes = [average_slab(volume, voxel_A, "z", first_A + i * step_A, THICKNESS_A)[i_x, i_y] for i in range(n_slices)]
    high_V = fitting_high_V([np.stack(planes)])
    pictures = [_picture(plane, high_V) for plane in planes]
    width, height = pictures[0].size
    columns = math.ceil(math.sqrt(n_slices))
    sheet = Image.new("L", (columns * width, math.ceil(n_slices / columns) * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=80, method=2)
    return {
        "picture": "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
        "n": n_slices,
        "columns": columns,
        "width": width,
        "height": height,
        "firstA": round(float(first_A), 3),
        "stepA": round(float(step_A), 4),
        "xA": [round(i * voxel_A - float(half_A[COLUMNS["x"]]), 3) for i in (i_x.start, i_x.stop)],
        "yA": [round(i * voxel_A - float(half_A[y]), 3) for i in (i_y.start, i_y.stop)],
        "highV": high_V,
    }


def _extent(positions_A: np.ndarray, half_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (3,) in Å of a box around the atoms inside the volume; those of the volume without atoms."""
    if not len(positions_A):
        return -half_A, half_A
    low_A = np.clip(positions_A.min(axis=0) - MARGIN_A, -half_A, half_A)
    high_A = np.clip(positions_A.max(axis=0) + MARGIN_A, -half_A, half_A)
    inside = high_A > low_A
    return np.where(inside, low_A, -half_A), np.where(inside, high_A, half_A)


def _voxels(low_A: float, high_A: float, half_A: float, voxel_A: float) -> tuple[int, int]:
    """Return the first voxel along an axis, and the one after the last, that the range from low to high needs."""
    n = round(2 * half_A / voxel_A)
    first = min(max(math.floor((low_A + half_A) / voxel_A), 0), n - 1)
    return first, min(max(math.ceil((high_A + half_A) / voxel_A), first + 1), n)


def _picture(plane: np.ndarray, high_V: float) -> Image.Image:
    """Return the grey picture of a plane (x, y) with y upwards, made smaller where it is large."""
    grey = np.rint(255 * np.sqrt(np.clip(plane / high_V, 0, 1))).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(grey.T[::-1]))
    scale = MAX_PIXELS / max(picture.size)
    if scale < 1:
        width, height = (max(round(side * scale), 1) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    return picture
