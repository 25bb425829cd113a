"""Text of others is harmless on terminals, in spreadsheets, in Markdown, LaTeX and HTML, and in names of files."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from aetlab.core.inert import file_name, one_line, printable, spreadsheet_cell
from aetlab.reporting import html
from aetlab.reporting.table_files import to_latex, to_markdown, write_table


def test_hidden_characters_are_written_out() -> None:
    assert printable("a\x1b[31mb\x9bc\u202ed\udc80\nÅ ²") == "a\\x1b[31mb\\x9bc\\u202ed\\udc80\nÅ ²"
    assert one_line("a\nb\rc") == "a b\\x0dc"


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "@SUM(A1)", "-2+cmd|' /C calc'!A0"])
def test_a_formula_is_no_formula_in_a_table(text: str, tmp_path: Path) -> None:
    assert spreadsheet_cell(text) == f"'{text}"
    frame = pd.DataFrame({"sample": [text, "Si"], text: [-1.5, float("inf")]})
    write_table(frame, frame, tmp_path, "t", "")
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["sample", f"'{text}"], [f"'{text}", "-1.5"], ["Si", "inf"]]


def test_hidden_characters_before_a_formula_are_written_out() -> None:
    assert [spreadsheet_cell(text) for text in ("\t=1", "\r=1", "\n=1")] == ["\\x09=1", "\\x0d=1", " =1"]


@pytest.mark.parametrize("text", ["-1.5", "+2", "-1e-3", "-inf", "Si", ""])
def test_a_number_stays_a_number_in_a_table(text: str) -> None:
    assert spreadsheet_cell(text) == text


def test_cells_of_markdown_and_latex_hold_no_markup() -> None:
    evil = "![x](http://a)|<img src=x>`$\\input{a}$\n\x1b[2J"
    frame = pd.DataFrame({evil: [evil]})
    markdown = to_markdown(frame)
    assert markdown.count("\n") == 3 and "\x1b" not in markdown
    assert "!\\[x\\](http://a)\\|\\<img src=x>\\`\\$\\\\input{a}\\$ " in markdown
    latex = to_latex(frame, evil)
    assert "\\input" not in latex and "\x1b" not in latex and latex.count("$<$img") == 3


def test_text_and_links_of_html_are_escaped() -> None:
    evil = "\"'><script>alert(1)</script>\u202e\x00"
    shown = html.table(pd.DataFrame({evil: [evil]}), link=lambda column, of: f"#{of}", records=[(evil,)])
    shown += html.pairs({evil: evil})
    assert "<script" not in shown and "\x00" not in shown and "\u202e" not in shown
    assert 'href="#&quot;&#x27;&gt;&lt;script' in shown


@pytest.mark.parametrize("text", ["../../etc/passwd", "..", "a/b", "a\\b", "", "x" * 300, "å b"])
def test_a_file_name_stays_in_its_folder(text: str, tmp_path: Path) -> None:
    name = file_name(text)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve() and 0 < len(name) <= 80
    assert not name.startswith(".")
