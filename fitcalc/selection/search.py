"""The search: machines, engines and quantizations under one request, with the hopeless left out early.

Machines are looked at from the cheapest up, so that what was found already is never dearer than what is looked at: a
plan that cannot be faster than one of the same quality that stands already is left out before it is prepared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fitcalc import catalog, ledger
from fitcalc import verdict as judge
from fitcalc.engines.base import DeviceLedger
from fitcalc.errors import UnknownNameError, UnsupportedModelError
from fitcalc.frozen import dataclass, replace
from fitcalc.plan import LEAST_BITS, Request, candidates, case_with, runs_gguf, scheme_of
from fitcalc.quality import keeps_level, quality_of
from fitcalc.quantization import weights_bytes
from fitcalc.selection.bounds import most_tokens_per_s, work_whole
from fitcalc.selection.hardware import CostBasis, Hardware
from fitcalc.selection.rules import rules
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.report import Estimate, Quality, QualityLevel, Speed
from fitcalc.speeds.answer import speed_of
from fitcalc.speeds.work import Work
from fitcalc.units import format_gib

UNKNOWN = float("inf")
"""A quality or a cost that nobody knows counts as worse than any known one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must hold; None and '' hold always."""

    usd: float | None = None
    usd_per_h: float | None = None
    tokens_per_s: float | None = None
    first_token_s: float | None = None
    quality: QualityLevel | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """The model and what is asked of it, the machines and engines that come into question, and the limits."""

    model: ModelSpec
    context_tokens: int
    concurrency: int
    kv_dtype: str
    quant: str
    """The only quantization that is looked at; '' for all that come into question."""
    engines: tuple[EngineProfile, ...]
    hardware: tuple[Hardware, ...]
    limits: Limits
    basis: CostBasis
    thorough: bool
    """Every quantization that comes into question, instead of the best of each number of bits."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plan that fits within the limits."""

    hardware: Hardware
    case: judge.Case
    request: Request
    quality: Quality
    speed: Speed
    cost: float

    @property
    def rise(self) -> float:
        """Expected rise of perplexity; UNKNOWN where it was not measured."""
        return UNKNOWN if self.quality.perplexity_rise is None else self.quality.perplexity_rise.estimate

    @property
    def rate(self) -> Estimate | None:
        """Tokens per second of one request while all run."""
        if self.request.concurrency == 1:
            return self.speed.decode_tokens_per_s
        token = self.speed.time_per_token_s
        return None if token is None else Estimate(1 / token.estimate, 1 / token.high, 1 / token.low)

    @property
    def tokens_per_s(self) -> float:
        """The estimate of `rate`; 0 where it is not known."""
        return self.rate.estimate if self.rate else 0.0

    @property
    def key(self) -> tuple[float, float, float]:
        """Quality, cost and speed, each smaller is better."""
        return self.rise, self.cost, -self.tokens_per_s

    @property
    def order(self) -> tuple[object, ...]:
        """Cheapest first, then best, then fastest; names decide between equals, so that no order of files matters."""
        return self.cost, self.rise, -self.tokens_per_s, self.hardware.words, self.case.profile.id, self.case.scheme.id


@dataclass(frozen=True, slots=True)
class Refused:
    """A combination that was left out."""

    reason: str
    term: str
    far: float
    """How far it is from being accepted; the example of a reason is the nearest."""
    words: str


Tally = dict[tuple[str, str], tuple[int, Refused]]
"""Left out so far: reason and term -> (number, the nearest)."""


def _count(tally: Tally, one: Refused) -> None:
    count, nearest = tally.get((one.reason, one.term), (0, one))
    nearest = min(nearest, one, key=lambda refused: (refused.far, refused.words))
    tally[one.reason, one.term] = (count + 1, nearest)


