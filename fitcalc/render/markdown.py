"""The report as Markdown tables, for issues and documents."""

from __future__ import annotations

from tabulate import tabulate

from fitcalc.spec.report import FitReport
from fitcalc.units import format_gib


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def report_markdown(report: FitReport) -> str:
    """A heading, the verdict, one table of terms per device, limits, the command."""
    asked = report.inputs
    lines = [
        f"## {report.model['name']} · {asked['quant_name']} · {asked['engine_name']} · {asked['devices_name']}",
        "",
        f"**{report.verdict.replace('_', ' ')}** at {asked['context_tokens']:,} tokens × {asked['concurrency']}",
    ]
    for device in report.devices:
        rows = [
            [term.name, format_gib(term.bytes), format_gib(term.low_bytes), format_gib(term.high_bytes), term.basis]
            for term in device.terms
            if term.high_bytes
        ]
        totals = [device.total_bytes, device.low_bytes, device.high_bytes]
        rows.append(["total", *(format_gib(size) for size in totals), ""])
        usable = "size not given" if device.usable_bytes is None else f"{format_gib(device.usable_bytes)} usable"
        lines += ["", f"### {device.name}, rank {device.rank} ({usable})", ""]
        lines.append(_table(rows, ["term", "estimate", "low", "high", "basis"]))
    limits = report.limits
    rows = [
        ["largest context", f"{limits.max_context_tokens:,}" if limits.max_context_tokens else "–"],
        ["most requests", f"{limits.max_concurrency:,}" if limits.max_concurrency else "–"],
        ["cache per token", f"{report.kv_cache.bytes_per_token:,} B"],
    ]
    lines += ["", _table(rows, ["limit", "value"])]
    if report.recommendation is not None and report.recommendation.command:
        lines += ["", "```sh", report.recommendation.command, "```"]
    return "\n".join(lines)
