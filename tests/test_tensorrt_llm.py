"""TensorRT-LLM: the share of what is free against closed forms and logs; blocks, state, refusals, command."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc import catalog, engines, ledger
from fitcalc.engines import tensorrt_llm
from fitcalc.errors import RequestError
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB


def card(name: str = "H100 80GB", gib: float = 79.19, capability: str = "9.0") -> Device:
    size = round(gib * GIB)
    return Device("card", name, "nvidia", "gpu", "datacenter", size, size, compute_capability=capability)


def plan(
    model: str, scheme: str = "bf16", *, device: Device | None = None, ranks: int = 1, kv: str = "", **options: Any
) -> Any:
    work = Workload(8192, 1, kv, ranks, 1, options)
    spec, profile = catalog.load_model(model), catalog.load_engine("tensorrt-llm")
    machine = Machine((device or card(),) * ranks)
    return tensorrt_llm.prepare(spec, catalog.load_scheme(scheme), machine, work, profile)


def refusal(model: str, scheme: str, capability: str) -> str | None:
    profile, spec = catalog.load_engine("tensorrt-llm"), catalog.load_model(model)
    machine = Machine((card(capability=capability),))
    return engines.refusal(profile, catalog.load_scheme(scheme), machine, Workload(8192), spec)


@pytest.mark.parametrize(
    ("model", "kv_bytes", "tokens"),
    [
        ("llama-2-7b", 69524783104, 132608),  # NVIDIA/TensorRT-LLM issue 1400: 512 KiB per token
        ("qwen1.5-7b", round(19.7 * GIB), 631 * 64),  # NVIDIA/TensorRT-LLM issue 2268
    ],
)
def test_logged_tokens_of_a_pool(model: str, kv_bytes: int, tokens: int) -> None:
    assert kv_bytes / plan(model, "fp16").whole.full_bytes == pytest.approx(tokens, rel=0.002)


def test_pool_is_a_share_of_what_is_free() -> None:
    prepared = plan("llama-3.1-8b")
    spent = sum(term.bytes for term in prepared.cards[0].terms)
    found = tensorrt_llm.pool(prepared, 8192, 1)
    assert found is not None
    assert found.kv_bytes == pytest.approx(0.9 * (79.19 * GIB - spent), abs=2)
    assert found.tokens == found.kv_bytes // (32 * 131072) * 32
    kept = {term.name: term.bytes for term in tensorrt_llm.ledgers(prepared, 8192, 1)[0].terms}
    assert kept["reserve"] + kept["cuda_graphs"] == pytest.approx(0.1 * (79.19 * GIB - spent), abs=2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 131072), st.integers(1, 256))
def test_headroom_is_the_pool_to_spare(context: int, requests: int) -> None:
    prepared = plan("llama-3.1-8b")
    entry = tensorrt_llm.ledgers(prepared, context, requests)[0]
    found = tensorrt_llm.pool(prepared, context, requests)
    assert found is not None
    fits = ledger.total_bytes(entry.terms) <= (entry.usable_bytes or 0)
    assert fits == (requests * -(-context // 32) * 32 <= found.tokens)


def test_state_is_set_aside_for_every_request() -> None:
    prepared = plan("qwen3-next-80b-a3b", ranks=4)
    one, many = (
        {term.name: term for term in tensorrt_llm.ledgers(prepared, 8192, requests)[0].terms}["state"].bytes
        for requests in (1, 16)
    )
    assert many - one == 15 * prepared.seats[0].cells.state_bytes
    assert "--max_batch_size 16" in tensorrt_llm.command(prepared, 8192, 16)
    assert any("max_batch_size" in note for note in tensorrt_llm.notes(prepared))


def test_intervals_hold_the_estimate() -> None:
    for term in tensorrt_llm.ledgers(plan("gpt-oss-120b", "mxfp4"), 8192, 4)[0].terms:
        assert term.low_bytes <= term.bytes <= term.high_bytes


@pytest.mark.parametrize(
    ("scheme", "runs", "refused"),
    [
        ("nvfp4", "10.0", "9.0"),
        ("fp8-tensor", "8.9", "8.0"),
        ("fp8-block", "9.0", "12.0"),
        ("fp8", "9.0", "10.0"),
        ("awq", "8.6", "10.0"),
    ],
)
def test_hardware_matrix(scheme: str, runs: str, refused: str) -> None:
    """docs/source/features/quantization.md of TensorRT-LLM."""
    assert refusal("llama-3.1-8b", scheme, runs) is None
    assert refused in (refusal("llama-3.1-8b", scheme, refused) or "")


@pytest.mark.parametrize(
    "options", [{"free_gpu_memory_fraction": 0.0}, {"tokens_per_block": 48}, {"max_num_tokens": 0}]
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        plan("llama-3.1-8b", **options)


def test_command() -> None:
    command = tensorrt_llm.command(plan("llama-3.1-70b", ranks=4), 8192, 4)
    assert command == (
        "trtllm-serve meta-llama/Meta-Llama-3.1-70B --max_seq_len 8192 --max_batch_size 2048 --max_num_tokens 8192 "
        "--kv_cache_free_gpu_memory_fraction 0.9 --tp_size 4"
    )
    written = tensorrt_llm.command(plan("llama-3.1-8b", kv="fp8"), 8192, 4)
    assert "dtype: fp8" in written
    assert "--extra_llm_api_options" in written


@pytest.mark.parametrize("name", ["tensorrt-llm", "trt-llm", "trtllm", "TensorRT-LLM"])
def test_names(name: str) -> None:
    assert catalog.load_engine(name).id == "tensorrt-llm"
