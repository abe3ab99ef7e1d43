"""The choice without --quant: quality first among plans that write as fast as people read, else the fastest."""

from __future__ import annotations

from typing import Any

import pytest

import fitcalc
from fitcalc.choice import AS_FAST, USEFUL_TOKENS_PER_S

PLANS: list[tuple[str, dict[str, Any]]] = [
    ("llama-3.1-8b", {"gpu": "rtx-3060-12gb"}),
    ("llama-3.1-8b", {"gpu": "rtx-4090"}),
    ("llama-3.1-8b", {"gpu": "a10"}),
    ("llama-3.1-8b", {"cpu": "raspberry-pi-5-8gb"}),
    ("llama-3.1-70b", {"gpu": "rtx-4090", "ram": "64GB"}),
    ("llama-3.1-70b", {"gpu": "m3-max-128gb"}),
    ("gpt-oss-120b", {"gpu": "rtx-4090", "ram": "128GB"}),
]


@pytest.mark.parametrize(("model", "machine"), PLANS, ids=lambda value: str(value)[:60])
def test_the_first_that_is_fast_enough_is_chosen_or_else_the_fastest(model: str, machine: dict[str, Any]) -> None:
    report = fitcalc.fit(model, **machine)
    fitting = [
        row for row in report.choices if row.verdict == "fits" and "2_" not in row.quant and "q2" not in row.quant
    ]
    rates = [row.decode_tokens_per_s.estimate for row in fitting]
    chosen = next(row for row in fitting if row.quant == report.inputs["quant"])
    better = rates[: fitting.index(chosen)]
    if max(rates) >= USEFUL_TOKENS_PER_S:
        assert chosen.decode_tokens_per_s.estimate >= USEFUL_TOKENS_PER_S
        assert all(rate < USEFUL_TOKENS_PER_S for rate in better)
    else:
        assert chosen.decode_tokens_per_s.estimate >= AS_FAST * max(rates)
        assert all(rate < AS_FAST * max(rates) for rate in better)


def test_rows_of_the_table_have_the_speed_that_they_have_alone() -> None:
    report = fitcalc.fit("llama-3.1-8b", gpu="rtx-4090")
    row = next(row for row in report.choices if row.quant == "q4_k_m")
    assert (
        row.decode_tokens_per_s == fitcalc.fit("llama-3.1-8b", gpu="rtx-4090", quant="q4_k_m").speed.decode_tokens_per_s
    )


def test_what_does_not_fit_has_no_speed() -> None:
    report = fitcalc.fit("llama-3.1-8b", gpu="rtx-3060-12gb")
    assert {row.quant: row.decode_tokens_per_s is None for row in report.choices}["bf16"]


def test_three_bits_with_ram_come_before_two_on_the_card() -> None:
    report = fitcalc.fit("llama-3.1-70b", gpu="32GB", ram="64GB")
    assert report.inputs["quant"] not in ("q2_k", "iq2_xs")


def test_encoders_are_chosen_by_quality_alone() -> None:
    assert fitcalc.fit("bert-base", gpu="rtx-4090").verdict == "fits"
