"""From a plan's report to what it costs: renting, buying and APIs at one load, and the loads at which they meet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fitcalc import __version__, arguments, catalog
from fitcalc import verdict as judge
from fitcalc.api import fit
from fitcalc.catalog.prices import Prices, load_prices
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.formulas import cost as formulas
from fitcalc.frozen import dataclass
from fitcalc.prices import HourlyPrice, apis_of, electricity_of, hourly_prices, purchase_of
from fitcalc.sources import load_model
from fitcalc.spec.cost_report import ApiCost, BreakEven, CostLoad, CostReport, Own, Rent, RentOffer
from fitcalc.spec.hardware import Device
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.price import ApiPrice
from fitcalc.spec.report import Estimate, FitReport

HOURS_PER_MONTH = 730.5
_DAYS_PER_MONTH = HOURS_PER_MONTH / 24
_SECONDS_PER_DAY = 86400
_MOST_PREFILL_SHARE = 0.9
"""Of a usual request's time: a batch fills prompts faster than one request alone, by whose rate they are booked."""
_USUAL_TOKENS = (2048, 256)
"""Prompt and answer where neither the request nor the speed's estimate names any."""


@dataclass(frozen=True, slots=True)
class CostRequest:
    """What is asked beside the plan. None: the default, or not asked for."""

    provider: str = ""
    spot: bool = False
    utilization: float = 0.5
    tokens_per_day: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    years: float = 3.0
    usd_per_kwh: float | None = None
    price_files: tuple[str, ...] = ()


def cost(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    gpu: str | Sequence[str] | None = None,
    cpu: str | None = None,
    quant: str | None = None,
    context: int | str | None = None,
    concurrency: int | str = arguments.AUTO,
    provider: str | None = None,
    spot: bool = False,
    utilization: float = 0.5,
    tokens_per_day: float | None = None,
    prompt: int | None = None,
    output: int | None = None,
    years: float = 3.0,
    electricity: float | None = None,
    prices: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    **plan: Any,
) -> CostReport:
    """What a plan costs to rent and to buy, by the hour, month and million tokens, and from which load on that beats
    the APIs that serve the model. USD; every price with its date.

    provider: of whose machines, by default all. spot: machines that can be interrupted. utilization: share of the day
    that they are busy; with tokens_per_day (prompts and answers together) the most they may be. prompt, output: tokens
    of a request. years: over which a purchase is spread. electricity: USD per kWh. prices: files of own prices, which
    win. The rest is as for `fit`; concurrency is by default the largest that fits.

    Raises what `fit` raises, and ProfileError for a price file.
    """
    files = (prices,) if isinstance(prices, str | os.PathLike) else tuple(prices)
    request = CostRequest(
        arguments.text_or_none("provider", provider) or "", spot, utilization, tokens_per_day, prompt, output, years,
        electricity, tuple(os.fspath(path) for path in files),
    )  # fmt: skip
    checked(request)
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    tokens = (prompt or 0) + (output or 0)
    if context is None and tokens > judge.default_context(spec, None):
        context = tokens
    if isinstance(context, int) and tokens > context:
        raise RequestError(f"prompt and output of {tokens:,} tokens do not fit into a context of {context:,}")
    found = fit(spec, gpu=gpu, cpu=cpu, quant=quant, context=context, concurrency=concurrency, **plan)
    return cost_of(spec, found, request)


def checked(request: CostRequest) -> CostRequest:
    """The request; raises RequestError for a number that makes no sense."""
    hint = "see fitcalc cost --help"
    for name, value, most in (
        ("utilization", request.utilization, 1),
        ("tokens_per_day", request.tokens_per_day, 1e18),
        ("years", request.years, 100),
        ("prompt", request.prompt_tokens, 2**31),
        ("output", request.output_tokens, 2**31),
    ):
        if value is not None and not 0 < value <= most:
            raise RequestError(
                f"{name} {value!r} is out of range", hint=f"give a number above 0, up to {most:g}; {hint}"
            )
    if request.usd_per_kwh is not None and not 0 <= request.usd_per_kwh <= 100:
        raise RequestError(
            f"electricity {request.usd_per_kwh!r} is out of range", hint="give USD per kWh, such as 0.15"
        )
    return request


