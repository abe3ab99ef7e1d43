"""A recommendation as text: the plan to take with its reasons, the table of choices, what was left out; and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from fitcalc.render.style import Style, plain
from fitcalc.render.wrapping import wrap
from fitcalc.spec.report import Estimate
from fitcalc.spec.selection import Plan, RecommendReport
from fitcalc.units import format_asked

_LABEL = 10
_REASONS = {
    "memory": "too little memory",
    "quality": "below the quality asked for",
    "speed": "too slow",
    "first_token": "first token too late",
    "price": "too dear",
    "unsupported": "not supported",
    "dominated": "beaten by others",
}
_CSV = (
    "devices_name", "quant", "engine", "kv_dtype", "tensor_parallel", "pipeline_parallel", "context_tokens",
    "concurrency", "verdict", "total_bytes", "headroom_bytes", "quality", "usd", "usd_per_h", "cost_usd_per_h", "ask",
)  # fmt: skip
_RANGES = ("perplexity_rise", "tokens_per_s", "time_to_first_token_s", "total_tokens_per_s")


def recommend_text(report: RecommendReport, style: Style) -> str:
    """The whole answer; every line stays within the style's width unless a single word is longer."""
    sections = [
        list(_title(report, style)),
        list(_taken(report, style)),
        list(choice_lines(report.choices, style)) if report.choices else [],
        list(_rejected(report, style)),
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    return text if style.blocks else plain(text)


def _title(report: RecommendReport, style: Style) -> Iterator[str]:
    asked = report.inputs
    limits = [
        format_asked(asked["context_tokens"], asked["concurrency"]),
        f"{asked['quality']} quality" if asked["quality"] else "",
        f"at most ${asked['budget_usd']:,.10g}" if asked["budget_usd"] else "",
        f"at most ${asked['max_usd_per_h']:,.10g} an hour" if asked["max_usd_per_h"] else "",
        f"{asked['min_tokens_per_s']:g} tok/s" if asked["min_tokens_per_s"] else "",
        f"first token within {asked['max_first_token_s']:g} s" if asked["max_first_token_s"] else "",
        "local engines only" if asked["offline"] else "",
    ]
    said = f"{asked['model_name']} · " + ", ".join(limit for limit in limits if limit)
    yield from (style.paint(line, "bold") for line in wrap(said, style.width))


def _taken(report: RecommendReport, style: Style) -> Iterator[str]:
    best = report.recommended
    if best is None:
        yield style.paint("  NOTHING FITS", "bold", "red") + f"  none of {report.inputs['machines']:,} machines"
        return
    kv = f", cache in {best.kv_dtype}" if "--kv-dtype" in best.ask else ""
    named = f"{best.quant_name} on {best.devices_name} with {best.engine_name}{kv}"
    lines = wrap(named, style.width - 15)
    yield f"  {style.paint('RECOMMENDED', 'bold', 'green')}  {lines[0]}"
    yield from (f"{'':15}{line}" for line in lines[1:])
    for index, reason in enumerate(report.reasons):
        yield from _labelled("because" if index == 0 else "", reason, style)
    yield from _labelled("price", _prices(best), style)
    yield from _labelled("start", report.command, style)
    yield from _labelled("see", best.ask, style)


def _prices(plan: Plan) -> str:
    parts = [f"{usd(plan.usd)} to buy" if plan.usd is not None else ""]
    parts += [f"{usd(plan.usd_per_h)} an hour to rent" if plan.usd_per_h is not None else ""]
    return ", ".join(part for part in parts if part) or "not known"


def choice_lines(plans: tuple[Plan, ...], style: Style) -> Iterator[str]:
    """A row for each plan: machine, quantization, engine, loss, speed, prices; columns by what they hold."""
    rows = [
        (
            plan.quant + (f" kv {plan.kv_dtype}" if "--kv-dtype" in plan.ask else ""),
            plan.engine,
            rise(plan.perplexity_rise),
            rate(plan.tokens_per_s),
            f"{plan.max_context_tokens:,}" if plan.max_context_tokens else "",
            usd(plan.usd),
            usd(plan.usd_per_h),
        )
        for plan in plans
    ]
    head = ("quant", "engine", "loss", "tok/s", "context", "buy", "rent/h")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    room = max(style.width - sum(widths) - 2 * len(widths) - 2, 12)
    yield style.paint(_row(("machine", *head), (room, *widths)), "dim")
    for plan, row in zip(plans, rows, strict=True):
        first, *rest = wrap(plan.devices_name, room) or [""]
        yield _row((first, *row), (room, *widths)).rstrip()
        yield from (f"    {line}" for line in rest)


def _row(cells: tuple[str, ...], widths: tuple[int, ...]) -> str:
    left = [f"{cell:<{width}}" for cell, width in zip(cells[:3], widths[:3], strict=True)]
    right = [f"{cell:>{width}}" for cell, width in zip(cells[3:], widths[3:], strict=True)]
    return "  " + "  ".join([*left, *right])


def _rejected(report: RecommendReport, style: Style) -> Iterator[str]:
    if not report.rejected:
        return
    yield style.paint("  left out", "dim")
    for one in report.rejected:
        what = _REASONS[one.reason] + (f" ({one.term.replace('_', ' ')})" if one.term else "")
        nearest = "such as" if one.reason in ("dominated", "unsupported") else "nearest:"
        said = f"{one.plans:,} {what}; {nearest} {one.example}"
        yield from wrap(said, style.width, initial_indent="  ", subsequent_indent="    ")


def _labelled(label: str, text: str, style: Style) -> Iterator[str]:
    lines = wrap(text, style.width - _LABEL - 2)
    for index, line in enumerate(lines):
        yield f"  {label if index == 0 else '':<{_LABEL}}{line}"


def usd(value: float | None) -> str:
    """'$1,499', '$0.21'; '' where no price is known."""
    if value is None:
        return ""
    return f"${value:,.0f}" if value >= 100 else f"${value:.2f}" if value >= 0.1 else f"${value:.2g}"


def rise(value: Estimate | None) -> str:
    """'0', '0.4 %', '?' for what was not measured."""
    if value is None:
        return "?"
    return "0" if not value.estimate else f"{100 * value.estimate:.2g} %" if value.estimate >= 5e-5 else "<0.01 %"


def rate(value: Estimate | None) -> str:
    """'31 (26–36)', '' where it is not known."""
    return f"{_digits(value.estimate)} ({_digits(value.low)}–{_digits(value.high)})" if value else ""


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def recommend_csv(report: RecommendReport) -> str:
    """The front as CSV, cheapest first; `recommended` is 1 for the plan to take."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("", "_low", "_high")
    writer.writerow(["recommended", *_CSV, *(f"{name}{end}" for name in _RANGES for end in ends)])
    best = report.recommended.ask if report.recommended else None
    for plan in report.front:
        ranges = [getattr(plan, name) for name in _RANGES]
        figures = [[None] * 3 if one is None else [one.estimate, one.low, one.high] for one in ranges]
        writer.writerow(
            [
                int(plan.ask == best),
                *(getattr(plan, name) for name in _CSV),
                *(figure for three in figures for figure in three),
            ]
        )
    return out.getvalue()
