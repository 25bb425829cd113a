"""HTML elements: escaped text, tables that the page's script sorts, images, and data for the script."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
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
    records: Sequence[Sequence[str]] | None = None,
    link: Callable[[str, str], str | None] = lambda column, record: None,
    row_id: Callable[[str], str] | None = None,
) -> str:
    """Return ``frame`` as a table; ``values`` (same shape) are the numbers to sort by where cells are formatted text.

    ``records`` are the identities of the records behind each row. ``link(column, record)`` returns the address that the
    cells of a column link to in a row whose first record is ``record``, or None. Of the links of a row, the first takes
    part in the order of the Tab key. ``row_id(record)`` returns the id of a row.
    """
    values = frame if values is None else values
    numeric = [pd.api.types.is_numeric_dtype(values.iloc[:, i]) for i in range(frame.shape[1])]
    head = _head([str(name) for name in frame.columns], numeric, sortable)
    lines = []
    of_rows = records if records is not None else [()] * len(frame)
    rows = zip(frame.itertuples(index=False), values.itertuples(index=False), of_rows, strict=True)
    for shown, sorted_by, own in rows:
        cells = []
        reached = ""
        for name, text, value, number in zip(frame.columns, shown, sorted_by, numeric, strict=True):
            address = link(str(name), own[0]) if own else None
            content = escape(str(text))
            if address and content:
                content = f'<a href="{escape(address)}"{reached}>{content}</a>'
                reached = " tabindex=-1"
            key = f' data-value="{_number(value)}"' if number else ""
            cells.append(f"<td{_class(number)}{key}>{content}</td>")
        name = f' id="{escape(row_id(own[0]))}"' if row_id and own else ""
        lines.append(f"<tr{name}{shown_with(own)}>{''.join(cells)}</tr>")
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll"><table{kind}><thead>{head}</thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def shown_with(records: Sequence[str]) -> str:
    """Return the attribute of an element that the page shows where one of ``records`` is chosen; nothing for none."""
    return f' data-records="{escape(" ".join(records))}"' if records else ""


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