@dataclass(frozen=True, slots=True)
class Option:
    """A quantization under an engine, with what does not depend on the machine."""

    scheme: Scheme
    profile: EngineProfile
    quality: Quality
    weights_bytes: int
    work: Work
    """What a token makes the devices do."""

    @property
    def rise(self) -> float:
        """Expected rise of perplexity; UNKNOWN where it was not measured."""
        return UNKNOWN if self.quality.perplexity_rise is None else self.quality.perplexity_rise.estimate


def search(question: Question) -> tuple[list[Found], Tally]:
    """The plans that fit within the limits and that no cheaper one beats for sure, and what was left out."""
    tally: Tally = {}
    found: list[Found] = []
    fastest: dict[float, float] = {}
    options: dict[tuple[str, str], tuple[Option, ...]] = {}
    for hardware in _by_cost(question, tally):
        for profile in question.engines:
            if not _runs_on(profile, hardware):
                continue
            request = _request(question, hardware, profile)
            key = (profile.id, _half(request))
            if key not in options:
                options[key] = _options(question, request, tally)
            for option in options[key]:
                one = _looked_at(question, hardware, request, option, fastest)
                if isinstance(one, Refused):
                    _count(tally, one)
                else:
                    found.append(one)
                    fastest[one.rise] = max(fastest.get(one.rise, 0.0), one.tokens_per_s)
    return found, tally


def front_of(found: Iterable[Found]) -> list[Found]:
    """Plans that no other beats, which is to be no worse in quality, cost and speed. Of equals the first."""
    front: list[Found] = []
    for one in sorted(found, key=lambda plan: (plan.key, plan.order)):
        if not any(_covers(other.key, one.key) for other in front):
            front.append(one)
    return sorted(front, key=lambda plan: plan.order)


