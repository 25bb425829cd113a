"""A small copy of DejaVu Sans for figures: the letters and signs of their texts, so that PDFs embed them quickly.

Matplotlib cuts the font of a PDF down to the letters of its figure. From the full DejaVu Sans, with 6 000 glyphs, this
takes more than half of the time of its PDF. The copy has some 900 glyphs. It is made once and kept in the user's cache;
characters that it lacks come from the full font, and where no folder can be written the full font is used alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from fontTools import subset, ttLib
from matplotlib import font_manager

from aetlab.core.files import StorageError, write_atomically
from aetlab.core.scratch import scratch_folder, user_folder, writable

_FULL = "DejaVu Sans"
_SMALL = "aetlab Sans"
#: Faces of the family by the ends of the names of their files in matplotlib, with their weights and styles.
_FACES = ("", "-Bold", "-Oblique", "-BoldOblique")
#: Ranges of characters: Latin, Greek, raised letters, from whose heights FreeType hints raised digits as well,
#: punctuation, super- and subscripts, arrows, mathematics and shapes.
_RANGES = ((0x20, 0x180), (0x2B0, 0x3D0), (0x1D2C, 0x1D7A), (0x2000, 0x20D0), (0x2100, 0x2300), (0x25A0, 0x2600))


@cache
def font_families() -> tuple[str, ...]:
    """Return the font families of figures, the preferred one first."""
    place = user_folder("XDG_CACHE_HOME", ".cache")
    folder = place if place is not None and writable(place) else scratch_folder()
    if folder is None:
        return (_FULL,)
    try:
        for path in _made(folder / f"aetlab-fonts-{mpl.__version__}-{zlib.crc32(repr(_RANGES).encode()):08x}"):
            font_manager.fontManager.addfont(path)
    except (StorageError, OSError, ttLib.TTLibError):
        return (_FULL,)
    return _SMALL, _FULL


def font_settings() -> dict[Any, Any]:
    """Return the settings of matplotlib that choose the fonts of texts and formulas."""
    families = font_families()
    first = families[0]
    styles = {"rm": "", "it": ":italic", "bf": ":bold", "bfit": ":italic:bold", "sf": "", "cal": ":italic", "tt": ""}
    return {"font.family": list(families), "mathtext.fontset": "custom",
            **{f"mathtext.{name}": f"{first}{ending}" for name, ending in styles.items()}}


def _made(folder: Path) -> Iterator[Path]:
    """Yield the files of the small font in ``folder``, each made if it is missing."""
    for face in _FACES:
        path = folder / f"aetlabSans{face}.ttf"
        if not path.exists():
            full = Path(mpl.get_data_path(), "fonts", "ttf", f"DejaVuSans{face}.ttf")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda partial, full=full: _write_small(full, partial))
        yield path


def _write_small(full: Path, path: Path) -> None:
    options = subset.Options(legacy_kern=True, name_IDs=["*"], notdef_outline=True, glyph_names=True,
                             layout_features=["kern", "mark", "mkmk", "ccmp", "locl"])
    options.drop_tables = [*options.drop_tables, "FFTM"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[code for first, stop in _RANGES for code in range(first, stop)])
    with ttLib.TTFont(full) as font:
        subsetter.subset(font)
        for record in font["name"].names:
            record.string = record.toUnicode().replace(_FULL, _SMALL).replace("DejaVuSans", "aetlabSans")
        font.save(path)
