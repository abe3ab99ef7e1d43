"""What one replica carries within limits, and how many of them a load needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fitcalc.fleets.queueing import Response, loop_rates, response
from fitcalc.fleets.server import Server, counts
from fitcalc.frozen import dataclass, replace
from fitcalc.speeds.within import Bounds

MOST_BUSY = 0.95
"""Share of saturation beyond which no rate is offered: waits grow without end towards it, and no estimate is that
good."""
_HALVINGS = 30


@dataclass(frozen=True, slots=True)
class Able:
    """What a server carries within limits with so many requests at once."""

    server: Server
    """Its most requests at once are the plan's."""
    rates: tuple[float, ...]
    most_per_s: float
    """Requests per second within the limits, nothing left free."""

    def at(self, rate: float, percentile: float) -> Response:
        """What requests see at a rate that the server carries."""
        found = response(self.server, self.rates, rate, percentile)
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Arriving:
    """Requests per second, or users who think for a while between an answer and their next request."""

    requests_per_s: float | None = None
    users: int | None = None
    think_s: float = 0.0

    def share_of(self, able: Able, ranks: int, rate: float) -> float:
        """Load that one replica carries at `rate` requests a second on each of its ranks; users by Little's law."""
        if self.users is None:
            return rate * ranks
        return rate * ranks * (self.think_s + able.at(rate, 50).request_s)

    @property
    def amount(self) -> float:
        """Requests per second, or users."""
        return float(self.users if self.users is not None else self.requests_per_s or 0)


def able_within(server: Server, bounds: Bounds, percentile: float, asked: int | None = None) -> Able | None:
    """The number of requests at once, up to the server's most, that carries the highest rate within limits.

    None where even single requests are over them. asked: that number and no other.
    """
    best: Able | None = None
    for count in [asked] if asked else counts(server.most_requests):
        cut = replace(server, step_s=server.step_s[: count + 1])
        rates = loop_rates(cut)
        most = _most_rate(cut, rates, bounds, percentile)
        if most and (best is None or most > best.most_per_s):
            best = Able(cut, rates, most)
    return best


def _most_rate(server: Server, rates: Sequence[float], bounds: Bounds, percentile: float) -> float:
    """The highest rate within limits by bisection, as both times grow with it; 0 where there is none."""

    def holds(rate: float) -> bool:
        found = response(server, rates, rate, percentile)
        return found is not None and within(found, bounds)

    return largest_rate(holds, MOST_BUSY * rates[-1])


def within(found: Response, bounds: Bounds) -> bool:
    """Both percentiles are within their limits."""
    late = bounds.ttft_s is not None and found.ttft_percentile_s > bounds.ttft_s
    return not late and not (bounds.tpot_s is not None and found.tpot_percentile_s > bounds.tpot_s)


def largest_rate(holds: Callable[[float], bool], most: float) -> float:
    """The largest rate up to `most` for which a condition holds that holds for all below it; 0 where none does."""
    if holds(most):
        return most
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low if low > most * 1e-6 else 0.0


def replicas_of(load: Arriving, able: Able, ranks: int, head_room: float) -> float:
    """Replicas, not yet rounded up, that carry a load with a share of each one's rate left free."""
    return load.amount / load.share_of(able, ranks, able.most_per_s * (1 - head_room))


def rate_of_each(load: Arriving, able: Able, ranks: int, replicas: int) -> float:
    """Requests per second on each rank of each replica."""
    if load.users is None:
        return load.amount / replicas / ranks
    part = load.amount / replicas
    found = largest_rate(lambda rate: load.share_of(able, ranks, rate) <= part, able.most_per_s)
    return found or able.most_per_s * 1e-6
