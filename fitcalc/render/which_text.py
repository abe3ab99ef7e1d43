"""The models that run on a machine as a table and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from fitcalc.render.recommend_text import rate, rise
from fitcalc.render.style import Style, plain
from fitcalc.render.wrapping import wrap
from fitcalc.spec.selection import Runnable, WhichReport
from fitcalc.units import format_asked, format_params

_HEAD = ("params", "quant", "engine", "loss", "tok/s", "context")
_CSV = (
    "model", "name", "family", "params_total", "params_active", "quant", "engine", "quality", "total_bytes",
    "headroom_bytes", "max_context_tokens", "runs_well", "ask",
)  # fmt: skip


def which_text(report: WhichReport, style: Style, most: int) -> str:
    """The first `most` models that run well and, where there are fewer, those that only run."""
    asked = report.inputs
    use = f"{asked['use']} models" if asked["use"] else "all text models"
    said = f"{asked['devices_name']} · {use} · {format_asked(asked['context_tokens'], asked['concurrency'])}"
    lines = [style.paint(line, "bold") for line in wrap(said, style.width)]
    well = [one for one in report.models if one.runs_well]
    poor = [one for one in report.models if not one.runs_well]
    body = list(_table([*well, *poor][:most], style))
    count = f"{len(well):,} of {report.looked_at:,} run well, {len(poor):,} only slowly or at low quality (marked ~), "
    count += f"{report.too_large:,} do not fit"
    text = "\n".join(
        [
            *lines,
            "",
            *body,
            *([""] if body else []),
            *wrap(count, style.width, initial_indent="  ", subsequent_indent="  "),
        ]
    )
    return text if style.blocks else plain(text)


def _table(models: list[Runnable], style: Style) -> Iterator[str]:
    if not models:
        return
    rows = [
        (
            ("" if one.runs_well else "~ ") + one.model,
            format_params(one.params_total),
            one.quant,
            one.engine,
            rise(one.perplexity_rise),
            rate(one.tokens_per_s),
            f"{one.max_context_tokens:,}" if one.max_context_tokens else "",
        )
        for one in models
    ]
    lines = _aligned([("model", *_HEAD), *rows], style.width)
    yield style.paint(lines[0], "dim")
    yield from lines[1:]


def _aligned(rows: list[tuple[str, ...]], most: int) -> list[str]:
    """Columns lined up, words to the left and figures to the right; engine and context go where the width is short."""
    for dropped in ((), (3,), (3, 6), (2, 3, 6)):
        kept = [column for column in range(len(rows[0])) if column not in dropped]
        widths = {column: max(len(row[column]) for row in rows) for column in kept}
        if sum(widths.values()) + 2 * len(kept) <= most:
            break
    return [
        "".join(
            f"  {row[column]:<{widths[column]}}" if column in (0, 2, 3) else f"  {row[column]:>{widths[column]}}"
            for column in kept
        ).rstrip()
        for row in rows
    ]


def which_csv(report: WhichReport) -> str:
    """One row per model."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_CSV, "perplexity_rise", "tokens_per_s", "tokens_per_s_low", "tokens_per_s_high"])
    for one in report.models:
        speed = one.tokens_per_s
        figures = [None] * 3 if speed is None else [speed.estimate, speed.low, speed.high]
        loss = one.perplexity_rise.estimate if one.perplexity_rise else None
        writer.writerow([*(getattr(one, name) for name in _CSV), loss, *figures])
    return out.getvalue()
