"""What a plan costs as text: to rent, to buy, and beside the APIs that serve the model."""

from __future__ import annotations

from collections.abc import Iterator

from fitcalc.render.style import Style, plain
from fitcalc.render.wrapping import wrap
from fitcalc.spec.cost_report import BreakEven, CostReport, Own, Rent, RentOffer
from fitcalc.spec.report import Estimate

_LABEL = 12
_MOST_OFFERS = 5
_TERMS = {"on-demand": "on demand"}
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def cost_text(report: CostReport, style: Style) -> str:
    """The whole report; every line stays within the style's width unless a single word is longer."""
    asked = report.inputs
    title = " · ".join([asked["model_name"], asked["quant_name"], asked["engine_name"], asked["devices_name"]])
    sections = [
        [style.paint(line, "bold") for line in wrap(title, style.width)],
        list(_load_lines(report, style)),
        list(_rent_lines(report, style)),
        list(_own_lines(report.own, style)) if report.own else [],
        list(_api_lines(report, style)),
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    return text if style.blocks else plain(text)


def _load_lines(report: CostReport, style: Style) -> Iterator[str]:
    load, asked = report.load, report.inputs
    each = f"{load.prompt_tokens:,} tokens in, {load.output_tokens:,} out, {requests(asked['concurrency'])}"
    yield from _labelled("load", each, style)
    rate = load.tokens_per_s
    if rate is None:
        return
    machines = f"{load.replicas:,} replicas" if load.replicas > 1 else "one replica"
    able = f"{machines} at {count(rate.estimate)} tokens/s ({count(rate.low)}–{count(rate.high)})"
    busy = f"busy {load.utilization:.0%} of the time: {count(load.tokens_per_day or 0)} tokens a day"
    yield from _labelled("", f"{able}, {busy}", style)


def _rent_lines(report: CostReport, style: Style) -> Iterator[str]:
    rent = report.rent
    if rent is None:
        return
    yield from _labelled("RENT", f"{usd(rent.usd_per_h)} an hour, {usd(rent.usd_per_month)} a month", style, "bold")
    yield from _labelled("", _by_token(rent), style)
    for offer in report.offers[:_MOST_OFFERS]:
        price, place = f"{usd(offer.usd_per_h)}/h", _place(offer)
        room = style.width - _LABEL - 2 - 11
        first, *rest = wrap(place, room)
        yield " " * (_LABEL + 2) + f"{price:>10} {first}"
        yield from (" " * (_LABEL + 2 + 11) + line for line in rest)
    more = len(report.offers) - _MOST_OFFERS
    if more > 0:
        yield " " * (_LABEL + 2) + style.paint(f"and {more} dearer (--json has them)", "dim")


def _place(offer: RentOffer) -> str:
    times = f"{offer.instances} × " if offer.instances > 1 else ""
    place = f", {offer.region}" if offer.region not in ("", "all", offer.terms) else ""
    instance = f"{times}{offer.instance}"
    return f"{offer.provider_name} {instance}{place}, {_TERMS.get(offer.terms, offer.terms)}, seen {offer.date}"


def _by_token(paid: Rent | Own) -> str:
    each, output = paid.usd_per_million, paid.usd_per_million_output
    if each is None or output is None:
        return ""
    return f"{_ranged(each)} per million tokens, {_ranged(output)} per million of the answers"


def _ranged(estimate: Estimate) -> str:
    return f"{usd(estimate.estimate)} ({usd(estimate.low)[1:]}–{usd(estimate.high)[1:]})"


def _own_lines(own: Own, style: Style) -> Iterator[str]:
    card = own.usd_per_card
    between = f"{usd(card.low)[1:]}–{usd(card.high)[1:]}; " if card.low != card.high else ""
    seen = own.condition if own.date == "at launch" else f"{own.condition}, {own.date}"
    price = f"{own.cards} × {usd(card.estimate)}" if own.cards > 1 else usd(card.estimate)
    month = f", {usd(own.usd_per_month.estimate)} a month over {own.years:g} years" if own.usd_per_month else ""
    yield from _labelled("BUY", f"{price} ({between}{seen}){month}", style, "bold")
    yield from _labelled("", _by_token(own), style)
    if own.electricity_usd_per_month is not None and own.watt is not None:
        said = f"electricity {usd(own.electricity_usd_per_month)} a month of it: {own.watt:,.0f} W while busy"
        where = f" ({own.electricity_region}, {own.electricity_date})" if own.electricity_region else ""
        yield from _labelled("", f"{said} at {own.usd_per_kwh:g} USD/kWh{where}; the host is not counted", style)


def _api_lines(report: CostReport, style: Style) -> Iterator[str]:
    """One row per API; the last columns: from how many tokens a day on one replica is cheaper, and how busy it is."""
    if not report.apis:
        return
    names = [f"{api.provider} ({api.date})" for api in report.apis]
    title = "API, USD per million"
    width = max(len(title), *map(len, names))
    columns = [
        (word, [getattr(api, field) for api in report.apis])
        for word, field in (("renting from", "rent_from"), ("buying from", "own_from"))
    ]
    shown = [(word, found) for word, found in columns if any(found)]
    head = f"  {title:<{width}}{'in':>7}{'out':>7}{'mixed':>7}" + "".join(f"{word:>15}" for word, _ in shown)
    yield style.paint(head, "dim")
    for index, (name, api) in enumerate(zip(names, report.apis, strict=True)):
        prices = (api.input_usd_per_million, api.output_usd_per_million, api.usd_per_million)
        figures = "".join(f"{_plain_usd(value):>7}" for value in prices)
        yield f"  {name:<{width}}{figures}" + "".join(f"{_from(found[index]):>15}" for _, found in shown)
    if shown:
        said = "renting, buying from: tokens a day from which on one replica is cheaper, and how busy it then is"
        yield from (f"  {style.paint(line, 'dim')}" for line in wrap(said, style.width - 2))


def _from(found: BreakEven | None) -> str:
    if found is None:
        return "never"
    if found.utilization is None:
        return count(found.tokens_per_day)
    return f"{count(found.tokens_per_day)} ({found.utilization:.0%})" if found.pays else "never"


def requests(number: int) -> str:
    """'1 request', '60 requests at once'."""
    return f"{number:,} requests at once" if number != 1 else "1 request at a time"


def usd(value: float) -> str:
    """'$0.021', '$1.80', '$2,154': three digits below 10, whole dollars from 100 on."""
    return f"${_plain_usd(value)}"


def _plain_usd(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:#.2g}"


def count(value: float) -> str:
    """'1.4 B', '33 k', '950': two digits."""
    for size, unit in _UNITS:
        if value >= 0.995 * size:
            shown = value / size
            return f"{shown:,.0f} {unit}" if shown >= 9.95 else f"{shown:.1f} {unit}"
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def _labelled(label: str, text: str, style: Style, *looks: str) -> Iterator[str]:
    if not text:
        return
    lines = wrap(text, style.width - _LABEL - 2)
    yield f"  {style.paint(f'{label:<{_LABEL - 2}}', *looks)}  {lines[0]}"
    yield from (" " * (_LABEL + 2) + line for line in lines[1:])
