"""Open arrivals at one server: requests in flight, waits, times per token and to first token, from formulas.

With k requests in flight a server ends X(k) requests a second, the rate of a closed loop of k. Requests that arrive
at random (Poisson) and share it like this are in flight k at a time with probability proportional to the product of
rate / X(j), j = 1 … k, whatever the distribution of their lengths (a processor-sharing queue; Kelly, Reversibility and
Stochastic Networks, 1979, ch. 3). Beyond the most that run at once they wait in order. Little's law gives the mean
times; prompts that wait for each other are a queue with one server and fixed service (M/D/1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from fitcalc.fleets.server import Server
from fitcalc.frozen import dataclass

_VARIANCE_OF_A_LIFE = 2 / 3
"""Of the requests in flight, averaged over one request's life: correlations fall linearly over it, as lives have one
length."""


@dataclass(frozen=True, slots=True)
class Flight:
    """Requests in flight at a rate."""

    running: float
    """Mean."""
    spread: float
    """Standard deviation of those that run."""
    waiting: float
    """Mean of those that wait for one to end."""
    wait_share: float
    """Of arrivals that find all places taken."""
    idle_share: float
    """Of arrivals that find none in flight."""


@dataclass(frozen=True, slots=True)
class Response:
    """What requests see at a rate. Times in seconds; the percentile is the one asked for."""

    ttft_s: float
    ttft_percentile_s: float
    tpot_s: float
    tpot_percentile_s: float
    request_s: float
    """Mean time from arrival to the last token."""
    in_flight: float
    """Mean, those that wait included."""
    utilization: float
    """Share of the rate at which the server saturates."""


def loop_rates(server: Server) -> tuple[float, ...]:
    """Requests ended per second with 1, 2, 3 … in flight; never falling.

    A step takes in `pass_tokens` of prompts at most, so that short answers to long prompts cannot fill all places.
    """
    passes = server.prompt_tokens / server.pass_tokens
    highest, found = 0.0, []
    for count in range(1, server.most_requests + 1):
        step = server.step_s[count]
        life = (server.output_tokens + 1) * step + (count - 1) * server.prompt_s + server.alone_s
        filled = 1 / (server.prompt_s + passes * server.step_s[decoding(server, count)])
        highest = max(highest, min(count / life, filled) if count > 1 else count / life)
        found.append(highest)
    return tuple(found)


def decoding(server: Server, count: int) -> int:
    """Of `count` requests in flight those that write at most: the others' prompts come in no faster."""
    arriving = server.pass_tokens / server.prompt_tokens
    return min(count, max(1, math.ceil(arriving * (server.output_tokens + 1))))


def flight(rates: Sequence[float], rate: float) -> Flight:
    """Requests in flight at an arrival rate below the last of `rates`."""
    logs, total = [0.0], 0.0
    log_rate = math.log(rate)
    for each in rates:
        total += log_rate - math.log(each)
        logs.append(total)
    top = max(logs)
    weights = [math.exp(value - top) for value in logs]
    ratio = rate / rates[-1]
    # Those beyond the last place: a geometric tail.
    beyond = weights[-1] * ratio / (1 - ratio)
    whole = sum(weights) + beyond
    most = len(rates)
    mean = (sum(count * weight for count, weight in enumerate(weights)) + most * beyond) / whole
    square = (sum(count * count * weight for count, weight in enumerate(weights)) + most * most * beyond) / whole
    return Flight(
        running=mean,
        spread=math.sqrt(max(square - mean * mean, 0.0)),
        waiting=beyond / (1 - ratio) / whole,
        wait_share=(weights[-1] + beyond) / whole,
        idle_share=weights[0] / whole,
    )


