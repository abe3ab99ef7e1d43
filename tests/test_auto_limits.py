"""'auto': the largest context or number of requests that fits; the pool of the report, and what a GiB of it holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fitcalc
from fitcalc import verdict as judge
from fitcalc.cli.options import tokens_or_auto
from fitcalc.errors import RequestError, UnitError
from fitcalc.units import GIB

PLANS: list[dict[str, Any]] = [
    {"model": "llama-3.1-70b", "gpu": "h100-sxm:4", "quant": "fp8"},
    {"model": "llama-3.1-8b", "gpu": "rtx-3060", "quant": "q4_k_m"},
    {"model": "mixtral-8x7b", "gpu": "h100-sxm:4", "quant": "bf16", "tensor_parallel": 2, "data_parallel": 2},
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan["model"])
def test_one_request_more_does_not_fit(plan: dict[str, Any]) -> None:
    found = fitcalc.fit(**plan, concurrency="auto")
    requests = found.inputs["concurrency"]
    assert found.verdict == "fits"
    assert requests > 1
    assert fitcalc.fit(**plan, concurrency=requests).verdict == "fits"
    assert fitcalc.fit(**plan, concurrency=requests + 1).verdict != "fits"


@pytest.mark.parametrize("plan", [*PLANS[:2], {"model": "mixtral-8x22b", "gpu": "a100-80:4", "quant": "bf16"}])
def test_a_longer_context_does_not_fit(plan: dict[str, Any]) -> None:
    found = fitcalc.fit(**plan, context="auto")
    tokens = found.inputs["context_tokens"]
    assert found.verdict == "fits"
    limit = found.model["max_context_tokens"]
    assert 8192 < tokens <= limit
    if tokens < limit:
        assert fitcalc.fit(**plan, context=tokens + 1).verdict != "fits"


def test_only_what_is_asked_for_is_solved() -> None:
    found = fitcalc.fit("llama-3.1-70b", gpu="h100-sxm:4", quant="fp8", concurrency="auto", context=4096)
    assert found.inputs["context_tokens"] == 4096
    assert found.inputs["auto"] == "concurrency"
    longer = fitcalc.fit("llama-3.1-70b", gpu="h100-sxm:4", quant="fp8", concurrency="AUTO", context=8192)
    assert found.inputs["concurrency"] > longer.inputs["concurrency"]
    assert fitcalc.fit("llama-3.1-8b", gpu="h100-sxm", quant="bf16").inputs["auto"] is None


def test_a_quantization_is_chosen_first() -> None:
    found = fitcalc.fit("llama-3.1-8b", gpu="rtx-3060", context="auto")
    assert found.verdict == "fits"
    assert found.inputs["quant"] == fitcalc.fit("llama-3.1-8b", gpu="rtx-3060").inputs["quant"]
    assert found.recommendation is not None
    assert f"-c {found.inputs['context_tokens']}" in found.recommendation.command


def test_where_nothing_fits_the_verdict_says_so() -> None:
    for asked in ({"concurrency": "auto"}, {"context": "auto"}):
        found = fitcalc.fit("llama-3.1-70b", gpu="h100-sxm", quant="bf16", **asked)
        assert found.verdict == "does_not_fit"
        assert found.inputs["concurrency"] == 1


def test_both_at_once_are_refused() -> None:
    with pytest.raises(RequestError, match="cannot both be 'auto'"):
        fitcalc.fit("llama-3.1-8b", gpu="h100-sxm", context="auto", concurrency="auto")


@pytest.mark.parametrize("asked", [{"concurrency": "many"}, {"context": "8k"}, {"concurrency": None}])
def test_other_words_are_no_numbers(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        fitcalc.fit("llama-3.1-8b", gpu="h100-sxm", **asked)


def test_the_command_line_takes_numbers_and_the_word() -> None:
    assert tokens_or_auto("128k") == 131072
    assert tokens_or_auto("Auto") == "auto"
    with pytest.raises(UnitError):
        tokens_or_auto("automatic")


def test_a_gib_of_pool_holds_what_a_token_takes() -> None:
    """Llama 3.1 8B: 128 KiB per token on one card, 8,192 tokens per GiB; over four cards a GiB on each holds four times
    as many."""
    alone = fitcalc.fit("llama-3.1-8b", gpu="h100-sxm", quant="bf16").pool
    four = fitcalc.fit("llama-3.1-8b", gpu="h100-sxm:4", quant="bf16").pool
    assert alone is not None
    assert four is not None
    # Whole blocks of 16 tokens.
    assert 8192 - 16 <= alone.tokens_per_gib <= 8192
    assert 4 * 8192 - 64 <= four.tokens_per_gib <= 4 * 8192
    assert alone.tokens * 131072 == pytest.approx(alone.bytes_per_card, abs=16 * 131072)


def test_the_pool_is_what_the_card_leaves() -> None:
    report = fitcalc.fit("llama-3.1-8b", gpu="h100-sxm", quant="bf16")
    others = sum(term.bytes for term in report.devices[0].terms if term.name != "kv_cache")
    assert report.pool is not None
    assert report.pool.bytes_per_card == (report.devices[0].usable_bytes or 0) - others
    assert report.limits.kv_cache_tokens == report.pool.tokens
    assert report.limits.max_concurrency == report.pool.tokens // 8192


def test_engines_without_a_pool_have_none() -> None:
    assert fitcalc.fit("llama-3.1-8b", gpu="rtx-3060", quant="q4_k_m").pool is None


def test_the_text_shows_the_pool_and_what_was_solved() -> None:
    from fitcalc.render.style import Style
    from fitcalc.render.text import report_text

    report = fitcalc.fit("llama-3.1-70b", gpu="h100-sxm:4", quant="fp8", concurrency="auto")
    assert report.pool is not None
    text = " ".join(report_text(report, Style(width=80, color=False, blocks=True)).split())
    assert "(the most that fit)" in text
    assert f"{report.pool.tokens:,} tokens of KV cache in {report.pool.bytes_per_card / GIB:,.1f} GiB" in text
    assert f"every GiB a card holds {report.pool.tokens_per_gib:,}" in text


@given(
    ceiling=st.integers(1, 2**20),
    start=st.integers(-(10**12), 10**6),
    slopes=st.lists(st.tuples(st.integers(0, 2**20), st.sampled_from([0, 1, 4096, 10**6, 10**9])), max_size=4),
    block=st.sampled_from([1, 16, 256]),
)
def test_where_a_growing_number_crosses_is_found_without_asking_for_each(
    ceiling: int, start: int, slopes: list[tuple[int, int]], block: int
) -> None:
    """Lines with bends and steps, as windows and blocks make them: the same number as halving finds."""

    def excess(count: int) -> int:
        steps = -(-count // block) * block
        return start + sum(max(steps - bend, 0) * slope for bend, slope in slopes)

    assert judge.crossing(excess, ceiling) == judge.largest(lambda count: excess(count) <= 0, ceiling)


def test_a_straight_line_takes_a_handful_of_questions() -> None:
    asked: list[int] = []

    def excess(count: int) -> int:
        asked.append(count)
        return 320 * count - 10**9

    assert judge.crossing(excess, 2**40) == 10**9 // 320
    assert len(asked) <= 8
