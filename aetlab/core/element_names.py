"""Elements from the words of structure files: symbols, labels, ions, atomic numbers.

A word names one element or is refused. Two capitals can be a symbol or one letter of an element and one of a label
(SI1: silicon, or sulphur I1); the files in question cannot tell.
"""

from __future__ import annotations

import re

from aetlab.core.physics import SYMBOLS

#: Names of atoms of amino acids that are also symbols of elements in capitals: CA is an alpha carbon.
_AMINO_ACID_NAMES = {"CA", "CD", "CE", "HG", "HE", "HO", "ND", "NE"}
_HYDROGEN = {"D", "T"}
_WORD = re.compile(r"([A-Za-z]{1,2})([^A-Za-z].*)?", re.DOTALL)
_CHARGE = re.compile(r"\d*[+-]+\d*")


def number_of_symbol(symbol: str) -> int | None:
    """Return the atomic number of a chemical ``symbol`` in any case, 1 for D and T; None if it is none.

    Elements that have no potential here are known by ASE's table, and X is 0.
    """
    from ase.data import atomic_numbers

    name = symbol.capitalize()
    if name in _HYDROGEN:
        return 1
    return SYMBOLS.index(name) if name in SYMBOLS[1:] else atomic_numbers.get(name)


def read_element(word: str, *, is_label: bool = True) -> int:
    """Return the atomic number that a ``word`` names: Si, SI, Si1, Si4+, O2-, D, 14.

    ``is_label`` is False for a field that holds symbols alone, where CA is calcium.

    Raises
    ------
    ValueError
        If the word names no element, or could name two.
    """
    if word.isascii() and word.isdigit() and len(word) <= 3:
        return int(word)
    match = _WORD.fullmatch(word)
    number = number_of_symbol(match[1]) if match else None
    if match is None or number is None:
        raise ValueError(f"{word[:20]!r} names no chemical element")
    letters, rest = match[1], match[2] or ""
    labelled = bool(rest) and not _CHARGE.fullmatch(rest)
    doubtful = is_label and len(letters) == 2 and letters.isupper() and number_of_symbol(letters[0]) is not None
    if doubtful and (labelled or letters in _AMINO_ACID_NAMES):
        raise ValueError(f"{word[:20]!r} can be {letters.capitalize()} or a name of {letters[0]}: write "
                         f"{letters.capitalize()} or {letters[0]}")
    return number
