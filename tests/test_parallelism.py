"""Tensor, pipeline, data and expert parallelism: laws of shares, logged ranks, closed forms, refusals, commands."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.engines import distributed, division, vllm
from fitcalc.engines.shards import Rank, RankWeights, rank_weights
from fitcalc.errors import RequestError
from fitcalc.formulas import split
from fitcalc.machine import machine_of
from fitcalc.plan import Request, workloads
from fitcalc.quantization import assign
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB

SIZE = round(79.1 * GIB)
CARD = Device("card", "card", "nvidia", "gpu", "datacenter", SIZE, SIZE, compute_capability="9.0")
DEGREES = st.sampled_from([1, 2, 4, 8])


def held(model: str, scheme: str, rank: Rank, only: tuple[str, ...] = ()) -> RankWeights:
    """The weights of a rank that holds all layers; of tensors that are divided in these ways only, if any are named."""
    spec = catalog.load_model(model)
    kept = [entry for entry in assign(spec, catalog.load_scheme(scheme)) if not only or entry.tensor.split in only]
    return rank_weights(spec, kept, replace(rank, stop=spec.layers), 2)


def plan(model: str, scheme: str, engine: str = "vllm", **degrees: Any) -> Any:
    work = Workload(8192, **degrees)
    parts = catalog.load_model(model), catalog.load_scheme(scheme), Machine((CARD,) * work.ranks)
    return vllm.prepare(*parts, work, catalog.load_engine(engine))


def refusal(model: str, scheme: str, **degrees: Any) -> str:
    work = Workload(8192, **degrees)
    parts = catalog.load_model(model), catalog.load_scheme(scheme), Machine((CARD,) * work.ranks)
    return division.refusal(*parts, work, catalog.load_engine("vllm")) or ""


# --- what was logged --------------------------------------------------------------------------------------------------


def test_a_rank_of_two_data_parallel_copies_that_share_their_experts() -> None:
    """PowerMoE 3B (the shapes of Granite 3.0 3B A800M) with DP 2 logged 3.3375 GiB: vllm-project/vllm#19731."""
    stage = plan("granite-3.0-3b-a800m", "bf16", "vllm-0.11", data_parallel=2, expert_parallel=True).stages[0]
    assert stage.weights.total_bytes / GIB == pytest.approx(3.3375, rel=0.003)


def test_the_stages_of_sixteen_cards_over_two_nodes() -> None:
    """DeepSeek V2.5 on 16 × A100 40GB logged 27.63 GiB on one rank and 28.48 on another: the stages of TP 8 × PP 2."""
    first, last = (
        stage.weights.total_bytes / GIB
        for stage in plan("deepseek-v2", "bf16", "vllm-0.8", tensor_parallel=8, pipeline_parallel=2).stages
    )
    assert first == pytest.approx(27.63, rel=0.006)
    assert last == pytest.approx(28.48, rel=0.006)
    assert last - first == pytest.approx(28.48 - 27.63, abs=0.02)


def test_sixteen_ranks_of_deepseek_r1() -> None:
    """SGLang logs 40.5 GB (GiB) per card with TP 16; its figure is a difference of free memory, some 0.1 above."""
    stage = plan("deepseek-r1", "fp8-block", tensor_parallel=16).stages[0]
    assert stage.weights.total_bytes / GIB == pytest.approx(40.5, rel=0.006)


# --- laws -------------------------------------------------------------------------------------------------------------


@given(ranks=DEGREES, model=st.sampled_from(["llama-3.1-70b", "mixtral-8x7b", "qwen3-30b-a3b"]))
def test_shares_of_what_is_divided_add_up_to_the_whole(ranks: int, model: str) -> None:
    # Four KV heads and more are divided up to four ways; beyond that they are copied.
    ranks = min(ranks, 4)
    divided = ("columns", "rows", "heads", "experts")
    whole = held(model, "bf16", Rank(), divided).tensor_bytes
    assert held(model, "bf16", Rank(ranks=ranks), divided).tensor_bytes * ranks == whole