def cost_of(model: ModelSpec, report: FitReport, asked: CostRequest) -> CostReport:
    """What the plan of a report costs. Raises UnknownNameError for a provider, ProfileError for a price file."""
    prices = load_prices(asked.price_files)
    device, count, notes = device_of(report)
    load = _load_of(report, asked)
    offers: tuple[HourlyPrice, ...] = ()
    if device is not None:
        # A node of a provider is that instance; one of a maker is rented wherever as many cards are.
        nodes = dict.fromkeys([report.inputs.get("node") or "", ""])
        found = (
            hourly_prices(
                device.id,
                count,
                provider=asked.provider,
                spot=asked.spot,
                node=node,
                replicas=load.replicas,
                prices=prices,
            )
            for node in nodes
        )
        offers = next((ways for ways in found if ways), ())
    rent = _rent_of(offers[0], load) if offers else None
    own = _own_of(device, count, load, asked, prices) if device is not None else None
    runs = report.verdict != "does_not_fit"
    apis = sorted(apis_of(model, prices), key=lambda api: (_mixed(api, load), api.provider))
    return CostReport(
        inputs=_inputs(report, load, asked),
        verdict=report.verdict,
        load=load,
        offers=tuple(shown(offer) for offer in offers),
        rent=rent,
        own=own,
        apis=tuple(_api_cost(api, load, *((rent, own) if runs else (None, None))) for api in apis),
        notes=(
            *notes,
            *_notes(report, load, asked, device, bool(offers), own, bool(apis)),
            *_waste(offers, count * load.replicas),
        ),
        fitcalc_version=__version__,
    )


def device_of(report: FitReport) -> tuple[Device | None, int, list[str]]:
    """(the device that is paid for, how many, why there is none)."""
    devices = report.inputs["devices"]
    if len(devices) != 1:
        return None, 0, ["no prices are kept of machines with different cards"]
    name, count = devices[0]["id"], devices[0]["count"]
    try:
        return catalog.load_device(name), count, []
    except UnknownNameError:
        return None, 0, ["a card without a profile has no price: name one with --gpu"]


def _load_of(report: FitReport, asked: CostRequest) -> CostLoad:
    speed = report.speed
    usual = (speed.prompt_tokens or _USUAL_TOKENS[0], speed.generated_tokens or _USUAL_TOKENS[1])
    prompt, output = asked.prompt_tokens or usual[0], asked.output_tokens or usual[1]
    rate = None if report.verdict == "does_not_fit" else _tokens_per_s(report, prompt, output, usual)
    if asked.tokens_per_day is None:
        tokens = None if rate is None else rate.estimate * _SECONDS_PER_DAY * asked.utilization
        return CostLoad(prompt, output, asked.utilization, tokens, 1, rate)
    if rate is None:
        return CostLoad(prompt, output, asked.utilization, asked.tokens_per_day, 1, None)
    needed = formulas.replicas(
        tokens_per_day=asked.tokens_per_day, tokens_per_s=rate.estimate, utilization=asked.utilization
    )
    busy = asked.tokens_per_day / (needed * rate.estimate * _SECONDS_PER_DAY)
    return CostLoad(prompt, output, busy, asked.tokens_per_day, int(needed), rate)


def _tokens_per_s(report: FitReport, prompt: int, output: int, usual: tuple[int, int]) -> Estimate | None:
    """Prompt and answer tokens a second of the whole plan, always busy; None where the speed is not known."""
    total, filling = report.speed.total_tokens_per_s, report.speed.prefill_tokens_per_s
    if total is None or filling is None or not total.low:
        return None
    seconds = formulas.machine_s_per_request(
        prompt_tokens=prompt,
        output_tokens=output,
        usual_prompt_tokens=usual[0],
        usual_output_tokens=usual[1],
        prefill_s=usual[0] / filling.estimate / (report.inputs.get("data_parallel") or 1),
        request_s=usual[1] / total.estimate,
        most_prefill_share=_MOST_PREFILL_SHARE,
    )
    rate = (prompt + output) / seconds
    return Estimate(rate, rate * total.low / total.estimate, rate * total.high / total.estimate)


