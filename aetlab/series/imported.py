"""A measured tilt series as a file: images, first poses, microscope, elements, and how it was made.

The HDF5 file has the layout of :mod:`aetlab.exchange.series_file`, the poses under ``poses/``, what the check page
shows under ``check/``, and everything else as one text in JSON, the bytes ``imported``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.errors import AetlabError, SeriesError
from aetlab.core.files import unchanged, write_atomically
from aetlab.core.hdf5 import dataset_names, read_dataset, write_datasets
from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.exchange.series_file import describe_series, read_series
from aetlab.exchange.volume_files import FileError
from aetlab.series.facts import ImageFacts, bytes_text, describe_facts, read_facts, text_bytes
from aetlab.series.microscope import SENSE_STEP, SENSES, MtfTable
from aetlab.spec import DefocusSpec, DoseSpec, MicroscopeSpec, RefineSpec, RunSpec, SpecError, TiltsSpec, WedgeSpec
from aetlab.spec.acquisition import OF_SERIES
from aetlab.spec.bind import bind, require_digest, unbind

#: Version of the text ``imported``.
_VERSION = 2
#: Room in Å between the sample and the faces of the volume along the beam.
MARGIN_A = 4.0
_POSES = {"turn_deg": "degree", "shift_A": "Å", "defocus_A": "Å", "brightness": "1"}


@dataclass(frozen=True)
class ImportedSeries:
    """A measured tilt series with all that a reconstruction needs.

    Attributes
    ----------
    series : TiltSeries
        Images with vacuum 1, electrons per pixel, weights.
    poses : Poses
        Where the alignment begins.
    microscope : MicroscopeSpec
        Energy, pupil, aberrations, envelopes.
    mtf : MtfTable or None
        The detector's MTF where it is a table.
    elements : tuple of str
        Elements that the sample may hold; empty: not named.
    axis_deg : float
        Direction of the tilt axis in the images as recorded, from +y, counted from +x towards +y.
    radius_A : float
        Half the diameter of the sample in Å.
    provenance : dict
        Plain values: files with their digests, settings, notes, steps of the preparation, excluded images, version.
    facts : ImageFacts or None
        What the import found of each image.
    """

    series: TiltSeries
    poses: Poses
    microscope: MicroscopeSpec
    mtf: MtfTable | None = None
    elements: tuple[str, ...] = ()
    axis_deg: float = 0.0
    radius_A: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)
    facts: ImageFacts | None = None

    def bind(self, settings: RunSpec, digest: str) -> RunSpec:
        """Return ``settings`` with the voxels, tilts, defoci, dose, microscope and elements of the series.

        ``digest`` is that of the series file.

        Raises
        ------
        SpecError
            If neither settings nor series name elements, or the volume is deeper than it is wide.
        """
        series, pixel_A = self.series, self.series.pixel_A
        n_x, n_y = (int(n) for n in series.images.shape[2:])
        depth_A = settings.data.depth_A or min(2 * (self.radius_A + MARGIN_A), n_x * pixel_A)
        n_z = max(2 * math.ceil(depth_A / pixel_A / 2), 8)
        present = series.weight > 0
        defocus_nm = tuple(round(float(np.mean(series.defocus_A[present[:, j], j])) / 10, 4) if present[:, j].any()
                           else round(float(series.defocus_A[:, j].mean()) / 10, 4) for j in range(series.n_defoci))
        dose_e_A2 = float(series.electrons_per_pixel[present].sum()) / (pixel_A**2 * self.microscope.dqe)
        elements = settings.sample.elements or self.elements
        if not elements:
            raise SpecError("sample.elements=[] cannot be used with data=measured: neither the settings nor the series "
                            "name the elements that the sample may hold; give for example sample.elements=[Pt]")
        return replace(
            settings, data=replace(settings.data, digest=digest), sample=replace(settings.sample, elements=elements),
            scale=replace(settings.scale, name=OF_SERIES, shape_zxy=(n_z, n_x, n_y), voxel_A=pixel_A),
            tilts=TiltsSpec(angles_deg=tuple(float(angle) for angle in series.tilt_deg)), wedge=WedgeSpec(),
            defocus=DefocusSpec(planes_nm=defocus_nm), dose=DoseSpec(total_e_A2=dose_e_A2),
            microscope=self.seen_by(), refine=self._with_hand(settings.refine))

    @property
    def states_sense(self) -> bool:
        """True if a file or a setting of the import stated the sense of the tilt."""
        return any(step.get("name") == SENSE_STEP and step.get("setting") in SENSES
                   for step in self.provenance.get("steps", ()))

    @property
    def unusable(self) -> list[str]:
        """Lines on the steps of the preparation whose result the import called unusable."""
        return [f"{step['name']} cannot be used: {step['line']}" for step in self.provenance.get("steps", ())
                if step.get("verdict") == "cannot be used"]

    def _with_hand(self, refine: RefineSpec) -> RefineSpec:
        """Return the refinement with its hand decided: a sense that is stated is kept."""
        if refine.hand != "auto":
            return refine
        return replace(refine, hand="compare" if self.states_sense else "choose")

    def seen_by(self) -> MicroscopeSpec:
        """Return the microscope with the detector's table."""
        if self.mtf is None:
            return self.microscope
        return replace(self.microscope, mtf_cycles_per_pixel=tuple(self.mtf.cycles_per_pixel.tolist()),
                       mtf_values=tuple(self.mtf.mtf.tolist()))


