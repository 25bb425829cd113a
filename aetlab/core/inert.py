"""Make text of others harmless where it is printed, stored in tables or used in names of files."""

from __future__ import annotations

import re
import unicodedata

#: Beginnings of cells that spreadsheets take for formulas.
_FORMULA = ("=", "+", "-", "@")
#: Categories of characters that change how a terminal or a page shows the others: control, format, surrogate, line
#: and paragraph separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""Return ``text`` with hidden characters except newlines written as ``\xNN`` or ``\uNNNN``."""
    if text.isprintable():
        return text
    return "".join(character if character == "\n" or unicodedata.category(character) not in _HIDDEN
                   else _escaped(character) for character in text)


def one_line(text: str) -> str:
    """Return ``text`` as :func:`printable` does, in one line."""
    return printable(" ".join(text.split("\n")))


def spreadsheet_cell(text: str) -> str:
    """Return ``text`` in one line without hidden characters, and with an apostrophe in front of a formula.

    Spreadsheets take text that begins with =, +, - or @ for a formula, also behind a tab. Numbers are kept.
    """
    text = one_line(text)
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def file_name(text: str) -> str:
    """Return ``text`` with all but ASCII letters, digits, dots, hyphens and underscores as underscores, cut to 80."""
    return re.sub(r"[^A-Za-z0-9.-]|^\.+", "_", text)[:80] or "_"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
