"""vLLM: shares, cache layout and budget against closed forms and start-up logs; laws of the ledger; what it refuses."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc import catalog, engines, ledger
from fitcalc.engines import options, paged, vllm
from fitcalc.engines.shards import Rank, rank_weights, rotary_positions
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.quantization import assign
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import CacheLayer, ModelSpec, Rope
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB

BLOCK = 16


def card(name: str = "H100 80GB", total_gib: float = 79.19, capability: str = "9.0") -> Device:
    size = round(total_gib * GIB)
    return Device(name.lower(), name, "nvidia", "gpu", "datacenter", size, size, compute_capability=capability)


def plan(
    model: str | ModelSpec,
    scheme: str,
    *,
    engine: str = "vllm",
    device: Device | None = None,
    ranks: int = 1,
    stages: int = 1,
    kv: str = "",
    used: int = 0,
    **given_options: Any,
) -> Any:
    spec = catalog.load_model(model) if isinstance(model, str) else model
    machine = Machine((device or card(),) * (ranks * stages), gpu_used_bytes=used)
    work = Workload(8192, 1, kv, ranks, stages, given_options)
    return vllm.prepare(spec, catalog.load_scheme(scheme), machine, work, catalog.load_engine(engine))


def terms(prepared: Any, context: int = 8192, requests: int = 1, rank: int = 0) -> dict[str, ledger.Term]:
    return {term.name: term for term in vllm.ledgers(prepared, context, requests)[rank].terms}


def gib(prepared: Any, name: str, **more: Any) -> float:
    return terms(prepared, **more)[name].bytes / GIB


# --- closed forms and published figures -------------------------------------------------------------------------------


def test_awq_70b_on_one_card() -> None:
    """Linears at 4 bit + 20 bit per group of 128, embedding and head in 16 bit; 320 KiB of cache per token."""
    prepared = plan("llama-3.1-70b", "awq", device=card("A100 SXM4 80GB", 79.14, "8.0"))
    hidden, width, vocab, kv = 8192, 28672, 128256, 1024
    linears = 80 * (hidden * (hidden + 2 * kv) + hidden * hidden + 3 * hidden * width)
    rest = 2 * vocab * hidden + (2 * 80 + 1) * hidden
    stored = linears // 2 + linears // 128 * 20 // 8 + 2 * rest
    rotary = 131072 * 128 * 2
    held = prepared.stages[0].weights
    assert held.tensor_bytes == stored
    assert held.rotary_bytes == rotary
    assert gib(prepared, "weights") == pytest.approx(37.05, abs=0.05)
    assert terms(prepared)["kv_cache"].bytes == 320 * 1024 * 8192


@pytest.mark.parametrize(("scheme", "expected"), [("fp8", 47.8), ("awq", 25.3)])
def test_405b_over_eight_cards(scheme: str, expected: float) -> None:
    prepared = plan("llama-3.1-405b", scheme, device=card("A100 SXM4 80GB", 79.14, "8.0"), ranks=8)
    assert gib(prepared, "weights") == pytest.approx(expected, abs=0.05)


def test_latent_cache_counts_once_but_lies_on_every_rank() -> None:
    prepared = plan("deepseek-v3", "fp8-block", device=card("H200", 139.72), ranks=8)
    whole = 61 * 576 * 2 * 8192
    assert vllm.kv_cache_bytes(prepared, 8192, 1) == whole
    assert all(terms(prepared, rank=rank)["kv_cache"].bytes == whole for rank in range(8))


def test_indexer_keys_are_kept_in_8_bit() -> None:
    """DeepSeek-V3.2: 576 elements of latent in 16 bit and 132 bytes of index keys per token and layer."""
    prepared = plan("deepseek-v3.2", "fp8-block", device=card("H200", 139.72), ranks=8)
    assert vllm.kv_cache_bytes(prepared, 8192, 1) == 61 * (576 * 2 + 132) * 8192


@pytest.mark.parametrize(
    ("model", "scheme", "ranks", "weights", "activation"),
    [
        # vLLM 0.19.0 on H100 80GB, llm-d-incubation/llm-d-planner pull request 205
        ("gemma-2-27b", "bf16", 1, 50.72, 3.66),
        ("gemma-2-2b", "bf16", 1, 4.90, 3.62),
        ("gemma-7b", "bf16", 1, 15.91, 3.63),
        ("qwen2.5-7b", "bf16", 1, 14.25, 2.21),
        ("qwen2.5-7b", "bf16", 2, 7.12, 2.21),
        ("qwen2.5-7b", "bf16", 4, 3.55, 2.21),
        ("qwen2.5-72b", "bf16", 2, 67.80, 2.29),
        ("mixtral-8x7b", "bf16", 2, 43.51, 1.21),
        ("llama-3.3-70b", "int8", 2, 33.88, 1.96),
        ("llama-3.1-8b", "int8", 1, 8.49, 1.89),
        ("qwen2.5-7b", "int8", 1, 8.14, 2.21),
    ],
)
def test_logged_weights_and_activations(model: str, scheme: str, ranks: int, weights: float, activation: float) -> None:
    prepared = plan(model, scheme, engine="vllm-0.19", ranks=ranks, gpu_memory_utilization=0.95)
    assert gib(prepared, "weights") == pytest.approx(weights, rel=0.001, abs=0.006)
    assert gib(prepared, "activations") == pytest.approx(activation, abs=0.02)


@pytest.mark.parametrize(
    ("model", "context", "kv_gib", "kv", "logged"),
    [
        # vLLM 0.19.0 on H100 80GB, llm-d-incubation/llm-d-planner pull request 205
        ("qwen2.5-7b", 8192, 58.53, "", 1096000),
        ("qwen2.5-7b", 8192, 58.53, "fp8", 2192000),
        ("gemma-2-9b", 8192, 54.12, "", 168880),
        ("gemma-3-12b", 8192, 47.72, "", 130304),
        ("gemma-3-27b", 8192, 19.53, "", 36560),
    ],
)
def test_logged_tokens_of_a_pool(model: str, context: int, kv_gib: float, kv: str, logged: int) -> None:
    prepared = plan(model, "bf16", engine="vllm-0.19", kv=kv)
    layout = prepared.stages[0].layout
    batch = vllm.batch_of(prepared, context, 1)[1]
    found = vllm.reported_tokens(prepared.profile, layout, round(kv_gib * GIB), context, batch)
    assert found == pytest.approx(logged, rel=0.0006)


def test_logged_pool_end_to_end() -> None:
    """Qwen2.5-7B on H100 at 0.95, vLLM 0.19.0: 1,096,000 tokens (llm-d-planner pull request 205)."""
    pool = vllm.pool(plan("qwen2.5-7b", "bf16", engine="vllm-0.19", gpu_memory_utilization=0.95), 8192, 1)
    assert pool is not None
    assert pool.tokens == pytest.approx(1096000, rel=0.002)


def test_rotary_tables() -> None:
    """Ten million positions of Llama-4-Scout take 2.5 GiB on every rank; sections make the table four times longer."""
    prepared = plan("llama-4-scout", "bf16", ranks=4)
    assert prepared.stages[0].weights.rotary_bytes / GIB == pytest.approx(2.5)
    assert rotary_positions(Rope(128, 4096)) == 4096
    assert rotary_positions(Rope(128, 4096, "linear", 4.0)) == 16384
    assert rotary_positions(Rope(64, 163840, "yarn", 40.0, 4096)) == 163840
    assert rotary_positions(Rope(128, 131072, "llama3", 8.0, 8192)) == 131072
    assert rotary_positions(Rope(96, 131072, "longrope", 1.0, 4096)) == 135168
    assert rotary_positions(Rope(128, 131072, "linear", 8.0, tables=2)) == 9 * 131072
    assert rotary_positions(Rope(128, 32768, sectioned=True)) == 4 * 32768


# --- laws -------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(("llama-3.1-8b", "gemma-3-27b", "gpt-oss-20b", "qwen3-next-80b-a3b", "deepseek-v2-lite")),
    st.integers(1, 131072),
    st.integers(1, 3000),
    st.sampled_from((1, 2, 4)),
)
def test_ledger_grows_with_context_and_concurrency(model: str, context: int, requests: int, ranks: int) -> None:
    prepared = plan(model, "bf16", ranks=ranks)
    sums = [
        ledger.total_bytes(vllm.ledgers(prepared, tokens, count)[0].terms)
        for tokens, count in ((context, requests), (context + 512, requests), (context, requests + 7))
    ]
    assert sums[0] <= sums[1]
    assert sums[0] < sums[2]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(("llama-3.1-8b", "gemma-3-27b", "llama-4-scout", "qwen3-next-80b-a3b")), st.data())
def test_arrays_and_numbers_agree(model: str, data: st.DataObject) -> None:
    prepared = plan(model, "bf16", engine=data.draw(st.sampled_from(("vllm", "vllm-0.19", "vllm-0.8"))), ranks=2)
    contexts = np.array(data.draw(st.lists(st.integers(1, 200_000), min_size=2, max_size=4)))[:, None]
    requests = np.array(data.draw(st.lists(st.integers(1, 500), min_size=2, max_size=4)))[None, :]
    shape = (contexts.size, requests.size)
    grid = vllm.ledgers(prepared, contexts, requests)
    pools = vllm.pool(prepared, contexts, requests)
    assert pools is not None
    for row, column in np.ndindex(*shape):
        context, count = int(contexts[row, 0]), int(requests[0, column])
        single, pool = vllm.ledgers(prepared, context, count), vllm.pool(prepared, context, count)
        for one, many in zip(single, grid, strict=True):
            for term, terms_grid in zip(one.terms, many.terms, strict=True):
                for end in ("low_bytes", "bytes", "high_bytes"):
                    assert np.broadcast_to(getattr(terms_grid, end), shape)[row, column] == getattr(term, end)
        assert pool is not None
        assert np.broadcast_to(pools.tokens, shape)[row, column] == pool.tokens
        logical = vllm.kv_cache_bytes(prepared, contexts, requests)
        assert np.broadcast_to(logical, shape)[row, column] == vllm.kv_cache_bytes(prepared, context, count)


@given(st.integers(1, 64), st.integers(0, 3), st.integers(1, 60_000))
def test_grouped_heads_equal_to_all_heads_is_plain_attention(layers: int, power: int, context: int) -> None:
    """As many KV heads as heads is MHA; a rank holds its share of the heads, at least one."""
    heads, ranks = 8, 2**power
    found = paged.layout([CacheLayer("full", tuple(range(layers)), heads, 128, 128)], [layers], ranks, TYPES)
    assert found is not None
    assert found.block_bytes == layers * BLOCK * 2 * 2 * 128 * heads // ranks
    assert paged.request_blocks(found, context, 2048, state_groups=False) == -(-context // BLOCK)


TYPES = paged.CacheTypes(1, 2, 2, BLOCK)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 4096))
def test_groups_hold_every_layer(full: int, sliding: int, window: int) -> None:
    kinds = [
        CacheLayer("full", tuple(range(full)), 8, 128, 128),
        CacheLayer("sliding", tuple(range(full, full + sliding)), 8, 128, 128, window),
    ]
    found = paged.layout(kinds, [full, sliding], 1, TYPES)
    assert found is not None
    size = found.block_bytes // found.groups[0].page_bytes
    assert all(group.layers <= group.count * size < group.layers + size for group in found.groups)


def test_wider_heads_take_shorter_blocks() -> None:
    """Pages become equal: a kind with half the width takes blocks of twice the tokens."""
    kinds = [CacheLayer("full", (0, 1), 8, 128, 128), CacheLayer("sliding", (2, 3), 4, 128, 128, 1024)]
    found = paged.layout(kinds, [2, 2], 1, TYPES)
    assert found is not None
    assert {group.kind: group.block_tokens for group in found.groups} == {"full": 16, "sliding": 32}
    assert len({group.page_bytes for group in found.groups}) == 1


def test_layers_of_one_kind_share_a_block_whatever_their_width() -> None:
    kinds = [CacheLayer("full", (0, 1), 8, 128, 128), CacheLayer("full", (2,), 2, 128, 128)]
    found = paged.layout(kinds, [2, 1], 1, TYPES)
    assert found is not None
    assert found.block_bytes == BLOCK * 2 * 256 * (8 + 8 + 2)
    assert [group.count for group in found.groups] == [1]


def test_state_pages_are_padded_to_attention_pages() -> None:
    """The Qwen3.5 27B shape: 48 layers of state beside 16 of attention, blocks of 784 tokens as logged."""
    prepared = plan("qwen3.5-27b", "bf16")
    layout = prepared.stages[0].layout
    assert layout.block_tokens == 784
    assert {group.kind: group.count for group in layout.groups} == {"full": 1, "state": 3}
    small, large = terms(prepared, 1000, 2), terms(prepared, 100_000, 2)
    assert small["state"].bytes == large["state"].bytes == 2 * 3 * layout.block_bytes
    assert small["kv_cache"].bytes == 2 * 2 * layout.block_bytes


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen2.5-7b", "mixtral-8x7b", "deepseek-v2-lite", "gemma-3-4b"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_hold_the_whole_model(model: str, ranks: int) -> None:
    """Shares add up to at least the model; what is above is replicated, padded or copied, never missing."""
    spec, scheme = catalog.load_model(model), catalog.load_scheme("bf16")
    stored = assign(spec, scheme)
    one = rank_weights(spec, stored, Rank(stop=spec.layers), 2).tensor_bytes
    part = rank_weights(spec, stored, Rank(ranks, stop=spec.layers), 2).tensor_bytes
    assert one >= 2 * spec.params_total
    assert one < 2 * spec.params_total * 1.01 + 2**20
    assert part * ranks >= one
    assert part < one / ranks * 1.2


@given(st.integers(1, 6))
def test_stages_hold_the_whole_model(stages: int) -> None:
    whole = plan("llama-3.1-8b", "bf16").stages[0].weights.tensor_bytes
    parts = plan("llama-3.1-8b", "bf16", stages=stages).stages
    assert sum(stage.weights.tensor_bytes for stage in parts) == whole
    tied = plan("llama-3.2-1b", "bf16", stages=2).stages
    single = plan("llama-3.2-1b", "bf16").stages[0].weights.tensor_bytes
    assert sum(stage.weights.tensor_bytes for stage in tied) == single + 128256 * 2048 * 2


def test_expert_parallel_keeps_experts_whole() -> None:
    """Whole experts on a rank, or a share of each one's width: the same bytes where both divide."""
    divided, whole = (
        plan("mixtral-8x7b", "bf16", ranks=4, enable_expert_parallel=flag).stages[0].weights.tensor_bytes
        for flag in (False, True)
    )
    assert divided == whole


