"""How fast a plan could be at most, without preparing it: the step of the speed model with all layers on one place.

What is left out (waiting, the share of prompts in a step, the host) only makes a plan slower.
"""

from __future__ import annotations

from fitcalc.plan import runs_gguf
from fitcalc.quantization import assign
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.speeds.families import family_of, parameters
from fitcalc.speeds.figures import lengths
from fitcalc.speeds.rates import device_class, rates_of, storage_kind
from fitcalc.speeds.steps import Division, decode_parts
from fitcalc.speeds.work import Work, everywhere, work_of

_ROUNDING = 1.01
"""Kinds of cache layers and repacked weights differ by less between the whole and the sum of its parts."""


def work_whole(model: ModelSpec, scheme: Scheme, profile: EngineProfile) -> Work:
    """What a token makes the devices do, all layers together; the same for every machine."""
    gguf = runs_gguf(profile)
    unpacking = family_of(profile).get("unpacking", {"": 1.0})
    return work_of(model, assign(model, scheme, gguf=gguf), unpacking, everywhere, absorbs=gguf)


def most_tokens_per_s(
    work: Work, scheme: Scheme, profile: EngineProfile, machine: Machine, context_tokens: int, concurrency: int
) -> float:
    """An upper bound of the tokens per second of each request; infinite where no bound is known."""
    device = machine.gpus[0] if machine.gpus else machine.cpu
    family = family_of(profile)
    rates = rates_of(device, storage_kind(scheme)) if device else None
    if device is None or rates is None or len({card.id for card in machine.gpus}) > 1:
        return float("inf")
    kind = "loop" if "loop" in family else "decode"
    found = parameters(family, kind, device_class(device), (storage_kind(scheme), device.arch.lower()))
    if found is None:
        return float("inf")
    elems, size = min(profile.kv_types.values(), key=lambda block: block[1] / block[0])
    prompt, generated = lengths(context_tokens)
    cards = max(len(machine.gpus), 1)
    context = prompt + generated / 2
    # Fewer ranks need less of the link, whatever division the engine then takes; stages share the requests.
    degrees = [ranks for ranks in range(1, cards + 1) if cards % ranks == 0] if profile.splits_tensors else [cards]
    seconds = min(
        decode_parts(
            work, rates, found.parameters, Division(ranks if profile.splits_tensors else 1, 1, 0),
            max(concurrency * ranks / cards, 1), context, size / elems,
        ).total_s
        for ranks in degrees
    )  # fmt: skip
    return float(_ROUNDING / seconds) if seconds > 0 else float("inf")
