"""HTML elements: escaped text, tables that the page's script sorts, images, and data for the script."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

import pandas as pd

from aetlab.core.inert import printable


def escape(text: str) -> str:
    """Return ``text`` for an element or a quoted attribute, with hidden characters in writing."""
    return html.escape(printable(text))


def table(
    frame: pd.DataFrame,
    values: pd.DataFrame | None = None,
    *,
    sortable: bool = True,
    link: Callable[[str, Any], str | None] = lambda column, value: None,
) -> str:
    """Return ``frame`` as a table; ``values`` (same shape) are the numbers to sort by where cells are formatted text.

    ``link(column, value)`` returns the address that a cell links to, or None.
    """
    values = frame if values is None else values
    numeric = [pd.api.types.is_numeric_dtype(values.iloc[:, i]) for i in range(frame.shape[1])]
    head = _head([str(name) for name in frame.columns], numeric, sortable)
    lines = []
    for shown, sorted_by in zip(frame.itertuples(index=False), values.itertuples(index=False), strict=True):
        cells = []
        for name, text, value, number in zip(frame.columns, shown, sorted_by, numeric, strict=True):
            address = link(str(name), text)
            content = escape(str(text))
            content = f'<a href="{escape(address)}">{content}</a>' if address else content
            key = f' data-value="{_number(value)}"' if number else ""
            cells.append(f"<td{_class(number)}{key}>{content}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll"><table{kind}><thead>{head}</thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _head(names: list[str], numeric: list[bool], sortable: bool) -> str:
    """Return the headings; adjacent columns named ``group: name`` share one heading of their group."""
    groups = [name.split(": ", 1)[0] if ": " in name else "" for name in names]
    above = "".join(
        f'<th scope="colgroup" colspan="{len(list(members))}">{escape(group)}</th>'
        for group, members in groupby(groups)
    )
    cells = []
    for name, group, number in zip(names, groups, numeric, strict=True):
        text = escape(name.removeprefix(f"{group}: "))
        content = f"<button type=button>{text}</button>" if sortable else text
        cells.append(f'<th scope="col"{_class(number)}>{content}</th>')
    return (f"<tr>{above}</tr>" if any(groups) else "") + f"<tr>{''.join(cells)}</tr>"


def pairs(content: Mapping[str, Any]) -> str:
    """Return a table of names and values."""
    rows = "".join(
        f"<tr><th scope=row>{escape(str(name))}</th><td class=long>{escape(str(value))}</td></tr>"
        for name, value in content.items()
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def image(webp: bytes, size_px: tuple[int, int], text: str) -> str:
    """Return an image that is part of the page."""
    address = "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")
    return f'<img src="{address}" width="{size_px[0]}" height="{size_px[1]}" alt="{escape(text)}">'


def script_data(content: Any) -> str:
    """Return ``content`` as JSON that cannot close the script element that contains it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def finite(value: Any) -> Any:
    """Return ``value``, or None for a number that is not finite, which JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> str:
    return (
        ""
        if value is None or (isinstance(value, float) and math.isnan(value))
        else ({math.inf: "Infinity", -math.inf: "-Infinity"}.get(value) or repr(float(value)))
    )


def _class(number: bool) -> str:
    return ' class="number"' if number else ""
