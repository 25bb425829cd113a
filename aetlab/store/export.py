"""Export the atoms and the volume of a record in formats of other programs: extended XYZ, CSV and MRC."""

from __future__ import annotations

from pathlib import Path

from aetlab.core.nouns import Volume
from aetlab.exchange.atom_files import write_csv, write_xyz
from aetlab.exchange.mrc import write_mrc
from aetlab.store.reading import read_refined, read_traced
from aetlab.store.record import Record, read_array


def export_record(record: Record, folder: Path, *, traced: bool = False) -> list[Path]:
    """Write ``<id>.atoms.xyz``, ``<id>.atoms.csv`` and ``<id>.volume.mrc`` into ``folder`` and return their paths.

    The atoms are the refined ones if the record holds any, otherwise the traced ones. With ``traced`` they are the
    traced ones, and the files are ``<id>.traced.xyz`` and ``.csv``. Positions are relative to the centre of the volume.
    The origin of the MRC file is set so that atoms and volume overlay. Each file is written whole or not at all.

    Raises
    ------
    StorageError
        If the record is damaged or a file cannot be written.
    """
    refined = None if traced else read_refined(record)
    atoms = read_traced(record) if refined is None else refined
    volume = Volume(read_array(record, "volume/potential_V").values, record.spec.scale.voxel_A)
    n_z, n_x, n_y = volume.potential_V.shape
    box_A = (n_x * volume.voxel_A, n_y * volume.voxel_A, n_z * volume.voxel_A)
    kind = "traced" if traced else "atoms"
    paths = [folder / f"{record.id}.{ending}" for ending in (f"{kind}.xyz", f"{kind}.csv", "volume.mrc")]
    write_xyz(paths[0], atoms, box_A=box_A)
    write_csv(paths[1], atoms)
    write_mrc(paths[2], volume)
    return paths
