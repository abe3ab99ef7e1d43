"""What running a model costs: from prices, rates and loads to USD. Months have 730.5 hours (a year 365.25 days)."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import ceil_div, least


@formula("usd_per_h * 1000000 / (3600 * tokens_per_s * utilization)")
def usd_per_million(*, usd_per_h: Any, tokens_per_s: Any, utilization: Any) -> Any:
    """USD of a million tokens on a machine [USD/h] that makes `tokens_per_s` in the share `utilization` of the time."""
    return usd_per_h * 1000000 / (3600 * tokens_per_s * utilization)


@formula(
    "least(prefill_s, most_prefill_share * request_s) * prompt_tokens / usual_prompt_tokens"
    " + (request_s - least(prefill_s, most_prefill_share * request_s)) * output_tokens / usual_output_tokens"
)
def machine_s_per_request(
    *,
    prompt_tokens: Any,
    output_tokens: Any,
    usual_prompt_tokens: Any,
    usual_output_tokens: Any,
    prefill_s: Any,
    request_s: Any,
    most_prefill_share: Any,
) -> Any:
    """Seconds that a request keeps the machine busy, from a usual request of `request_s` of which the prompt took
    `prefill_s`: both parts grow with their tokens. `most_prefill_share` bounds the prompt's part of the usual one.
    """
    filling = least(prefill_s, most_prefill_share * request_s)
    return filling * prompt_tokens / usual_prompt_tokens + (request_s - filling) * output_tokens / usual_output_tokens


@formula("ceil_div(tokens_per_day, 86400 * tokens_per_s * utilization)")
def replicas(*, tokens_per_day: Any, tokens_per_s: Any, utilization: Any) -> Any:
    """Machines that carry a load when each may be busy for the share `utilization` of the day."""
    return ceil_div(tokens_per_day, 86400 * tokens_per_s * utilization)


@formula("(prompt_tokens * input_usd + output_tokens * output_usd) / (prompt_tokens + output_tokens)")
def mixed_usd_per_million(*, prompt_tokens: Any, output_tokens: Any, input_usd: Any, output_usd: Any) -> Any:
    """An API's price of a million tokens of requests with so many tokens in and out [USD]."""
    return (prompt_tokens * input_usd + output_tokens * output_usd) / (prompt_tokens + output_tokens)


@formula("purchase_usd / (12 * years)")
def purchase_usd_per_month(*, purchase_usd: Any, years: Any) -> Any:
    """A purchase spread evenly over the years of its use [USD per month]; nothing is left of its value then."""
    return purchase_usd / (12 * years)


@formula("watt * 730.5 / 1000 * usd_per_kwh")
def full_power_usd_per_month(*, watt: Any, usd_per_kwh: Any) -> Any:
    """Electricity of a month at full power [USD]."""
    return watt * 730.5 / 1000 * usd_per_kwh


@formula("usd_per_day * 1000000 / saved_usd_per_million")
def break_even_tokens_per_day(*, usd_per_day: Any, saved_usd_per_million: Any) -> Any:
    """Tokens a day at which what is saved on each million pays for a fixed cost."""
    return usd_per_day * 1000000 / saved_usd_per_million
