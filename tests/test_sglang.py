"""SGLang: cells, pools and default fractions against closed forms and start-up logs; what it refuses; its command."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog, engines, ledger
from fitcalc.engines import sglang
from fitcalc.errors import RequestError
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB, MIB

PROFILES = ("sglang", "sglang-0.5", "sglang-0.4.10", "sglang-0.4")


def card(mib: int = 81559, usable_gib: float = 79.19, capability: str = "9.0", vendor: str = "nvidia") -> Device:
    sizes = mib * MIB, round(usable_gib * GIB)
    return Device("card", "H100 80GB", vendor, "gpu", "datacenter", *sizes, compute_capability=capability)


def plan(
    model: str,
    scheme: str = "bf16",
    *,
    engine: str = "sglang",
    device: Device | None = None,
    ranks: int = 1,
    stages: int = 1,
    copies: int = 1,
    experts: bool = False,
    kv: str = "",
    **options: Any,
) -> Any:
    machine = Machine((device or card(),) * (ranks * stages * copies))
    work = Workload(8192, 1, kv, ranks, stages, options, copies, experts)
    return sglang.prepare(
        catalog.load_model(model), catalog.load_scheme(scheme), machine, work, catalog.load_engine(engine)
    )


def terms(prepared: Any, context: int = 8192, requests: int = 1) -> dict[str, ledger.Term]:
    return {term.name: term for term in sglang.ledgers(prepared, context, requests)[0].terms}


def benchmark() -> Any:
    path = Path(__file__).parents[1] / "benchmarks" / "accuracy" / "other_servers.py"
    spec = importlib.util.spec_from_file_location("other_servers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- logs -------------------------------------------------------------------------------------------------------------


def test_records_hold_the_tolerances() -> None:
    """Start-up logs of benchmarks/accuracy/records/other_servers.jsonl."""
    other = benchmark()
    found = other.measure()

    def sizes(name: str) -> list[float]:
        return [abs(entry.error) for entry in found[name]]

    settings_known = sizes("SGLang tokens, settings known")
    assert len(settings_known) >= 10
    assert median(settings_known) <= 1
    assert other.ninetieth(settings_known) <= 5
    assert median(sizes("SGLang tokens from free memory")) <= 0.05
    assert other.ninetieth(sizes("SGLang tokens from K+V bytes")) <= 0.7
    assert median(sizes("SGLang weights")) <= 1
    alone = found["SGLang tokens, card alone"]
    assert sum(entry.inside for entry in alone) / len(alone) >= 0.9


@pytest.mark.parametrize(
    ("engine", "mib", "ranks", "share"),
    [
        ("sglang-0.4.10", 81559, 1, 0.874),  # sgl-project/sglang issue 7495, H100
        ("sglang-0.5", 294896, 1, 0.911),  # sgl-project/sglang pull request 18263, MI355X
        ("sglang-0.4", 81559, 1, 0.88),  # issues 1751 and 4094
        ("sglang-0.4", 24564, 4, 0.85),  # issue 4127
    ],
)
def test_logged_default_fractions(engine: str, mib: int, ranks: int, share: float) -> None:
    prepared = plan("qwq-32b", engine=engine, device=card(mib, mib / 1024 - 1), ranks=ranks)
    assert prepared.settings.fraction_e4 == round(share * 10000)


def test_default_fraction_on_h100() -> None:
    """512 + 1.5 × 8192 + 2 × 256 + 128 MiB, and 8 for each of 58 captured prefills: 13,904 of 81,559 MiB."""
    prepared = plan("llama-3.1-8b")
    prefills = [*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)]
    prefills += [*range(1280, 4097, 256), *range(4608, 8193, 512)]
    reserve = 512 + 1.5 * 8192 + 2 * 256 + 128 + 8 * len(prefills)
    assert prepared.settings.fraction_e4 == round((81559 - reserve) / 81559 * 1000) * 10
    assert (prepared.settings.prefill_tokens, prepared.settings.graph_batch) == (8192, 256)


@pytest.mark.parametrize(("model", "bytes_per_token"), [("llama-3.1-8b", 131072), ("qwen2.5-7b", 57344)])
def test_cells(model: str, bytes_per_token: int) -> None:
    assert sglang.kv_cache_bytes(plan(model), 1000, 3) == 3000 * bytes_per_token
    assert sglang.kv_cache_bytes(plan(model, kv="fp8"), 1000, 3) == 1500 * bytes_per_token


def test_latent_cells_are_whole_on_every_rank() -> None:
    """61 layers of 576 elements; 274,934 tokens in 17.99 GiB (sgl-project/sglang issue 6027)."""
    prepared = plan("deepseek-v3", "fp8-block", device=card(143771, 139.7), ranks=8)
    assert all(seat.cells.full_bytes == 61 * 576 * 2 for seat in prepared.seats)
    assert round(17.99 * GIB) // (61 * 576 * 2) == pytest.approx(274934, rel=3e-4)


def test_sparse_attention_keeps_scales_and_keys() -> None:
    """8 bit: 512 values, 16 bytes of scales, the rotary part in 16 bit; 132 bytes of keys, as the engine's source."""
    device = card(143771, 139.7)
    assert plan("deepseek-v3.2", "fp8-block", device=device, ranks=8, kv="fp8").whole.full_bytes == 61 * (656 + 132)
    assert plan("deepseek-v3.2", "fp8-block", device=device, ranks=8).whole.full_bytes == 61 * (576 * 2 + 132)


