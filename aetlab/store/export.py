"""Export the atoms and the volume of a record in formats of other programs: extended XYZ, CSV and MRC."""

from __future__ import annotations

from pathlib import Path

from aetlab.core.files import StorageError, describe
from aetlab.core.nouns import Volume
from aetlab.exchange.atom_files import write_csv, write_xyz
from aetlab.exchange.mrc import write_mrc
from aetlab.store.reading import read_traced
from aetlab.store.record import Record, read_array


def export_record(record: Record, folder: Path) -> list[Path]:
    """Write ``<id>.atoms.xyz``, ``<id>.atoms.csv`` and ``<id>.volume.mrc`` into ``folder`` and return their paths.

    Positions are relative to the centre of the volume. The origin of the MRC file is set so that atoms and volume
    overlay.

    Raises
    ------
    StorageError
        If the record is damaged or a file cannot be written.
    """
    traced = read_traced(record)
    volume = Volume(read_array(record, "volume/potential_V").values, record.spec.scale.voxel_A)
    n_z, n_x, n_y = volume.potential_V.shape
    box_A = (n_x * volume.voxel_A, n_y * volume.voxel_A, n_z * volume.voxel_A)
    paths = [folder / f"{record.id}.{ending}" for ending in ("atoms.xyz", "atoms.csv", "volume.mrc")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_xyz(paths[0], traced, box_A=box_A)
        write_csv(paths[1], traced)
        write_mrc(paths[2], volume)
    except OSError as error:
        raise StorageError(f"--to={folder} cannot be used: {describe(error)}") from None
    return paths
