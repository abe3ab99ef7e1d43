"""A fleet as text: what arrives, how many replicas of what carry it, what requests see, what it costs, how to start."""

from __future__ import annotations

from collections.abc import Iterator

from fitcalc.render.command import wrap_command
from fitcalc.render.cost_text import usd
from fitcalc.render.style import Style, plain
from fitcalc.render.text import labelled
from fitcalc.render.wrapping import wrap
from fitcalc.spec.capacity_report import CapacityReport, Fleet, Latency
from fitcalc.spec.cost_report import RentOffer
from fitcalc.spec.report import Estimate

_MOST_OFFERS = 3
_INDENT = 2


def capacity_text(report: CapacityReport, style: Style) -> str:
    """The whole report; every line stays within the style's width unless a single word is longer."""
    sections = [
        [style.paint(line, "bold") for line in wrap(_title(report), style.width)],
        list(_load_lines(report, style)),
        list(_fleet_lines(report, style)),
        list(_cost_lines(report, style)),
        list(_choice_lines(report, style)),
        list(_simulation_lines(report, style)),
        list(_start_lines(report, style)),
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    return text if style.blocks else plain(text)


def _title(report: CapacityReport) -> str:
    asked = report.inputs
    return " · ".join([asked["model_name"], asked["quant_name"], asked["engine_name"], asked["devices_name"]])


def _load_lines(report: CapacityReport, style: Style) -> Iterator[str]:
    load, asked = report.load, report.inputs
    rate = "" if load.requests_per_s is None else f"{_figure(load.requests_per_s)} requests/s"
    if load.users is not None:
        who = f"{load.users:,} users who think {_time(load.think_time_s or 0)}"
        rate = f"{who}, {rate}" if rate else who
    if load.trace_requests is not None and load.users is None:
        rate += f" ({load.trace_requests:,} requests of the trace, {_figure(load.mean_requests_per_s or 0)} on average)"
    kind = "mean " if load.trace_requests is not None else ""
    lengths = f"{kind}{_figure(load.prompt_tokens)} tokens in, {kind}{_figure(load.output_tokens)} out"
    yield from labelled("load", f"{rate}, {lengths}", style)
    wanted = [
        f"{name} up to {_time(limit)}"
        for name, limit in (("first token", asked["max_ttft_s"]), ("each further token", asked["max_tpot_s"]))
        if limit is not None
    ]
    if wanted:
        yield from labelled("limits", f"{', '.join(wanted)}, for {asked['percentile']:g} % of requests", style)


def _fleet_lines(report: CapacityReport, style: Style) -> Iterator[str]:
    fleet, asked = report.fleet, report.inputs
    if fleet is None:
        yield from labelled("NONE", f"no number of replicas does: {report.reason}", style, looks=("bold", "red"))
        return
    yield from labelled("REPLICAS", _size(fleet), style, looks=("bold", "green"))
    busy = f"{fleet.utilization:.0%} of saturation ({_figure(fleet.saturation_per_s)} requests/s)"
    yield from labelled("each", f"{_figure(fleet.rate_per_s)} requests/s, {busy}", style)
    limits = " within the limits" if asked["max_ttft_s"] or asked["max_tpot_s"] else ""
    free = f"{fleet.head_room:.0%} of the {_figure(fleet.carried_per_s)} requests/s that it carries{limits}"
    yield from labelled("head-room", f"{free}; at least {asked['head_room']:.0%} was asked for", style)
    held = f"{_figure(fleet.in_flight)} requests in flight on average, {fleet.concurrency:,} at most"
    yield from labelled("batch", f"{held}, {fleet.context_tokens:,} tokens each; the others wait", style)
    yield from labelled("TTFT", _latency(fleet.ttft_s, asked["percentile"]), style)
    yield from labelled("TPOT", _latency(fleet.tpot_s, asked["percentile"]), style)


def _size(fleet: Fleet) -> str:
    between = f" ({fleet.replicas_low:,}–{fleet.replicas_high:,})" if fleet.replicas_low != fleet.replicas_high else ""
    each = "1 device" if fleet.devices_per_replica == 1 else f"{fleet.devices_per_replica} devices"
    return f"{fleet.replicas:,}{between} of {each}, {fleet.devices:,} in all"


def _latency(found: Latency, percentile: float) -> str:
    return f"{_ranged(found.mean)} on average, {_ranged(found.percentile)} at the {percentile:g}th percentile"


def _ranged(found: Estimate) -> str:
    return f"{_time(found.estimate)} ({_time(found.low)}–{_time(found.high)})"


def _cost_lines(report: CapacityReport, style: Style) -> Iterator[str]:
    fleet = report.fleet
    if fleet is None or fleet.usd_per_h is None or fleet.usd_per_month is None:
        return
    said = f"{usd(fleet.usd_per_h)} an hour, {usd(fleet.usd_per_month)} a month"
    yield from labelled("RENT", said, style, looks=("bold",))
    for offer in report.offers[:_MOST_OFFERS]:
        yield from labelled("", f"{usd(offer.usd_per_h)}/h {_place(offer)}", style)


def _place(offer: RentOffer) -> str:
    times = f"{offer.instances} × " if offer.instances > 1 else ""
    terms = {"on-demand": "on demand"}.get(offer.terms, offer.terms)
    return f"{offer.provider_name} {times}{offer.instance}, {terms}, seen {offer.date}"


def _choice_lines(report: CapacityReport, style: Style) -> Iterator[str]:
    """One row per number of devices in a replica, where several were looked at."""
    if len(report.choices) < 2:
        return
    yield style.paint(f"  {'per replica':<13}{'quant':<14}{'replicas':>8}{'devices':>9}{'USD/h':>10}", "dim")
    for choice in report.choices:
        start = f"  {choice.devices_per_replica:<13}{choice.quant or '':<14}"
        if choice.replicas is None:
            first, *rest = wrap(choice.reason, max(style.width - len(start), 20))
            yield start + first
            yield from (" " * len(start) + line for line in rest)
            continue
        price = "" if choice.usd_per_h is None else usd(choice.usd_per_h)
        yield f"{start}{choice.replicas:>8,}{choice.devices:>9,}{price:>10}"


def _simulation_lines(report: CapacityReport, style: Style) -> Iterator[str]:
    found = report.simulation
    if found is None:
        return
    head = f"simulated: {found.requests:,} requests"
    yield style.paint(f"  {head:<34}{'formula':>11}{'simulation':>12}{'off':>7}", "dim")
    for row in found.agreement:
        show = _figure if row.name == "requests in flight" else _time
        off = f"{row.formula / row.simulated - 1:+.0%}" if row.simulated else ""
        yield f"  {row.name:<34}{show(row.formula):>11}{show(row.simulated):>12}{off:>7}"
    if not found.within_limits:
        yield style.paint("  the simulation is over the limits: leave more head-room", "yellow")


def _start_lines(report: CapacityReport, style: Style) -> Iterator[str]:
    if report.fleet is None or not report.fleet.command:
        return
    yield from labelled(
        "START", "each replica, behind a balancer" if report.fleet.replicas > 1 else "the replica", style
    )
    yield from (" " * (_INDENT + 2) + line for line in wrap_command(report.fleet.command, style.width - _INDENT - 2))


def _time(seconds: float) -> str:
    """'34 ms', '0.4 ms', '1.9 s', '120 s': the units that limits are given in."""
    if seconds < 1:
        value = seconds * 1e3
        return f"{value:.0f} ms" if value >= 9.95 else f"{value:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 99.5 else f"{seconds:,.0f} s"


def _figure(value: float) -> str:
    """'0.021', '1.9', '250', '2,154': three digits below 100."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"
