"""A closed loop: a number of requests always in flight, each with a prompt and an answer of fixed length."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import speed
from fitcalc.frozen import dataclass
from fitcalc.speeds.steps import Division, Parameters, Rates, decode_parts, prompt_parts
from fitcalc.speeds.work import Work


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of one replica. `room_tokens` is what its cache holds."""

    requests: Any
    prompt_tokens: Any
    generated_tokens: Any
    room_tokens: Any
    cache_elem_bytes: Any = 2


@dataclass(frozen=True, slots=True)
class Served:
    """What one replica gives."""

    token_s: Any
    """Time per output token of one request."""
    first_s: Any
    """Time to the first token."""
    total_tokens_per_s: Any
    running: Any
    """Requests that run at once; the others wait."""


def serve(work: Work, rates: Rates, parameters: Parameters, division: Division, load: Load) -> Served:
    """Times and throughput of a closed loop on one replica."""
    p, generated, prompt = parameters, load.generated_tokens, load.prompt_tokens
    running = speed.running_requests(
        requests=load.requests, room_tokens=load.room_tokens, tokens_per_request=prompt + generated / 2
    )
    step = decode_parts(
        work, rates, p, division, running / division.stages, prompt + generated / 2, load.cache_elem_bytes
    ).total_s
    passes = speed.prefill_passes(tokens=prompt, step_tokens=p.pass_tokens)
    alone = prompt_parts(work, rates, p, division, prompt, 0, passes).total_s
    shared = prompt_parts(work, rates, p, division, prompt, 0, prompt / p.pass_tokens).total_s / division.stages
    token = speed.time_per_token_s(
        step_s=step, running=running, prompt_s=shared, generated_tokens=generated, mixed_share=p.mixed_share
    )
    waiting = speed.waiting_s(
        requests=load.requests, running=running, generated_tokens=generated, token_s=token, alone_s=alone
    )
    inputs = {
        "first_s": p.first_s, "alone_s": alone, "running": running, "prompt_s": shared, "queue_share": p.queue_share,
        "step_s": step, "wait_share": p.wait_share,
    }  # fmt: skip
    started = speed.first_token_s(waiting_s=0, **inputs)
    return Served(
        token_s=token,
        first_s=speed.first_token_s(waiting_s=waiting, **inputs),
        total_tokens_per_s=speed.total_tokens_per_s(
            running=running, generated_tokens=generated, token_s=token, first_s=started
        ),
        running=running,
    )