def response(server: Server, rates: Sequence[float], rate: float, percentile: float) -> Response | None:
    """What requests see at a rate; None where the queue grows without end. `rates` are those of `loop_rates`."""
    if rate >= rates[-1]:
        return None
    found = flight(rates, rate)
    most = len(rates)
    usual = min(found.running + 1, most)
    writing = decoding(server, most)
    step = _at(server.step_s, min(usual, writing))
    filling = _first(server, rate, step, found.idle_share)
    if filling is None:
        return None
    place = _place(found, rate, rates[-1])
    share = percentile / 100
    first = filling.mean_s + place.mean_s
    # Prompts that came while this one was taken in, and those that come later, hold its answer up.
    free = 1 - rate * server.prompt_s
    behind = rate * (filling.mean_s - filling.last_s) * server.prompt_s / free
    token = (step / free) + behind / (server.output_tokens + 1)
    answer = token * server.output_tokens
    beside = min(usual + found.spread * math.sqrt(_VARIANCE_OF_A_LIFE), most)
    by_flight = (_at(server.step_s, min(beside, writing)) - step) / free
    by_prompts = server.prompt_s * math.sqrt(rate * answer) / free / server.output_tokens
    request = first + answer
    return Response(
        ttft_s=server.arrival_s + first,
        ttft_percentile_s=server.arrival_s + _quantile(first, filling.variance + place.variance, share),
        tpot_s=token,
        tpot_percentile_s=_quantile(token, max(by_flight, by_prompts) ** 2, share),
        request_s=server.arrival_s + request,
        in_flight=rate * request,
        utilization=rate / rates[-1],
    )


@dataclass(frozen=True, slots=True)
class _Time:
    mean_s: float
    variance: float
    last_s: float = 0.0
    """Of the mean, the step that gives the first token."""


def _place(found: Flight, rate: float, saturation: float) -> _Time:
    """The wait for a place: for those that wait, exponential."""
    mean = found.waiting / rate
    each = 1 / (saturation - rate)
    return _Time(mean, max(2 * found.wait_share * each * each - mean * mean, 0.0))


def _first(server: Server, rate: float, step: float, idle: float) -> _Time | None:
    """From a place to the first token; None where prompts come faster than they are taken in."""
    alone = _Time(server.alone_s + server.step_s[1], 0.0, server.step_s[1])
    among = _in_turn(server, rate, step)
    if among is None:
        return None
    if server.prompt_tokens <= server.pass_tokens:
        together = _in_one_step(server, rate, step)
        filled = min(1.0, rate * together.mean_s * server.prompt_tokens / server.pass_tokens)
        among = _mixed(together, among, filled)
    return _mixed(among, alone, idle)


def _mixed(one: _Time, other: _Time, share: float) -> _Time:
    """One of two times, the other with probability `share`."""
    apart = one.mean_s - other.mean_s
    return _Time(
        mean_s=(1 - share) * one.mean_s + share * other.mean_s,
        variance=(1 - share) * one.variance + share * other.variance + share * (1 - share) * apart * apart,
        last_s=(1 - share) * one.last_s + share * other.last_s,
    )


def _in_one_step(server: Server, rate: float, step: float) -> _Time:
    """Prompts that arrive in one step are taken in with the next, and get their first token with the one after that.

    A step lasts `step` and `prompt_s` for every arrival during the one before it; arrivals see long ones more often.
    """
    prompt, load = server.prompt_s, rate * server.prompt_s
    usual = step / (1 - load)
    variance = prompt * prompt * rate * usual / (1 - load * load)
    seen = usual + variance / usual
    own = step + prompt + load * seen
    after = step + load * own
    spread = (
        seen * seen / 12
        + variance * (0.5 + load + load * load) ** 2
        + prompt * load * seen * (1 + load) ** 2
        + prompt * load * own
    )
    return _Time(seen / 2 + own + after, spread, after)


def _in_turn(server: Server, rate: float, step: float) -> _Time | None:
    """Prompts of several steps each are taken in one after another: one server with a fixed time (M/D/1)."""
    passes = server.prompt_tokens / server.pass_tokens
    each = server.prompt_s + passes * step
    busy = rate * each
    if busy >= 1:
        return None
    queue = each * busy / (2 * (1 - busy))
    # The step that gives the first token takes in a piece of the next prompt, where one waits.
    piece = server.prompt_s / passes
    after = step + busy * piece
    own = server.prompt_s + math.ceil(passes) * step
    spread = queue * queue + busy * each * each / (3 * (1 - busy)) + busy * (1 - busy) * piece * piece
    return _Time(step / 2 + queue + own + after, spread, after)


def _quantile(mean: float, variance: float, share: float) -> float:
    """Of a gamma distribution with these moments (Wilson and Hilferty, 1931); the mean at least."""
    if variance <= 0:
        return mean
    ninth = variance / (9 * mean * mean)
    root = 1 - ninth + NormalDist().inv_cdf(share) * math.sqrt(ninth)
    return mean * max(root**3, 1.0)


def _at(values: Sequence[float], place: float) -> float:
    """On a straight line between two values."""
    low = min(int(place), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)
