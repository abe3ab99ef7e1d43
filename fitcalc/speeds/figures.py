"""A settled plan made ready for speeds, and its speeds as plain numbers: no ranges, no notes.

`figures` takes numbers or arrays of contexts and requests alike, so that a sweep asks once for a whole grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.engines.base import kv_block
from fitcalc.formulas import speed as formulas
from fitcalc.frozen import dataclass, replace
from fitcalc.speeds.families import Found, family_of, parameters
from fitcalc.speeds.places import Place, Plan, plan_of
from fitcalc.speeds.rates import device_class, rates_of, storage_kind
from fitcalc.speeds.serving import Load, serve
from fitcalc.speeds.steps import Parameters, Parts, Rates, decode_parts, prompt_parts
from fitcalc.units import least, most
from fitcalc.verdict import Case

PROMPT_TOKENS = 2048
"""Length of the prompt that times to first token are given for, where the context has room for it."""
GENERATED_TOKENS = 256
PART_NAMES = ("bandwidth", "compute", "cache", "unpacking", "launches", "network", "host")
CUSTOM = "custom"
"""Segment of cards that are a size and nothing more."""
DESKTOP_BYTES_PER_S = 89.6e9
"""Peak of two channels of DDR5-5600: the host of the records that do not name theirs."""
_UNBOUND = 1e15
"""Rates and rooms that bind nothing."""
_UNKNOWN_PCIE_BYTES_PER_S = 16e9
_ALIKE = {"": 1.0}
"""Every format costs as much to unpack."""


@dataclass(frozen=True, slots=True)
class Step:
    """A device's rates and parameters for one kind of work."""

    place: Place
    rates: Rates
    found: Found


@dataclass(frozen=True, slots=True)
class Ready:
    """A plan whose places, rates and parameters are looked up: what `figures` evaluates."""

    case: Case
    plan: Plan
    family: Mapping[str, Any]
    steps: tuple[Step, ...]
    prompts: tuple[Step, ...]
    cache_elem_bytes: float

    @property
    def served(self) -> bool:
        """The engine was measured in closed loops: prompts and answers of many requests at once."""
        return "loop" in self.family


@dataclass(frozen=True, slots=True)
class Figures:
    """Estimates at a context per request and a number of requests: rates per second, times in seconds."""

    decode_tokens_per_s: Any
    """Of one request alone."""
    prefill_tokens_per_s: Any
    """Of one request alone."""
    first_s: Any
    """Time to the first token while all requests run."""
    token_s: Any
    """Time per output token of one request while all run."""
    total_tokens_per_s: Any
    """Output tokens of all requests."""
    decode_parts: dict[str, Any]
    """Seconds of a decode step of one request by what they are spent on."""
    prefill_parts: dict[str, Any]


def not_modelled(case: Case) -> str:
    """Why a plan has no speed; '' where it has."""
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


def ready(case: Case, context_tokens: Any, concurrency: Any) -> Ready | str:
    """A plan made ready at this context and concurrency, or why it has no speed.

    Where what does not fit goes to RAM, arrays are taken as if all of it were on the cards.
    """
    reason = not_modelled(case)
    if reason:
        return reason
    family = family_of(case.profile)
    if case.model.is_moe and "experts_unmodelled" in family:
        return str(family["experts_unmodelled"])
    plan = plan_of(case, context_tokens, concurrency, family.get("unpacking", _ALIKE))
    served = "loop" in family
    steps = _steps(family, plan, case, "loop" if served else "decode")
    prompts = steps if served else _steps(family, plan, case, "prefill")
    if isinstance(steps, str):
        return steps
    if isinstance(prompts, str):
        return prompts
    elems, size = kv_block(case.profile, case.workload.kv_dtype)
    return Ready(case, plan, family, steps, prompts, size / elems)


