"""What a run is called: a hash of the settings that change its answer, and one of the code that computes it.

Canonical JSON: keys sorted, no spaces, tuples as lists, whole numbers without a point (1000 and 1000.0 are the same),
``inf`` as the word. Left out are labels and what decides only where a run is computed.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.nouns import TiltSeries
from aetlab.spec import RunSpec, SampleSpec, SpecError
from aetlab.spec.bind import unbind

#: Settings that do not change the answer.
NOT_IN_IDENTITY = {"scale": ("name",), "microscope": ("name",), "engine": ("device", "n_threads")}
#: Parts of the package whose code decides the numbers of a record.
_DECIDING = ("core", "spec", "samples", "forward", "solve", "gpu", "tracing", "refinement", "reconstruction", "scoring")


def canonical_json(value: Any) -> str:
    """JSON text that is equal for equal values; dataclasses and nested containers are taken."""
    return json.dumps(_canonical(unbind(value)), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def record_id(spec: RunSpec) -> str:
    """16 hex digits that name the record of ``spec``; a structure file counts by its content, not by its path."""
    return digest(identity(spec))


def identity(spec: RunSpec) -> dict[str, Any]:
    """The settings of ``spec`` that change its answer, as plain values."""
    settings = unbind(spec)
    for group, labels in NOT_IN_IDENTITY.items():
        for label in labels:
            del settings[group][label]
    if spec.sample.kind == "file":
        settings["sample"]["path"] = sample_digest(spec.sample)
    else:
        del settings["sample"]["path"]
    return settings


def series_digest(series: TiltSeries) -> str:
    """Return the hex SHA-256 of a tilt series: its images and all that is known of each."""
    content = hashlib.sha256()
    for values in (series.images, series.tilt_deg, series.defocus_A, series.pixel_A, series.electrons_per_pixel,
                   series.weight, series.pixel_weight):
        if values is None:
            continue
        array = np.ascontiguousarray(to_numpy(values) if hasattr(values, "shape") else np.array(values))
        content.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return content.hexdigest()


def sample_digest(sample: SampleSpec) -> str:
    """SHA-256 of the structure file and its suffix, which tells the format; raises :class:`SpecError`."""
    path = Path(sample.path).expanduser()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() + path.suffix.lower()
    except OSError as error:
        reason = error.strerror
        raise SpecError(f"sample.path={sample.path!r} cannot be read: {reason}; give a structure file") from None


@cache
def code_id() -> str:
    """12 hex digits of the SHA-256 of the source and data files that decide the numbers of a record."""
    package = Path(__file__).resolve().parents[1]
    files = [*package.glob("*.py"), *(path for part in _DECIDING for path in (package / part).rglob("*"))]
    sources = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        name = path.relative_to(package).as_posix()
        if "__pycache__" in name or name in _NOT_DECIDING:
            continue
        sources.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return sources.hexdigest()[:12]


#: Modules of the command lines, which do not change a number.
_NOT_DECIDING = ("__init__.py", "run.py", "runs.py", "report.py", "doctor.py", "progress.py", "bind.py")


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
