"""Part of the report page that shows one record: its atoms in 3D beside slices through the depth."""

from __future__ import annotations

from typing import Any

from aetlab.core.files import StorageError
from aetlab.reporting import html
from aetlab.reporting.packed_atoms import GROUPS, NO_VALUE, UNIT_PM, no_atoms, pack_atoms
from aetlab.reporting.packed_slices import pack_slices
from aetlab.reporting.report_contents import Report
from aetlab.reporting.stored_run import StoredRun

_COLOURS = (("kind", "found, missing, false"), ("species", "element"), ("error", "position error"),
            ("sigma", "error bar"))


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