def is_fixed(case: Case) -> bool:
    """The same layers lie in the same places at any context and concurrency: one `ready` holds for all of them."""
    rules = getattr(case.prepared, "rules", None)
    if getattr(case.engine, "plan_at", None) is not None:
        return False
    return rules is None or not (
        case.prepared.settings.moves_what_does_not_fit
        or case.profile.constants.get("estimates_layers")
        or len(case.machine.gpus) > 1
    )


def lengths(context_tokens: Any) -> tuple[Any, Any]:
    """(prompt, answer) in tokens that speeds are given for: 2,048 and 256 where the context has room for them."""
    prompt = most(least(PROMPT_TOKENS, context_tokens // 2), 1)
    return prompt, most(least(GENERATED_TOKENS, context_tokens - prompt), 1)


def figures(
    ready: Ready, context_tokens: Any, concurrency: Any, prompt_tokens: Any = None, generated_tokens: Any = None
) -> Figures:
    """The speeds of a plan; numbers or arrays. The room of the cache is that at `context_tokens` per request."""
    usual = lengths(context_tokens)
    prompt = usual[0] if prompt_tokens is None else prompt_tokens
    generated = usual[1] if generated_tokens is None else generated_tokens
    plan = ready.plan
    decode = _decode(ready, 1, prompt + generated / 2)
    filling_s, filling = _prompt(ready, prompt)
    room = _room_tokens(ready, context_tokens, concurrency)
    load = Load(concurrency / plan.replicas, prompt, generated, room, ready.cache_elem_bytes)
    token_s, first_s, total = _loop(ready, load, filling_s)
    return Figures(
        decode_tokens_per_s=1 / sum(decode.values()),
        prefill_tokens_per_s=prompt / filling_s,
        first_s=first_s,
        token_s=token_s,
        total_tokens_per_s=total * plan.replicas,
        decode_parts=decode,
        prefill_parts=filling,
    )


def decode_rate(ready: Ready, context_tokens: Any) -> Any:
    """Tokens per second of one request alone at this context; what a choice between plans needs, and no more."""
    prompt, generated = lengths(context_tokens)
    return 1 / sum(_decode(ready, 1, prompt + generated / 2).values())


def _steps(family: Mapping[str, Any], plan: Plan, case: Case, kind: str) -> tuple[Step, ...] | str:
    """Every place with its rates and parameters; a word on why not, where something is not known."""
    storage = storage_kind(case.scheme)
    steps: list[Step] = []
    for place in plan.places:
        if steps and (place.device is None or place.device.kind == "cpu"):
            steps.append(_host(family, place, kind, steps[0].found))
            continue
        if place.device is None:
            return "the CPU is not known (--cpu)"
        if place.device.segment == CUSTOM and not place.device.bandwidth_bytes_per_s:
            return "not known for a bare size: name the card for its speed"
        rates = rates_of(place.device, storage, case.workload.options.get("threads"))
        if rates is None:
            return f"bandwidth or compute rate of {place.device.name} is not known"
        variants = () if kind == "prefill" else (storage, place.device.arch.lower())
        found_here = parameters(family, kind, device_class(place.device), variants)
        if found_here is None:
            return f"not modelled for {case.profile.name}"
        steps.append(Step(place, rates, found_here))
    return tuple(steps)


def _host(family: Mapping[str, Any], place: Place, kind: str, card: Found) -> Step:
    """RAM behind cards. Routed experts lie scattered and are read far below its rate; whole layers near it."""
    bandwidth = (place.device.bandwidth_bytes_per_s if place.device else None) or DESKTOP_BYTES_PER_S
    host = parameters(family, "decode", "host") or card
    if place.work.expert_bytes > place.work.fixed_bytes:
        bandwidth *= host.parameters.host_bytes_per_s / DESKTOP_BYTES_PER_S
        found = parameters(family, kind, "host") or card
    else:
        found = parameters(family, kind, "cpu") or card
    return Step(place, Rates(bandwidth, _UNBOUND, _UNBOUND, _UNBOUND), found)


def _decode(ready: Ready, requests: Any, context: Any) -> dict[str, Any]:
    """Seconds of one step by what they are spent on, over all places."""
    sums: dict[str, Any] = dict.fromkeys(PART_NAMES, 0.0)
    division, elem_bytes = ready.plan.division, ready.cache_elem_bytes
    for index, step in enumerate(ready.steps):
        parts = decode_parts(
            step.place.work, step.rates, _once(step.found.parameters, index), division, requests, context, elem_bytes
        )
        if index and _on_host(step):
            sums["host"] = sums["host"] + parts.total_s
        else:
            _add(sums, parts)
    return sums


def _once(p: Parameters, index: int) -> Parameters:
    """What is paid once a step is paid on the first place alone."""
    return p if index == 0 else replace(p, step_s=0.0, request_s=0.0, stage_s=0.0)


def _add(sums: dict[str, Any], parts: Parts) -> None:
    # Not in place: a sum may be an array that another part shares.
    for name, seconds in (
        ("compute", parts.weights_s * parts.is_computing),
        ("bandwidth", parts.weights_s * (1 - parts.is_computing)),
        ("cache", parts.cache_s),
        ("unpacking", parts.unpacking_s),
        ("launches", parts.launch_s),
        ("network", parts.network_s),
    ):
        sums[name] = sums[name] + seconds


def _prompt(ready: Ready, tokens: Any) -> tuple[Any, dict[str, Any]]:
    """Seconds of a prompt, and by what they are spent on.

    What lies on the host is computed on the card: its weights cross the bus once a pass.
    """
    sums: dict[str, Any] = dict.fromkeys(PART_NAMES, 0.0)
    for index, step in enumerate(ready.prompts):
        lent = ready.prompts[0] if index and _on_host(step) else None
        computing = lent or step
        p = computing.found.parameters
        passes = formulas.prefill_passes(tokens=tokens, step_tokens=p.pass_tokens)
        work = step.place.work
        _add(sums, prompt_parts(work, computing.rates, _once(p, index), ready.plan.division, tokens, 0, passes))
        if lent is not None and lent.place.device is not None:
            bus_bytes_per_s = lent.place.device.pcie_bytes_per_s or _UNKNOWN_PCIE_BYTES_PER_S
            moved_s = passes * (work.fixed_bytes + work.expert_bytes) / (bus_bytes_per_s * p.pcie_share)
            sums["host"] = sums["host"] + moved_s
    return sum(sums.values()), sums


def _on_host(step: Step) -> bool:
    device = step.place.device
    return device is None or device.kind == "cpu"


def _loop(ready: Ready, load: Load, filling_s: Any) -> tuple[Any, Any, Any]:
    """(time per token, time to first token, tokens per second) of one replica in a closed loop."""
    p = ready.steps[0].found.parameters
    if ready.served:
        step = ready.steps[0]
        found = serve(step.place.work, step.rates, p, ready.plan.division, load)
        return found.token_s, found.first_s, found.total_tokens_per_s
    context = load.prompt_tokens + load.generated_tokens / 2
    running = most(load.requests, 1)
    decode = sum(_decode(ready, running, context).values())
    token = formulas.time_per_token_s(
        step_s=decode, running=running, prompt_s=filling_s, generated_tokens=load.generated_tokens,
        mixed_share=p.mixed_share,
    )  # fmt: skip
    first = formulas.first_token_s(
        first_s=0, alone_s=filling_s, running=running, prompt_s=filling_s, queue_share=p.queue_share, step_s=decode,
        waiting_s=0, wait_share=0,
    )  # fmt: skip
    total = formulas.total_tokens_per_s(
        running=running, generated_tokens=load.generated_tokens, token_s=token, first_s=first
    )
    return token, first, total


def _room_tokens(ready: Ready, context_tokens: Any, concurrency: Any) -> Any:
    """Tokens that one replica's cache holds."""
    pool = ready.case.engine.pool(ready.case.prepared, context_tokens, concurrency)
    return pool.tokens / ready.plan.replicas if pool is not None else _UNBOUND
