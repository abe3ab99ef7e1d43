"""fitcalc.recommend: the front of all plans within the limits, the one to take, and why."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fitcalc import __version__, arguments, ledger
from fitcalc import verdict as judge
from fitcalc.choice import AS_FAST, USEFUL_TOKENS_PER_S, device_list
from fitcalc.errors import RequestError, UnsupportedModelError
from fitcalc.frozen import replace
from fitcalc.plan import named_scheme
from fitcalc.quality import LEVELS
from fitcalc.reporting import model_facts
from fitcalc.selection.hardware import CostBasis, Hardware, catalogue_hardware, listed_hardware, named_hardware
from fitcalc.selection.reasons import reasons_of
from fitcalc.selection.search import UNKNOWN, Found, Limits, Question, Tally, engines_asked, front_of, search
from fitcalc.sources import load_model
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import QualityLevel
from fitcalc.spec.selection import Plan, RecommendReport, Rejection

_USUAL_QUALITY: QualityLevel = "medium"
"""What is good enough where neither a quality, nor devices, nor a price is given."""
_RUNGS = (USEFUL_TOKENS_PER_S, 30.0, 100.0)
"""Rates that make a difference to a reader: slow, readable, quick, at once."""
_MOST_CHOICES = 8
_BASIS_WORDS: dict[CostBasis, str] = {
    "cheaper": "the lower of rent per hour and the purchase over 3 years of use around the clock",
    "purchase": "the purchase over 3 years of use around the clock",
    "rent": "rent per hour",
}


def recommend(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    gpu: str | Sequence[str] | None = None,
    cpu: str | Sequence[str] | None = None,
    ram: str | int | None = None,
    gpu_used: str | int | None = None,
    gpus_from: str | os.PathLike[str] | None = None,
    quant: str | None = None,
    engine: str | Sequence[str] | None = None,
    kv_dtype: str | None = None,
    context: int | None = None,
    concurrency: int = 1,
    budget: float | None = None,
    max_price: float | None = None,
    min_speed: float | None = None,
    max_ttft: float | str | None = None,
    quality: str | None = None,
    offline: bool = False,
    online: bool = False,
) -> RecommendReport:
    """What to run a model on: the plans with verdict `fits` that no other beats in quality, speed and cost at once.

    gpu: cards to choose from, 'h100-sxm:8' for up to eight; cpu: CPUs and boards; gpus_from: a TOML file of
    [[devices]] with own prices. Without any of them, every device of the catalogue. quant, engine, kv_dtype: only
    these. context: tokens per request (default 8192 or the model's limit). concurrency: requests at once. budget: USD
    to buy the devices; max_price: USD per hour to rent them. min_speed: tokens per second of each request; max_ttft:
    time to first token in seconds or '2s'. quality: at least 'low', 'medium', 'high' or 'lossless'. offline: engines
    for one's own machine, nothing rented. online: a repository that the catalogue lacks is read from the Hub.

    Taken is the cheapest plan of the quality asked for that writes as fast as people read. Without `quality` it is the
    best quality that devices or prices given allow, and 'medium' over the whole catalogue.

    Raises UnknownNameError, RequestError, ProfileError, ModelFileError, UnsupportedModelError.
    """
    spec = model if isinstance(model, ModelSpec) else load_model(model, online=online)
    _refuse_unmodelled(spec)
    arguments.whole_number("context", context, arguments.MOST_TOKENS)
    arguments.whole_number("concurrency", concurrency, arguments.MOST_REQUESTS, required=True)
    quant = arguments.text_or_none("quant", quant)
    limits = _limits(budget, max_price, min_speed, max_ttft, quality)
    hardware = _hardware(_names("gpu", gpu), _names("cpu", cpu), ram, gpu_used, gpus_from)
    question = Question(
        model=spec,
        context_tokens=judge.default_context(spec, context),
        concurrency=concurrency,
        kv_dtype=(arguments.text_or_none("kv_dtype", kv_dtype) or "").lower(),
        quant=named_scheme(spec, quant).id if quant else "",
        engines=_engines(_names("engine", engine), spec, offline=offline),
        hardware=tuple(hardware or catalogue_hardware()),
        limits=limits,
        basis="purchase" if offline or (budget is not None and max_price is None) else _rented(max_price),
        thorough=bool(hardware),
    )
    found, tally = search(question)
    is_open = not hardware and budget is None and max_price is None
    return _report(question, found, tally, is_open=is_open, offline=offline)


def _rented(max_price: float | None) -> CostBasis:
    return "cheaper" if max_price is None else "rent"


def _refuse_unmodelled(spec: ModelSpec) -> None:
    if spec.makes_images:
        hint = f"`fitcalc {spec.id} --gpu rtx-4090` sizes one plan"
        raise UnsupportedModelError("image generators are not ranked: their speed is not modelled", hint=hint)
    if spec.is_unbounded:
        raise UnsupportedModelError(f"{spec.name} cannot be sized: {'; '.join(spec.unknowns)}")


def _names(option: str, value: Any) -> list[str]:
    """Names as a list; none for None."""
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else value
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise RequestError(f"{option} is not text or a list of it", hint=f"give ids as text: {option}='…'")
    return names


def _hardware(
    gpus: list[str], cpus: list[str], ram: Any, gpu_used: Any, path: str | os.PathLike[str] | None
) -> list[Hardware]:
    ram = arguments.size_or_none("ram", ram, least=1)
    gpu_used = arguments.size_or_none("gpu_used", gpu_used, least=0)
    found = named_hardware(gpus, cpus, ram, gpu_used)
    return [*found, *(listed_hardware(path, gpu_used) if path is not None else ())]


def _engines(names: list[str], spec: ModelSpec, *, offline: bool) -> Any:
    found = engines_asked(names, spec, offline=offline)
    if not found:
        raise RequestError("no engine is left", hint="offline leaves llama.cpp, Ollama, MLX and Transformers")
    return found


def _limits(budget: Any, price: Any, speed: Any, ttft: Any, quality: Any) -> Limits:
    for name, value in (("budget", budget), ("max_price", price), ("min_speed", speed)):
        wrong = isinstance(value, bool) or not isinstance(value, int | float | None)
        if wrong or (value is not None and not 0 < value < math.inf):
            raise RequestError(f"{name} {value!r} is not a number above zero", hint=f"give {name} as a number")
    level = next((entry for entry in LEVELS if entry == quality), None)
    if quality is not None and level is None:
        raise RequestError(f"quality {quality!r} is no level", hint=f"give {', '.join(reversed(LEVELS))}")
    return Limits(budget, price, speed, arguments.seconds_or_none("max_ttft", ttft), level)


def _report(question: Question, found: list[Found], tally: Tally, *, is_open: bool, offline: bool) -> RecommendReport:
    front = front_of(found)
    taken = _taken(front, question, is_open=is_open)
    chosen = _choices(front, taken) if taken else []
    plans = {id(one): _plan(one) for one in front}
    stretched = tuple(
        replace(plans[id(one)], max_context_tokens=judge.max_context_tokens(one.case, one.request.concurrency))
        for one in chosen
    )
    rejected = _rejections(tally, len(found) - len(front))
    return RecommendReport(
        inputs=_inputs(question, offline=offline),
        model=model_facts(question.model),
        recommended=stretched[0] if taken else None,
        command=_command(taken) if taken else "",
        reasons=tuple(reasons_of(taken, front, question)) if taken else (),
        choices=stretched,
        front=tuple(plans[id(one)] for one in front),
        rejected=tuple(rejected),
        notes=tuple(_notes(question, taken)),
        fitcalc_version=__version__,
    )


def _taken(front: list[Found], question: Question, *, is_open: bool) -> Found | None:
    """The plan to recommend: good enough, then fast enough, then cheapest, then best."""
    asked = question.limits.quality
    fast = _fast(front, question)
    if not fast:
        return None
    if asked is None and is_open:
        usual = [one for one in front if one.quality.level and LEVELS.index(one.quality.level) <= _MEDIUM]
        return min(_fast(usual, question) or fast, key=lambda one: one.order)
    if asked is None:
        return min(fast, key=lambda one: (one.rise, *one.order))
    return min(fast, key=lambda one: one.order)


_MEDIUM = LEVELS.index(_USUAL_QUALITY)


def _fast(plans: list[Found], question: Question) -> list[Found]:
    """Those that write as fast as people read, or as was asked; where none does, those near the fastest."""
    if question.limits.tokens_per_s is not None or not plans:
        return plans
    best = max(one.tokens_per_s for one in plans)
    least = USEFUL_TOKENS_PER_S if best >= USEFUL_TOKENS_PER_S else AS_FAST * best
    return [one for one in plans if one.tokens_per_s >= least]


def _choices(front: list[Found], taken: Found) -> list[Found]:
    """The plan taken, then the cheapest for each quality and each rate that makes a difference; cheapest first."""
    seen: dict[tuple[Any, int], Found] = {}
    for one in front:
        seen.setdefault((one.quality.level, sum(one.tokens_per_s >= rung for rung in _RUNGS)), one)
    others = [one for one in seen.values() if one is not taken]
    return [taken, *sorted(others, key=lambda one: one.order)[: _MOST_CHOICES - 1]]


def _plan(one: Found) -> Plan:
    case, request, workload = one.case, one.request, one.case.workload
    entries = case.ledgers(request.context_tokens, request.concurrency)
    cost = None if one.cost == UNKNOWN else one.cost
    return Plan(
        quant=case.scheme.id,
        quant_name=case.scheme.name,
        engine=case.profile.id,
        engine_name=case.profile.name,
        kv_dtype=workload.kv_dtype or next(iter(case.profile.kv_types)),
        devices=device_list(case.machine),
        devices_name=one.hardware.label,
        tensor_parallel=workload.tensor_parallel,
        pipeline_parallel=workload.pipeline_parallel,
        expert_parallel=workload.expert_parallel,
        nodes=case.machine.nodes,
        context_tokens=request.context_tokens,
        concurrency=request.concurrency,
        verdict=judge.verdict_of(case, request.context_tokens, request.concurrency),
        total_bytes=max(ledger.total_bytes(entry.terms) for entry in entries),
        headroom_bytes=judge.tightest_headroom(entries),
        perplexity_rise=one.quality.perplexity_rise,
        quality=one.quality.level,
        tokens_per_s=one.rate,
        time_to_first_token_s=one.speed.time_to_first_token_s,
        total_tokens_per_s=one.speed.total_tokens_per_s,
        usd=one.hardware.usd,
        usd_per_h=one.hardware.usd_per_h,
        cost_usd_per_h=cost,
        price_note=one.hardware.price_note,
        ask=ask_of(one),
    )


def ask_of(one: Found) -> str:
    """The fitcalc command that gives the report of a plan."""
    import shlex

    case, request, work = one.case, one.request, one.case.workload
    words = ["fitcalc", request.model.id or "MODEL", *one.hardware.words, "--quant", case.scheme.id]
    words += ["--engine", case.profile.id, "--context", str(request.context_tokens)]
    words += ["--concurrency", str(request.concurrency)]
    words += ["--kv-dtype", work.kv_dtype] if work.kv_dtype else []
    if case.profile.splits_tensors and len(case.machine.gpus) > 1:
        words += ["--tp", str(work.tensor_parallel), "--pp", str(work.pipeline_parallel)]
        words += ["--ep"] if work.expert_parallel else []
    return shlex.join(words)


def _command(one: Found) -> str:
    case, request = one.case, one.request
    return case.engine.command(case.prepared, request.context_tokens, request.concurrency)


def _rejections(tally: Tally, beaten: int) -> Iterable[Rejection]:
    """What was left out by reason and term, the most frequent first; the front's own losers among the dominated."""
    rows = {
        key: Rejection(nearest.reason, nearest.term, count, nearest.words)  # type: ignore[arg-type]
        for key, (count, nearest) in tally.items()
    }
    if beaten:
        old = rows.get(("dominated", ""))
        said = old.example if old else "a plan of the front is at least as good, as fast and as cheap"
        rows["dominated", ""] = Rejection("dominated", "", beaten + (old.plans if old else 0), said)
    return sorted(rows.values(), key=lambda row: (-row.plans, row.reason, row.term))


def _inputs(question: Question, *, offline: bool) -> dict[str, Any]:
    limits = question.limits
    return {
        "model": question.model.id,
        "model_name": question.model.name,
        "context_tokens": question.context_tokens,
        "concurrency": question.concurrency,
        "quant": question.quant or None,
        "kv_dtype": question.kv_dtype or None,
        "engines": [profile.id for profile in question.engines],
        "machines": len(question.hardware),
        "budget_usd": limits.usd,
        "max_usd_per_h": limits.usd_per_h,
        "min_tokens_per_s": limits.tokens_per_s,
        "max_first_token_s": limits.first_token_s,
        "quality": limits.quality,
        "offline": offline,
        "cost_basis": _BASIS_WORDS[question.basis],
    }


def _notes(question: Question, taken: Found | None) -> Iterator[str]:
    yield from question.model.notes
    if taken is None:
        return
    limit = question.model.max_context_tokens
    if limit and question.context_tokens > limit:
        yield f"{question.context_tokens:,} tokens is beyond the model's own limit of {limit:,}"
    yield from taken.case.machine.notes
    if taken.hardware.price_note:
        yield f"prices: {taken.hardware.price_note}; the host around bought devices is not counted"
    if taken.speed.note:
        yield taken.speed.note
    yield from taken.case.engine.notes(taken.case.prepared)
