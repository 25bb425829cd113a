"""Text of XYZ files before ASE parses it: frames that are whole, columns that are there, words that name elements."""

from __future__ import annotations

import re

from aetlab.core.element_names import read_element

_PROPERTIES = re.compile(r"""(?:^|\s)Properties\s*=\s*["'{]?([^\s"'}]+)""")


def split_frames(text: str) -> list[tuple[int, list[str]]]:
    """Return the lines of each structure of an XYZ file, with the index of its first line in the file.

    Raises
    ------
    ValueError
        If a structure is not whole. A reader that believed its number of atoms would take any memory or time.
    """
    lines = text.removesuffix("\n").split("\n")
    frames: list[tuple[int, int]] = []
    at = 0
    while at < len(lines) and (lines[at].strip() or not frames):
        word = (lines[at].split() or [""])[0]
        if not (word.isascii() and word.isdigit()):
            raise ValueError(f"line {at + 1} should hold a number of atoms and holds {lines[at][:40]!r}")
        if len(word) > 9 or at + 2 + int(word) > len(lines):
            raise ValueError(f"it ends before all {word[:30]} atoms that it announces")
        frames.append((at, at + 2 + int(word)))
        at += 2 + int(word)
    if any(line.strip() for line in lines[at:]):
        raise ValueError(f"lines follow the empty line {at + 1}")
    return [(start, lines[start:stop]) for start, stop in frames]


def plain_text(start: int, frame: list[str]) -> str:
    """Return the text of a structure of :func:`split_frames`, with symbols in place of labels, ions and numbers.

    Raises
    ------
    ValueError
        If the structure announces columns that are not there, or a word names no element.
    """
    column = _check_columns(frame, start)
    if column is None:
        return "\n".join(frame) + "\n"
    named = []
    known: dict[str, str] = {}
    for at, line in enumerate(frame[2:], start + 3):
        words = line.split()
        word = words[column]
        if word not in known:
            known[word] = _symbol(word, at)
        words[column] = known[word]
        named.append(" ".join(words))
    return "\n".join([*frame[:2], *named]) + "\n"


def _check_columns(frame: list[str], start: int) -> int | None:
    """Return the column of the symbols; None if the frame gives atomic numbers alone."""
    match = _PROPERTIES.search(frame[1])
    fields = (match[1] if match else "species:S:1:pos:R:3").split(":")
    if len(fields) % 3 or not all(count.isascii() and count.isdigit() and len(count) < 7 for count in fields[2::3]):
        raise ValueError("its Properties are no list of name:type:count")
    counts = [int(count) for count in fields[2::3]]
    n_columns = sum(counts)
    for at, line in enumerate(frame[2:], start + 3):
        if len(line.split(None, n_columns)) < n_columns:
            raise ValueError(f"line {at} has fewer than the {n_columns} columns that are announced")
    names = fields[0::3]
    return sum(counts[: names.index("species")]) if "species" in names else None


def _symbol(word: str, line: int) -> str:
    from ase.data import chemical_symbols

    try:
        number = read_element(word)
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from None
    if number >= len(chemical_symbols):
        raise ValueError(f"line {line}: there is no atomic number {number}")
    return chemical_symbols[number]
