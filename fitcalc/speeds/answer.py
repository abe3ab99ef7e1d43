"""From a settled plan to its speeds: one request alone, its first token, and all requests together.

Every figure has the interval that held-out measurements earned. What is not modelled is None, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.frozen import replace
from fitcalc.spec.report import Estimate, Speed, SpeedPart
from fitcalc.speeds.families import ANY, Found, interval
from fitcalc.speeds.figures import Ready, decode_rate, figures, lengths, ready
from fitcalc.verdict import Case


def speed_of(
    case: Case,
    context_tokens: int,
    concurrency: int,
    prompt_tokens: int | None = None,
    generated_tokens: int | None = None,
) -> Speed:
    """The speeds of a plan at a context per request and a number of requests; empty with a note where not modelled."""
    found = ready(case, context_tokens, concurrency)
    if isinstance(found, str):
        return Speed(note=found)
    return speed_at(found, context_tokens, concurrency, prompt_tokens, generated_tokens)


def decode_tokens_per_s(case: Case, context_tokens: int, concurrency: int) -> Estimate | None:
    """The rate of one request alone, which a choice between plans needs; None where it is not modelled."""
    found = ready(case, context_tokens, concurrency)
    if isinstance(found, str):
        return None
    return interval(found.family, "decode", nearness(found)[0], decode_rate(found, context_tokens))


def speed_at(
    ready: Ready,
    context_tokens: int,
    concurrency: int,
    prompt_tokens: int | None = None,
    generated_tokens: int | None = None,
) -> Speed:
    """The speeds of a plan that is ready."""
    usual = lengths(context_tokens)
    prompt, generated = prompt_tokens or usual[0], generated_tokens or usual[1]
    at = figures(ready, context_tokens, concurrency, prompt, generated)
    found, prompted = nearness(ready)
    family = ready.family
    decode = interval(family, "decode", found, at.decode_tokens_per_s)
    token = interval(family, "token", found, at.token_s)
    if concurrency == 1:
        # Alone, a request's time per token is the inverse of its rate, which has records of its own.
        token = Estimate(
            at.token_s, at.token_s * decode.estimate / decode.high, at.token_s * decode.estimate / decode.low
        )
    return Speed(
        decode_tokens_per_s=decode,
        prefill_tokens_per_s=interval(family, "prefill", prompted, at.prefill_tokens_per_s),
        time_to_first_token_s=interval(family, "first", prompted, at.first_s),
        total_tokens_per_s=interval(family, "total", found, at.total_tokens_per_s),
        time_per_token_s=token,
        prompt_tokens=prompt,
        generated_tokens=generated,
        bound_by=max(at.decode_parts, key=lambda name: float(at.decode_parts[name])),
        decode_parts=_shown(at.decode_parts),
        prefill_parts=_shown(at.prefill_parts),
        note=_notes(ready),
    )


def nearness(ready: Ready) -> tuple[Found, Found]:
    """How near the records are that decode and prompts rest on."""
    found, prompted = ready.steps[0].found, ready.prompts[0].found
    if len({step.place.device for step in ready.steps}) > 1:
        # RAM and mixed cards are as uncertain as devices that were never seen.
        return replace(found, device_class=ANY), replace(prompted, device_class=ANY)
    return found, prompted


def _shown(sums: Mapping[str, Any]) -> tuple[SpeedPart, ...]:
    return tuple(SpeedPart(name, seconds) for name, seconds in sums.items() if seconds > 0)


def _notes(ready: Ready) -> str:
    if any(step.place.device is None for step in ready.steps):
        return "RAM taken as a desktop's: the CPU is not known (--cpu)"
    if ready.family.get("is_other") or ready.steps[0].found.device_class == ANY:
        return "no measurements of this engine on this kind of device: a wide range"
    return ""
