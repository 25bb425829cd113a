"""Text of structure files in the encodings that programs write."""

from __future__ import annotations

import codecs
import io

#: Marks at the start of a text and their encodings; UTF-32 first, since its mark begins as that of UTF-16.
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
#: Lines that a reader may ask for beyond the end before it is stopped.
_LINES_BEYOND_END = 1000


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