def test_state_slots_of_a_hybrid_model() -> None:
    """83 slots of 45 layers take 7.29 GiB beside 0.13 GiB of convolutions (kvcache-ai/ktransformers issue 1870)."""
    prepared = plan("qwen3.5-397b-a17b", device=card(143771, 139.7), ranks=2)
    slots = 83 * prepared.seats[0].cells.state_bytes / GIB
    assert slots == pytest.approx(7.29 + 0.13, abs=0.02)
    # 580,364 tokens in 8.30 GiB beside it.
    assert prepared.seats[0].cells.full_bytes == pytest.approx(8.30 * GIB / 580364, rel=1e-3)


# --- laws -------------------------------------------------------------------------------------------------------------


MODELS = ("llama-3.1-8b", "gpt-oss-20b", "granite-4.0-h-micro")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 131072), st.integers(1, 256), st.sampled_from(MODELS))
def test_headroom_is_the_pool_to_spare(context: int, requests: int, model: str) -> None:
    """What a plan fits is what its pool holds, by SGLang's own count of tokens."""
    prepared = plan(model)
    entry = sglang.ledgers(prepared, context, requests)[0]
    fits = ledger.total_bytes(entry.terms) <= (entry.usable_bytes or 0)
    found = sglang.pool(prepared, context, requests)
    assert found is not None
    held = context * requests <= found.tokens
    if model == "llama-3.1-8b":
        assert fits == held
    else:
        # A window or a state may be what is short.
        assert held or not fits


def test_arrays_and_numbers_agree() -> None:
    prepared = plan("granite-4.0-h-micro")
    contexts, requests = np.array([[1024], [32768]]), np.array([[1, 64]])
    grid = terms(prepared, contexts, requests)  # type: ignore[arg-type]
    for i, context in enumerate((1024, 32768)):
        for j, count in enumerate((1, 64)):
            for name, term in terms(prepared, context, count).items():
                assert np.broadcast_to(grid[name].bytes, (2, 2))[i, j] == term.bytes, name
                assert np.broadcast_to(grid[name].high_bytes, (2, 2))[i, j] == term.high_bytes, name


@pytest.mark.parametrize("engine", PROFILES)
def test_intervals_hold_the_estimate(engine: str) -> None:
    for term in terms(plan("mixtral-8x7b", engine=engine, ranks=4)).values():
        assert term.low_bytes <= term.bytes <= term.high_bytes
        assert term.basis in ("exact", "derived") or term.formula


