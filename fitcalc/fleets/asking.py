"""fitcalc.capacity: its arguments, checked and handed to the answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fitcalc import arguments
from fitcalc.fleets.answer import capacity_of, request_of
from fitcalc.spec.capacity_report import CapacityReport
from fitcalc.spec.model import ModelSpec
from fitcalc.speeds.within import Bounds


def capacity(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    rps: float | None = None,
    users: int | None = None,
    think_time: float | str | None = None,
    prompt: int | None = None,
    output: int | None = None,
    trace: str | os.PathLike[str] | None = None,
    max_ttft: float | str | None = None,
    max_tpot: float | str | None = None,
    percentile: float = 95.0,
    head_room: float = 0.2,
    gpu: str | Sequence[str] | None = None,
    context: int | None = None,
    concurrency: int | str = arguments.AUTO,
    provider: str | None = None,
    spot: bool = False,
    prices: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    simulate: bool = False,
    **plan: Any,
) -> CapacityReport:
    """How many replicas of a plan carry a load within limits on time, on how many devices, and what that costs.

    The load: rps (requests per second), users with a think_time between an answer and the next request, or trace, a
    CSV of real requests with columns arrival, prompt and output, sized for its busiest minute. prompt, output: tokens
    of every request, by default 2,048 and 256. max_ttft, max_tpot: limits in seconds or as text ('2s', '50ms') that a
    percentile of the requests holds. head_room: share of each replica's rate that stays free. gpu without a number
    ('h100', not 'h100:2') takes the cheapest number per replica. concurrency: requests that a replica runs at once,
    by default as many as carry most. simulate: a check by simulation. Prices as for `cost`, the rest as for `fit`.

    Raises what `fit` raises, and UnsupportedModelError where the speed of the plan is not modelled.
    """
    files = (prices,) if isinstance(prices, str | os.PathLike) else tuple(prices)
    arguments.whole_number("context", context, arguments.MOST_TOKENS)
    requests = arguments.whole_or_auto("concurrency", concurrency, arguments.MOST_REQUESTS, required=True)
    asked = request_of(
        rps=rps, users=users, think_time_s=arguments.seconds_or_none("think_time", think_time),
        prompt=prompt, output=output, trace=trace, percentile=percentile, head_room=head_room, concurrency=requests,
        bounds=Bounds(arguments.seconds_or_none("max_ttft", max_ttft), arguments.seconds_or_none("max_tpot", max_tpot)),
        provider=arguments.text_or_none("provider", provider) or "", spot=spot, simulate=simulate,
        price_files=tuple(os.fspath(path) for path in files),
    )  # fmt: skip
    return capacity_of(model, asked, gpu=gpu, context=context, **plan)
