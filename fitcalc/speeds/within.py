"""How many requests at once a plan serves within limits on time to first token and time per token.

Both times grow with the number of requests, so the largest number is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable

from fitcalc.frozen import dataclass
from fitcalc.spec.curve import Holds, Within
from fitcalc.spec.report import Speed
from fitcalc.speeds.answer import speed_at, speed_of
from fitcalc.speeds.figures import is_fixed, ready
from fitcalc.verdict import Case, largest


@dataclass(frozen=True, slots=True)
class Bounds:
    """The longest times that are accepted, in seconds; None accepts any."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    @property
    def given(self) -> bool:
        """At least one of them is set."""
        return self.ttft_s is not None or self.tpot_s is not None

    def hold(self, speed: Speed) -> Holds:
        """Whether speeds are within both; 'no' for what is not modelled."""
        pairs = ((speed.time_to_first_token_s, self.ttft_s), (speed.time_per_token_s, self.tpot_s))
        if any(limit is not None and (time is None or time.estimate > limit) for time, limit in pairs):
            return "no"
        slow = any(limit is not None and time is not None and time.high > limit for time, limit in pairs)
        return "maybe" if slow else "yes"


def speeds_along(
    case: Case, context_tokens: int, prompt_tokens: int | None = None, generated_tokens: int | None = None
) -> Callable[[int], Speed]:
    """Number of requests -> speeds at one context. What does not change with it is looked up once."""
    fixed = ready(case, context_tokens, 1) if is_fixed(case) else None

    def speeds(concurrency: int) -> Speed:
        if isinstance(fixed, str):
            return Speed(note=fixed)
        if fixed is None:
            return speed_of(case, context_tokens, concurrency, prompt_tokens, generated_tokens)
        return speed_at(fixed, context_tokens, concurrency, prompt_tokens, generated_tokens)

    return speeds


def most_within(
    case: Case,
    context_tokens: int,
    most_requests: int,
    bounds: Bounds,
    prompt_tokens: int | None = None,
    generated_tokens: int | None = None,
) -> Within:
    """The most requests, up to `most_requests` (what memory holds), that stay within bounds; 0 where none does.

    Lengths are those of `speed_of`: a prompt and an answer that the context has room for, unless given.
    """
    speeds = speeds_along(case, context_tokens, prompt_tokens, generated_tokens)
    count = largest(lambda requests: bounds.hold(speeds(requests)) != "no", most_requests) if most_requests else 0
    sure = largest(lambda requests: bounds.hold(speeds(requests)) == "yes", count) if count else 0
    total = speeds(count).total_tokens_per_s if count else None
    return Within(bounds.ttft_s, bounds.tpot_s, count, sure, total)
