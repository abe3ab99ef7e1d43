"""From a settled plan to its speeds: one request alone, its first token, and all requests together.

Every figure has the interval that held-out measurements earned. What is not modelled is None, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fitcalc.engines.base import kv_block
from fitcalc.formulas import speed as formulas
from fitcalc.frozen import dataclass
from fitcalc.spec.report import Speed, SpeedPart
from fitcalc.speeds.families import ANY, Found, family_of, interval, parameters
from fitcalc.speeds.places import Place, Plan, plan_of
from fitcalc.speeds.rates import device_class, rates_of, storage_kind
from fitcalc.speeds.serving import Load, serve
from fitcalc.speeds.steps import Division, Parameters, Parts, Rates, decode_parts, prompt_parts
from fitcalc.verdict import Case

PROMPT_TOKENS = 2048
"""Length of the prompt that times to first token are given for, where the context has room for it."""
GENERATED_TOKENS = 256
PART_NAMES = ("bandwidth", "compute", "cache", "unpacking", "launches", "network", "host")
DESKTOP_BYTES_PER_S = 89.6e9
"""Peak of two channels of DDR5-5600: the host of the records that do not name theirs."""
_UNBOUND = 1e15
"""Rates and rooms that bind nothing."""
_UNKNOWN_PCIE_BYTES_PER_S = 16e9


@dataclass(frozen=True, slots=True)
class _Step:
    """A device's rates and parameters for one kind of work."""

    place: Place
    rates: Rates
    found: Found


