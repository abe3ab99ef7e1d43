"""A curve as a table with bars beneath it, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import fields

from fitcalc.render.style import Style, plain
from fitcalc.render.wrapping import wrap
from fitcalc.spec.curve import Curve, CurvePoint, Within
from fitcalc.spec.report import Estimate

Value = Callable[[CurvePoint], Estimate]

COLUMNS: dict[str, tuple[str, Value, float]] = {
    "each": ("tok/s each", lambda point: point.request_tokens_per_s, 1),
    "total": ("tok/s in total", lambda point: point.total_tokens_per_s, 1),
    "first": ("first token, s", lambda point: point.time_to_first_token_s, 1),
    "token": ("per token, ms", lambda point: point.time_per_token_s, 1000),
}
"""Column -> its heading, its figure and what that is multiplied by."""
_NARROWER = (("each", "total", "first", "token"), ("total", "first", "token"), ("total", "first"), ("total",))
_HOLDS = {"yes": ("within", "green"), "maybe": ("may be over", "yellow"), "no": ("over", "red"), None: ("", "")}
_GAP = "  "
_LABELS = {"concurrency": "requests", "context": "context"}


def curve_text(curve: Curve, style: Style) -> str:
    """The plan, a table of its speeds, what holds within the limits, and bars; within the style's width."""
    sections = [list(_title(curve, style))]
    if curve.points:
        sections += [list(_table(curve, style)), list(_sketch(curve, style))]
    if curve.within is not None:
        words = _within_words(curve, curve.within)
        sections.insert(2, wrap(words, style.width, initial_indent="  ", subsequent_indent="  "))
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    return text if style.blocks else plain(text)


def _title(curve: Curve, style: Style) -> Iterator[str]:
    asked = curve.inputs
    name = " · ".join([asked["model_name"], asked["quant_name"], asked["engine_name"], asked["devices_name"]])
    for line in wrap(name, style.width, subsequent_indent="  "):
        yield style.paint(line, "bold")
    yield from wrap(_asked_words(curve), style.width, initial_indent="  ", subsequent_indent="  ")


def _asked_words(curve: Curve) -> str:
    """What was asked of every point: '8,192 tokens of context, prompts of 2,048 and answers of 256 tokens'."""
    if not curve.points:
        return "nothing fits"
    first = curve.points[0]
    if curve.over == "context":
        several = "s" if first.concurrency > 1 else ""
        return f"{first.concurrency:,} request{several}, each with a prompt that fills its context but for the answer"
    context = f"{first.context_tokens:,} tokens of context"
    return f"{context}, prompts of {first.prompt_tokens:,} and answers of {first.generated_tokens:,} tokens"


def axis_value(curve: Curve, point: CurvePoint) -> int:
    """Where on its axis a point lies."""
    return point.concurrency if curve.over == "concurrency" else point.context_tokens


def _table(curve: Curve, style: Style) -> Iterator[str]:
    """All columns, or as many as the width has room for; figures and their ranges line up."""
    for names in _NARROWER:
        columns = [_column(curve, name) for name in names]
        lines = [_GAP.join(cells) for cells in zip(_labels(curve), *columns, strict=True)]
        room = max(map(len, lines)) + len(_GAP) + (max(map(len, _words(curve))) if curve.within else 0)
        if room <= style.width:
            break
    yield style.paint(lines[0].rstrip(), "dim")
    for line, point in zip(lines[1:], curve.points, strict=True):
        word, color = _HOLDS[point.holds]
        yield f"{line}{_GAP}{style.paint(word, color) if color else ''}".rstrip()


def _words(curve: Curve) -> list[str]:
    return [_HOLDS[point.holds][0] for point in curve.points]


def _labels(curve: Curve) -> list[str]:
    """The heading and places of the axis, to the right."""
    cells = [_LABELS[curve.over], *(f"{axis_value(curve, point):,}" for point in curve.points)]
    width = max(map(len, cells))
    return [f"  {cell:>{width}}" for cell in cells]


def _column(curve: Curve, name: str) -> list[str]:
    """The heading and cells of one figure: the figure to the right, its range to the left."""
    title, value, factor = COLUMNS[name]
    pairs = [_figures(value(point), factor) for point in curve.points]
    width = max(len(figure) for figure, _ in pairs)
    cells = [f"{figure:>{width}} {spread}" for figure, spread in pairs]
    room = max(len(title), *map(len, cells))
    return [cell.ljust(room) for cell in (title, *cells)]


def _ranged(value: Estimate, factor: float = 1) -> str:
    return " ".join(_figures(value, factor))


