"""From a question about a load to the fleet that carries it: plans looked at, the one chosen, its cost and check."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from fitcalc import __version__
from fitcalc.api import Settled, machine_asked, settle
from fitcalc.catalog.prices import load_prices
from fitcalc.costs import HOURS_PER_MONTH, device_of, shown
from fitcalc.errors import FitcalcError, RequestError, UnsupportedModelError
from fitcalc.fleets.checking import checked_by_simulation
from fitcalc.fleets.lengths import Lengths, constant, mixed
from fitcalc.fleets.queueing import Response, loop_rates, response
from fitcalc.fleets.server import Server, server_of
from fitcalc.fleets.sizing import Able, Arriving, able_within, rate_of_each, replicas_of
from fitcalc.fleets.trace import Trace, read_trace
from fitcalc.frozen import dataclass, replace
from fitcalc.plan import case_for
from fitcalc.prices import HourlyPrice, hourly_prices
from fitcalc.reporting import inputs_of, report
from fitcalc.sources import load_model
from fitcalc.spec.capacity_report import CapacityLoad, CapacityReport, Fleet, FleetChoice, Latency
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import Estimate, FitReport
from fitcalc.speeds.answer import speed_at
from fitcalc.speeds.figures import Ready, ready
from fitcalc.speeds.within import Bounds
from fitcalc.verdict import verdict_of

USUAL_TOKENS = (2048, 256)
"""Prompt and answer where nothing is said."""
COUNTS = (1, 2, 4, 8)
"""Devices per replica that are tried where no number is given."""
_LIMITS = ("max_num_seqs", "max_running_requests", "max_batch_size")
"""What engines call the most requests that run at once."""
_NOT_FITTING = {"does_not_fit": "does not fit", "tight": "tight: its high end does not fit", "unknown": "not known"}


@dataclass(frozen=True, slots=True)
class CapacityRequest:
    """What is asked beside the plan."""

    load: Arriving
    lengths: Lengths
    bounds: Bounds
    percentile: float
    head_room: float
    trace: Trace | None = None
    trace_file: str = ""
    concurrency: int | None = None
    provider: str = ""
    spot: bool = False
    price_files: tuple[str, ...] = ()
    simulate: bool = False


@dataclass(frozen=True, slots=True)
class _Sized:
    """A plan with the number of replicas that carries the load."""

    settled: Settled
    ready: Ready
    able: Able
    ranks: int
    needed: float
    """Replicas before they are rounded up."""
    report: FitReport
    offers: tuple[HourlyPrice, ...]

    @property
    def replicas(self) -> int:
        # A load that is just what one carries needs no second one for the last digit.
        return max(math.ceil(self.needed * (1 - 1e-12)), 1)

    @property
    def cards(self) -> int:
        return sum(int(entry["count"]) for entry in self.report.inputs["devices"])

    @property
    def usd_per_h(self) -> float | None:
        return self.offers[0].usd_per_h if self.offers else None


def request_of(
    *, rps: float | None, users: int | None, think_time_s: float | None, prompt: int | None, output: int | None,
    trace: str | os.PathLike[str] | None, **rest: Any,
) -> CapacityRequest:  # fmt: skip
    """The request; raises RequestError where the load is not told, or told twice, or a number makes no sense."""
    _numbers(rps, users, think_time_s, prompt, output, rest)
    if trace is not None and (prompt is not None or output is not None):
        raise RequestError("a trace has its own prompts and outputs", hint="leave --prompt and --output out")
    if (rps is not None) + (users is not None) + (rps is None and users is None and trace is not None) != 1:
        raise RequestError("give the load once", hint="--rps N, --users N with --think-time S, or --trace FILE")
    if (users is None) != (think_time_s is None):
        raise RequestError("users and a think time go together", hint="--users 500 --think-time 30s")
    found = read_trace(trace) if trace is not None else None
    if found is not None:
        lengths = mixed([(row[1], row[2]) for row in found.arrivals])
        rps = found.peak_rate if rps is None and users is None else rps
    else:
        lengths = constant(prompt or USUAL_TOKENS[0], output or USUAL_TOKENS[1])
    name = os.fspath(trace) if trace is not None else ""
    load = Arriving(rps, users, think_time_s or 0.0)
    return CapacityRequest(load=load, lengths=lengths, trace=found, trace_file=name, **rest)


def _numbers(rps: Any, users: Any, think_time_s: Any, prompt: Any, output: Any, rest: dict[str, Any]) -> None:
    for name, value, low, high in (
        ("rps", rps, 1e-6, 1e9),
        ("think_time", think_time_s, 0.0, 1e9),
        ("percentile", rest["percentile"], 50, 99.9),
        ("head_room", rest["head_room"], 0, 0.95),
    ):
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (numeric and low <= value <= high):
            raise RequestError(f"{name} {value!r} is out of range", hint=f"give a number from {low:g} to {high:g}")
    for name, value in (("users", users), ("prompt", prompt), ("output", output)):
        if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9):
            raise RequestError(f"{name} {value!r} is out of range", hint="give a whole number above 0")


def capacity_of(
    model: str | os.PathLike[str] | ModelSpec, asked: CapacityRequest, *, gpu: Any, context: int | None, **plan: Any
) -> CapacityReport:
    """The fleet that carries a load. Raises what `fit` raises, and UnsupportedModelError without a modelled speed."""
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    longest = asked.lengths.longest_tokens
    if context is not None and longest > context:
        raise RequestError(f"prompt and output of {longest:,} tokens do not fit into a context of {context:,}")
    context = longest if context is None else context
    if spec.max_context_tokens and context > spec.max_context_tokens:
        said = f"{spec.name} takes at most {spec.max_context_tokens:,} tokens"
        raise RequestError(f"a context of {context:,} tokens: {said}", hint="give shorter lengths")
    sized: list[_Sized] = []
    choices: list[FleetChoice] = []
    failed: list[FitcalcError] = []
    last: Settled | None = None
    for name in _devices(gpu, plan):
        count = int(name.rpartition(":")[2]) if isinstance(name, str) and ":" in name else 0
        try:
            last = settle(spec, gpu=name, context=context, concurrency=asked.concurrency or "auto", **plan)
            found = _sized(last, asked)
        except FitcalcError as error:
            failed.append(error)
            choices.append(FleetChoice(count, None, None, None, None, None, str(error)))
            continue
        if isinstance(found, str):
            entry = _count_of(last)
            choices.append(FleetChoice(entry, last.case.scheme.id, last.case.profile.id, None, None, None, found))
            continue
        sized.append(found)
        choices.append(_choice(found))
    if last is None or (not sized and len(failed) == len(choices)):
        raise failed[0]
    best = min(sized, key=_order(sized), default=None)
    return _report(asked, last, best, choices)


def _devices(gpu: Any, plan: dict[str, Any]) -> Iterator[Any]:
    """The devices as given; where one kind of card is given without a number, several numbers of it."""
    names = [gpu] if isinstance(gpu, str) else list(gpu or ())
    degrees = ("tensor_parallel", "pipeline_parallel", "data_parallel")
    open_count = len(names) == 1 and isinstance(names[0], str) and ":" not in names[0]
    if not open_count or plan.get("cpu") or any(plan.get(name) for name in degrees):
        yield gpu
        return
    if machine_asked(names[0], None, None, None).node is not None:
        yield names[0]
        return
    yield from (f"{names[0]}:{count}" for count in COUNTS)


def _sized(settled: Settled, asked: CapacityRequest) -> _Sized | str:
    """The plan with as many replicas as carry the load, or why it does not do."""
    if settled.verdict != "fits":
        return _NOT_FITTING[settled.verdict]
    request, case = settled.request, settled.case
    made = ready(case, request.context_tokens, request.concurrency)
    if isinstance(made, str):
        raise UnsupportedModelError(f"there is no estimate of speed for {case.model.name} here", hint=made)
    ranks = int(made.plan.replicas)
    server = server_of(made, request.context_tokens, request.concurrency, asked.lengths)
    able = able_within(server, asked.bounds, asked.percentile, server.most_requests if asked.concurrency else None)
    if able is None:
        return _over(server, asked)
    needed = replicas_of(asked.load, able, ranks, asked.head_room)
    settled = _held_to(settled, able.server.most_requests, ranks)
    written = report(settled.request, settled.case, settled.verdict, (), asked_quant=settled.asked_quant)
    sized = _Sized(settled, made, able, ranks, needed, written, ())
    device, count, _ = device_of(written)
    if device is None:
        return sized
    prices = load_prices(asked.price_files)
    offers = hourly_prices(
        device.id, count, provider=asked.provider, spot=asked.spot, replicas=sized.replicas, prices=prices
    )
    return replace(sized, offers=offers)


def _held_to(settled: Settled, requests: int, ranks: int) -> Settled:
    """The same plan for so many requests at once on each rank, and no more where the engine has an option for that."""
    request = replace(settled.request, concurrency=requests * ranks, auto="")
    limit = next((name for name in _LIMITS if name in settled.case.profile.options), "")
    if limit and limit not in request.options:
        held = replace(request, options={**request.options, limit: requests}, engine=settled.case.profile)
        case = case_for(held, settled.case.scheme)
        if not isinstance(case, str) and verdict_of(case, held.context_tokens, held.concurrency) == "fits":
            return Settled(held, case, "fits", (), settled.asked_quant)
    verdict = verdict_of(settled.case, request.context_tokens, request.concurrency)
    return Settled(request, settled.case, verdict, (), settled.asked_quant)


def _over(server: Server, asked: CapacityRequest) -> str:
    """Which limit one request alone is over."""
    alone = replace(server, step_s=server.step_s[:2])
    rates = loop_rates(alone)
    found = response(alone, rates, rates[-1] * 1e-4, asked.percentile)
    assert found is not None
    ttft, tpot = asked.bounds.ttft_s, asked.bounds.tpot_s
    if ttft is not None and found.ttft_percentile_s > ttft:
        return f"first token of one request alone after {_time(found.ttft_percentile_s)}, limit {_time(ttft)}"
    if tpot is not None and found.tpot_percentile_s > tpot:
        return f"one request alone takes {_time(found.tpot_percentile_s)} per token, limit {_time(tpot)}"
    return "no rate is within both limits"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _count_of(settled: Settled) -> int:
    return len(settled.request.machine.gpus) or 1


def _order(sized: Sequence[_Sized]) -> Any:
    """Cheapest first where all have a price, else fewest devices; of equal ones the best quality, the smallest plan."""
    priced = all(entry.usd_per_h is not None for entry in sized)
    return lambda entry: (
        entry.usd_per_h if priced else 0,
        entry.replicas * entry.cards,
        -entry.settled.case.scheme.bits,
        entry.cards,
    )


def _choice(found: _Sized) -> FleetChoice:
    case = found.settled.case
    return FleetChoice(
        found.cards, case.scheme.id, case.profile.id, found.replicas, found.cards * found.replicas, found.usd_per_h
    )


def _report(asked: CapacityRequest, last: Settled, best: _Sized | None, choices: list[FleetChoice]) -> CapacityReport:
    settled = best.settled if best else last
    rate = rate_of_each(asked.load, best.able, best.ranks, best.replicas) if best else None
    at = best.able.at(rate, asked.percentile) if best and rate else None
    fleet = _fleet(best, rate, at) if best and rate and at else None
    check = None
    if asked.simulate and best and rate and at:
        trace = asked.trace.arrivals if asked.trace else ()
        servers = best.replicas * best.ranks
        check = checked_by_simulation(best.able, rate, servers, asked.lengths, trace, asked.bounds, asked.percentile)
    inputs = inputs_of(settled.request, settled.case, settled.asked_quant)
    return CapacityReport(
        inputs=inputs | _inputs(asked, settled),
        verdict="fits" if fleet else "does_not_fit",
        load=_load(asked, fleet),
        fleet=fleet,
        choices=tuple(choices),
        offers=tuple(shown(offer) for offer in best.offers) if best else (),
        simulation=check,
        reason="" if fleet else _why(choices),
        notes=tuple(_notes(asked, best, fleet)),
        fitcalc_version=__version__,
    )


def _why(choices: list[FleetChoice]) -> str:
    """The reason of the plan that comes nearest: the last, which has most devices."""
    reached = [choice for choice in choices if choice.quant] or choices
    return reached[-1].reason


def _fleet(best: _Sized, rate: float, at: Response) -> Fleet:
    able, ranks, request = best.able, best.ranks, best.settled.request
    speed = speed_at(best.ready, request.context_tokens, max(round(at.in_flight), 1) * ranks)
    low, high = (max(math.ceil(best.needed / share * (1 - 1e-12)), 1) for share in _ends(speed.total_tokens_per_s))
    recommended = best.report.recommendation
    return Fleet(
        quant=best.settled.case.scheme.id,
        engine=best.settled.case.profile.id,
        devices_per_replica=best.cards,
        replicas=best.replicas,
        replicas_low=low,
        replicas_high=high,
        devices=best.cards * best.replicas,
        concurrency=request.concurrency,
        context_tokens=request.context_tokens,
        saturation_per_s=able.rates[-1] * ranks,
        carried_per_s=able.most_per_s * ranks,
        rate_per_s=rate * ranks,
        utilization=at.utilization,
        head_room=1 - rate / able.most_per_s,
        in_flight=at.in_flight * ranks,
        ttft_s=_latency(at.ttft_s, at.ttft_percentile_s, speed.time_to_first_token_s),
        tpot_s=_latency(at.tpot_s, at.tpot_percentile_s, speed.time_per_token_s),
        request_s=at.request_s,
        usd_per_h=best.usd_per_h,
        usd_per_month=None if best.usd_per_h is None else best.usd_per_h * HOURS_PER_MONTH,
        command=recommended.command if recommended else "",
    )


def _ends(total: Estimate | None) -> tuple[float, float]:
    """(fast, slow) end of a rate over its estimate."""
    return (1.0, 1.0) if total is None else (total.high / total.estimate, total.low / total.estimate)


def _latency(mean: float, percentile: float, near: Estimate | None) -> Latency:
    """Both with the range that the speed's own estimate has."""
    low, high = (1.0, 1.0) if near is None else (near.low / near.estimate, near.high / near.estimate)
    mean_range, percentile_range = (Estimate(value, value * low, value * high) for value in (mean, percentile))
    return Latency(mean_range, percentile_range)