def speed_of(case: Case, context_tokens: int, concurrency: int) -> Speed:
    """The speeds of a plan at a context per request and a number of requests; empty with a note where not modelled."""
    reason = _not_modelled(case)
    if reason:
        return Speed(note=reason)
    family = family_of(case.profile)
    plan = plan_of(case, context_tokens, concurrency, family.get("unpacking", {"": 1.0}))
    prompt = max(min(PROMPT_TOKENS, context_tokens // 2), 1)
    generated = max(min(GENERATED_TOKENS, context_tokens - prompt), 1)
    served = "loop" in family
    steps = _steps(family, plan, case, "loop" if served else "decode")
    prompts = _steps(family, plan, case, "loop" if served else "prefill")
    if isinstance(steps, str) or isinstance(prompts, str):
        return Speed(note=steps if isinstance(steps, str) else str(prompts))
    elem_bytes = _cache_elem_bytes(case)
    decode = _decode(steps, plan.division, 1, prompt + generated / 2, elem_bytes)
    filling_s, filling = _prompt(prompts, plan.division, prompt)
    load = Load(
        concurrency / plan.replicas,
        prompt,
        generated,
        _room_tokens(case, plan, context_tokens, concurrency),
        elem_bytes,
    )
    token_s, first_s, total = _loop(steps, prompts, plan, load, served=served)
    one_s = filling_s + sum(decode.values()) + steps[0].found.parameters.first_s * served
    found, prompted = steps[0].found, prompts[0].found
    if len({step.place.device for step in steps}) > 1:
        # RAM and mixed cards are as uncertain as devices that were never seen.
        found, prompted = replace(found, device_class=ANY), replace(prompted, device_class=ANY)
    first_s = one_s if concurrency == 1 else first_s
    return Speed(
        decode_tokens_per_s=interval(family, "decode", found, 1 / sum(decode.values())),
        prefill_tokens_per_s=interval(family, "prefill", prompted, prompt / filling_s),
        time_to_first_token_s=interval(family, "first", prompted, first_s),
        total_tokens_per_s=interval(family, "total", found, total * plan.replicas),
        time_per_token_s=interval(family, "token", found, token_s),
        prompt_tokens=prompt,
        generated_tokens=generated,
        bound_by=max(decode, key=lambda name: decode[name]),
        decode_parts=_shown(decode),
        prefill_parts=_shown(filling),
        note=_notes(steps, family),
    )


def _not_modelled(case: Case) -> str:
    if case.model.makes_images:
        return "not modelled for image generators"
    if case.model.kind != "decoder":
        return "not modelled for encoders"
    if case.model.unknowns:
        return "not modelled, because parts of the model are not known"
    if any(card.kind == "accelerator" for card in case.machine.gpus):
        return "not modelled for accelerators without a modelled engine"
    if case.workload.draft is not None:
        return "not modelled with a draft model"
    return ""


def _steps(family: Mapping[str, Any], plan: Plan, case: Case, kind: str) -> list[_Step] | str:
    """Every place with its rates and parameters; a word on why not, where something is not known."""
    storage = storage_kind(case.scheme)
    steps: list[_Step] = []
    for place in plan.places:
        if steps and (place.device is None or place.device.kind == "cpu"):
            steps.append(_host(family, place, kind, steps[0].found))
            continue
        if place.device is None:
            return "the CPU is not known (--cpu)"
        rates = rates_of(place.device, storage, case.workload.options.get("threads"))
        if rates is None:
            return f"bandwidth or compute rate of {place.device.name} is not known"
        variant = storage if kind == "decode" else ""
        found_here = parameters(family, kind, device_class(place.device), variant)
        if found_here is None:
            return f"not modelled for {case.profile.name}"
        steps.append(_Step(place, rates, found_here))
    return steps


def _host(family: Mapping[str, Any], place: Place, kind: str, card: Found) -> _Step:
    """RAM behind cards. Routed experts lie scattered and are read far below its rate; whole layers near it."""
    bandwidth = (place.device.bandwidth_bytes_per_s if place.device else None) or DESKTOP_BYTES_PER_S
    host = parameters(family, "decode", "host") or card
    if place.work.expert_bytes > place.work.fixed_bytes:
        bandwidth *= host.parameters.host_bytes_per_s / DESKTOP_BYTES_PER_S
        found = parameters(family, kind, "host") or card
    else:
        found = parameters(family, kind, "cpu") or card
    return _Step(place, Rates(bandwidth, _UNBOUND, _UNBOUND, _UNBOUND), found)


def _decode(
    steps: list[_Step], division: Division, requests: float, context: float, elem_bytes: float
) -> dict[str, float]:
    """Seconds of one step by what they are spent on, over all places."""
    sums = dict.fromkeys(PART_NAMES, 0.0)
    for index, step in enumerate(steps):
        parts = decode_parts(
            step.place.work, step.rates, _once(step.found.parameters, index), division, requests, context, elem_bytes
        )
        if step.place is not steps[0].place:
            sums["host"] += parts.total_s
        else:
            _add(sums, parts)
    return sums


def _once(p: Parameters, index: int) -> Parameters:
    """What is paid once a step is paid on the first place alone."""
    return p if index == 0 else replace(p, step_s=0.0, request_s=0.0, stage_s=0.0)


def _add(sums: dict[str, float], parts: Parts) -> None:
    sums["compute"] += parts.weights_s * parts.is_computing
    sums["bandwidth"] += parts.weights_s * (1 - parts.is_computing)
    sums["cache"] += parts.cache_s
    sums["unpacking"] += parts.unpacking_s
    sums["launches"] += parts.launch_s
    sums["network"] += parts.network_s


def _prompt(steps: list[_Step], division: Division, tokens: int) -> tuple[float, dict[str, float]]:
    """Seconds of a prompt, and by what they are spent on.

    What lies on the host is computed on the card: its weights cross the bus once a pass.
    """
    sums = dict.fromkeys(PART_NAMES, 0.0)
    for index, step in enumerate(steps):
        lent = _lent(step, steps)
        computing = lent or step
        p = computing.found.parameters
        passes = formulas.prefill_passes(tokens=tokens, step_tokens=p.pass_tokens)
        work, rates = step.place.work, computing.rates
        _add(sums, prompt_parts(work, rates, _once(p, index), division, tokens, 0, passes))
        if lent is not None and lent.place.device is not None:
            bus_bytes_per_s = lent.place.device.pcie_bytes_per_s or _UNKNOWN_PCIE_BYTES_PER_S
            sums["host"] += passes * (work.fixed_bytes + work.expert_bytes) / (bus_bytes_per_s * p.pcie_share)
    return sum(sums.values()), sums


def _lent(step: _Step, steps: list[_Step]) -> _Step | None:
    """The card that computes a prompt's share of the host; None for cards, and for a host without any."""
    device = step.place.device
    on_host = device is None or device.kind == "cpu"
    return steps[0] if on_host and step is not steps[0] else None


def _loop(
    steps: list[_Step], prompts: list[_Step], plan: Plan, load: Load, *, served: bool
) -> tuple[float, float, float]:
    """(time per token, time to first token, tokens per second) of one replica in a closed loop."""
    if served:
        step = steps[0]
        found = serve(step.place.work, step.rates, step.found.parameters, plan.division, load)
        return found.token_s, found.first_s, found.total_tokens_per_s
    context = load.prompt_tokens + load.generated_tokens / 2
    filling, _ = _prompt(prompts, plan.division, load.prompt_tokens)
    decode = sum(_decode(steps, plan.division, load.requests, context, load.cache_elem_bytes).values())
    p = steps[0].found.parameters
    token = formulas.time_per_token_s(
        step_s=decode, running=load.requests, prompt_s=filling, generated_tokens=load.generated_tokens,
        mixed_share=p.mixed_share,
    )  # fmt: skip
    first = formulas.first_token_s(
        first_s=0, alone_s=filling, running=load.requests, prompt_s=filling, queue_share=p.queue_share, step_s=decode,
        waiting_s=0, wait_share=0,
    )  # fmt: skip
    total = formulas.total_tokens_per_s(
        running=load.requests, generated_tokens=load.generated_tokens, token_s=token, first_s=first
    )
    return token, first, total


def _room_tokens(case: Case, plan: Plan, context_tokens: int, concurrency: int) -> float:
    """Tokens that one replica's cache holds."""
    pool = case.engine.pool(case.prepared, context_tokens, concurrency)
    return float(pool.tokens) / plan.replicas if pool is not None else _UNBOUND


def _cache_elem_bytes(case: Case) -> float:
    elems, size = kv_block(case.profile, case.workload.kv_dtype)
    return size / elems


def _shown(sums: Mapping[str, float]) -> tuple[SpeedPart, ...]:
    return tuple(SpeedPart(name, seconds) for name, seconds in sums.items() if seconds > 0)


def _notes(steps: list[_Step], family: Mapping[str, Any]) -> str:
    if any(step.place.device is None for step in steps):
        return "RAM taken as a desktop's: the CPU is not known (--cpu)"
    if family.get("is_other") or steps[0].found.device_class == "any":
        return "no measurements of this engine on this kind of device: a wide range"
    return ""
