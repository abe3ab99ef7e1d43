"""Where every number comes from: each term with its formula, its inputs, and the source of each input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fitcalc.ledger import Term
from fitcalc.spec.report import DeviceReport, FitReport, Speed
from fitcalc.units import format_gib


def explain_text(report: FitReport) -> str:
    """One block per device (equal ranks once) and term."""
    lines = ["", "Where the numbers come from", ""]
    seen: set[tuple[str, tuple[Term, ...]]] = set()
    for device in report.devices:
        key = (device.id, device.terms)
        if key not in seen:
            seen.add(key)
            lines += _device(device)
    lines.append(
        f"checkpoint = {report.checkpoint_bytes:,} B: tensors exactly; "
        "the header (names, vocabulary) is estimated unless the file itself was read"
    )
    lines += _speed(report.speed)
    lines += [f"model: {report.model['source']}"] if report.model.get("source") else []
    return "\n".join(lines)


def _device(device: DeviceReport) -> Iterator[str]:
    yield f"{device.name} (rank {device.rank})"
    for term in device.terms:
        yield from _term(term)
    yield ""


def _speed(speed: Speed) -> Iterator[str]:
    """What a token and a prompt are spent on, the largest part first."""
    named = (("a token of one request", speed.decode_parts), ("the prompt", speed.prefill_parts))
    for what, parts in named:
        total = sum(part.seconds for part in parts)
        if not total:
            continue
        yield f"time of {what}: {total * 1000:,.3g} ms"
        for part in sorted(parts, key=lambda one: -one.seconds):
            yield f"  {part.name:<10} {part.seconds * 1000:>10,.3g} ms  {part.seconds / total:>4.0%}"
    if speed.decode_parts:
        yield ""


def _term(term: Term) -> Iterator[str]:
    spread = "" if term.low_bytes == term.high_bytes else f", {term.low_bytes:,} to {term.high_bytes:,}"
    yield f"  {term.name} = {term.bytes:,} B ({format_gib(term.bytes)}; {term.basis}{spread})"
    if term.formula:
        yield f"      {term.formula}"
    for entry in term.inputs:
        where = f"   [{entry.source}]" if entry.source else ""
        yield f"        {entry.name} = {_value(entry.value)}{where}"
    if term.note:
        yield f"      {term.note}"


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
