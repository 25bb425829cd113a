"""Interchangeable methods of the reconstruction, a file each: its row of the table and its computation.

A folder of this package is a table, and each of its files is one row, named by the file. Settings, help, estimates,
memory, figures and the reconstruction read the table, so that a method that is added as a file needs no other change.
Rows are read whenever settings are: a file imports Numba and SciPy only inside the functions that compute.
"""
