"""Text of structure files: encodings, frames of XYZ, words that name elements, one of several structures.

A word names one element or is refused. Two capitals can be a symbol or one letter of an element and one of a label
(SI1: silicon, or sulphur I1); the files in question cannot tell.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Sequence
from typing import TypeVar

from aetlab.core.physics import SYMBOLS
from aetlab.core.setting import SpecError

#: Marks at the start of a text and their encodings; UTF-32 first, since its mark begins as that of UTF-16.
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
#: Lines that a reader may ask for beyond the end before it is stopped.
_LINES_BEYOND_END = 1000
T = TypeVar("T")
#: Names of atoms of amino acids that are also symbols of elements in capitals: CA is an alpha carbon.
_AMINO_ACID_NAMES = {"CA", "CD", "CE", "HG", "HE", "HO", "ND", "NE"}
_HYDROGEN = {"D", "T"}
_WORD = re.compile(r"([A-Za-z]{1,2})([^A-Za-z].*)?", re.DOTALL)
_CHARGE = re.compile(r"\d*[+-]+\d*")
_PROPERTIES = re.compile(r"""(?:^|\s)Properties\s*=\s*["'{]?([^\s"'}]+)""")


def decode_text(content: bytes) -> str:
    """Return the text of a file: UTF-8, UTF-16 and UTF-32 by their marks, else UTF-8, else Latin-1.

    Numbers and symbols are ASCII in all of them; only comments differ. Lines end with a line feed.

    Raises
    ------
    ValueError
        If the file is empty or no text.
    """
    if not content.strip():
        raise ValueError("it is empty")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise ValueError(f"its first bytes say {encoding[:6]}, which the rest is not: save it as UTF-8") from None
        text = content.decode("latin-1")
    if "\0" in text:
        raise ValueError("it is no text, or text in UTF-16 without a mark: save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Lines(io.StringIO):
    """Text that raises EOFError in a reader that asks for many lines beyond the last.

    Some of ASE's readers ask for as many lines as the file announces atoms: 10²⁰ of them would never end.
    """

    _n_beyond = 0

    def readline(self, size: int = -1, /) -> str:
        line = super().readline(size)
        if not line:
            self._n_beyond += 1
            if self._n_beyond > _LINES_BEYOND_END:
                raise EOFError("it ends before all that it announces")
        return line


def one_of_several(structures: Sequence[T], number: int, setting: str, path: object) -> tuple[T, tuple[str, ...]]:
    """Return the structure with the ``number`` from 1, and a note that says which of how many it is.

    The number 0 stands for the only structure: there is no note then.

    Raises
    ------
    SpecError
        If the number is 0 and there are several structures, or if there are fewer. The message names the ``setting``
        that gives the number and the ``path`` of the file.
    """
    n = len(structures)
    if number == 0 and n > 1:
        raise SpecError(f"{setting}=0 cannot be used: {path} holds {n} structures; choose one of them by its number, "
                        f"{setting}=1 to {setting}={n}")
    if number > n:
        raise SpecError(f"{setting}={number} cannot be used: {path} holds {n} structure{'s' if n > 1 else ''}")
    notes = (f"structure {number} of {n} is taken",) if number and n > 1 else ()
    return structures[max(number, 1) - 1], notes


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
