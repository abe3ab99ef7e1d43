"""MLX: sizes in closed form, caches as mlx-lm grows them, published peaks of runs, refusals, and the start command."""

from __future__ import annotations

import math
import shlex
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc import catalog, engines, fit, ledger
from fitcalc.engines import mlx
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.workload import Workload

BITS = (3, 4, 5, 6, 8)


def plan(model: str | ModelSpec, scheme: str, *, engine: str = "mlx", kv_dtype: str = "", **options: Any) -> Any:
    spec = catalog.load_model(model) if isinstance(model, str) else model
    machine = Machine((catalog.load_device("apple-m4-max-40-64gb"),))
    workload = Workload(8192, 1, kv_dtype, options=options)
    profile, loaded = catalog.load_engine(engine), catalog.load_scheme(scheme)
    reason = engines.refusal(profile, loaded, machine, workload, spec)
    assert reason is None, reason
    return mlx.prepare(spec, loaded, machine, workload, profile)


def affine_bytes(model: ModelSpec, bits: int, group: int, router_bits: int | None) -> int:
    """mlx.nn.quantize as its documentation states it: words of 32 bit per row, a scale and a bias per group."""
    total = 0
    for tensor in (t for t in model.tensors if t.part == "text"):
        count = math.prod(tensor.shape) * tensor.copies * (len(tensor.layers) or 1)
        is_matrix = len(tensor.shape) == 2 and tensor.role != "router_bias"
        used = router_bits if tensor.role == "router" else bits
        if is_matrix and used and tensor.shape[-1] % group == 0:
            total += count * used // 8 + count // group * 4
        else:
            total += count * (4 if tensor.role == "router_bias" else 2)
    return total


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("model", "router_bits"), [("llama-3.1-8b", 0), ("qwen3-4b", 0), ("mixtral-8x7b", -1), ("qwen3-30b-a3b", 8)]
)
def test_weights_in_closed_form(model: str, bits: int, router_bits: int) -> None:
    """Mixtral's router is quantized like the rest, that of Qwen3 is kept in 8 bit."""
    spec = catalog.load_model(model)
    expected = affine_bytes(spec, bits, 64, bits if router_bits < 0 else router_bits)
    assert plan(spec, f"mlx-{bits}bit").weights_bytes == expected


def test_a_router_that_is_no_linear_stays_as_it_is() -> None:
    spec = catalog.load_model("deepseek-v2-lite")
    assert plan(spec, "mlx-4bit").weights_bytes == affine_bytes(spec, 4, 64, None)


def test_group_size_is_part_of_the_name() -> None:
    spec = catalog.load_model("qwen3-4b")
    assert plan(spec, "mlx-5bit-g32").weights_bytes == affine_bytes(spec, 5, 32, 0)


PEAKS = [
    # ml-explore/mlx-lm BENCHMARKS.md: 2048 prompt tokens, 128 generated, M4 Max 64 GB, mlx-lm 0.28.2
    ("qwen3-4b", "bf16", 9.02),
    ("qwen3-4b", "mlx-8bit", 5.254),
    ("qwen3-4b", "mlx-6bit", 4.25),
    ("qwen3-4b", "mlx-5bit-g32", 4.00),
    ("qwen3-4b", "mlx-5bit", 3.86),
    ("qwen3-4b", "mlx-4bit-g32", 3.603),
    ("qwen3-4b", "mlx-4bit", 3.35),
    ("qwen3-30b-a3b", "mlx-8bit", 33.46),
    ("qwen3-30b-a3b", "mlx-6bit", 25.82),
    ("qwen3-30b-a3b", "mlx-5bit", 22.01),
    ("qwen3-30b-a3b", "mlx-4bit", 18.20),
]


@pytest.mark.parametrize(("model", "scheme", "peak_gb"), PEAKS)
def test_published_peaks(model: str, scheme: str, peak_gb: float) -> None:
    prepared = plan(model, scheme, engine="mlx-0.28", prompt_cache_size=0)
    held = prepared.weights_bytes + mlx.kv_cache_bytes(prepared, 2176, 1)
    step = mlx.activations(prepared, 2048, 1)
    assert (held + step.low_bytes) / 1e9 <= peak_gb + 0.005
    assert peak_gb <= (held + step.high_bytes) / 1e9
    assert (held + step.bytes) / 1e9 == pytest.approx(peak_gb, rel=0.04)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 32))
def test_caches_grow_by_256_tokens(context: int, requests: int) -> None:
    """Llama-3.1-8B: 128 KiB per token. Gemma-3-27B: 10 full layers, 52 with a window of 1024 and a prefill step."""
    stepped = math.ceil(context / 256) * 256
    assert mlx.kv_cache_bytes(plan("llama-3.1-8b", "mlx-4bit"), context, requests) == 131072 * stepped * requests
    per_layer = 2 * 16 * 128 * 2
    rotating = min(context, 1024 + 2048 - 1)
    expected = per_layer * (10 * stepped + 52 * rotating) * requests
    assert mlx.kv_cache_bytes(plan("gemma-3-27b", "mlx-4bit"), context, requests) == expected


