"""A fine-tuning report as text: the verdict, the terms at the peak, limits, time and cost, what to change or start."""

from __future__ import annotations

from collections.abc import Iterator

from fitcalc.render.command import wrap_command
from fitcalc.render.style import Style, plain
from fitcalc.render.text import device_sections, labelled, verdict_lines
from fitcalc.render.wrapping import wrap
from fitcalc.spec.report import Estimate
from fitcalc.spec.training import Duration, FinetuneReport, Training
from fitcalc.units import format_params

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def training_text(report: FinetuneReport, style: Style) -> str:
    """The whole report; every line stays within the style's width unless a single word is longer."""
    asked = f"micro batch {report.inputs['micro_batch']:,} × {report.inputs['seq_len']:,} tokens"
    sections = [
        list(_title(report, style)),
        [*verdict_lines(report, asked, style)],
        *device_sections(report, style),
        list(_facts(report, style)),
        list(_advice(report, style)),
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    if report.training and report.training.starter:
        text += "\n\n" + report.training.starter.rstrip()
    return text if style.blocks else plain(text)


def _title(report: FinetuneReport, style: Style) -> Iterator[str]:

    asked = report.inputs
    shards = {"none": "", "fsdp": " · FSDP"}.get(asked["sharding"], f" · ZeRO-{asked['sharding'][-1]}")
    rank = f" · rank {asked['rank']}" if asked["rank"] else ""
    line = f"{report.model['name']} · {asked['quant_name']}{rank}{shards} · {asked['devices_name']}"
    yield from (style.paint(text, "bold") for text in wrap(line, style.width, subsequent_indent="  "))
    yield from (style.paint(text, "dim") for text in wrap(asked["settings"], style.width))


def _facts(report: FinetuneReport, style: Style) -> Iterator[str]:
    training = report.training
    if training is None:
        return
    share = training.trainable_params / max(training.total_params, 1)
    shown = f"{share:.2%}" if share < 0.1 else f"{share:.0%}"
    trained = f"{format_params(training.trainable_params)} of {format_params(training.total_params)} ({shown})"
    yield from labelled("trained", trained, style)
    yield from labelled("peak", training.phase, style)
    yield from labelled("limits", " · ".join(_limits(report, training)), style)
    if training.duration:
        yield from _duration(training.duration, style)


def _limits(report: FinetuneReport, training: Training) -> Iterator[str]:
    if training.max_seq_len is None or training.max_micro_batch is None:
        yield "not known without the card's memory"
        return
    batch, length = report.inputs["micro_batch"], report.inputs["seq_len"]
    most = report.model["max_context_tokens"]
    if training.max_seq_len == 0:
        yield f"no length fits at micro batch {batch:,}"
    else:
        own = " (the model's own limit)" if most and training.max_seq_len >= most else ""
        yield f"{training.max_seq_len:,} tokens at micro batch {batch:,}{own}"
    if training.max_micro_batch:
        yield f"micro batch {training.max_micro_batch:,} at {length:,} tokens"


def _duration(found: Duration, style: Style) -> Iterator[str]:
    if found.seconds is None or found.tokens_per_s is None:
        yield from labelled("time", found.note, style)
        return
    words = f"{_span(found.seconds)} for {found.tokens:,} tokens · {_rate(found.tokens_per_s)} tok/s"
    yield from labelled("time", words, style)
    if found.cost is not None:
        cost = f"${_money(found.cost.estimate)} ({_money(found.cost.low)}–{_money(found.cost.high)})"
        yield from labelled("cost", f"{cost}: {found.price}", style)
    else:
        yield from labelled("cost", found.price, style)


def _rate(rate: Estimate) -> str:
    return f"{rate.estimate:,.0f} ({rate.low:,.0f}–{rate.high:,.0f})"


def _money(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _span(seconds: Estimate) -> str:
    """'3.2 h (2.2–5.7)', in the unit that suits the estimate."""
    unit, size = next(
        (
            (name, size)
            for name, size in (("days", _DAY), ("h", _HOUR), ("min", _MINUTE))
            if seconds.estimate >= 2 * size
        ),
        ("s", 1),
    )
    low, middle, high = (value / size for value in (seconds.low, seconds.estimate, seconds.high))
    return f"{middle:,.3g} {unit} ({low:,.3g}–{high:,.3g})"


def _advice(report: FinetuneReport, style: Style) -> Iterator[str]:
    found = report.recommendation
    if found is None:
        return
    fits = report.verdict in ("fits", "tight")
    if fits or found.verdict in ("fits", "tight"):
        word = " (tight)" if found.verdict == "tight" else ""
        yield from labelled("START" if fits else "INSTEAD", found.summary + word, style, looks=("bold",))
        for index, reason in enumerate(() if fits else found.reasons):
            yield from labelled("with" if index == 0 else "", reason, style)
        yield from ("    " + line for line in wrap_command(found.command, style.width - 4))
        if not (report.training and report.training.starter):
            yield from labelled("config", f"--emit {found.engine} writes the configuration", style)
    for index, other in enumerate(found.alternatives):
        lead = ("or" if found.verdict in ("fits", "tight") else "INSTEAD") if index == 0 else ""
        yield from labelled(lead, other.summary, style)
    if not fits and found.verdict == "does_not_fit" and not found.alternatives:
        yield from labelled("instead", "no setting and no card of the catalogue makes it fit", style)
