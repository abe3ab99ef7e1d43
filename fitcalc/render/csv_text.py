"""The ledger as CSV: one row per term and device, sizes in bytes."""

from __future__ import annotations

import csv
import io

from fitcalc.spec.report import FitReport

COLUMNS = (
    "model", "quant", "engine", "context_tokens", "concurrency", "verdict", "device", "rank", "term",
    "bytes", "low_bytes", "high_bytes", "basis", "usable_bytes",
)  # fmt: skip


def report_csv(report: FitReport) -> str:
    """CSV with a header line; '\\n' line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    asked = report.inputs
    for device in report.devices:
        for term in device.terms:
            writer.writerow(
                [
                    asked["model"], asked["quant"], asked["engine"], asked["context_tokens"], asked["concurrency"],
                    report.verdict, device.id, device.rank, term.name, term.bytes, term.low_bytes, term.high_bytes,
                    term.basis, device.usable_bytes,
                ]
            )  # fmt: skip
    return buffer.getvalue()
