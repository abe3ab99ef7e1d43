"""The report as Markdown tables, for issues and documents."""

from __future__ import annotations

from tabulate import tabulate

from fitcalc.render.pool import pool_text
from fitcalc.render.text import layer_words
from fitcalc.spec.report import FitReport, Recommendation
from fitcalc.units import format_asked, format_gib


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def report_markdown(report: FitReport) -> str:
    """A heading, the verdict, a table of terms per device, limits, choices, the command, reasons, alternatives."""
    asked = report.inputs
    lines = [
        f"## {report.model['name']} · {asked['quant_name']} · {asked['engine_name']} · {asked['devices_name']}",
        "",
        f"**{report.verdict.replace('_', ' ')}** at "
        + format_asked(asked["context_tokens"], asked["concurrency"], asked.get("resolution")),
    ]
    for device in report.devices:
        rows = [
            [term.name, format_gib(term.bytes), format_gib(term.low_bytes), format_gib(term.high_bytes), term.basis]
            for term in device.terms
            if term.high_bytes
        ]
        totals = [device.total_bytes, device.low_bytes, device.high_bytes]
        rows.append(["total", *(format_gib(size) for size in totals), ""])
        if device.headroom_bytes is not None:
            rows.append(["headroom", format_gib(device.headroom_bytes), "", "", ""])
        usable = "size not given" if device.usable_bytes is None else f"{format_gib(device.usable_bytes)} usable"
        lines += ["", f"### {device.name}, rank {device.rank} ({usable})", ""]
        lines.append(_table(rows, ["term", "estimate", "low", "high", "basis"]))
    limits = report.limits
    rows = [
        ["largest context", f"{limits.max_context_tokens:,}" if limits.max_context_tokens else "–"],
        *([["largest picture", f"{limits.max_resolution_px:,} px"]] if limits.max_resolution_px else []),
        ["most requests", f"{limits.max_concurrency:,}" if limits.max_concurrency else "–"],
        ["cache per token", f"{report.kv_cache.bytes_per_token:,} B"],
    ]
    if pool := pool_text(report):
        rows.append(["pool", pool])
    placed = layer_words(report)
    if placed:
        rows.append(["layers", placed])
    lines += ["", _table(rows, ["limit", "value"])]
    if report.choices:
        lines += ["", _choices(report)]
    if report.recommendation is not None:
        lines += _recommended(report.recommendation)
    return "\n".join(lines)


def _choices(report: FitReport) -> str:
    rows = [
        [
            row.quant,
            row.engine,
            format_gib(row.weights_bytes),
            format_gib(row.total_bytes),
            "–" if row.headroom_bytes is None else format_gib(row.headroom_bytes),
            f"{row.max_context_tokens:,}" if row.max_context_tokens else "–",
            f"{row.decode_tokens_per_s.estimate:.3g}" if row.decode_tokens_per_s else "–",
            row.verdict.replace("_", " "),
        ]
        for row in report.choices
    ]
    headers = [
        "quantization",
        "engine",
        "weights",
        "on the tightest device",
        "headroom",
        "largest context",
        "tok/s",
        "verdict",
    ]
    return _table(rows, headers)


def _recommended(found: Recommendation) -> list[str]:
    lines = ["", "```sh", found.command, "```"] if found.command else []
    others = [f"{other.summary} ({other.verdict.replace('_', ' ')})" for other in found.alternatives]
    for title, entries in (("Why", list(found.reasons)), ("Alternatives", others)):
        if entries:
            lines += ["", f"### {title}", "", *(f"- {entry}" for entry in entries)]
    return lines
