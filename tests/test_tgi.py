"""Text Generation Inference: the warm-up's budget and the launcher's defaults against closed forms; refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc import catalog, engines, ledger
from fitcalc.engines import tgi
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
    spec, profile = catalog.load_model(model), catalog.load_engine("tgi")
    return tgi.prepare(spec, catalog.load_scheme(scheme), Machine((device or card(),) * ranks), work, profile)


def refusal(model: str, scheme: str = "bf16", device: Device | None = None, **more: Any) -> str | None:
    work = Workload(8192, 1, "", more.get("ranks", 1), more.get("stages", 1))
    machine = Machine((device or card(),) * (work.tensor_parallel * work.pipeline_parallel))
    profile, spec = catalog.load_engine("tgi"), catalog.load_model(model)
    return engines.refusal(profile, catalog.load_scheme(scheme), machine, work, spec)


def test_a_tenth_of_the_card_stays_free() -> None:
    """Graphs and reserve together are what 0.9 of the card leaves."""
    prepared = plan("llama-3.1-8b")
    held = {term.name: term.bytes for term in prepared.cards[0].terms}
    assert held["reserve"] + held["cuda_graphs"] == pytest.approx(0.1 * 79.19 * GIB, abs=2)
    half = plan("llama-3.1-8b", cuda_memory_fraction=0.5)
    assert sum(term.bytes for term in half.cards[0].terms if term.name in ("reserve", "cuda_graphs")) == pytest.approx(
        0.55 * 79.19 * GIB, abs=2
    )


def test_prefill_limit_of_the_launcher() -> None:
    """900 TFLOP/s over the FLOP of a token of Llama 3.1 8B, as launcher/src/main.rs counts them."""
    heads, kv, dim, hidden, width, layers = 32, 8, 128, 4096, 14336, 32
    flop = 2 * hidden * layers * (2 * heads * dim + 2 * kv * dim + heads * dim + 3 * width)
    assert plan("llama-3.1-8b").settings.prefill_tokens == 900 * 10**12 // flop
    # A card that the launcher does not know.
    assert plan("llama-3.1-8b", device=card("RTX A6000", 47.5, "8.6")).settings.prefill_tokens == 4096
    assert plan("llama-3.1-8b", max_batch_prefill_tokens=2048).settings.prefill_tokens == 2048


def test_blocks_by_attention() -> None:
    assert plan("llama-3.1-8b").settings.block_tokens == 1
    assert plan("phi-3-mini-4k").settings.block_tokens == 256
    assert plan("phi-3-mini-4k", "fp16", device=card("T4", 14.7, "7.5")).settings.block_tokens == 16


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 131072), st.integers(1, 256), st.sampled_from(("llama-3.1-8b", "phi-3-mini-4k")))
def test_headroom_is_the_pool_to_spare(context: int, requests: int, model: str) -> None:
    prepared = plan(model)
    entry = tgi.ledgers(prepared, context, requests)[0]
    found = tgi.pool(prepared, context, requests)
    assert found is not None
    block = found.block_tokens
    fits = ledger.total_bytes(entry.terms) <= (entry.usable_bytes or 0)
    assert fits == (requests * -(-context // block) * block <= found.tokens)


def test_intervals_hold_the_estimate() -> None:
    for term in tgi.ledgers(plan("llama-3.1-70b", ranks=4), 8192, 4)[0].terms:
        assert term.low_bytes <= term.bytes <= term.high_bytes


def test_refusals() -> None:
    assert "tensor parallelism alone" in (refusal("llama-3.1-8b", stages=2) or "")
    assert "mla" in (refusal("deepseek-v2-lite") or "")
    assert "recurrent" in (refusal("qwen3-next-80b-a3b") or "")
    assert "does not run" in (refusal("llama-3.1-8b", "nvfp4") or "")
    assert "8.9" in (refusal("qwen3-30b-a3b", "fp8-block", card("A100", 79.1, "8.0")) or "")
    assert refusal("llama-3.1-70b", "awq", ranks=4) is None
    with pytest.raises(RequestError):
        plan("llama-3.1-8b", cuda_memory_fraction=1.5)


def test_command() -> None:
    command = tgi.command(plan("llama-3.1-70b", "bnb-nf4", ranks=2, kv="fp8"), 8192, 200)
    assert command.startswith("text-generation-launcher --model-id meta-llama/")
    for flag in ("--quantize bitsandbytes-nf4", "--num-shard 2", "--max-total-tokens 8192", "--max-input-tokens 8191",
                 "--max-concurrent-requests 200", "--kv-cache-dtype fp8_e4m3fn"):  # fmt: skip
        assert flag in command


@pytest.mark.parametrize("name", ["tgi", "TGI", "text-generation-inference"])
def test_names(name: str) -> None:
    assert catalog.load_engine(name).id == "tgi"