def test_windowed_layers_have_a_pool_of_their_own() -> None:
    """gpt-oss: 12 full and 12 windowed layers, the windowed pool 0.8 of the full one."""
    layer = 2 * 8 * 64 * 2
    assert sglang.kv_cache_bytes(plan("gpt-oss-20b", "mxfp4"), 8192, 1) == 8192 * (12 * layer * 18 // 10)
    # Up to 0.4 the windowed layers keep everything.
    assert sglang.kv_cache_bytes(plan("gpt-oss-20b", "mxfp4", engine="sglang-0.4"), 8192, 1) == 8192 * 24 * layer


def test_max_total_tokens_bounds_the_pool() -> None:
    found = sglang.pool(plan("qwen2.5-0.5b", max_total_tokens=20480), 8192, 1)
    assert found is not None
    assert found.tokens == 20480


def test_graphs_and_activations_live_in_what_the_fraction_leaves() -> None:
    """Their size does not change the pool while they fit there."""
    pools = [
        sglang.pool(plan("llama-3.1-8b", mem_fraction_static=0.8, disable_cuda_graph=off), 8192, 1) for off in (0, 1)
    ]
    assert pools[0] == pools[1]


def test_data_parallel_ranks_serve_their_share() -> None:
    device = card(143771, 139.7)
    whole = plan("deepseek-v3", "fp8-block", device=device, ranks=1, copies=8, experts=True)
    assert terms(whole, 8192, 16)["kv_cache"].bytes == 2 * 8192 * 61 * 576 * 2
    command = sglang.command(whole, 8192, 16)
    assert "--tp-size 8 --ep-size 8 --dp-size 8 --enable-dp-attention" in command


# --- what it refuses --------------------------------------------------------------------------------------------------


def refusal(model: str, scheme: str, ranks: int, capability: str = "9.0", **options: Any) -> str | None:
    machine = Machine((card(capability=capability),) * ranks)
    work = Workload(8192, 1, "", ranks, 1, options)
    profile, spec = catalog.load_engine("sglang"), catalog.load_model(model)
    return engines.refusal(profile, catalog.load_scheme(scheme), machine, work, spec)


def test_block_quantized_experts_are_not_cut() -> None:
    """1536 / 8 = 192 is no multiple of 128; whole experts and 4 ranks work (vllm-project/vllm issue 17569)."""
    reason = refusal("qwen3-235b-a22b", "fp8-block", 8)
    assert reason is not None
    assert "1536 / 8 = 192" in reason
    assert "expert parallel 8" in reason
    assert refusal("qwen3-235b-a22b", "fp8-block", 8, ep_size=8) is None
    assert refusal("qwen3-235b-a22b", "fp8-block", 4) is None


def test_quantizations_by_capability() -> None:
    assert "from 8.0, H100 80GB has 7.5" in (refusal("llama-3.1-8b", "gptq", 1, capability="7.5") or "")
    assert refusal("llama-3.1-8b", "awq", 1, capability="7.5") is None


@pytest.mark.parametrize(
    "options",
    [{"mem_fraction_static": 1.2}, {"page_size": 0}, {"swa_full_tokens_ratio": 2.0}, {"chunked_prefill_size": -1}],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as error:
        plan("llama-3.1-8b", **options)
    assert error.value.hint


def test_partial_expert_parallelism_is_an_error_in_one_line() -> None:
    with pytest.raises(RequestError, match="ep_size 2"):
        plan("mixtral-8x7b", ranks=4, ep_size=2)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_proposal_for_block_quantized_experts() -> None:
    report = fitcalc.fit("qwen3-235b-a22b", gpu="h100-sxm:8", quant="fp8-block", engine="sglang")
    assert "--tp-size 8 --ep-size 8" in report.recommendation.command


def test_command_says_what_the_ledger_assumes() -> None:
    command = sglang.command(plan("llama-3.1-8b", kv="fp8"), 8192, 4)
    assert command.startswith("python -m sglang.launch_server --model-path meta-llama/")
    for flag in ("--context-length 8192", "--mem-fraction-static 0.83", "--chunked-prefill-size 8192",
                 "--cuda-graph-max-bs-decode 256", "--kv-cache-dtype fp8_e4m3"):  # fmt: skip
        assert flag in command
    assert "--cuda-graph-max-bs 160" in sglang.command(plan("llama-3.1-8b", engine="sglang-0.4"), 8192, 4)


@pytest.mark.parametrize("name", ["sglang", "SGLang", "sglang-0.4.3", "sglang-0.5.6", "sgl"])
def test_names(name: str) -> None:
    assert catalog.load_engine(name).module == "sglang"
