"""The formulas' figures for a fleet beside those of a simulation of one of its servers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fitcalc.fleets.lengths import Lengths
from fitcalc.fleets.simulation import Arrival, Simulated, arrivals_at, simulate
from fitcalc.fleets.sizing import Able
from fitcalc.spec.capacity_report import Agreement, Simulation
from fitcalc.speeds.within import Bounds

MOST_REQUESTS = 4000
_LEAST_REQUESTS = 200
_MOST_STEPS = 300_000
"""Of prompts: what keeps a run under a second."""


def checked_by_simulation(
    able: Able, rate: float, servers: int, lengths: Lengths, trace: Sequence[Arrival], bounds: Bounds,
    percentile: float,
) -> Simulation:  # fmt: skip
    """One server under its share of the load: random arrivals, or those of a trace, every so many to each server."""
    server = able.server
    passes = math.ceil(lengths.prompt_tokens / server.pass_tokens)
    count = max(min(MOST_REQUESTS, _MOST_STEPS // passes), _LEAST_REQUESTS)
    arrivals = _share(trace, servers, count) if len(trace) > servers * _LEAST_REQUESTS else []
    if arrivals:
        seen = simulate(server, arrivals, percentile)
    else:
        pairs = [row[1:] for row in trace] or [(round(lengths.prompt_tokens), round(lengths.output_tokens))]
        seen = simulate(server, arrivals_at(rate, count, pairs), percentile)
    late = bounds.ttft_s is not None and seen.ttft_percentile_s > bounds.ttft_s
    slow = bounds.tpot_s is not None and seen.tpot_percentile_s > bounds.tpot_s
    return Simulation(
        requests=seen.requests,
        arrivals="trace" if arrivals else "random",
        utilization=seen.busy_share,
        agreement=tuple(_agreement(able, rate, percentile, seen)),
        within_limits=not late and not slow,
    )


def _share(trace: Sequence[Arrival], servers: int, count: int) -> list[Arrival]:
    """What one of `servers` gets of a trace, from its start."""
    return list(trace[::servers][:count])


def _agreement(able: Able, rate: float, percentile: float, seen: Simulated) -> list[Agreement]:
    at = able.at(rate, percentile)
    pairs = (
        ("time to first token, mean", at.ttft_s, seen.ttft_s),
        (f"time to first token, p{percentile:g}", at.ttft_percentile_s, seen.ttft_percentile_s),
        ("time per token, mean", at.tpot_s, seen.tpot_s),
        (f"time per token, p{percentile:g}", at.tpot_percentile_s, seen.tpot_percentile_s),
        ("requests in flight", at.in_flight, seen.in_flight),
    )
    return [Agreement(name, formula, simulated) for name, formula, simulated in pairs]