def shown(price: HourlyPrice) -> RentOffer:
    """A price in the shape of the contract."""
    offer = price.offer
    return RentOffer(
        provider=offer.provider,
        provider_name=offer.provider_name,
        instance=offer.instance,
        instances=price.instances,
        cards=price.cards,
        region=offer.region,
        terms="spot" if price.is_spot else offer.terms,
        usd_per_h=price.usd_per_h,
        date=offer.date,
        source=offer.source,
        note=offer.note,
    )


def _rent_of(price: HourlyPrice, load: CostLoad) -> Rent:
    each, whole = _per_million(price.usd_per_h / load.replicas, load)
    return Rent(shown(price), price.usd_per_h, price.usd_per_h * HOURS_PER_MONTH, each, whole)


def _per_million(usd_per_h: float, load: CostLoad) -> tuple[Estimate | None, Estimate | None]:
    """(USD of a million tokens, the same over answers alone) for what one replica costs an hour."""
    rate = load.tokens_per_s
    if rate is None:
        return None, None

    def at(tokens_per_s: float) -> float:
        return float(
            formulas.usd_per_million(usd_per_h=usd_per_h, tokens_per_s=tokens_per_s, utilization=load.utilization)
        )

    each = Estimate(at(rate.estimate), at(rate.high), at(rate.low))
    share = load.output_tokens / (load.prompt_tokens + load.output_tokens)
    return each, Estimate(each.estimate / share, each.low / share, each.high / share)


def _own_of(device: Device, count: int, load: CostLoad, asked: CostRequest, prices: Prices) -> Own | None:
    bought = purchase_of(device, prices)
    if bought is None:
        return None
    cards = count * load.replicas
    ends = ((bought.low_usd + bought.high_usd) / 2, bought.low_usd, bought.high_usd)
    monthly = [formulas.purchase_usd_per_month(purchase_usd=usd * cards, years=asked.years) for usd in ends]
    usual = electricity_of(prices)
    usd_per_kwh = asked.usd_per_kwh if asked.usd_per_kwh is not None else usual.usd_per_kwh if usual else None
    listed = usual if asked.usd_per_kwh is None else None
    watt = None if device.tdp_watt is None else float(device.tdp_watt) * cards
    power = None
    if watt is not None and usd_per_kwh is not None:
        power = formulas.full_power_usd_per_month(watt=watt, usd_per_kwh=usd_per_kwh) * load.utilization
    total = None if power is None else Estimate(*(usd + power for usd in monthly))
    return Own(
        cards=cards,
        usd_per_card=Estimate(*ends),
        condition=bought.condition,
        date=bought.date,
        source=bought.source,
        years=asked.years,
        purchase_usd_per_month=Estimate(*monthly),
        watt=watt,
        usd_per_kwh=usd_per_kwh,
        electricity_region=listed.region if listed else "",
        electricity_date=listed.date if listed else "",
        electricity_source=listed.source if listed else "",
        electricity_usd_per_month=power,
        usd_per_month=total,
        **_own_per_million(total, load),
    )


def _own_per_million(total: Estimate | None, load: CostLoad) -> dict[str, Estimate | None]:
    """Ends of money and speed together: dear and slow against cheap and fast."""
    names = ("usd_per_million", "usd_per_million_output")
    if total is None:
        return dict.fromkeys(names)
    hourly = [usd / HOURS_PER_MONTH / load.replicas for usd in (total.estimate, total.low, total.high)]
    found = [_per_million(usd, load) for usd in hourly]
    made: dict[str, Estimate | None] = {}
    for place, name in enumerate(names):
        middle, low, high = (pair[place] for pair in found)
        made[name] = Estimate(middle.estimate, low.low, high.high) if middle and low and high else None
    return made


def _mixed(api: ApiPrice, load: CostLoad) -> float:
    return float(
        formulas.mixed_usd_per_million(
            prompt_tokens=load.prompt_tokens,
            output_tokens=load.output_tokens,
            input_usd=api.input_usd_per_million,
            output_usd=api.output_usd_per_million,
        )
    )