def write_imported(path: Path | str, imported: ImportedSeries) -> None:
    """Write a measured series to the HDF5 file ``path``, whole or not at all; StorageError if the disk refuses."""
    arrays = describe_series(imported.series)
    mtf = imported.mtf
    text = json.dumps({
        "version": _VERSION, "microscope": unbind(imported.microscope), "elements": list(imported.elements),
        "mtf": None if mtf is None else {"cycles_per_pixel": mtf.cycles_per_pixel.tolist(), "mtf": mtf.mtf.tolist()},
        "axis_deg": imported.axis_deg, "radius_A": imported.radius_A, "provenance": imported.provenance},
        allow_nan=False)
    arrays["imported"] = (text_bytes(text), {})
    if imported.facts is not None:
        arrays |= describe_facts(imported.facts)
    arrays |= {f"poses/{name}": (getattr(imported.poses, name), {"unit": unit}) for name, unit in _POSES.items()}
    write_atomically(Path(path), lambda partial: write_datasets(partial, arrays))


def read_imported(path: Path | str, rows: np.ndarray | None = None) -> ImportedSeries:
    """Return the measured series of a file of :func:`write_imported`, or some ``rows`` along y of its images.

    Raises
    ------
    SeriesError
        If the file is missing, damaged or holds something else.
    """
    path = Path(path)
    series = read_series(path, rows)
    try:
        if "imported" not in dataset_names(path):
            raise SeriesError(f"{path} was not imported from files of a microscope, or by an earlier version; make one "
                              "with python -m aetlab.series import")
        content = json.loads(bytes_text(read_dataset(path, "imported")[0]))
        if content["version"] != _VERSION:
            raise SeriesError(f"{path} has version {content['version']!r} of a measured series; this aetlab reads "
                              f"{_VERSION}: import its images again")
        poses = Poses.from_arrays(series.tilt_deg, {name: read_dataset(path, f"poses/{name}")[0] for name in _POSES})
        mtf = content["mtf"]
        return ImportedSeries(
            series, poses, bind(MicroscopeSpec, content["microscope"], "microscope"),
            None if mtf is None else MtfTable(np.array(mtf["cycles_per_pixel"]), np.array(mtf["mtf"])),
            tuple(str(symbol) for symbol in content["elements"]), float(content["axis_deg"]),
            float(content["radius_A"]), dict(content["provenance"]), read_facts(path))
    except SeriesError:
        raise
    except (AetlabError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise SeriesError(f"{path} is no measured series: {' '.join(str(error).split())[:300]}; make one with "
                          "python -m aetlab.series import") from None


def bind_measured(settings: RunSpec) -> RunSpec:
    """Return settings of ``data=measured`` joined with what their series file holds; others as they are.

    The digest of the file is taken here, once. Raises SpecError if the file is no imported series, StorageError if it
    cannot be read or changes meanwhile.
    """
    if settings.data.kind != "measured":
        return settings
    path = Path(settings.data.path).expanduser()
    with unchanged(path) as digests:
        if settings.data.digest:
            require_digest("data", settings.data.path, settings.data.digest, digests[path])
        try:
            imported = read_imported(path)
        except (FileError, SeriesError) as error:
            raise SpecError(f"data.path={settings.data.path!r} cannot be used: {error}") from None
        return imported.bind(settings, digests[path])


def load_measured(settings: RunSpec, rows: np.ndarray | None = None, *, digests: Path | None = None) -> ImportedSeries:
    """Return the measured series of bound ``settings``, or some ``rows`` along y of its images.

    The digest of its file is noted in the folder ``digests``, if given, and taken again once the file has changed.

    Raise SpecError if its file has changed since they were bound, StorageError if it changes while it is read.
    """
    path = Path(settings.data.path).expanduser()
    with unchanged(path, notes=digests) as found:
        require_digest("data", settings.data.path, settings.data.digest, found[path])
        return read_imported(path, rows)
