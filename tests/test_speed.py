"""Speeds: closed forms of the roofline, sums of work against independent counts, and what a report says of them."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.formulas import speed
from fitcalc.quantization import assign, total_bytes
from fitcalc.speeds.families import family_of
from fitcalc.speeds.rates import device_class, rates_of
from fitcalc.speeds.serving import Load, serve
from fitcalc.speeds.steps import Division, Parameters, Rates, decode_parts, prompt_parts
from fitcalc.speeds.work import HOST, Work, everywhere, placed, work_of

IDEAL = Parameters(
    bandwidth_share=1, cache_share=1, unpack_ops=0, plain_ops=0, layer_s=0, expert_layer_s=0, expert_s=0,
    recurrent_layer_s=0, latent_layer_s=0, step_s=0, request_s=0, stage_s=0, compute_share=1, expert_factor=1,
    attention_share=1, dequantized_bytes=0, activation_bytes=0, all_reduce_s=0,
)  # fmt: skip
RATES = Rates(1e12, 1e14, 1e14, 1e13, 1e11)


def work(name: str, quant: str, *, gguf: bool = False) -> Work:
    model = catalog.load_model(name)
    return work_of(model, assign(model, catalog.load_scheme(quant), gguf=gguf), {"": 1.0}, everywhere)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 300))
def test_distinct_experts_stay_between_one_token_s_and_all(chosen: int, more: int, tokens: int) -> None:
    experts = chosen + more
    found = speed.distinct_experts(experts=experts, chosen=chosen, tokens=tokens)
    assert chosen - 1e-6 <= found <= experts
    assert speed.distinct_experts(experts=experts, chosen=chosen, tokens=1) == pytest.approx(chosen)


def test_distinct_experts_agree_with_dice() -> None:
    dice = random.Random(1)
    counts = [len({e for _ in range(16) for e in dice.sample(range(128), 8)}) for _ in range(300)]
    found = speed.distinct_experts(experts=128, chosen=8, tokens=16)
    assert found == pytest.approx(sum(counts) / len(counts), rel=0.01)


@given(st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_overlap_lies_between_the_longer_and_the_sum(reading: float, computing: float) -> None:
    found = speed.overlapped_s(reading_s=reading, computing_s=computing)
    assert max(reading, computing) * (1 - 1e-12) <= found <= reading + computing


def test_one_request_on_an_ideal_device_reads_the_weights_and_the_cache_once() -> None:
    # Llama 3.1 8B in 16 bit: all parameters but the input embedding, and 128 KiB of K and V per token.
    model = catalog.load_model("llama-3.1-8b")
    read_bytes = 2 * (model.params_total - model.vocab * model.hidden)
    parts = decode_parts(work("llama-3.1-8b", "bf16"), RATES, IDEAL, Division(), 1, 1000, 2)
    assert parts.weights_s == pytest.approx(read_bytes / 1e12, rel=0.01)
    assert parts.cache_s == pytest.approx(1000 * 128 * 1024 / 1e12)
    assert parts.total_s == pytest.approx(parts.weights_s + parts.cache_s)


def test_a_long_prompt_on_an_ideal_device_takes_two_operations_a_parameter_and_token() -> None:
    model = catalog.load_model("llama-3.1-8b")
    body = model.params_total - 2 * model.vocab * model.hidden
    attention = 4 * model.layers * model.heads * model.head_dim * 4096 * 4096 / 2
    parts = prompt_parts(work("llama-3.1-8b", "bf16"), RATES, IDEAL, Division(), 4096, 0, 1)
    assert parts.weights_s == pytest.approx((2 * body * 4096 + attention) / 1e14, rel=0.01)


@pytest.mark.parametrize(("name", "quant"), [("llama-3.1-8b", "q4_k_m"), ("qwen3-30b-a3b", "q4_k_m")])
def test_work_is_the_file_but_for_the_input_embedding(name: str, quant: str) -> None:
    model = catalog.load_model(name)
    stored = assign(model, catalog.load_scheme(quant))
    embedding = sum(total_bytes([entry]) for entry in stored if entry.tensor.role == "embedding")
    found = work(name, quant)
    assert found.fixed_bytes + found.head_bytes + found.expert_bytes == total_bytes(stored) - embedding
    active = found.fixed_elems + found.head_elems + found.expert_elems * found.experts_per_token / found.experts
    # llama.cpp adds factors of rotary positions, a few elements.
    assert active == pytest.approx(model.params_active - model.vocab * model.hidden, abs=256)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "gemma-3-27b", "deepseek-v3", "qwen3-next-80b-a3b"])
def test_parts_of_a_divided_model_sum_to_the_whole(name: str) -> None:
    model = catalog.load_model(name)
    stored = assign(model, catalog.load_scheme("bf16"))
    ranks = [HOST if layer < 3 else layer % 2 for layer in range(model.layers)] + [1]
    divided = [work_of(model, stored, {}, placed(ranks, rank, 9)) for rank in (0, 1, HOST)]
    whole = work_of(model, stored, {}, everywhere)
    for field in ("layers", "fixed_bytes", "expert_bytes", "head_bytes", "cell_elems", "state_bytes", "pair_flop"):
        assert sum(getattr(one, field) for one in divided) == getattr(whole, field), field


def test_tied_embeddings_are_read_as_the_output_matrix() -> None:
    found = work("llama-3.2-1b", "bf16")
    assert found.head_elems == 128256 * 2048


@given(st.integers(1, 200), st.integers(1, 200))
def test_more_requests_give_more_in_total_and_a_longer_wait_for_each(few: int, more: int) -> None:
    whole = work("llama-3.1-8b", "bf16")
    loads = [Load(requests, 1024, 256, 1e9) for requests in (few, few + more)]
    one, two = (serve(whole, RATES, Parameters(pass_tokens=8192), Division(), load) for load in loads)
    assert two.total_tokens_per_s >= one.total_tokens_per_s * 0.999
    assert two.token_s >= one.token_s
    assert two.first_s >= one.first_s


def test_requests_beyond_the_cache_wait() -> None:
    whole = work("llama-3.1-8b", "bf16")
    parameters = Parameters(pass_tokens=8192)
    roomy, full = (serve(whole, RATES, parameters, Division(), Load(64, 1000, 500, room)) for room in (1e9, 10_000))
    assert full.running == 8
    assert full.total_tokens_per_s < roomy.total_tokens_per_s


def test_tensor_parallel_divides_reading_and_pays_for_the_network() -> None:
    whole = work("llama-3.1-70b", "bf16")
    one, four = (decode_parts(whole, RATES, Parameters(), Division(ranks), 1, 1000, 2) for ranks in (1, 4))
    assert four.weights_s == pytest.approx(one.weights_s / 4)
    assert one.network_s == 0 < four.network_s


def test_a_thread_pulls_no_more_than_its_share() -> None:
    few, many = (
        speed.thread_share(cores_bytes_per_s=1e10, threads=threads, bytes_per_s=8e10, share=0.8) for threads in (2, 64)
    )
    assert few == pytest.approx(0.25)
    assert many == pytest.approx(0.8)


def speeds(*names: Any, **options: Any) -> Any:
    return fitcalc.fit(*names, **options).speed


def test_every_figure_has_its_range_around_it() -> None:
    found = speeds("llama-3.1-8b", gpu="rtx-4090", quant="q4_k_m", concurrency=4)
    for name in ("decode_tokens_per_s", "prefill_tokens_per_s", "time_to_first_token_s", "total_tokens_per_s"):
        figure = getattr(found, name)
        assert 0 < figure.low <= figure.estimate <= figure.high, name
    assert found.bound_by == "bandwidth"


def test_a_device_without_records_has_a_wider_range() -> None:
    known, unknown = (
        speeds("llama-3.1-8b", gpu=gpu, quant="q4_k_m").decode_tokens_per_s for gpu in ("rtx-4090", "mi300x")
    )
    assert unknown.low / unknown.estimate < known.low / known.estimate


def test_what_is_not_modelled_is_none_with_a_note() -> None:
    found = speeds("bert-base", gpu="rtx-4090", quant="fp16")
    assert found.decode_tokens_per_s is None
    assert "not modelled" in found.note


def test_layers_in_ram_are_slower_than_layers_on_the_card() -> None:
    on_card = speeds("llama-3.1-8b", gpu="rtx-3060-12gb", quant="q4_k_m")
    half = speeds("llama-3.1-8b", gpu="rtx-3060-12gb", quant="q4_k_m", ram="64GB", engine_options={"n_gpu_layers": 16})
    assert half.decode_tokens_per_s.estimate < 0.6 * on_card.decode_tokens_per_s.estimate
    assert half.bound_by == "host"


def test_classes_are_told_by_use_and_memory() -> None:
    classes = {name: device_class(catalog.load_device(name)) for name in ("rtx-4090", "l40s", "h100-sxm", "dgx-spark")}
    assert classes == {
        "rtx-4090": "nvidia-consumer", "l40s": "nvidia-workstation", "h100-sxm": "nvidia-hbm",
        "dgx-spark": "nvidia-unified",
    }  # fmt: skip


def test_rates_need_bandwidth_and_compute() -> None:
    card = catalog.load_device("rtx-4090")
    assert rates_of(replace(card, bandwidth_bytes_per_s=None), "plain") is None
    assert rates_of(card, "eight").linear_flop_per_s == card.fp8_flop_per_s


def test_every_engine_has_a_family() -> None:
    for row in catalog.summaries("engines"):
        family = family_of(catalog.load_engine(row["id"]))
        assert {"decode", "loop"} & set(family), row["id"]
        assert "interval" in family


@pytest.mark.parametrize(("model", "measured"), [("llama-1-7b", 47), ("llama-1-13b", 27)])
def test_five_bit_llamas_on_an_rtx_3060_are_within_their_ranges(model: str, measured: int) -> None:
    # Stated for llama.cpp with 5-bit files: 47 and 27 tokens per second.
    found = speeds(model, gpu="rtx-3060-12gb", quant="q5_k_m", engine="llama.cpp", context=1024).decode_tokens_per_s
    assert found.low <= measured <= found.high


def test_explain_says_what_a_token_is_spent_on() -> None:
    found = speeds("llama-3.1-8b", gpu="rtx-4090", quant="q4_k_m")
    assert sum(part.seconds for part in found.decode_parts) == pytest.approx(
        1 / found.decode_tokens_per_s.estimate, rel=1e-6
    )
    assert found.decode_parts[0].seconds == max(part.seconds for part in found.decode_parts)


def test_the_stored_evaluation_is_of_these_parameters() -> None:
    folder = Path(__file__).parents[1]
    text = b"".join(path.read_bytes() for path in sorted((folder / "profiles" / "speed").glob("*.toml")))
    stored = folder / "benchmarks" / "accuracy" / "records" / "speed_evaluation.json"
    content = json.loads(stored.read_text(encoding="utf-8"))
    assert content["profiles"] == hashlib.sha256(text).hexdigest(), "run benchmarks/fit_speed.py"
    assert all(75 <= int(inside.rstrip("%")) <= 90 for _, _, inside in content["coverage"])


def test_experts_in_eager_engines_have_no_estimate() -> None:
    found = speeds("qwen3-30b-a3b", gpu="h100-sxm", quant="bf16", engine="transformers")
    assert found.decode_tokens_per_s is None
    assert "experts" in found.note


def test_a_bare_size_has_no_speed_and_says_so() -> None:
    found = speeds("llama-3.1-8b", gpu="24GB", quant="q4_k_m")
    assert found.decode_tokens_per_s is None
    assert "bare size" in found.note


def test_llama_cpp_attends_to_latents_in_prompts_too() -> None:
    model = catalog.load_model("deepseek-v3")
    stored = assign(model, catalog.load_scheme("q4_k_m"))
    expanded, absorbed = (work_of(model, stored, {}, everywhere, absorbs=absorbs) for absorbs in (False, True))
    # 128 heads, 61 layers: keys of 576 and values of 512 latent elements against heads of 192 and 128.
    assert absorbed.prompt_pair_flop == absorbed.pair_flop > expanded.prompt_pair_flop