def _api_cost(api: ApiPrice, load: CostLoad, rent: Rent | None, own: Own | None) -> ApiCost:
    price = _mixed(api, load)
    rented = None if rent is None else _break_even(rent.usd_per_h / load.replicas * 24, price, 0.0, load)
    tokens = load.tokens_per_day
    return ApiCost(
        provider=api.provider,
        name=api.name,
        input_usd_per_million=api.input_usd_per_million,
        output_usd_per_million=api.output_usd_per_million,
        usd_per_million=price,
        usd_per_month=None if tokens is None else price * tokens * _DAYS_PER_MONTH / 1e6,
        date=api.date,
        source=api.source,
        rent_from=rented,
        own_from=_own_break_even(own, price, load),
        note=api.note,
    )


def _own_break_even(own: Own | None, api_usd: float, load: CostLoad) -> BreakEven | None:
    """Of one replica: its purchase is paid every day, its electricity by the token."""
    rate = load.tokens_per_s
    if own is None or own.watt is None or own.usd_per_kwh is None or rate is None:
        return None
    busy_usd_per_h = own.watt / load.replicas / 1000 * own.usd_per_kwh
    by_token = formulas.usd_per_million(usd_per_h=busy_usd_per_h, tokens_per_s=rate.estimate, utilization=1)
    daily = own.purchase_usd_per_month.estimate / load.replicas / _DAYS_PER_MONTH
    return _break_even(daily, api_usd, float(by_token), load)


def _break_even(usd_per_day: float, api_usd: float, own_usd: float, load: CostLoad) -> BreakEven | None:
    saved = api_usd - own_usd
    if saved <= 0:
        return None
    tokens = float(formulas.break_even_tokens_per_day(usd_per_day=usd_per_day, saved_usd_per_million=saved))
    rate = load.tokens_per_s
    if rate is None:
        return BreakEven(tokens, None, None)
    share = tokens / (rate.estimate * _SECONDS_PER_DAY)
    return BreakEven(tokens, share, share <= 1)


def _inputs(report: FitReport, load: CostLoad, asked: CostRequest) -> dict[str, object]:
    kept = ("model", "quant", "quant_name", "kv_dtype", "engine", "engine_name", "context_tokens", "concurrency",
            "devices", "devices_name", "tensor_parallel", "pipeline_parallel", "data_parallel", "node")  # fmt: skip
    own = {
        "model_name": report.model["name"],
        "prompt_tokens": load.prompt_tokens,
        "output_tokens": load.output_tokens,
        "utilization": asked.utilization,
        "tokens_per_day": asked.tokens_per_day,
        "provider": asked.provider or None,
        "spot": asked.spot,
        "years": asked.years,
        "electricity_usd_per_kwh": asked.usd_per_kwh,
        "price_files": list(asked.price_files),
    }
    return {name: report.inputs.get(name) for name in kept} | own


def _notes(
    report: FitReport,
    load: CostLoad,
    asked: CostRequest,
    device: Device | None,
    rentable: bool,
    own: Own | None,
    served: bool,
) -> list[str]:
    notes = [note for note in report.notes if note.startswith("not known")]
    if report.verdict == "does_not_fit":
        notes.append("the plan does not fit, so there is no price by the token; fitcalc MODEL says what would")
    elif load.tokens_per_s is None:
        notes.append(f"no price by the token: {report.speed.note or 'the speed is not known'}")
    name = device.name if device else ""
    if device is not None and not rentable:
        where = f" at {asked.provider}" if asked.provider else ""
        notes.append(f"no {'spot ' if asked.spot else ''}price to rent {name} by the hour is known{where}")
    if device is not None and own is None:
        notes.append(f"no price to buy {name} is known")
    elif own is not None and own.watt is None:
        notes.append(f"the power of {name} is not known, so its electricity is not counted")
    if not served:
        notes.append(f"no API price of {report.model['name']} is known")
    return notes


def _waste(offers: tuple[HourlyPrice, ...], count: int) -> list[str]:
    if offers and offers[0].cards > count:
        return [f"the cheapest offer has {offers[0].cards} cards for the {count} in use"]
    return []
