"""A small discrete-event simulation of continuous batching on one server: what the formulas are checked by.

Requests arrive, wait in order for a place, have their prompts taken in by pieces of at most `pass_tokens` a step while
others write on, then write one token a step. Steps between two events are alike and taken at once.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence

from fitcalc.fleets.server import Server
from fitcalc.frozen import dataclass

Arrival = tuple[float, int, int]
"""(seconds, prompt tokens, output tokens)"""
SEED = 20240229
WARM_UP = 0.2
"""Of the requests, left out of the figures while the server fills."""
_NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the requests of a run saw. Times in seconds."""

    requests: int
    """That are counted."""
    ttft_s: float
    ttft_percentile_s: float
    tpot_s: float
    tpot_percentile_s: float
    request_s: float
    """Mean time in the server."""
    in_flight: float
    """Mean over time, from the moments at which requests come and go."""
    rate: float
    """Requests a second that arrived."""
    busy_share: float
    """Of the time in which the engine made steps."""


@dataclass(frozen=True, slots=True)
class Done:
    """One request's moments."""

    arrival_s: float
    first_s: float
    end_s: float
    output_tokens: int


def arrivals_at(rate: float, requests: int, lengths: Sequence[tuple[int, int]], seed: int = SEED) -> list[Arrival]:
    """Random arrivals (Poisson) at a rate, with lengths drawn from pairs; the same for the same seed."""
    source = random.Random(seed)
    moment, found = 0.0, []
    for _ in range(requests):
        moment += source.expovariate(rate)
        found.append((moment, *lengths[int(source.random() * len(lengths))]))
    return found


def run(server: Server, arrivals: Sequence[Arrival]) -> tuple[list[Done], float]:
    """(every request's moments, seconds in which the engine made steps). Arrivals in order of time."""
    waiting: deque[Arrival] = deque()
    filling: deque[list[float | Arrival]] = deque()
    writing: list[tuple[int, int]] = []
    """Heap of (step of the last token, index)."""
    fresh: list[int] = []
    """Requests whose first token the next step gives."""
    starts: list[tuple[Arrival, float]] = []
    done: list[Done] = []
    now, busy, steps, coming = 0.0, 0.0, 0, 0
    most, count = server.most_requests, len(arrivals)
    while len(done) < count:
        while coming < count and arrivals[coming][0] <= now:
            waiting.append(arrivals[coming])
            coming += 1
        while waiting and len(writing) + len(filling) < most:
            one = waiting.popleft()
            filling.append([float(one[1]), one])
        running = len(writing)
        if not filling and not running:
            now = arrivals[coming][0]
            continue
        took, full = _taken_in(filling, server.pass_tokens) if filling else (0.0, [])
        each = server.alone_s if running == 0 else server.prompt_s
        spent = server.step_s[running] + took / server.prompt_tokens * each
        jump = 1
        if not filling and not full and not fresh:
            following = arrivals[coming][0] if coming < count and running < most else _NEVER
            soon = max(1.0, (following - now) / spent)
            jump = int(min(writing[0][0] - steps, math.ceil(min(soon, 1e9))))
        now, busy, steps = now + jump * spent, busy + jump * spent, steps + jump
        for place in fresh:
            starts[place] = (starts[place][0], now)
        fresh = []
        while writing and writing[0][0] <= steps:
            place = heapq.heappop(writing)[1]
            one, first = starts[place]
            done.append(Done(one[0], first, now, one[2]))
        for one in full:
            # The first token comes with the step after the prompt, the answer's others with those after it.
            heapq.heappush(writing, (steps + one[2] + 1, len(starts)))
            fresh.append(len(starts))
            starts.append((one, now))
    return done, busy


def _taken_in(filling: deque[list[float | Arrival]], room: float) -> tuple[float, list[Arrival]]:
    """(prompt tokens that a step takes in, the requests whose prompts are complete with it)."""
    took, full = 0.0, []
    while filling and took < room:
        left, one = filling[0]
        assert isinstance(left, float)
        assert isinstance(one, tuple)
        piece = min(left, room - took)
        took += piece
        if piece < left:
            filling[0][0] = left - piece
        else:
            filling.popleft()
            full.append(one)
    return took, full


def simulate(server: Server, arrivals: Sequence[Arrival], percentile: float) -> Simulated:
    """What the requests of a run see after its warm-up."""
    done, busy = run(server, arrivals)
    first = arrivals[int(len(arrivals) * WARM_UP)][0]
    last = arrivals[-1][0]
    counted = [one for one in done if one.arrival_s >= first]
    ttft = sorted(one.first_s - one.arrival_s + server.arrival_s for one in counted)
    tpot = sorted((one.end_s - one.first_s) / one.output_tokens for one in counted)
    end = max(one.end_s for one in done)
    window = max(last - first, 1e-9)
    held = sum(max(min(one.end_s, last) - max(one.arrival_s, first), 0.0) for one in done)
    return Simulated(
        requests=len(counted),
        ttft_s=sum(ttft) / len(ttft),
        ttft_percentile_s=_percentile(ttft, percentile),
        tpot_s=sum(tpot) / len(tpot),
        tpot_percentile_s=_percentile(tpot, percentile),
        request_s=sum(one.end_s - one.arrival_s for one in counted) / len(counted),
        in_flight=held / window,
        rate=len(counted) / window,
        busy_share=busy / end,
    )


def _percentile(values: Sequence[float], percentile: float) -> float:
    return values[min(math.ceil(len(values) * percentile / 100), len(values)) - 1]