@pytest.mark.parametrize(("kv_dtype", "bits"), [("int8", 8), ("int4", 4)])
def test_quantized_cache(kv_dtype: str, bits: int) -> None:
    """Per group of 64: the elements, a scale and a bias in 16 bit."""
    per_token = 36 * 2 * 8 * 128 * bits // 8 + 36 * 2 * 8 * 128 // 64 * 4
    assert mlx.kv_cache_bytes(plan("qwen3-8b", "mlx-4bit", kv_dtype=kv_dtype), 8192, 1) == per_token * 8192
    assert mlx.kv_cache_bytes(plan("qwen3-8b", "mlx-4bit", kv_bits=bits), 8192, 1) == per_token * 8192
    assert f"--kv-bits {bits}" in mlx.command(plan("qwen3-8b", "mlx-4bit", kv_bits=bits), 8192, 1)


def test_latents_are_cached_where_the_class_does() -> None:
    """DeepSeek-V3 caches 512 + 64 elements a layer, the class of V2 every head: 16 × (192 + 128)."""
    assert mlx.kv_cache_bytes(plan("deepseek-v3", "mlx-4bit"), 256, 1) == 61 * 576 * 2 * 256
    assert mlx.kv_cache_bytes(plan("deepseek-v2-lite", "mlx-4bit"), 256, 1) == 27 * 16 * 320 * 2 * 256


def test_terms_are_ordered_and_labelled() -> None:
    terms = mlx.ledgers(plan("llama-3.1-8b", "mlx-4bit"), 8192, 1)[0].terms
    bases = {term.name: term.basis for term in terms}
    assert bases["weights"] == "exact"
    assert bases["kv_cache"] == "derived"
    assert bases["activations"] == "estimated"
    for term in terms:
        assert 0 <= term.low_bytes <= term.bytes <= term.high_bytes
        assert term.basis != "estimated" or term.low_bytes < term.high_bytes


def test_arrays_give_what_numbers_give() -> None:
    prepared = plan("gemma-3-4b", "mlx-4bit")
    contexts = np.array([1, 300, 8192, 40000], dtype=np.int64)
    whole = mlx.ledgers(prepared, contexts, 2)[0].terms
    for place, context in enumerate(contexts):
        for array, number in zip(whole, mlx.ledgers(prepared, int(context), 2)[0].terms, strict=True):
            for field in ("bytes", "low_bytes", "high_bytes"):
                found = np.broadcast_to(getattr(array, field), contexts.shape)[place]
                assert int(found) == getattr(number, field), array.name


@pytest.mark.parametrize(
    ("model", "device", "scheme", "kv_dtype", "words"),
    [
        ("llama-3.1-8b", "rtx-4090", "mlx-4bit", "", "does not run on"),
        ("gemma-3-12b", "apple-m3-24gb", "mlx-4bit", "int8", "rotating cache"),
        ("bert-base", "apple-m3-24gb", "bf16", "", "decoders"),
        ("llama-3.1-8b", "apple-m3-24gb", "q4_k_m", "", "does not run"),
    ],
)
def test_refusals(model: str, device: str, scheme: str, kv_dtype: str, words: str) -> None:
    machine = Machine((catalog.load_device(device),))
    profile, loaded = catalog.load_engine("mlx"), catalog.load_scheme(scheme)
    reason = engines.refusal(profile, loaded, machine, Workload(4096, 1, kv_dtype), catalog.load_model(model))
    assert reason is not None
    assert words in reason


def test_command_makes_a_quantized_copy_first() -> None:
    first, second = mlx.command(plan("llama-3.1-8b", "mlx-4bit"), 8192, 4).splitlines()
    assert shlex.split(first)[0] == "mlx_lm.convert"
    assert "--q-bits 4 --q-group-size 64" in first
    made = shlex.split(first)[shlex.split(first).index("--mlx-path") + 1]
    assert second.startswith(f"mlx_lm.server --model {made} --decode-concurrency 4 ")
    assert mlx.command(plan("qwen3-4b", "bf16"), 8192, 1).startswith("mlx_lm.server --model Qwen/Qwen3-4B")


def test_apple_stays_with_gguf_unless_mlx_is_asked_for() -> None:
    assert fit("llama-3.1-8b", gpu="apple-m4-pro-24gb").inputs["engine"] == "llama.cpp"
    report = fit("llama-3.1-8b", gpu="apple-m4-pro-24gb", engine="mlx")
    assert report.inputs["quant"] == "mlx-8bit"
    assert report.verdict == "fits"
    assert fit("llama-3.1-8b", gpu="apple-m4-pro-24gb", quant="mlx-4bit").inputs["engine"] == "mlx"


def test_more_takes_more() -> None:
    prepared = plan("qwen3-30b-a3b", "mlx-4bit")
    for small, large in [((4096, 1), (8192, 1)), ((4096, 1), (4096, 2)), ((100, 1), (101, 1))]:
        totals = [ledger.total_bytes(mlx.ledgers(prepared, *at)[0].terms) for at in (small, large)]
        assert totals[0] <= totals[1]
