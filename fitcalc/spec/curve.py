"""A curve: the speeds of one plan along a number of requests or along the context, and what holds within limits."""

from __future__ import annotations

from typing import Any, Literal

from fitcalc.frozen import dataclass
from fitcalc.spec.report import SCHEMA_VERSION, Contract, Estimate, Verdict

Axis = Literal["concurrency", "context"]
Holds = Literal["yes", "maybe", "no"]
"""yes: even the slow end of the range is within the limits; maybe: the estimate is; no."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The speeds at one context per request and one number of requests, all of them running."""

    context_tokens: int
    concurrency: int
    verdict: Verdict
    prompt_tokens: int
    generated_tokens: int
    request_tokens_per_s: Estimate
    """Output tokens of each request."""
    total_tokens_per_s: Estimate
    """Output tokens of all requests."""
    time_to_first_token_s: Estimate
    time_per_token_s: Estimate
    bound_by: str
    """The part that takes most of a decode step of one request."""
    holds: Holds | None = None
    """Within the limits; None where none were given."""


@dataclass(frozen=True, slots=True)
class Within:
    """The most requests at once that stay within limits on time to first token and time per token."""

    max_ttft_s: float | None
    max_tpot_s: float | None
    concurrency: int
    """By the estimates; 0 where one request alone is over."""
    sure_concurrency: int
    """Even at the slow end of every range."""
    total_tokens_per_s: Estimate | None
    """With `concurrency` requests; None where there is none."""


@dataclass(frozen=True, slots=True)
class Curve(Contract):
    """The answer to `curve`; `to_dict()` is what `--json` prints."""

    inputs: dict[str, Any]
    over: Axis
    verdict: Verdict
    """Of the request as it was asked."""
    points: tuple[CurvePoint, ...]
    within: Within | None
    notes: tuple[str, ...]
    fitcalc_version: str
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        """One line; `to_json()` has the whole."""
        plan = f"{self.inputs.get('model')}, {self.inputs.get('quant')}, {self.inputs.get('devices_name')}"
        return f"<Curve {plan} over {self.over}: {len(self.points)} points>"