@given(ranks=DEGREES, copies=DEGREES)
def test_whole_experts_and_parts_of_all_experts_are_as_large(ranks: int, copies: int) -> None:
    together = ranks * copies
    parts = held("qwen3-30b-a3b", "bf16", Rank(ranks=ranks, data_ranks=copies), ("experts",)).tensor_bytes
    shared = Rank(ranks=ranks, data_ranks=copies, expert_ranks=together)
    assert held("qwen3-30b-a3b", "bf16", shared, ("experts",)).tensor_bytes == parts
    assert parts * together == held("qwen3-30b-a3b", "bf16", Rank(), ("experts",)).tensor_bytes


@given(copies=DEGREES)
def test_data_parallel_ranks_hold_everything_but_the_experts(copies: int) -> None:
    rest = ("columns", "rows", "heads", "vocab", "replicated")
    alone = held("qwen3-30b-a3b", "bf16", Rank(), rest).tensor_bytes
    assert held("qwen3-30b-a3b", "bf16", Rank(data_ranks=copies), rest).tensor_bytes == alone
    dense = held("llama-3.1-8b", "bf16", Rank())
    assert held("llama-3.1-8b", "bf16", Rank(data_ranks=copies)) == dense


@pytest.mark.parametrize(("model", "scheme"), [("llama-3.1-70b", "awq"), ("deepseek-v3", "fp8-block")])
def test_more_ranks_never_hold_more_each(model: str, scheme: str) -> None:
    sizes = [held(model, scheme, Rank(ranks=ranks)).total_bytes for ranks in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)


@given(layers=st.integers(1, 200), stages=st.integers(1, 32))
def test_stages_cover_the_layers_once(layers: int, stages: int) -> None:
    stages = min(stages, layers)
    ranges = split.stage_ranges(layers, stages)
    assert [layer for first, stop in ranges for layer in range(first, stop)] == list(range(layers))
    lengths = [stop - first for first, stop in ranges]
    assert max(lengths) - min(lengths) <= 1


def test_stages_add_up_to_the_model() -> None:
    whole = plan("llama-3.1-70b", "bf16").stages[0].weights.tensor_bytes
    stages = plan("llama-3.1-70b", "bf16", pipeline_parallel=7).stages
    assert sum(stage.weights.tensor_bytes for stage in stages) == whole


