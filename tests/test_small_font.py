"""The small font of figures draws what the full one draws, and other characters still come from the full one."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from aetlab.reporting.figures import small_font
from aetlab.reporting.figures.style import new_figure, save_figure, style


def picture(text: str, **settings: object) -> np.ndarray:
    with style(), mpl.rc_context(settings):
        figure = new_figure(3.0, 0.4)
        figure.text(0.01, 0.3, text)
        figure.canvas.draw()
        return np.array(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]


def test_the_small_font_draws_what_the_full_one_draws() -> None:
    text = "AVATo error (pm), σₓ = 2 Å⁻¹ ± ∞ – × ≤ √"
    small, full = picture(text), picture(text, **{"font.family": ["DejaVu Sans"]})
    assert small_font.font_families() == ("aetlab Sans", "DejaVu Sans")
    np.testing.assert_array_equal(small, full)
    assert (small[..., 0] < 128).sum() > 200


def test_letters_that_it_lacks_come_from_the_full_font() -> None:
    """Without the full font matplotlib warns of missing letters, and warnings are errors here."""
    assert (picture("Жук")[..., 0] < 128).sum() > 30
    with pytest.warns(UserWarning, match="missing from font"):
        picture("Жук", **{"font.family": ["aetlab Sans"]})


def test_a_pdf_embeds_the_small_font(tmp_path: Path) -> None:
    with style():
        figure = new_figure(2.0, 1.0)
        figure.subplots().set_title("error (pm)")
    _, pdf = save_figure(figure, tmp_path, "figure")
    assert b"+aetlabSans" in pdf.read_bytes() and pdf.stat().st_size < 30_000


def test_without_a_folder_the_full_font_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_font, "writable", lambda place: False)
    monkeypatch.setattr(small_font, "scratch_folder", lambda: None)
    assert small_font.font_families.__wrapped__() == ("DejaVu Sans",)