def _figures(value: Estimate, factor: float) -> tuple[str, str]:
    """('31', '(26–36)')."""
    low, high = _figure(value.low * factor), _figure(value.high * factor)
    return _figure(value.estimate * factor), f"({low}–{high})"


def _figure(value: float) -> str:
    """Two digits, three from 100 on, thousands as k: no estimate is better than that."""
    if value >= 9950:
        return f"{value / 1000:,.0f}k" if value >= 99_500 else f"{value / 1000:.1f}k"
    return f"{value:,.0f}" if value >= 99.5 else f"{float(f'{value:.2g}'):g}"


def _within_words(curve: Curve, within: Within) -> str:
    """'21 requests at once have their first token within 2 s and a token every 50 ms (8 even at the slow end …)'."""
    limits = []
    if within.max_ttft_s is not None:
        limits.append(f"their first token within {_time(within.max_ttft_s)}")
    if within.max_tpot_s is not None:
        limits.append(f"a token at least every {_time(within.max_tpot_s)}")
    goal = " and ".join(limits)
    asked = f"at {curve.inputs['context_tokens']:,} tokens of context"
    if not within.concurrency:
        return f"not even one request {asked} has {goal.replace('their', 'its')}"
    total = f", {_ranged(within.total_tokens_per_s)} tok/s in total" if within.total_tokens_per_s else ""
    sure = f"{within.sure_concurrency:,}" if within.sure_concurrency else "none"
    count = f"{within.concurrency:,} request{'s' if within.concurrency > 1 else ''}"
    return f"{count} {asked} have {goal}{total}; {sure} even at the slow end of the range"


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _sketch(curve: Curve, style: Style) -> Iterator[str]:
    """Bars of what all get and of what each gets: full to the estimate, shaded to the high end."""
    names = ("total", "each") if curve.over == "concurrency" else ("each", "first")
    label = max(len(f"{axis_value(curve, point):,}") for point in curve.points)
    room = (style.width - label - 2 - 2 * len(_GAP)) // 2
    titles = [COLUMNS[name][0].ljust(room) for name in names]
    yield style.paint(f"  {'':>{label}}{_GAP}{_GAP.join(titles)}".rstrip(), "dim")
    tops = [max(COLUMNS[name][1](point).high for point in curve.points) for name in names]
    for point in curve.points:
        bars = [_bar(COLUMNS[name][1](point), top, room) for name, top in zip(names, tops, strict=True)]
        yield f"  {axis_value(curve, point):>{label},}{_GAP}{_GAP.join(bars)}".rstrip()


def _bar(value: Estimate, top: float, width: int) -> str:
    full = max(1, round(value.estimate / top * width))
    over = max(0, round(value.high / top * width) - full)
    return ("█" * full + "▒" * over).ljust(width)


def flat_rows(curve: Curve) -> tuple[list[str], list[list[object]]]:
    """Column names and rows of plain values: figures as `name`, `name_low` and `name_high`."""
    names: list[str] = []
    rows: list[list[object]] = []
    for point in curve.points:
        row: dict[str, object] = {}
        for field in fields(point):
            value = getattr(point, field.name)
            if isinstance(value, Estimate):
                row |= {field.name: value.estimate, f"{field.name}_low": value.low, f"{field.name}_high": value.high}
            else:
                row[field.name] = value
        names = list(row)
        rows.append(list(row.values()))
    return names, rows


def curve_csv(curve: Curve) -> str:
    """One row per point, after the plan that it is of; '\\n' line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names, rows = flat_rows(curve)
    plan = ("model", "quant", "engine")
    writer.writerow([*plan, *names])
    writer.writerows([*(curve.inputs[key] for key in plan), *row] for row in rows)
    return buffer.getvalue()


def curve_markdown(curve: Curve) -> str:
    """A heading, the table, and what holds within the limits."""
    from tabulate import tabulate

    asked = curve.inputs
    names = _NARROWER[0]
    head = [_LABELS[curve.over], *(COLUMNS[name][0] for name in names), *([""] if curve.within else [])]
    rows = [
        [
            f"{axis_value(curve, point):,}",
            *(_ranged(COLUMNS[name][1](point), COLUMNS[name][2]) for name in names),
            *([_HOLDS[point.holds][0]] if curve.within else []),
        ]
        for point in curve.points
    ]
    lines = [
        f"## {asked['model_name']} · {asked['quant_name']} · {asked['engine_name']} · {asked['devices_name']}",
        "",
        _asked_words(curve),
    ]
    if rows:
        lines += ["", tabulate(rows, head, tablefmt="github", disable_numparse=True)]
    if curve.within is not None:
        lines += ["", _within_words(curve, curve.within)]
    return "\n".join(lines)
