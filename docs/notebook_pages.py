"""Pages of the site made from the notebooks of docs/notebooks: text, code, and the output stored with it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

#: A link from a page to a notebook.
_NOTEBOOK = re.compile(r"(\]\([\w./-]+)\.ipynb(#[^)]*)?\)")
#: The table of a pandas DataFrame, without the style sheet before it.
_TABLE = re.compile(r"<table[^>]*>(.*?</table>)", re.DOTALL)


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return the page of a notebook in Markdown, and its pictures by their file names next to the page."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(_fenced(source, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the code above]({name})")
            else:
                parts.append(_text_or_table(output, data))
    title, _, rest = "\n\n".join(parts).partition("\n")
    download = f'<a href="{path.name}" download>Download this notebook</a> and run it: the code below is all of it.'
    return f"{title}\n\n{download}\n{rest}\n", pictures


def link_pages(markdown: str) -> str:
    """Point links to notebooks at their pages."""
    return _NOTEBOOK.sub(r"\1.md\2)", markdown)


def _text_or_table(output: dict[str, Any], data: dict[str, Any]) -> str:
    table = _TABLE.search("".join(data.get("text/html", "")))
    if table:
        return f"<table>{table[1]}"  # the theme styles tables without a class
    return _fenced("".join(output.get("text") or data["text/plain"]).rstrip("\n"), "text")


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"