@pytest.mark.parametrize("engine", ["vllm", "vllm-0.19", "vllm-0.11", "vllm-0.8"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-20b", "gemma-3-27b"])
def test_intervals_and_budget(engine: str, model: str) -> None:
    prepared = plan(model, "bf16", engine=engine)
    entry = vllm.ledgers(prepared, 4096, 2)[0]
    assert all(term.low_bytes <= term.bytes <= term.high_bytes for term in entry.terms)
    assert all(term.name in ledger.TERM_NAMES for term in entry.terms)
    held = {term.name: term.bytes for term in entry.terms}
    outside = ["reserve", "cuda_context"] + ([] if prepared.profile.constants["graphs_in_budget"] else ["cuda_graphs"])
    free = entry.usable_bytes - prepared.cards[0].requested_bytes
    assert sum(held[name] for name in outside) == free
    pool = vllm.pool(prepared, 4096, 2)
    assert pool is not None
    assert pool.kv_bytes == entry.usable_bytes - ledger.total_bytes(entry.terms) + held["kv_cache"]


# --- options, refusals, words -----------------------------------------------------------------------------------------


def refusal(model: str, scheme: str, ranks: int = 1, stages: int = 1, cards: int = 0, **more: Any) -> str | None:
    machine = Machine((more.pop("device", card()),) * (cards or ranks * stages))
    work = Workload(8192, 1, more.pop("kv", ""), ranks, stages, more)
    profile = catalog.load_engine("vllm")
    return engines.refusal(profile, catalog.load_scheme(scheme), machine, work, catalog.load_model(model))


@pytest.mark.parametrize(
    ("model", "scheme", "ranks", "words"),
    [
        # Qwen3-235B-A22B-FP8 fails at load with TP8 (vllm-project/vllm#17569) and starts with TP4
        ("qwen3-235b-a22b", "fp8-block", 8, "1536 / 8 = 192"),
        ("qwen3-235b-a22b", "fp8-block", 4, ""),
        ("qwen2.5-72b", "gptq", 8, "29568 / 8 = 3696"),
        ("qwen2.5-7b", "bf16", 8, "28 attention heads"),
        ("qwen2.5-7b", "bf16", 4, ""),
        ("phi-4", "bf16", 4, "10 KV heads"),
        ("llama-3.1-70b", "awq", 8, ""),
    ],
)
def test_divisions_that_do_not_go(model: str, scheme: str, ranks: int, words: str) -> None:
    reason = refusal(model, scheme, ranks)
    assert reason is None if not words else words in (reason or "")


def test_expert_parallel_avoids_cut_blocks() -> None:
    assert refusal("qwen3-235b-a22b", "fp8-block", 8, enable_expert_parallel="true") is None


def test_what_the_profile_refuses() -> None:
    apple = replace(card("M4 Max"), vendor="apple", kind="unified")
    assert "does not run on M4 Max" in (refusal("llama-3.1-8b", "bf16", device=apple) or "")
    assert "does not run Q4_K_M" in (refusal("llama-3.1-8b", "q4_k_m") or "")
    old = card("P100", 15.9, "6.0")
    assert "compute capability" in (refusal("llama-3.1-8b", "fp16", device=old) or "")
    assert "needs 4 GPUs" in (refusal("llama-3.1-8b", "bf16", ranks=2, stages=2, cards=2) or "")
    assert "too few" in (refusal("llama-3.1-8b", "bf16", stages=40) or "")


def test_options_are_read_checked_and_suggested() -> None:
    profile = catalog.load_engine("vllm")
    work = Workload(8192, options={"max-num-seqs": "64", "enforce_eager": "true", "gpu_memory_utilization": "0.8"})
    found = options.settled(work, profile)
    chosen = [found.options[name] for name in ("max_num_seqs", "enforce_eager", "gpu_memory_utilization")]
    assert chosen == [64, True, 0.8]
    assert options.settled(found, profile) == found
    with pytest.raises(UnknownNameError, match="max_num_seq") as caught:
        options.settled(Workload(8192, options={"max_num_seq": 4}), profile)
    assert "max_num_seqs" in caught.value.hint
    for name, value in (("max_num_seqs", "many"), ("enforce_eager", "perhaps"), ("gpu_memory_utilization", "nan")):
        with pytest.raises(RequestError, match=name):
            options.settled(Workload(8192, options={name: value}), profile)
    with pytest.raises(RequestError, match="context is 8192"):
        options.settled(Workload(8192, options={"max_model_len": "4096"}), profile)
    assert options.settled(Workload(8192, options={"max_model_len": 8192}), profile) == options.settled(
        Workload(8192), profile
    )


@pytest.mark.parametrize(
    "given_options",
    [
        {"gpu_memory_utilization": 1.2},
        {"gpu_memory_utilization": 0.0},
        {"block_size": 0},
        {"max_num_seqs": -1},
        {"max_num_seqs": 512, "max_num_batched_tokens": 256},
    ],
)
def test_options_that_make_no_sense(given_options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        plan("llama-3.1-8b", "bf16", **given_options)


def test_unknown_kv_type_is_an_error_with_names() -> None:
    with pytest.raises(UnknownNameError) as caught:
        plan("llama-3.1-8b", "bf16", kv="q8_0")
    assert "fp8" in caught.value.hint


@pytest.mark.parametrize(
    ("device", "requests", "batch"),
    [
        (card("H200", 139.72), 1024, 8192),
        (card("B200", 178.36), 1024, 16384),
        (card("A100 SXM4 80GB", 79.14), 256, 2048),
        (card("RTX 4090", 23.53), 256, 2048),
    ],
)
def test_batch_limits_by_device(device: Device, requests: int, batch: int) -> None:
    found = vllm.batch_of(plan("llama-3.1-8b", "bf16", device=device), 8192, 1)
    assert found[:2] == (requests, batch)


def test_more_requests_than_the_default_raise_the_limit() -> None:
    prepared = plan("llama-3.1-8b", "bf16")
    assert "--max-num-seqs 2000 " in vllm.command(prepared, 512, 2000)
    assert "--max-num-seqs 64 " in vllm.command(plan("llama-3.1-8b", "bf16", max_num_seqs=64), 512, 64)


def test_old_engines_profile_the_whole_prompt() -> None:
    """Up to 0.8 a prompt of up to 32,768 tokens went in one piece: Qwen2.5-7B on V100 logged 4.35 GiB."""
    prepared = plan("qwen2.5-7b", "fp16", engine="vllm-0.8", device=card("V100 32GB", 31.74, "7.0"))
    assert [vllm.batch_of(prepared, context, 1)[2] for context in (1024, 32768, 32769)] == [2048, 32768, 2048]
    assert gib(prepared, "activations", context=32768) == pytest.approx(4.35, abs=0.3)


def test_desktop_lowers_the_default_share_and_stops_a_given_one() -> None:
    used = 3 * GIB
    small = card("RTX 4090", 23.53)
    lowered = plan("llama-3.2-1b", "bf16", device=small, used=used)
    assert lowered.utilization_e4 == 8600
    assert "--gpu-memory-utilization 0.86" in vllm.command(lowered, 8192, 1)
    assert any("lowered to 0.86" in note for note in vllm.notes(lowered))
    assert gib(lowered, "desktop") == 3
    stopped = plan("llama-3.2-1b", "bf16", device=small, used=used, gpu_memory_utilization=0.95)
    assert ledger.total_bytes(vllm.ledgers(stopped, 8192, 1)[0].terms) > small.usable_bytes
    assert any("stops at start" in note for note in vllm.notes(stopped))


def test_commands_match_their_ledgers() -> None:
    base = catalog.load_model("llama-3.1-8b")
    plain = vllm.command(plan(base, "bf16"), 8192, 4)
    assert plain.startswith(f"vllm serve {base.hf_repo} --max-model-len 8192 --max-num-seqs 1024 ")
    assert "--quantization" not in plain
    assert "--dtype float16" in vllm.command(plan(base, "fp16"), 8192, 4)
    awq = vllm.command(plan(replace(base, quantized_repos=()), "awq"), 8192, 4)
    assert awq.startswith("vllm serve <an-AWQ-repository-of-Llama-3.1-8B>")
    known = replace(base, quantized_repos=(("awq", "org/repo-awq"),))
    assert vllm.command(plan(known, "awq"), 8192, 4).startswith("vllm serve org/repo-awq --max")
    divided = vllm.command(plan(base, "bf16", ranks=2, stages=2, kv="fp8", enforce_eager=True), 8192, 4)
    for words in ("--tensor-parallel-size 2", "--pipeline-parallel-size 2", "--kv-cache-dtype fp8", "--enforce-eager"):
        assert words in divided


def test_quantizing_at_load_is_said() -> None:
    """fp8 and bitsandbytes are real flags on a 16-bit repository, AWQ and GPTQ are not; no command uses them."""
    base = replace(catalog.load_model("llama-3.1-8b"), quantized_repos=())
    for scheme, flag in (("fp8", "fp8"), ("bnb-nf4", "bitsandbytes")):
        prepared = plan(base, scheme)
        command = vllm.command(prepared, 8192, 1)
        assert command.startswith("vllm serve <a")
        assert "--quantization" not in command
        assert any(f"while loading (--quantization {flag})" in note for note in vllm.notes(prepared))
    assert not any("while loading" in note for note in vllm.notes(plan(base, "awq")))


@pytest.mark.parametrize("engine", ["vllm", "vllm-0.8", "vllm-0.11", "vllm-0.19"])
def test_every_version_runs_what_the_line_runs(engine: str) -> None:
    profile, machine = catalog.load_engine(engine), Machine((card(),))
    model = catalog.load_model("llama-3.1-8b")
    for scheme in ("bf16", "awq", "gptq", "fp8"):
        assert engines.refusal(profile, catalog.load_scheme(scheme), machine, Workload(8192), model) is None
    assert engines.refusal(profile, catalog.load_scheme("q4_k_m"), machine, Workload(8192), model)


@pytest.mark.parametrize(("capability", "halved"), [("7.0", True), ("7.5", True), ("8.0", False), ("", False)])
def test_bf16_runs_as_fp16_on_cards_that_lack_it(capability: str, halved: bool) -> None:
    prepared = plan("llama-3.1-8b", "bf16", device=card("Some card", 32, capability))
    assert ("--dtype float16" in vllm.command(prepared, 4096, 1)) == halved
    assert any("fp16" in note for note in vllm.notes(prepared)) == halved
    full = plan("llama-3.2-1b", "fp32", device=card("Some card", 32, capability))
    assert "--dtype float32" in vllm.command(full, 4096, 1)


def test_rare_cache_types_are_said_to_be_rare() -> None:
    assert any("not every build" in note for note in vllm.notes(plan("llama-3.1-8b", "bf16", kv="int8")))
    assert not any("not every build" in note for note in vllm.notes(plan("llama-3.1-8b", "bf16", kv="fp8")))


def test_fp8_on_ampere_is_weight_only() -> None:
    device = card("A100 SXM4 80GB", 79.14, "8.0")
    assert any("weight-only" in note for note in vllm.notes(plan("llama-3.1-8b", "fp8", device=device)))
    assert not any("weight-only" in note for note in vllm.notes(plan("llama-3.1-8b", "fp8")))


def test_eager_has_no_graphs() -> None:
    assert terms(plan("llama-3.1-8b", "bf16", enforce_eager=True))["cuda_graphs"].bytes == 0
    assert gib(plan("llama-3.1-8b", "bf16", engine="vllm-0.19"), "cuda_graphs") == pytest.approx(0.94, abs=0.02)


def test_model_without_cache_has_no_pool() -> None:
    prepared = plan("bert-base", "fp16")
    assert vllm.pool(prepared, 512, 1) is None
    assert vllm.kv_cache_bytes(prepared, 512, 1) == 0


def test_formula_texts_of_terms_evaluate_to_their_bytes() -> None:
    from test_formulas import evaluate

    for entry in vllm.ledgers(plan("gemma-3-27b", "awq", ranks=2), 8192, 3):
        for term in entry.terms:
            if term.formula:
                assert evaluate(term.formula, {item.name: item.value for item in term.inputs}) == term.bytes, term.name


def test_accuracy_against_logs_holds() -> None:
    """Errors over all records of the benchmark: median and 90th percentile, in percent (activations in GiB)."""
    path = Path(__file__).parents[1] / "benchmarks" / "accuracy" / "serving.py"
    spec = importlib.util.spec_from_file_location("serving_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    measured = {name: sorted(abs(entry.error) for entry in entries) for name, entries in module.measure().items()}
    held = {
        "weights 16-bit": (0.05, 1.0),
        "weights quantized": (0.3, 2.5),
        "KV tokens from bytes": (0.05, 0.5),
        "activations vllm-0.19": (0.03, 0.2),
        "end to end tokens": (1.0, 5.0),
        "Transformers peak": (0.75, 2.9),
        "Transformers end state": (1.0, 4.0),
    }
    for name, (middle, tail) in held.items():
        errors = measured[name]
        assert median(errors) <= middle, name
        assert errors[math.ceil(0.9 * len(errors)) - 1] <= tail, name
