"""Catalogue listings as a plain table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate


def list_table(rows: Sequence[dict[str, Any]]) -> str:
    """A table of the rows' keys, numbers to the right, nothing reinterpreted (ids such as 70e9 stay text)."""
    headers = list(rows[0])
    cells = [["" if row.get(key) is None else _cell(row.get(key)) for key in headers] for row in rows]
    numeric = [all(isinstance(row.get(key), int | float | None) for row in rows) for key in headers]
    return tabulate(
        cells,
        [header.replace("_", " ") for header in headers],
        tablefmt="plain",
        disable_numparse=True,
        colalign=["right" if is_number else "left" for is_number in numeric],
    )


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
