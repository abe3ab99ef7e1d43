"""vLLM beside the plain text model: adapters, draft models, encoders, odd kernels; verdicts on real starts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from formula_text import evaluate
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc import catalog
from fitcalc.drafts import draft_of
from fitcalc.engines import vllm
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.formulas import runtime
from fitcalc.ledger import Term
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB, MIB

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "accuracy"


def card(total_gib: float = 79.19, capability: str = "9.0", nvlink: float | None = 450e9) -> Device:
    size = round(total_gib * GIB)
    return Device(
        "card", "H100 80GB", "nvidia", "gpu", "datacenter", size, size,
        compute_capability=capability, nvlink_bytes_per_s=nvlink,
    )  # fmt: skip


def plan(
    model: str, scheme: str, *, engine: str = "vllm", device: Device | None = None, ranks: int = 1, stages: int = 1,
    context: int = 8192, **options: Any,
) -> Any:  # fmt: skip
    machine = Machine((device or card(),) * (ranks * stages))
    work = Workload(context, 1, "", ranks, stages, options, draft=draft_of(options))
    return vllm.prepare(
        catalog.load_model(model), catalog.load_scheme(scheme), machine, work, catalog.load_engine(engine)
    )


def terms(prepared: Any, context: int = 8192, rank: int = 0) -> dict[str, Term]:
    return {term.name: term for term in vllm.ledgers(prepared, context, 1)[rank].terms}


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
def test_adapter_slots_hold_a_and_b_of_every_matrix(ranks: int) -> None:
    """Llama-2-7B: Q, K, V, O of 4096 × 4096, gate and up 11008 × 4096, down 4096 × 11008, the head 32000 × 4096."""
    hidden, width, slots, rank = 4096, 11008, 2, 16
    columns = 3 * (hidden + hidden // ranks) + 2 * (hidden + width // ranks)
    rows = (hidden // ranks + hidden) + (width // ranks + hidden)
    expected = (32 * (columns + rows) + hidden + 32000) * rank * slots * 2
    prepared = plan("llama-2-7b", "fp16", ranks=ranks, enable_lora=True, max_loras=slots, max_lora_rank=rank)
    assert terms(prepared)["lora"].bytes == expected
    assert any("RAM" in note for note in vllm.notes(prepared))
    assert "--max-loras 2" in vllm.command(prepared, 8192, 1)


def test_adapter_slots_explain_a_logged_load() -> None:
    """Qwen2.5-0.5B in 4 bit logs 0.5151 GiB in a server made for adapters of rank 64, the weights alone take less."""
    found = terms(plan("qwen2.5-0.5b", "bnb-nf4-dq", engine="vllm-0.11", enable_lora=True, max_lora_rank=64))
    assert (found["weights"].bytes + found["lora"].bytes) / GIB == pytest.approx(0.5151, rel=0.01)


@given(st.sampled_from([8, 16, 32, 64]), st.integers(1, 8), st.sampled_from(["mixtral-8x7b", "gemma-2-9b"]))
@settings(max_examples=15, deadline=None)
def test_adapters_grow_with_rank_and_slots(rank: int, slots: int, model: str) -> None:
    one = terms(plan(model, "bf16", enable_lora=True, max_lora_rank=8))["lora"].bytes
    many = terms(plan(model, "bf16", enable_lora=True, max_lora_rank=rank, max_loras=slots))["lora"].bytes
    assert many * 8 == one * rank * slots


def test_stages_share_the_slots() -> None:
    whole = terms(plan("llama-3.1-8b", "bf16", enable_lora=True))["lora"].bytes
    parts = plan("llama-3.1-8b", "bf16", stages=2, enable_lora=True)
    assert sum(terms(parts, rank=rank)["lora"].bytes for rank in range(2)) == whole


@pytest.mark.parametrize(
    "given_options",
    [{"max_lora_rank": 24}, {"max_loras": 0}, {"max_loras": 4, "max_cpu_loras": 2}],
)
def test_slots_that_vllm_refuses(given_options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        plan("llama-2-7b", "fp16", enable_lora=True, **given_options)


# --- speculative decoding ---------------------------------------------------------------------------------------------


def speculative(**config: Any) -> str:
    return json.dumps({"num_speculative_tokens": 3, **config})


def test_draft_model_takes_weights_and_blocks() -> None:
    """A block holds 16 tokens of both models: 80 layers of 8 heads × 128, 16 of 8 heads × 64, K and V in 16 bit."""
    prepared = plan("llama-3.1-70b", "fp8", ranks=2, speculative_config=speculative(model="llama-3.2-1b"))
    draft = catalog.load_model("llama-3.2-1b")
    found = terms(prepared)
    assert prepared.stages[0].layout.block_bytes == 16 * 2 * 2 * (80 * 4 * 128 + 16 * 4 * 64)
    share = draft.params_total * 2 / 2
    assert share <= found["draft_model"].bytes <= share * 1.05
    assert "llama-3.2-1b" in vllm.command(prepared, 8192, 1).lower()


def test_own_layers_are_loaded_for_their_method_alone() -> None:
    """DeepSeek-R1: the layer of 14.36 GiB in the file carries copies of embedding and head, which are shared."""
    copies = 2 * 129280 * 7168 * 2
    expected = (14.36 * GIB - copies) / GIB
    device = card(139.72)
    prepared = plan("deepseek-r1", "fp8-block", device=device, ranks=8, speculative_config=speculative(method="mtp"))
    held = [terms(prepared, rank=rank)["draft_model"].bytes for rank in range(8)]
    # Projections of latents and the router are whole on every rank, and the absorbed copies come on top.
    assert expected <= sum(held) / GIB <= expected * 1.2
    plain = plan("deepseek-r1", "fp8-block", device=device, ranks=8)
    assert "draft_model" not in terms(plain)
    layers = prepared.stages[0].layout.block_bytes * 61
    assert layers == plain.stages[0].layout.block_bytes * 62


def test_only_the_stage_of_the_head_proposes() -> None:
    prepared = plan("llama-3.1-70b", "fp8", stages=2, speculative_config=speculative(model="llama-3.2-1b"))
    assert "draft_model" not in terms(prepared, rank=0)
    assert "draft_model" in terms(prepared, rank=1)


def test_n_grams_are_free() -> None:
    prepared = plan("llama-3.1-8b", "bf16", speculative_config=speculative(method="ngram"))
    assert terms(prepared) == terms(plan("llama-3.1-8b", "bf16"))


@pytest.mark.parametrize(
    "text",
    ["{bad", "[]", '"word"', '{"method": "draft_model"}', '{"method": "mtp", "num_speculative_tokens": 0}', "[" * 9999],
)
def test_speculation_that_cannot_be_read(text: str) -> None:
    with pytest.raises(RequestError):
        plan("deepseek-r1", "fp8-block", device=card(139.72), ranks=8, speculative_config=text)


def test_speculation_that_the_model_lacks() -> None:
    with pytest.raises(RequestError, match="no multi-token-prediction layers"):
        plan("llama-3.1-8b", "bf16", speculative_config=speculative(method="mtp"))
    with pytest.raises(UnknownNameError):
        plan("llama-3.1-8b", "bf16", speculative_config=speculative(model="lama-3.2"))


# --- encoders ---------------------------------------------------------------------------------------------------------


def test_encoder_of_any_size_takes_what_the_context_holds() -> None:
    """Qwen2.5-VL-3B at 32,768 tokens logs a peak of 4.06 GiB on a card of 32 GB."""
    found = terms(plan("qwen2.5-vl-3b", "bf16", engine="vllm-0.11", device=card(31.36), context=32768), 32768)
    assert (found["activations"].bytes + found["vision"].bytes) / GIB == pytest.approx(4.06, abs=0.1)
    sizes = [terms(plan("qwen2.5-vl-7b", "bf16"), context)["vision"].bytes for context in (8192, 65536, 131072)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


@pytest.mark.parametrize("model", ["gemma-3-12b", "qwen2.5-vl-7b"])
def test_without_encoder(model: str) -> None:
    spec = catalog.load_model(model)
    text = sum(tensor.elems for tensor in spec.tensors if tensor.part == "text")
    found = plan(model, "bf16", language_model_only=True)
    assert "vision" not in terms(found)
    assert found.stages[0].weights.tensor_bytes == 2 * text
    assert "--language-model-only" in vllm.command(found, 8192, 1)
    assert "vision" not in terms(plan(model, "bf16", skip_mm_profiling=True))


# --- kernels and the allocator ----------------------------------------------------------------------------------------


def test_old_cards_keep_zero_points_and_group_indices() -> None:
    """GPTQ-4bit of Llama-3.1-8B: 0.5.4 without Marlin logs 5.3767 GiB; Marlin drops both."""
    plain = plan("llama-3.1-8b", "gptq", engine="vllm-0.8", device=card(31.7, "7.0"))
    marlin = plan("llama-3.1-8b", "gptq", engine="vllm-0.8", device=card(31.7, "8.0"))
    linears = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)
    zeros, indices = linears // 128 // 2, 32 * (5 * 4096 + 4096 + 14336 - 4096 + 4096) * 4
    more = plain.stages[0].weights.tensor_bytes - marlin.stages[0].weights.tensor_bytes
    assert zeros < more <= zeros + 2 * indices
    assert terms(plain)["weights"].bytes / GIB == pytest.approx(5.3767, rel=0.003)


@given(st.integers(1, 2**34))
def test_unsplit_segments(size: int) -> None:
    counted = runtime.segment_bytes(size_bytes=size)
    assert counted >= runtime.booked_bytes(size_bytes=size) >= size
    if size >= 20 * MIB:
        assert counted % (2 * MIB) == 0
        assert counted - size < 2 * MIB
    else:
        assert counted == runtime.booked_bytes(size_bytes=size)


def test_current_versions_hold_whole_segments_while_loading() -> None:
    """Qwen2.5-7B-AWQ: gate_up of 64.75 MiB and down of 32.375 MiB lie in 66 and 34 MiB, 28 times. Two logs of 0.28 and
    0.31 lie inside the interval."""
    new, old = (plan("qwen2.5-7b", "awq", engine=engine) for engine in ("vllm", "vllm-0.19"))
    more = new.stages[0].weights.booking_bytes - old.stages[0].weights.booking_bytes
    assert more == 28 * round((66 - 64.75 + 34 - 32.375) * MIB)
    term = terms(new)["weights"]
    assert all(term.low_bytes <= logged * GIB <= term.high_bytes for logged in (5.38, 5.385))


def test_communicators_are_small_without_fast_links() -> None:
    linked, bare = (plan("llama-3.1-8b", "bf16", ranks=2, device=card(nvlink=link)) for link in (450e9, None))
    assert terms(linked)["runtime"].bytes > 3 * terms(bare)["runtime"].bytes


def test_formula_texts_evaluate_to_their_bytes() -> None:
    config = speculative(model="llama-3.2-1b")
    plans = (
        plan("llama-3.1-70b", "fp8", ranks=2, enable_lora=True, speculative_config=config),
        plan("qwen2.5-vl-7b", "bf16", engine="vllm-0.8"),
    )
    for prepared in plans:
        for term in terms(prepared, 65536).values():
            if term.formula:
                assert evaluate(term.formula, {item.name: item.value for item in term.inputs}) == term.bytes, term.name


# --- real starts ------------------------------------------------------------------------------------------------------


def _benchmark(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_verdicts_on_real_starts() -> None:
    """No failed start is called one that fits; starts that worked do fit, at worst tightly."""
    found = _benchmark("engine_outcomes").measure()
    failed = [entry.verdict for entry in found if not entry.started]
    worked = [entry.verdict for entry in found if entry.started]
    assert "fits" not in failed
    assert failed.count("does_not_fit") >= 0.75 * len(failed)
    assert worked.count("fits") >= 0.75 * len(worked)
    assert "does_not_fit" not in worked


def test_longest_that_starts() -> None:
    """vLLM's message names the length that would fit; the limit of the report lies within 5 percent."""
    stated = [entry for entry in _benchmark("engine_outcomes").measure() if entry.stated_tokens]
    assert stated
    assert all(entry.longest_tokens == pytest.approx(entry.stated_tokens, rel=0.05) for entry in stated)
