"""The formulas of fleets against a simulation of continuous batching, over plans, lengths and loads.

Run: python benchmarks/accuracy/capacity.py
Each row is one plan and length at a share of saturation: how far the formulas lie off the simulation, in percent.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from fitcalc.api import settle
from fitcalc.fleets.lengths import constant
from fitcalc.fleets.queueing import loop_rates, response
from fitcalc.fleets.server import server_of
from fitcalc.fleets.simulation import arrivals_at, simulate
from fitcalc.speeds.figures import ready

PLANS = (
    ("llama-3.1-8b", "h100:1", "fp8"), ("llama-3.1-8b", "rtx-4090:1", "q4_k_m"), ("llama-3.1-70b", "h100:4", "fp8"),
    ("llama-3.1-70b", "a100-80:1", "awq"), ("mixtral-8x7b", "h100:4", "bf16"),
)  # fmt: skip
LENGTHS = ((256, 512), (2048, 256), (1024, 1024), (8000, 64))
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)
PERCENTILE = 95.0
REQUESTS = 2000
NAMES = ("TTFT", "TTFT p95", "TPOT", "TPOT p95", "in flight")


def rows() -> Iterator[tuple[str, tuple[int, int], float, list[float] | None]]:
    """(plan, lengths, share of saturation, formula over simulation - 1 of each name)."""
    for model, gpu, quant in PLANS:
        for lengths in LENGTHS:
            settled = settle(model, gpu=gpu, quant=quant, context=sum(lengths), concurrency="auto")
            request = settled.request
            plan = ready(settled.case, request.context_tokens, request.concurrency)
            assert not isinstance(plan, str)
            server = server_of(plan, request.context_tokens, request.concurrency, constant(*lengths))
            rates = loop_rates(server)
            for share in SHARES:
                found = response(server, rates, share * rates[-1], PERCENTILE)
                seen = simulate(server, arrivals_at(share * rates[-1], REQUESTS, [lengths]), PERCENTILE)
                if found is None:
                    yield f"{model} {quant} {gpu}", lengths, share, None
                    continue
                pairs = (
                    (found.ttft_s, seen.ttft_s), (found.ttft_percentile_s, seen.ttft_percentile_s),
                    (found.tpot_s, seen.tpot_s), (found.tpot_percentile_s, seen.tpot_percentile_s),
                    (found.in_flight, seen.in_flight),
                )  # fmt: skip
                yield f"{model} {quant} {gpu}", lengths, share, [a / b - 1 for a, b in pairs]


def summary(found: list[list[float]]) -> str:
    """Median and 90th percentile of the absolute errors of each name, in percent."""
    words = []
    for column in zip(*found, strict=True):
        errors = sorted(abs(error) for error in column)
        words.append(f"{median(errors):.1%} / {errors[int(0.9 * len(errors))]:.0%}")
    return "".join(f"{word:>15}" for word in words)


def main() -> None:
    """Print every row, and the summary of each share of saturation."""
    table = list(rows())
    print(f"{'plan':<36}{'lengths':>12}{'load':>6}" + "".join(f"{name:>10}" for name in NAMES))
    for plan, lengths, share, errors in table:
        figures = "".join(f"{error:>+10.0%}" for error in errors) if errors else "  the formulas say it is over"
        print(f"{plan:<36}{'{}/{}'.format(*lengths):>12}{share:>6.0%}{figures}")
    print(f"\n{'load':<8}" + "".join(f"{name:>15}" for name in NAMES) + "   median / p90 of |error|")
    for share in (*SHARES, None):
        found = [errors for _, _, at, errors in table if errors and share in (at, None)]
        print(f"{'all' if share is None else f'{share:.0%}':<8}" + summary(found))


if __name__ == "__main__":
    main()
