"""Export the atoms and the volume of a record in formats of other programs: extended XYZ, CSV, CIF and MRC."""

from __future__ import annotations

from pathlib import Path

from aetlab.core.nouns import Volume
from aetlab.exchange.atom_files import write_csv, write_xyz
from aetlab.exchange.cif_file import write_cif
from aetlab.exchange.mrc import write_mrc
from aetlab.store.reading import read_refined, read_traced
from aetlab.store.record import Record, read_array


def export_record(record: Record, folder: Path, *, traced: bool = False) -> list[Path]:
    """Write ``<id>.atoms.xyz``, ``.csv`` and ``.cif`` and ``<id>.volume.mrc`` into ``folder`` and return their paths.

    The atoms are the refined ones if the record holds any, otherwise the traced ones. With ``traced`` they are the
    traced ones, and the files are ``<id>.traced.xyz``, ``.csv`` and ``.cif``. The standard errors of positions and
    occupancies are columns of the first two and stand in parentheses in the CIF. Positions are relative to the centre
    of the volume, and in the CIF fractions of its box. The origin of the MRC file is set so that atoms and volume
    overlay. Each file is written whole or not at all.

    Raises
    ------
    StorageError
        If the record is damaged or a file cannot be written.
    """
    refined = None if traced else read_refined(record)
    found = read_traced(record)
    atoms = found if refined is None else refined
    volume = Volume(read_array(record, "volume/potential_V").values, record.spec.scale.voxel_A)
    n_z, n_x, n_y = volume.potential_V.shape
    box_A = (n_x * volume.voxel_A, n_y * volume.voxel_A, n_z * volume.voxel_A)
    kind = "traced" if traced else "atoms"
    paths = [folder / f"{record.id}.{ending}" for ending in (f"{kind}.xyz", f"{kind}.csv", f"{kind}.cif", "volume.mrc")]
    write_xyz(paths[0], atoms, box_A=box_A)
    write_csv(paths[1], atoms)
    version = record.environment.get("versions", {}).get("aetlab", "")
    write_cif(paths[2], atoms, box_A=box_A, name=f"aetlab_{record.id}", made_by=f"aetlab {version}".strip(),
              elements=tuple(found.species.get("elements", ())))
    write_mrc(paths[3], volume)
    return paths