@given(requests=st.integers(1, 4096), ranks=DEGREES)
def test_requests_are_spread_over_data_parallel_ranks(requests: int, ranks: int) -> None:
    own = split.requests_share(requests=requests, ranks=ranks)
    assert own * ranks >= requests > (own - 1) * ranks


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_experts_of_deepseek_v3_over_sixteen_data_parallel_ranks() -> None:
    """58 layers × 16 of 256 experts × three matrices of 7168 × 2048, a byte each, and 4 bytes per 128 × 128 block."""
    matrix = 7168 * 2048
    expected = 58 * 16 * 3 * (matrix + 4 * matrix // 128**2)
    rank = Rank(data_ranks=16, expert_ranks=16)
    assert held("deepseek-v3", "fp8-block", rank, ("experts",)).tensor_bytes == expected


def test_the_pool_counts_the_caches_of_all_data_parallel_ranks() -> None:
    """Two copies of a dense model on two cards hold twice the tokens of one, and twice its users."""
    one = plan("llama-3.1-8b", "bf16")
    two = plan("llama-3.1-8b", "bf16", data_parallel=2)
    assert vllm.pool(two, 8192, 2).tokens == 2 * vllm.pool(one, 8192, 1).tokens
    names = ("weights", "kv_cache", "activations", "runtime")
    # Of seven requests one copy runs four.
    alone = [term for term in vllm.ledgers(one, 8192, 4)[0].terms if term.name in names]
    for entry in vllm.ledgers(two, 8192, 7):
        assert [term for term in entry.terms if term.name in names] == alone


def test_latent_caches_are_copied_by_tensor_ranks_and_divided_by_data_ranks() -> None:
    """Multi-head latent attention: 576 elements × 61 layers × 2 bytes per token on every rank of a copy."""
    report = fitcalc.fit("deepseek-v3", gpu="h200:8", quant="fp8-block", tensor_parallel=1, data_parallel=8)
    assert report.pool is not None
    assert report.pool.tokens // 8 == pytest.approx(report.pool.bytes_per_card / (576 * 61 * 2), rel=1e-3)
    assert report.limits.max_concurrency == report.pool.tokens // 8 // 8192 * 8


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_blocks_of_a_quantization_bound_the_tensor_parallel_degree() -> None:
    """Experts of 1536 columns in blocks of 128: 192 of them do not load (vllm-project/vllm#17569)."""
    assert "1536 / 8 = 192" in refusal("qwen3-235b-a22b", "fp8-block", tensor_parallel=8)
    assert "1536 / 8 = 192" in refusal("qwen3-235b-a22b", "fp8-block", tensor_parallel=4, data_parallel=2)
    assert not refusal("qwen3-235b-a22b", "fp8-block", tensor_parallel=8, expert_parallel=True)
    assert not refusal("qwen3-235b-a22b", "fp8-block", tensor_parallel=4)
    assert not refusal("qwen3-235b-a22b", "bf16", tensor_parallel=8)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_groups_of_four_bits_bound_it_too(ranks: int) -> None:
    """29,568 columns are 231 groups of 128: an odd number, so that no even degree divides them."""
    assert "128-wide" in refusal("qwen2.5-72b", "gptq", tensor_parallel=ranks)
    assert not refusal("qwen2.5-72b", "bf16", tensor_parallel=ranks)


@pytest.mark.parametrize(
    ("model", "degrees", "word"),
    [
        ("llama-3.1-8b", {"tensor_parallel": 3}, "attention heads"),
        ("llama-3.1-8b", {"tensor_parallel": 2, "expert_parallel": True}, "no routed experts"),
        ("mixtral-8x7b", {"data_parallel": 16, "expert_parallel": True}, "too few for 16"),
        ("llama-3.1-8b", {"pipeline_parallel": 33}, "too few for 33 stages"),
        ("llama-3.1-8b", {"data_parallel": 0}, "start at 1"),
    ],
)
def test_what_cannot_be_divided_is_named(model: str, degrees: dict[str, Any], word: str) -> None:
    assert word in refusal(model, "bf16", **degrees)


def test_too_few_cards() -> None:
    work = Workload(8192, tensor_parallel=2, data_parallel=4)
    parts = catalog.load_model("llama-3.1-8b"), catalog.load_scheme("bf16"), Machine((CARD,) * 4)
    assert "data parallel 4 needs 8 GPUs" in (division.refusal(*parts, work, catalog.load_engine("vllm")) or "")


def test_a_degree_asked_for_is_refused_with_what_would_work() -> None:
    with pytest.raises(RequestError, match="192") as caught:
        fitcalc.fit("qwen3-235b-a22b", gpu="h100-sxm:8", quant="fp8-block", engine="vllm", tensor_parallel=8)
    assert "--tp 8 --ep or --tp 4 --pp 2" in (caught.value.hint or "")


def test_whole_experts_are_taken_where_their_widths_do_not_divide() -> None:
    report = fitcalc.fit("qwen3-235b-a22b", gpu="h100-sxm:8", quant="fp8-block", engine="vllm")
    assert report.inputs["expert_parallel"] is True
    assert report.recommendation is not None
    assert "--enable-expert-parallel" in report.recommendation.command
    assert any("--tp 8 is refused" in note and "192" in note for note in report.notes)
    plain = fitcalc.fit("mixtral-8x22b", gpu="a100-80:4", engine="vllm")
    assert plain.inputs["expert_parallel"] is False


@pytest.mark.parametrize("asked", [{"data_parallel": 2}, {"expert_parallel": True}])
def test_engines_without_ranks_say_so(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="parallelism"):
        fitcalc.fit("mixtral-8x7b", gpu="rtx-4090:4", quant="q4_k_m", engine="llama.cpp", **asked)


@pytest.mark.parametrize("wrong", [{"data_parallel": 0}, {"data_parallel": "2"}, {"expert_parallel": 1}])
def test_degrees_have_their_types(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        fitcalc.fit("mixtral-8x7b", gpu="h100-sxm:4", **wrong)


# --- over nodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gpu", "natural"), [("h100-sxm:16", (8, 2)), ("h100-sxm:8", (8, 1)), ("gb200:8", (4, 2))])
def test_tensor_parallel_stays_within_a_node(gpu: str, natural: tuple[int, int]) -> None:
    request = Request(catalog.load_model("llama-3.1-405b"), machine_of(gpu), 8192)
    ways = list(workloads(request, catalog.load_engine("vllm")))
    assert (ways[0].tensor_parallel, ways[0].pipeline_parallel) == natural
    assert all(way.tensor_parallel <= natural[0] for way in ways)
    assert all(way.ranks == len(request.machine.gpus) for way in ways)


def test_tensor_parallel_across_nodes_is_taken_when_asked_for_and_said() -> None:
    report = fitcalc.fit("llama-3.1-405b", gpu="h100-sxm:16", quant="bf16", tensor_parallel=16)
    assert report.inputs["pipeline_parallel"] == 1
    assert any("spans nodes" in note for note in report.notes)


def test_a_model_that_outgrows_a_node_is_offered_two() -> None:
    report = fitcalc.fit("llama-3.1-405b", gpu="h100-sxm:8", quant="bf16")
    assert report.verdict == "does_not_fit"
    assert report.recommendation is not None
    offered = [other for other in report.recommendation.alternatives if other.nodes == 2]
    assert [other.devices[0]["count"] for other in offered] == [16]
    assert offered[0].verdict == "fits"


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if not line.startswith("#")]


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_each_node_starts_with_its_own_rank() -> None:
    machine, work = machine_of("h100-sxm:16"), Workload(8192, tensor_parallel=8, pipeline_parallel=2)
    found = distributed.vllm_commands("vllm serve m", machine, work, catalog.load_engine("vllm"))
    first, second = commands(found)
    assert [option(words, "--node-rank") for words in (first, second)] == ["0", "1"]
    assert option(first, "--nnodes") == "2"
    assert "--headless" in second
    assert "--headless" not in first
    told = distributed.sglang_commands("python -m sglang.launch_server --model-path m", machine, work)
    assert [option(words, "--node-rank") for words in commands(told)] == ["0", "1"]


def test_versions_without_ranks_of_nodes_start_on_ray() -> None:
    machine, work = machine_of("h100-sxm:32"), Workload(8192, tensor_parallel=8, pipeline_parallel=4)
    text = distributed.vllm_commands("vllm serve m", machine, work, catalog.load_engine("vllm-0.8"))
    head, other, serve = commands(text)
    assert head[:3] == ["ray", "start", "--head"]
    assert any(word.startswith("--address=") for word in other)
    assert option(serve, "--distributed-executor-backend") == "ray"
    assert "other 3 nodes" in text


def test_data_parallel_ranks_are_numbered_over_the_nodes() -> None:
    machine, work = machine_of("h100-sxm:16"), Workload(8192, data_parallel=16, expert_parallel=True)
    first, second = commands(distributed.vllm_commands("vllm serve m", machine, work, catalog.load_engine("vllm")))
    assert option(first, "--data-parallel-size") == option(second, "--data-parallel-size") == "16"
    assert option(first, "--data-parallel-size-local") == "8"
    assert option(second, "--data-parallel-start-rank") == "8"


def test_one_node_needs_one_command() -> None:
    work = Workload(8192, tensor_parallel=8)
    for gpu in ("h100-sxm:8", "rtx-4090:8"):
        assert distributed.vllm_commands("vllm serve m", machine_of(gpu), work, catalog.load_engine("vllm")) == (
            "vllm serve m"
        )