def _load(asked: CapacityRequest, fleet: Fleet | None) -> CapacityLoad:
    load, lengths, trace = asked.load, asked.lengths, asked.trace
    rate = load.requests_per_s
    if rate is None and fleet is not None:
        rate = fleet.rate_per_s * fleet.replicas
    return CapacityLoad(
        requests_per_s=rate,
        users=load.users,
        think_time_s=load.think_s if load.users else None,
        prompt_tokens=lengths.prompt_tokens,
        output_tokens=lengths.output_tokens,
        longest_tokens=lengths.longest_tokens,
        mean_requests_per_s=trace.rate if trace else None,
        trace_requests=len(trace.arrivals) if trace else None,
    )


def _inputs(asked: CapacityRequest, settled: Settled) -> dict[str, Any]:
    return {
        "model_name": settled.case.model.name,
        "trace": asked.trace_file or None,
        "max_ttft_s": asked.bounds.ttft_s,
        "max_tpot_s": asked.bounds.tpot_s,
        "percentile": asked.percentile,
        "head_room": asked.head_room,
        "provider": asked.provider or None,
        "spot": asked.spot,
        "price_files": list(asked.price_files),
        "simulate": asked.simulate,
    }


def _notes(asked: CapacityRequest, best: _Sized | None, fleet: Fleet | None) -> Iterator[str]:
    if asked.trace is not None and asked.trace.skipped:
        yield f"{asked.trace.skipped:,} requests of the trace without a prompt or an answer were left out"
    if best is None or fleet is None:
        return
    over = [
        name
        for name, limit, time in (
            ("ttft", asked.bounds.ttft_s, fleet.ttft_s),
            ("tpot", asked.bounds.tpot_s, fleet.tpot_s),
        )
        if limit is not None and time.percentile.high > limit
    ]
    if over:
        yield f"within --max-{' and --max-'.join(over)} by the estimate; the slow end of its range is over"
    if not asked.bounds.given:
        yield "no limit on times was given (--max-ttft, --max-tpot): replicas are as busy as they can be"
    if not best.offers:
        yield "no price to rent these devices by the hour is known"
    if asked.lengths.longest_tokens > 2 * asked.lengths.running_tokens:
        yield "every place has room for the longest request; a shorter --context would give more places"
    yield "arrivals are taken as random (Poisson), shared evenly over the replicas; prompts share nothing"
    yield from best.report.notes