def _covers(key: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return all(mine <= theirs for mine, theirs in zip(key, other, strict=True))


def _by_cost(question: Question, tally: Tally) -> Iterator[Hardware]:
    """Machines within the price limits, cheapest first, equals by name."""
    limits = question.limits
    rows = []
    for one in question.hardware:
        refused = _too_dear(one.usd, limits.usd, one, "USD") or _too_dear(one.usd_per_h, limits.usd_per_h, one, "USD/h")
        if refused:
            _count(tally, refused)
        else:
            cost = one.cost_usd_per_h(question.basis)
            rows.append((UNKNOWN if cost is None else cost, one.words, one))
    return (one for *_, one in sorted(rows, key=lambda row: row[:2]))


def _too_dear(price: float | None, limit: float | None, hardware: Hardware, unit: str) -> Refused | None:
    if limit is None or (price is not None and price <= limit):
        return None
    if price is None:
        return Refused("price", "", UNKNOWN, f"{hardware.label}: no price in {unit} is known")
    return Refused("price", "", price / limit if limit else UNKNOWN, f"{hardware.label}: {price:,.5g} {unit}")


def _runs_on(profile: EngineProfile, hardware: Hardware) -> bool:
    """The engine knows this kind of device and maker; the rest is for `engines.refusal` to say."""
    devices = hardware.machine.gpus[:1] or ((hardware.machine.cpu,) if hardware.machine.cpu else ())
    return all(
        device.kind in profile.device_kinds and (device.kind == "cpu" or device.vendor in profile.vendors)
        for device in devices
    )


def _request(question: Question, hardware: Hardware, profile: EngineProfile) -> Request:
    return Request(
        question.model, hardware.machine, question.context_tokens, question.concurrency, question.kv_dtype,
        engine=profile,
    )  # fmt: skip


def _half(request: Request) -> str:
    """What of a machine decides which quantizations come into question."""
    cards = request.machine.gpus
    return "old" if any(float(card.compute_capability or 8) < 8 for card in cards if card.vendor == "nvidia") else ""


def _options(question: Question, request: Request, tally: Tally) -> tuple[Option, ...]:
    """The quantizations that come into question under an engine, best first; those below the quality asked for are
    left out."""
    assert request.engine is not None
    model, profile = request.model, request.engine
    rows = [row.id for row in candidates(request) if row.bits >= LEAST_BITS]
    found = []
    for scheme in (scheme_of(model, name) for name in ([question.quant] if question.quant else rows)):
        quality = quality_of(model, scheme, question.kv_dtype)
        if question.limits.quality and not keeps_level(quality, question.limits.quality):
            rise = quality.perplexity_rise
            said = f"{scheme.name}: " + (f"{rise.estimate:.1%} expected" if rise else quality.note)
            _count(tally, Refused("quality", "", rise.estimate if rise else UNKNOWN, said))
            continue
        try:
            weights = weights_bytes(model, scheme, gguf=runs_gguf(profile))
            found.append(Option(scheme, profile, quality, weights, work_whole(model, scheme, profile)))
        except UnsupportedModelError as error:
            _count(tally, Refused("unsupported", "", 0.0, f"{scheme.name} with {profile.name}: {error}"))
    found.sort(key=lambda option: (option.rise, option.scheme.id))
    return tuple(found) if question.thorough else tuple(_best_by_bits(found))


def _best_by_bits(options: list[Option]) -> Iterator[Option]:
    """The first of each number of bits: over hundreds of machines, one way to store weights in so many bits will do."""
    seen: set[int] = set()
    for option in options:
        if option.scheme.bits not in seen:
            seen.add(option.scheme.bits)
            yield option


def _looked_at(
    question: Question, hardware: Hardware, request: Request, option: Option, fastest: dict[float, float]
) -> Found | Refused:
    """The plan, or why it is left out: bounds first, then the engine's refusal, the ledgers, the speeds."""
    words = f"{option.scheme.name} on {hardware.label} with {option.profile.name}"
    usable = _usable_bytes(hardware)
    if usable is not None and option.weights_bytes > usable:
        lack = option.weights_bytes - usable
        said = f"{words}: weights of {format_gib(option.weights_bytes)} in {format_gib(usable)}"
        return Refused("memory", "weights", lack / usable if usable else UNKNOWN, said)
    cache = _least_cache_bytes(question, option)
    if usable is not None and option.weights_bytes + cache > usable:
        far = (option.weights_bytes + cache) / usable - 1
        said = f"{words}: weights of {format_gib(option.weights_bytes)} and a cache of {format_gib(cache)} or more"
        return Refused("memory", "kv_cache", far, f"{said} in {format_gib(usable)}")
    bound = most_tokens_per_s(
        option.work, option.scheme, option.profile, hardware.machine, question.context_tokens, question.concurrency
    )
    least = question.limits.tokens_per_s or 0.0
    if bound < least:
        return Refused("speed", "", least / bound - 1, f"{words}: at most {bound:.2g} tok/s")
    if any(rise <= option.rise and rate >= bound for rise, rate in fastest.items()):
        return Refused("dominated", "", 0.0, f"{words}: no faster than a cheaper plan of that quality")
    case = _case(request, option)
    if isinstance(case, str):
        return Refused("unsupported", "", 0.0, f"{words}: {case}")
    fitting = _fitting(request, option, case)
    if isinstance(fitting, DeviceLedger):
        return _short_of_memory(words, fitting)
    return _within_limits(question, hardware, option, fitting, words)


def _least_cache_bytes(question: Question, option: Option) -> int:
    """Keys and values of the layers that keep every token, in the smallest type that would be tried."""
    types = option.profile.kv_types
    small = question.kv_dtype or rules()["small_cache"].get(option.profile.module, "")
    tried = [types[name] for name in {question.kv_dtype or next(iter(types)), small} if name in types]
    share = min((size / elems for elems, size in tried), default=0.0)
    return int(option.work.cell_elems * share * question.context_tokens * question.concurrency)


def _within_limits(
    question: Question, hardware: Hardware, option: Option, fitting: tuple[Request, judge.Case], words: str
) -> Found | Refused:
    request, case = fitting
    limits = question.limits
    cost = hardware.cost_usd_per_h(question.basis)
    kv_dtype = case.workload.kv_dtype
    quality = option.quality if kv_dtype == question.kv_dtype else quality_of(case.model, case.scheme, kv_dtype)
    if limits.quality and not keeps_level(quality, limits.quality):
        return Refused("quality", "", 0.0, f"{words}: only with a cache in {kv_dtype}")
    speed = speed_of(case, request.context_tokens, request.concurrency)
    one = Found(hardware, case, request, quality, speed, UNKNOWN if cost is None else cost)
    if limits.tokens_per_s is not None and one.tokens_per_s < limits.tokens_per_s:
        far = limits.tokens_per_s / one.tokens_per_s - 1 if one.tokens_per_s else UNKNOWN
        return Refused("speed", "", far, f"{words}: {one.tokens_per_s:.2g} tok/s")
    first = speed.time_to_first_token_s
    if limits.first_token_s is not None and (first is None or first.estimate > limits.first_token_s):
        said = "time to first token not known" if first is None else f"first token after {first.estimate:.2g} s"
        return Refused("first_token", "", first.estimate if first else UNKNOWN, f"{words}: {said}")
    return one


def _case(request: Request, option: Option) -> judge.Case | str:
    try:
        return case_with(request, option.scheme, option.profile)
    except UnknownNameError as error:
        return str(error)


def _fitting(request: Request, option: Option, case: judge.Case) -> tuple[Request, judge.Case] | DeviceLedger:
    """The plan if it fits, with a smaller cache type where only that fits; else the device that is short of memory."""
    if judge.verdict_of(case, request.context_tokens, request.concurrency) == "fits":
        return request, case
    worst = min(case.ledgers(request.context_tokens, request.concurrency), key=_room)
    small = rules()["small_cache"].get(option.profile.module, "")
    if not small or request.kv_dtype or not case.model.cache_layers:
        return worst
    other = replace(request, kv_dtype=small)
    smaller = _case(other, option)
    if isinstance(smaller, str) or judge.verdict_of(smaller, other.context_tokens, other.concurrency) != "fits":
        return worst
    return other, smaller


def _room(entry: DeviceLedger) -> float:
    """Bytes to spare at the high end; endless where it does not decide."""
    if not entry.decisive or entry.usable_bytes is None:
        return UNKNOWN
    return float(entry.usable_bytes - ledger.high_bytes(entry.terms))


def _short_of_memory(words: str, entry: DeviceLedger) -> Refused:
    need, usable = ledger.high_bytes(entry.terms), entry.usable_bytes or 0
    largest = max(entry.terms, key=lambda term: term.bytes)
    part = f"{largest.name.replace('_', ' ')} {format_gib(largest.bytes)}"
    said = f"{words}: up to {format_gib(need)} of {format_gib(usable)} on {entry.name}, {part} of it"
    return Refused("memory", largest.name, need / usable - 1 if usable else UNKNOWN, said)


def _devices(hardware: Hardware) -> tuple[Device, ...]:
    return hardware.machine.gpus or ((hardware.machine.cpu,) if hardware.machine.cpu else ())


def _usable_bytes(hardware: Hardware) -> int | None:
    sizes = [device.usable_bytes for device in _devices(hardware)]
    if hardware.machine.cpu and not hardware.machine.gpus:
        sizes = [hardware.machine.ram_bytes]
    return sum(size or 0 for size in sizes) if all(size is not None for size in sizes) else None


def engines_asked(names: Iterable[str], model: ModelSpec, *, offline: bool) -> tuple[EngineProfile, ...]:
    """The engines to look at: those named, else the usual ones; with `offline` those for one's own machine only."""
    usual = rules()["engines"] if model.kind == "decoder" else rules()["encoder_engines"]
    profiles = [catalog.load_engine(name) for name in (list(names) or usual)]
    local = set(rules()["local_engines"])
    kept = [one for one in profiles if not offline or {one.id, one.module} & local]
    return tuple({one.id: one for one in kept}.values())
