"""Answers a user will check by hand: figures from closed forms, and the laws that every answer obeys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from formula_text import evaluate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc.units import GIB

DEVICES: tuple[dict[str, Any], ...] = (
    {"gpu": "rtx-3060"},
    {"gpu": "rtx-4090"},
    {"gpu": "a100-80"},
    {"gpu": "h100-sxm:2"},
    {"cpu": "raspberry-pi-5-8gb"},
)
MODELS = ("llama-3.1-8b", "gemma-3-27b", "mixtral-8x7b", "deepseek-v2-lite", "qwen2.5-7b", "phi-3-mini-4k", "falcon-7b")
LAW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def term(report: fitcalc.FitReport, name: str, device: int = 0) -> int:
    return sum(entry.bytes for entry in report.devices[device].terms if entry.name == name)


def test_70b_awq_on_an_a100() -> None:
    """AWQ g128: 4 bits, a 16-bit scale and a 4-bit zero per group; embeddings, head and norms stay 16 bit."""
    report = fitcalc.fit("llama-3.1-70b", gpu="a100-80", quant="awq")
    hidden, width, kv, layers, vocab = 8192, 28672, 1024, 80, 128256
    linears = layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * width)
    kept = 2 * vocab * hidden + (2 * layers + 1) * hidden
    assert report.weights_bytes == linears // 2 + linears // 128 * 5 // 2 + 2 * kept
    assert report.verdict == "fits"
    assert report.inputs["engine"] == "vllm"
    assert report.kv_cache.bytes == 2 * kv * layers * 2 * 8192
    assert report.recommendation is not None
    assert report.recommendation.command.startswith("vllm serve ")
    assert "--max-model-len 8192" in report.recommendation.command


def test_70b_fp16_needs_a_second_a100() -> None:
    report = fitcalc.fit("llama-3.1-70b", gpu="a100-80", quant="fp16")
    assert report.verdict == "does_not_fit"
    assert report.weights_bytes == 2 * 70_553_706_496
    assert report.recommendation is not None
    counts = [device["count"] for other in report.recommendation.alternatives for device in other.devices]
    assert 2 in counts
    assert any(other.quant != "fp16" and other.verdict == "fits" for other in report.recommendation.alternatives)


@pytest.mark.parametrize(("quant", "gib_per_rank"), [("fp8", 47.8), ("awq", 25.3)])
def test_405b_on_eight_a100(quant: str, gib_per_rank: float) -> None:
    report = fitcalc.fit("llama-3.1-405b", gpu="a100-80:8", quant=quant)
    assert report.verdict == "fits"
    assert term(report, "weights") / GIB == pytest.approx(gib_per_rank, abs=0.05)
    weight_only = any("fp8" in note.lower() for note in report.notes)
    assert weight_only == (quant == "fp8")


def test_deepseek_v3_keeps_one_latent_of_576_per_token_and_layer() -> None:
    report = fitcalc.fit("deepseek-v3", gpu="h200:8", quant="fp8")
    assert report.kv_cache.bytes == 61 * 576 * 2 * 8192
    assert report.kv_cache.bytes_per_token == 61 * 576 * 2


def test_gemma_3_27b_caches_windows_not_the_whole_context() -> None:
    report = fitcalc.fit("gemma-3-27b", gpu="h100-sxm", context=32768, engine="llama.cpp", quant="bf16")
    row = 2 * 16 * 128 * 2
    assert report.kv_cache.bytes == row * (10 * 32768 + 52 * (1024 + 512))


@pytest.mark.parametrize(
    "device",
    [{"gpu": "rtx-3060"}, {"gpu": "rtx-4090"}, {"gpu": "a10"}, {"cpu": "raspberry-pi-5-8gb"}],
    ids=lambda device: next(iter(device.values())),
)
def test_8b_gets_a_quantization_that_fits(device: dict[str, Any]) -> None:
    report = fitcalc.fit("llama-3.1-8b", **device)
    assert report.verdict in ("fits", "tight")
    assert report.recommendation is not None
    assert report.recommendation.command
    better = report.choices[: [row.quant for row in report.choices].index(report.inputs["quant"])]
    # What is better and fits writes slower than people read.
    assert all(row.decode_tokens_per_s is None or row.decode_tokens_per_s.estimate < 10 for row in better)


def test_8b_on_a_4_gb_board_says_what_would_fit() -> None:
    report = fitcalc.fit("llama-3.1-8b", cpu="raspberry-pi-4-4gb")
    assert report.verdict == "does_not_fit"
    assert report.recommendation is not None
    assert any(other.verdict == "fits" for other in report.recommendation.alternatives)


@LAW
@given(st.sampled_from(MODELS), st.sampled_from(DEVICES), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 6))
def test_more_context_or_more_requests_never_take_less(
    model: str, device: dict[str, Any], context: int, more: int, concurrency: int
) -> None:
    quant = "q4_k_m"
    engine = "llama.cpp"
    small = fitcalc.fit(model, **device, quant=quant, engine=engine, context=context, concurrency=concurrency)
    longer = fitcalc.fit(model, **device, quant=quant, engine=engine, context=context + more, concurrency=concurrency)
    busier = fitcalc.fit(model, **device, quant=quant, engine=engine, context=context, concurrency=concurrency + 1)
    for report in (longer, busier):
        assert sum(d.total_bytes for d in report.devices) >= sum(d.total_bytes for d in small.devices)
        assert report.kv_cache.bytes >= small.kv_cache.bytes


@LAW
@given(
    st.sampled_from(
        [("llama-3.1-8b", "bf16"), ("qwen2.5-7b", "awq"), ("mixtral-8x7b", "gptq"), ("gemma-3-27b", "awq")]
    ),
    st.sampled_from(["a100-80", "h100-sxm", "l40s", "h100-sxm:2"]),
    st.integers(1, 16),
)
def test_the_largest_context_fits_and_one_more_does_not(plan: tuple[str, str], gpu: str, concurrency: int) -> None:
    model, quant = plan
    report = fitcalc.fit(model, gpu=gpu, quant=quant, concurrency=concurrency, context=256)
    limit = report.limits.max_context_tokens
    if not limit:
        return
    at_limit = fitcalc.fit(model, gpu=gpu, quant=quant, concurrency=concurrency, context=limit)
    assert at_limit.verdict in ("fits", "tight")
    if limit < (at_limit.model["max_context_tokens"] or 0):
        beyond = fitcalc.fit(model, gpu=gpu, quant=quant, concurrency=concurrency, context=limit + 1)
        assert beyond.verdict == "does_not_fit"


@LAW
@given(st.sampled_from(MODELS), st.sampled_from(DEVICES))
def test_a_report_survives_json(model: str, device: dict[str, Any]) -> None:
    import json

    report = fitcalc.fit(model, **device)
    assert json.loads(report.to_json()) == report.to_dict()


def test_same_question_same_bytes() -> None:
    first = fitcalc.fit("mixtral-8x7b", gpu="rtx-4090").to_json()
    assert fitcalc.fit("mixtral-8x7b", gpu="rtx-4090").to_json() == first


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: next(iter(device.values())))
def test_the_explanation_of_a_term_evaluates_to_its_bytes(model: str, device: dict[str, Any]) -> None:
    report = fitcalc.fit(model, **device)
    explained = [entry for d in report.devices for entry in d.terms if entry.formula]
    assert explained
    for entry in explained:
        values = {number.name: number.value for number in entry.inputs}
        assert evaluate(entry.formula, values) == entry.bytes, f"{entry.name}: {entry.formula} with {values}"


@pytest.mark.parametrize(("flags", "tensor_bytes"), [((), 2_701_402_112), (("--imatrix",), 2_584_649_728)])
def test_an_importance_matrix_changes_what_is_stored(
    flags: tuple[str, ...], tensor_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tensor bytes: llama-quantize's own dry run of IQ3_XXS, without and with a matrix."""
    from fitcalc.cli import run

    assert run(["llama-2-7b", "--gpu", "rtx-3060", "--quant", "iq3_xxs", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["weights_bytes"] == tensor_bytes
