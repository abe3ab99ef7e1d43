"""Answers side by side as a table, in blocks of as many columns as the width takes, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import fields

from fitcalc.render.recommend_text import rate, rise, usd
from fitcalc.render.style import Style, plain
from fitcalc.render.wrapping import wrap
from fitcalc.spec.report import Estimate
from fitcalc.spec.selection import Compared, CompareReport
from fitcalc.units import format_gib

_LABEL = 14
_LEAST_COLUMN = 18
_RANGES = ("perplexity_rise", "tokens_per_s", "time_to_first_token_s", "total_tokens_per_s")


def _gib(size: int | None) -> str:
    return "not known" if size is None else format_gib(size)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _seconds(value: Estimate | None) -> str:
    return "" if value is None else f"{value.estimate:.2g} s ({value.low:.2g}–{value.high:.2g})"


_ROWS: tuple[tuple[str, Callable[[Compared], str]], ...] = (
    ("verdict", lambda one: one.verdict.replace("_", " ")),
    ("model", lambda one: one.model),
    ("quantization", lambda one: one.quant),
    ("engine", lambda one: one.engine),
    ("devices", lambda one: one.devices_name),
    ("weights", lambda one: _gib(one.weights_bytes)),
    ("kv cache", lambda one: _gib(one.kv_cache_bytes)),
    ("in all", lambda one: _gib(one.total_bytes)),
    ("usable", lambda one: _gib(one.usable_bytes)),
    ("to spare", lambda one: _gib(one.headroom_bytes)),
    ("max context", lambda one: _number(one.max_context_tokens)),
    ("max requests", lambda one: _number(one.max_concurrency)),
    ("loss", lambda one: rise(one.perplexity_rise) + (f" {one.quality}" if one.quality else "")),
    ("tok/s, one", lambda one: rate(one.tokens_per_s)),
    ("tok/s, all", lambda one: rate(one.total_tokens_per_s)),
    ("first token", lambda one: _seconds(one.time_to_first_token_s)),
    ("buy", lambda one: usd(one.usd)),
    ("rent/h", lambda one: usd(one.usd_per_h)),
)


def compare_text(report: CompareReport, style: Style) -> str:
    """A column for each answer; what is alike in all of them is said once, above."""
    alike = [(label, value(report.columns[0])) for label, value in _ROWS if label in ("model", "engine", "devices")]
    alike += [("quantization", report.columns[0].quant)]
    shared = [label for label, said in alike if all(_cell(one, label) == said for one in report.columns)]
    order = [label for label in ("model", "quantization", "engine", "devices") if label in shared]
    title = " · ".join(_cell(report.columns[0], label) for label in order)
    per_block = max((style.width - _LABEL - 2) // _LEAST_COLUMN, 1)
    blocks = [report.columns[start : start + per_block] for start in range(0, len(report.columns), per_block)]
    sections = [wrap(title, style.width)] if title else []
    sections += [list(_block(block, set(shared), style)) for block in blocks]
    text = "\n\n".join("\n".join(lines) for lines in sections)
    return text if style.blocks else plain(text)


def _cell(one: Compared, label: str) -> str:
    return next(value(one) for name, value in _ROWS if name == label)


def _block(columns: tuple[Compared, ...], shared: set[str], style: Style) -> Iterator[str]:
    width = (style.width - _LABEL - 2) // len(columns) - 2
    yield from _line("", [one.name for one in columns], width, style, bold=True)
    for label, value in _ROWS:
        cells = [value(one) for one in columns]
        if label not in shared and any(cells):
            yield from _line(label, cells, width, style)


def _line(label: str, cells: list[str], width: int, style: Style, *, bold: bool = False) -> Iterator[str]:
    wrapped = [wrap(cell, width) or [""] for cell in cells]
    for row in range(max(map(len, wrapped))):
        parts = [f"{lines[row] if row < len(lines) else '':<{width}}" for lines in wrapped]
        text = f"  {label if row == 0 else '':<{_LABEL}}{'  '.join(parts)}".rstrip()
        yield style.paint(text, "bold") if bold else text


def compare_csv(report: CompareReport) -> str:
    """One row for each answer."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [field.name for field in fields(Compared) if field.name not in _RANGES]
    writer.writerow([*names, *(f"{name}{end}" for name in _RANGES for end in ("", "_low", "_high"))])
    for one in report.columns:
        ranges = [getattr(one, name) for name in _RANGES]
        figures = [[None] * 3 if value is None else [value.estimate, value.low, value.high] for value in ranges]
        writer.writerow([*(getattr(one, name) for name in names), *(figure for three in figures for figure in three)])
    return out.getvalue()
