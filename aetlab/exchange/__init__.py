"""Volumes, atoms and tilt series to and from files and the objects of other programs, in one call each.

========================  =====================================================================================
volumes                   :func:`~aetlab.exchange.volume_files.read_volume` and
                          :func:`~aetlab.exchange.volume_files.write_volume`: MRC, HDF5, NPY
atoms                     :func:`~aetlab.exchange.atom_files.read_atoms` and
                          :func:`~aetlab.exchange.atom_files.write_atoms`: extended XYZ, CSV
tilt series               :func:`~aetlab.exchange.series_file.read_series` and
                          :func:`~aetlab.exchange.series_file.write_series`: HDF5
ASE                       :func:`~aetlab.exchange.ase_atoms.to_ase` and :func:`~aetlab.exchange.ase_atoms.from_ase`
abTEM                     :func:`~aetlab.exchange.abtem_arrays.to_abtem` and
                          :func:`~aetlab.exchange.abtem_arrays.from_abtem`: potentials, images
HyperSpy                  :func:`~aetlab.exchange.hyperspy_signals.to_hyperspy`
========================  =====================================================================================

Coordinates of atoms are x, y, z in Å about the centre of the volume; in ASE's cell that centre is ``info["centre_A"]``.
"""
