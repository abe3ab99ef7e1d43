"""Hybrid, state-space and linear-attention models: published counts, closed forms, measured caches, and their laws."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc.architectures import from_config
from fitcalc.architectures.nemotron_nas import ffn_width
from fitcalc.architectures.registry import BUILDERS
from fitcalc.catalog import load_model
from fitcalc.errors import FitcalcError, ModelFileError, UnsupportedModelError
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

GOLDEN = Path(__file__).parent / "golden" / "hybrid_cache_shapes.csv"
MODULES = (
    "mamba", "jamba", "granite_hybrid", "falcon_h1", "nemotron_h", "nemotron_nas", "gated_delta", "olmo_hybrid",
    "kimi_linear", "kimi_k3", "minimax", "lfm2", "rwkv5", "zamba", "recurrent_gemma",
)  # fmt: skip


def every(period: int, offset: int, layers: int, *, hit: str = "attention", miss: str = "mamba") -> list[str]:
    return [hit if layer % period == offset else miss for layer in range(layers)]


# Dimensions of published config.json files; the counts are those of the hub's safetensors metadata, through PyPI
# llmfit 1.1.17 (MIT). A count of eleven digits that comes out exact confirms both.
JAMBA_3B = {
    "model_type": "jamba",
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 1,
    "attn_layer_period": 14,
    "attn_layer_offset": 7,
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "mamba_dt_rank": 160,
}
LFM2_350M = {
    "model_type": "lfm2",
    "vocab_size": 65536,
    "hidden_size": 1024,
    "block_ff_dim": 6656,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
}
LFM2_8B_A1B = {
    "model_type": "lfm2_moe",
    "vocab_size": 65536,
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "num_dense_layers": 2,
    "full_attn_idxs": [2, 6, 10, 14, 18, 21],
}
NEMOTRON_NANO_9B = {
    "model_type": "nemotron_h",
    "vocab_size": 131072,
    "hidden_size": 4480,
    "intermediate_size": 15680,
    "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 80,
}
FALCON_H1_7B = {
    "model_type": "falcon_h1",
    "vocab_size": 130048,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 44,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_d_ssm": 3072,
    "mamba_n_heads": 24,
    "mamba_d_head": 128,
    "mamba_rms_norm": True,
}
FALCON_H1_DEEP = FALCON_H1_7B | {
    "vocab_size": 65536,
    "hidden_size": 1280,
    "intermediate_size": 3072,
    "num_hidden_layers": 66,
    "num_attention_heads": 6,
    "mamba_d_ssm": 1536,
    "mamba_d_head": 64,
}
ZAMBA2_3B = {
    "model_type": "zamba2",
    "vocab_size": 32000,
    "hidden_size": 2560,
    "num_hidden_layers": 54,
    "num_attention_heads": 32,
    "layers_block_type": ["hybrid" if n in (6, 12, 18, 24, 30, 36, 42, 47, 51) else "mamba" for n in range(54)],
    "num_mem_blocks": 2,
    "n_mamba_heads": 80,
}
ZAMBA2_1B = ZAMBA2_3B | {
    "hidden_size": 2048,
    "num_hidden_layers": 38,
    "layers_block_type": ["hybrid" if n in (5, 11, 17, 23, 29, 35) else "mamba" for n in range(38)],
    "num_mem_blocks": 1,
    "n_mamba_heads": 64,
    "mamba_d_state": 128,
    "use_shared_attention_adapter": True,
}
RECURRENT_GEMMA_9B = {
    "model_type": "recurrent_gemma",
    "vocab_size": 256000,
    "hidden_size": 4096,
    "intermediate_size": 24576,
    "num_hidden_layers": 38,
    "num_attention_heads": 16,
    "num_key_value_heads": 1,
    "lru_width": 4096,
}
RWKV5_1B5 = {"model_type": "rwkv5", "hidden_size": 2048, "num_hidden_layers": 24, "vocab_size": 65536}
GRANITE_H_1B = {
    "model_type": "granitemoehybrid",
    "vocab_size": 100352,
    "hidden_size": 1536,
    "intermediate_size": 4096,
    "shared_intermediate_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_local_experts": 0,
    "layer_types": every(10, 5, 40),
    "mamba_n_heads": 48,
    "mamba_d_state": 128,
    "tie_word_embeddings": True,
}
GRANITE_1B = GRANITE_H_1B | {"hidden_size": 2048, "num_attention_heads": 16, "layer_types": ["attention"] * 40}
KIMI_LINEAR = {
    "model_type": "kimi_linear",
    "vocab_size": 163840,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "kda_layers": [n for n in range(1, 28) if n not in (4, 8, 12, 16, 20, 24, 27)],
        "num_heads": 32,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
    },
}
RELATIVES: dict[str, tuple[dict[str, Any], int]] = {
    "Jamba-Reasoning-3B": (JAMBA_3B, 3_197_109_632),
    "Jamba2-3B": (JAMBA_3B | {"tie_word_embeddings": True}, 3_029_337_472),
    "LFM2-350M": (LFM2_350M, 354_483_968),
    "LFM2-8B-A1B": (LFM2_8B_A1B, 8_339_929_856),
    "Nemotron-Nano-9B-v2": (NEMOTRON_NANO_9B, 8_888_227_328),
    "Falcon-H1-7B": (FALCON_H1_7B, 7_585_648_736),
    "Falcon-H1-1.5B-Deep": (FALCON_H1_DEEP, 1_554_872_208),
    "Zamba2-2.7B": (ZAMBA2_3B, 2_662_214_560),
    "Zamba2-1.2B": (ZAMBA2_1B, 1_215_064_704),
    # The file holds a copy of the tied head.
    "RecurrentGemma-9B": (RECURRENT_GEMMA_9B, 9_628_553_216 - 256000 * 4096),
    "RWKV-5-World-1.5B": (RWKV5_1B5, 1_577_754_624),
    "Granite-4.0-H-1B": (GRANITE_H_1B, 1_461_538_368),
    "Granite-4.0-1B": (GRANITE_1B, 1_631_750_144),
    # The file also holds one router bias per expert and sparse layer.
    "Kimi-Linear-48B": (KIMI_LINEAR, 49_122_681_728 - 26 * 256),
}
PUBLISHED = {
    "falcon-mamba-7b": 7_272_665_088,
    "granite-4.0-h-micro": 3_191_396_096,
    "granite-4.0-h-small": 32_207_337_984,
    "granite-4.0-h-tiny": 6_939_037_248,
    "jamba-v0.1": 51_570_323_328,
    "lfm2-1.2b": 1_170_340_608,
    "mamba-130m": 129_135_360,
    "mamba-2.8b": 2_768_345_600,
    "minimax-m1-80k": 456_089_655_296,
    "nemotron-3-nano-30b-a3b": 31_577_937_344,
    "nemotron-super-49b": 49_867_145_216,
    "olmo-hybrid-7b": 7_430_870_688,
    "zamba-7b-v1": 7_232_490_496,
}
# The same source: files that also hold multi-token-prediction layers (router biases are not in these totals).
WITH_PREDICTION_LAYERS = {
    "nemotron-3-ultra-550b-a55b": 560_524_578_816,
    "qwen3.5-27b": 27_781_427_952,
    "qwen3.5-35b-a3b": 35_951_822_704,
    "qwen3.5-122b-a10b": 125_086_497_008,
    "qwen3.5-397b-a17b": 403_397_928_944,
}
# FP8 files also list a scale per 128 × 128 block of each quantized matrix: file with scales − file without.
FP8_SCALES = {
    "qwen3.5-27b": 27_782_935_472 - 27_781_427_952,
    "qwen3.5-35b-a3b": 35_953_925_552 - 35_951_822_704,
    "qwen3.5-122b-a10b": 125_094_006_512 - 125_086_497_008,
    "qwen3.5-397b-a17b": 403_422_386_928 - 403_397_928_944,
}


def elems(tensors: list[Tensor]) -> int:
    return sum(tensor.elems for tensor in tensors)


def part(spec: ModelSpec, wanted: str) -> list[Tensor]:
    return [tensor for tensor in spec.tensors if tensor.part == wanted and not tensor.is_buffer]


@pytest.mark.parametrize(("slug", "count"), PUBLISHED.items())
def test_parameters_equal_the_published_count(slug: str, count: int) -> None:
    assert load_model(slug).params_total == count


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_equal_the_published_count(name: str) -> None:
    config, count = RELATIVES[name]
    assert from_config(config).params_total == count


@pytest.mark.parametrize(("slug", "count"), WITH_PREDICTION_LAYERS.items())
def test_prediction_layers_make_up_the_published_file(slug: str, count: int) -> None:
    spec = load_model(slug)
    assert spec.params_total + elems(part(spec, "mtp")) == count


def test_qwen3_next_names_its_prediction_layer_only_when_the_config_does() -> None:
    spec = load_model("qwen3-next-80b-a3b")
    assert not part(spec, "mtp")
    assert spec.params_total == 79_674_391_296
    assert any("multi-token" in note for note in spec.notes)
    h = 2048
    attention = h * (2 * 16 * 256 + 2 * 2 * 256) + 16 * 256 * h + 2 * 256
    layer = attention + 512 * 3 * h * 512 + h * 512 + 3 * h * 512 + h + 2 * h
    assert layer + 2 * h * h + 3 * h == 81_324_862_720 - 79_674_391_296


def test_nemotron_ultra_prediction_layers_by_hand() -> None:
    h = 8192
    attention, experts = h * (64 + 2 + 2) * 128 + 64 * 128 * h, 512 * 2 * 2048 * 5120
    rest = h * 512 + 2 * h * 10240 + 2 * h * 2048
    extra = part(load_model("nemotron-3-ultra-550b-a55b"), "mtp")
    assert elems(extra) == attention + experts + rest + 2 * h * h + 5 * h
    assert {tensor.layers for tensor in extra} == {(0,), (1,), (0, 1)}


@pytest.mark.parametrize(("slug", "scales"), FP8_SCALES.items())
def test_linear_layers_are_those_the_fp8_files_quantize(slug: str, scales: int) -> None:
    blocks = sum(
        math.prod(-(-side // 128) for side in tensor.shape) * tensor.copies * tensor.repeats
        for tensor in load_model(slug).tensors
        if tensor.is_linear
        and tensor.part in ("text", "mtp")
        and tensor.role not in ("router", "shared_router", "lm_head")
    )
    assert blocks == scales


def test_granite_linear_layers_are_those_the_fp8_file_quantizes() -> None:
    """granite-4.0-h-small-FP8: one scale for every row, and a copy of the tied head."""
    tensors = [t for t in load_model("granite-4.0-h-small").tensors if t.is_linear and t.role != "router"]
    rows = sum(tensor.shape[0] * tensor.copies * tensor.repeats for tensor in tensors)
    assert rows == 32_635_678_720 - 32_207_337_984 - 100352 * 4096


def test_kimi_k3_equals_the_published_totals_of_each_type() -> None:
    """Totals by type of the released safetensors index, as listed publicly: F32, BF16 and (4-bit, packed) U8."""
    tensors = list(load_model("kimi-k3").tensors)
    routed = [tensor for tensor in tensors if tensor.copies > 1]
    single = [tensor for tensor in tensors if tensor.dtype == "fp32"]
    assert elems(routed) == 2_722_740_830_208
    assert elems(single) == 11_122_432
    assert elems(tensors) - elems(routed) - elems(single) == 57_179_884_544
    assert elems(tensors) == 2_779_931_837_184
    assert elems([tensor for tensor in tensors if tensor.is_buffer]) == 92 * 896


widths = st.integers(1, 64)


@given(h=widths, inner=widths, state=widths, kernel=widths, rank=widths, layers=st.integers(1, 5), vocab=widths)
def test_mamba1_closed_form(h: int, inner: int, state: int, kernel: int, rank: int, layers: int, vocab: int) -> None:
    spec = from_config(
        {
            "model_type": "mamba",
            "hidden_size": h,
            "intermediate_size": inner,
            "state_size": state,
            "conv_kernel": kernel,
            "time_step_rank": rank,
            "num_hidden_layers": layers,
            "vocab_size": vocab,
        }
    )
    inputs = h * 2 * inner + inner * kernel + inner + inner * (rank + 2 * state)
    layer = inputs + rank * inner + inner + inner * state + inner + inner * h + h
    assert spec.params_total == spec.params_active == vocab * h + layers * layer + h


@given(h=widths, heads=widths, dim=widths, groups=widths, state=widths, kernel=widths, layers=st.integers(1, 5))
def test_mamba2_closed_form(h: int, heads: int, dim: int, groups: int, state: int, kernel: int, layers: int) -> None:
    spec = from_config(
        {
            "model_type": "mamba2",
            "hidden_size": h,
            "num_heads": heads,
            "head_dim": dim,
            "n_groups": groups,
            "state_size": state,
            "conv_kernel": kernel,
            "num_hidden_layers": layers,
            "vocab_size": 7,
        }
    )
    inner, mixed = heads * dim, heads * dim + 2 * groups * state
    layer = h * (inner + mixed + heads) + mixed * (kernel + 1) + 3 * heads + inner + inner * h + h
    assert spec.params_total == 2 * 7 * h + layers * layer + h
    (cache,) = spec.cache_layers
    assert (cache.conv_channels, cache.state_elems) == (mixed, inner * state)


@given(key_heads=widths, key_dim=widths, ratio=st.integers(1, 4), value_dim=widths, kernel=st.integers(1, 8))
def test_gated_delta_closed_form(key_heads: int, key_dim: int, ratio: int, value_dim: int, kernel: int) -> None:
    """Fused (Qwen3-Next) and separate (Qwen3.5) input projections count the same."""
    heads, h, f = key_heads * ratio, 8, 16
    config = {
        "hidden_size": h,
        "intermediate_size": f,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "head_dim": 4,
        "vocab_size": 5,
        "linear_num_key_heads": key_heads,
        "linear_key_head_dim": key_dim,
        "linear_num_value_heads": heads,
        "linear_value_head_dim": value_dim,
        "linear_conv_kernel_dim": kernel,
        "mlp_only_layers": [0, 1, 2, 3],
    }
    keys, values = key_heads * key_dim, heads * value_dim
    delta = h * (2 * keys + 2 * values + 2 * heads) + (2 * keys + values) * kernel + 2 * heads + value_dim + values * h
    attention = h * (2 * 8 + 2 * 8) + 8 * h + 2 * 4
    total = 2 * 5 * h + 3 * delta + attention + 4 * (3 * h * f + 2 * h) + h
    assert from_config(config | {"model_type": "qwen3_next"}).params_total == total
    spec = from_config(config | {"model_type": "qwen3_5_text"})
    assert spec.params_total == total
    state = next(layer for layer in spec.cache_layers if layer.kind == "recurrent")
    assert (state.layers, state.state_elems, state.conv_channels) == (
        (0, 1, 2),
        keys * ratio * value_dim,
        2 * keys + values,
    )


@given(width=st.integers(1, 16), layers=st.integers(1, 6), vocab=widths)
def test_rwkv5_closed_form(width: int, layers: int, vocab: int) -> None:
    """13·D²·L + 14·D·L + 4·D + 2·D·V (arXiv 2404.05892); D a multiple of 64."""
    d = 64 * width
    config = RWKV5_1B5 | {"hidden_size": d, "num_hidden_layers": layers, "vocab_size": vocab}
    assert from_config(config).params_total == 13 * d * d * layers + 14 * d * layers + 4 * d + 2 * d * vocab


@given(h=st.integers(1, 8), layers=st.integers(1, 12), vocab=widths, pattern=st.data())
def test_minimax_closed_form(h: int, layers: int, vocab: int, pattern: st.DataObject) -> None:
    hidden, kinds = 8 * h, pattern.draw(st.lists(st.sampled_from([0, 1]), min_size=layers, max_size=layers))
    spec = from_config(
        {
            "model_type": "minimax_text_01",
            "hidden_size": hidden,
            "intermediate_size": 12,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "vocab_size": vocab,
            "attn_type_list": kinds,
        }
    )
    lightning, full = hidden * 5 * 24 + 24, hidden * (24 + 2 * 12 + 24)
    experts = 4 * 3 * hidden * 12 + 4 * hidden
    total = sum(full if kind else lightning for kind in kinds) + layers * (experts + 2 * hidden)
    assert spec.params_total == 2 * vocab * hidden + total + hidden
    assert spec.params_active == spec.params_total - layers * 2 * 3 * hidden * 12


def shapes() -> list[dict[str, str]]:
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def held(spec: ModelSpec, layer: int, kinds: tuple[str, ...]) -> CacheLayer:
    return next(entry for entry in spec.cache_layers if layer in entry.layers and entry.kind in kinds)


EXPECTED: dict[str, Callable[[ModelSpec, int], int]] = {
    "keys": lambda spec, layer: 8 * held(spec, layer, ("full",)).kv_heads * held(spec, layer, ("full",)).key_dim,
    "values": lambda spec, layer: 8 * held(spec, layer, ("full",)).kv_heads * held(spec, layer, ("full",)).value_dim,
    # Transformers keeps as many columns as the convolution is wide.
    "conv_states": lambda spec, layer: (
        held(spec, layer, ("recurrent",)).conv_channels * held(spec, layer, ("recurrent",)).conv_kernel
    ),
    "recurrent_states": lambda spec, layer: held(spec, layer, ("recurrent",)).state_elems,
}


@pytest.mark.parametrize("slug", sorted({row["slug"] for row in shapes()}))
def test_cache_equals_what_was_measured(slug: str) -> None:
    spec = load_model(slug)
    for row in (row for row in shapes() if row["slug"] == slug):
        measured = math.prod(int(side) for side in row["shape"].split("x"))
        assert EXPECTED[row["tensor"]](spec, int(row["layer"])) == measured, row


def state_bytes_fp32(spec: ModelSpec) -> int:
    """As llama.cpp keeps it for one sequence: all in 32 bit, one column less than the convolution is wide."""
    layers = [layer for layer in spec.cache_layers if layer.kind == "recurrent"]
    return 4 * sum(len(x.layers) * (x.conv_channels * (x.conv_kernel - 1) + x.state_elems) for x in layers)


@pytest.mark.parametrize(
    ("slug", "sequences", "mebibytes"),
    [
        # Recurrent-state buffers of llama.cpp logs: public GitHub files 56781022437 and 53892246174 (two cards).
        ("qwen3.5-27b", 4, 598.5),
        ("qwen3.5-35b-a3b", 1, 25.12 + 37.69),
    ],
)
def test_recurrent_state_equals_the_logged_buffer(slug: str, sequences: int, mebibytes: float) -> None:
    assert sequences * state_bytes_fp32(load_model(slug)) / 2**20 == pytest.approx(mebibytes, abs=0.011)


def test_recurrent_state_of_a_mamba_run() -> None:
    """2,801,664 bytes a sequence, measured by running a mamba-130m shape under llama.cpp (ggml 0.25.3)."""
    assert state_bytes_fp32(load_model("mamba-130m")) == 2_801_664


def test_state_type_is_the_configs_own() -> None:
    assert {layer.state_dtype for layer in load_model("qwen3.5-27b").cache_layers if layer.kind == "recurrent"} == {
        "fp32"
    }
    lowered = from_config(NEMOTRON_NANO_9B | {"mamba_ssm_cache_dtype": "bfloat16"})
    assert held(lowered, 0, ("recurrent",)).state_dtype == "bf16"


@pytest.mark.parametrize(
    ("slug", "kind", "layers", "elems_per_token"),
    [
        ("jamba-v0.1", "full", 4, 2 * 8 * 128),
        ("granite-4.0-h-small", "full", 4, 2 * 8 * 128),
        ("nemotron-3-ultra-550b-a55b", "full", 12, 2 * 2 * 128),
        ("nemotron-super-49b", "full", 49, 2 * 8 * 128),
        ("qwen3.5-397b-a17b", "full", 15, 2 * 2 * 256),
        ("kimi-k3", "mla", 24, 576),
        ("minimax-m1-80k", "full", 10, 2 * 8 * 128),
        ("zamba-7b-v1", "full", 13, 2 * 16 * 464),
    ],
)
def test_only_attending_layers_grow(slug: str, kind: str, layers: int, elems_per_token: int) -> None:
    growing = [layer for layer in load_model(slug).cache_layers if layer.kind != "recurrent"]
    assert [(x.kind, len(x.layers), x.elems_per_token) for x in growing] == [(kind, layers, elems_per_token)]


def test_layers_of_both_kinds_keep_both() -> None:
    spec = from_config(FALCON_H1_7B)
    assert [(layer.kind, len(layer.layers)) for layer in spec.cache_layers] == [("full", 44), ("recurrent", 44)]


def test_recurrent_gemma_keeps_a_window_and_a_narrow_state() -> None:
    window, state = from_config(RECURRENT_GEMMA_9B).cache_layers
    assert (window.kind, window.window_tokens, window.elems_per_token, len(window.layers)) == ("sliding", 2048, 512, 12)
    assert (state.state_elems, state.conv_channels, state.conv_kernel, len(state.layers)) == (4096, 4096, 4, 26)


def test_nas_blocks_without_attention_own_nothing_of_it() -> None:
    spec = load_model("nemotron-super-49b")
    attending = {layer for entry in spec.cache_layers for layer in entry.layers}
    for tensor in spec.tensors:
        if ".self_attn." in tensor.name or "input_layernorm" in tensor.name:
            assert set(tensor.layers) <= attending
    norms = next(t for t in spec.tensors if "input_layernorm" in t.name)
    assert set(norms.layers) == attending


def test_nas_width_of_a_multiplier() -> None:
    """Llama 3.1 70B's own width is the multiplier 5.25 of 8192."""
    assert ffn_width(5.25, 8192) == 28672
    assert ffn_width(1.3125, 8192) == 7168


def test_shared_blocks_of_zamba_count_once() -> None:
    spec = load_model("zamba-7b-v1")
    shared = [tensor for tensor in spec.tensors if "shared_transf" in tensor.name]
    wide, h, f = 7424, 3712, 14848
    assert elems(shared) == 3 * wide * wide + wide * h + 3 * h * f + wide + h
    assert {tensor.layers for tensor in shared} == {(2,)}


def configs() -> list[dict[str, Any]]:
    return [config for config, _ in RELATIVES.values()]


FAMILIES = sorted(key for key, place in BUILDERS.items() if place.partition(":")[0] in MODULES)
CATALOGUE = [
    *PUBLISHED,
    *WITH_PREDICTION_LAYERS,
    "qwen3-next-80b-a3b",
    "kimi-k3",
    "kimi-linear-48b-a3b",
    "rwkv5-world-3b",
]


def specs() -> list[ModelSpec]:
    return [*(from_config(config) for config in configs()), *(load_model(slug) for slug in CATALOGUE)]


def test_every_family_is_tried() -> None:
    tried = {spec.model_type for spec in specs()}
    assert set(FAMILIES) - tried <= {
        "bamba",
        "mamba2",
        "minimax_m1",
        "minimax_text_01",
        "qwen3_5_text",
        "qwen3_5_moe_text",
    }


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_laws_of_any_inventory(spec: ModelSpec) -> None:
    names = [tensor.name for tensor in spec.tensors]
    for tensor in spec.tensors:
        assert tensor.active <= tensor.copies
        assert tensor.layers == tuple(sorted(set(tensor.layers)))
        assert bool(tensor.layers) == ("{layer}" in tensor.name) or not tensor.name.count("layers.{layer}")
        assert ("{expert}" in tensor.name) <= (tensor.copies > 1)
        if tensor.split == "heads" and tensor.kv_rows:
            assert tensor.kv_rows <= tensor.shape[0]
            assert tensor.kv_rows % tensor.kv_heads == 0
        if tensor.part != "mtp":
            assert all(0 <= layer < spec.layers for layer in tensor.layers) or tensor.part == "vision"
    assert len({(name, t.layers) for name, t in zip(names, spec.tensors, strict=True)}) == len(names)
    assert 0 < spec.params_active <= spec.params_total
    owners = [layer for entry in spec.cache_layers for layer in entry.layers if entry.kind != "recurrent"]
    assert len(owners) == len(set(owners))


@given(order=st.permutations(list(range(40))))
def test_the_order_of_layers_changes_no_sum(order: list[int]) -> None:
    shuffled = [GRANITE_H_1B["layer_types"][layer] for layer in order]  # type: ignore[index]
    spec, plain = from_config(GRANITE_H_1B | {"layer_types": shuffled}), from_config(GRANITE_H_1B)
    assert spec.params_total == plain.params_total
    assert [len(x.layers) for x in spec.cache_layers] == [len(x.layers) for x in plain.cache_layers]


def test_old_and_new_words_for_a_layer_mean_the_same() -> None:
    renamed = {"attention": "full_attention", "mamba": "linear_attention"}
    words = [renamed[word] for word in every(10, 5, 40)]
    assert from_config(GRANITE_H_1B | {"layer_types": words}) == from_config(GRANITE_H_1B)
    letters = {"M": "mamba", "-": "mlp", "*": "attention", "E": "moe"}
    pattern = str(NEMOTRON_NANO_9B["hybrid_override_pattern"])
    listed = {"layers_block_type": [letters[letter] for letter in pattern]}
    old = {key: value for key, value in NEMOTRON_NANO_9B.items() if key != "hybrid_override_pattern"}
    assert from_config(old | listed) == from_config(NEMOTRON_NANO_9B)


@pytest.mark.parametrize(
    "config",
    [
        GRANITE_H_1B | {"layer_types": ["mamba3"] * 40},
        NEMOTRON_NANO_9B | {"hybrid_override_pattern": "M-X*"},
        RWKV5_1B5 | {"model_version": "5_1"},
        ZAMBA2_3B | {"layers_block_type": ["attention"] * 54},
        {"model_type": "minimax", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 9}
        | {"attn_type_list": [0, 2], "intermediate_size": 4, "num_local_experts": 2, "num_experts_per_tok": 1},
    ],
)
def test_unknown_kinds_of_layers_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        from_config(config)
    assert caught.value.hint


@pytest.mark.parametrize(
    "config",
    [
        GRANITE_H_1B | {"layer_types": ["mamba"] * 39},
        GRANITE_H_1B | {"layer_types": "mamba"},
        NEMOTRON_NANO_9B | {"hybrid_override_pattern": ""},
        NEMOTRON_NANO_9B | {"hybrid_override_pattern": "M" * 20_000},
        KIMI_LINEAR | {"linear_attn_config": {"full_attn_layers": [1], "kda_layers": [1, 2]}},
        JAMBA_3B | {"attn_layer_period": 0},
        JAMBA_3B | {"mamba_dt_rank": "large"},
        RWKV5_1B5 | {"head_size": 0},
        RWKV5_1B5 | {"head_size": 100},
        LFM2_350M | {"block_ffn_dim_multiplier": "two"},
        RECURRENT_GEMMA_9B | {"block_types": []},
        {key: value for key, value in ZAMBA2_3B.items() if key != "layers_block_type"},
        {"model_type": "nemotron-nas", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
        | {"vocab_size": 9, "block_configs": [{"attention": {"n_heads_in_group": 3}, "ffn": {"no_op": True}}]},
    ],
)
def test_contradictions_in_a_config_are_errors(config: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError) as caught:
        from_config(config)
    assert "\n" not in str(caught.value)


strange = st.sampled_from([None, True, -1, 0, 1, 3, 2**40, 1.5, "auto", "x", [], [1], ["mamba"], {}, {"a": 1}])


@given(data=st.data())
def test_a_strange_value_is_an_error_of_our_own_or_a_model(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(configs()))
    key = data.draw(st.sampled_from(sorted(config.keys() - {"model_type"})))
    with contextlib.suppress(FitcalcError):
        spec = from_config(config | {key: data.draw(strange)})
        assert 0 <= spec.params_active <= spec.params_total


SMALL = {"num_hidden_layers": 6, "hidden_size": 256, "vocab_size": 500, "pad_token_id": 0}
SMALL |= {"num_attention_heads": 8, "intermediate_size": 512}
KIMI_SMALL = {key: value for key, value in KIMI_LINEAR.items() if key not in SMALL} | {
    "num_experts": 4,
    "num_experts_per_token": 2,
    "moe_intermediate_size": 64,
    "q_lora_rank": 32,
    "linear_attn_config": {"full_attn_layers": [2, 4, 6], "kda_layers": [1, 3, 5], "num_heads": 4, "head_dim": 32},
}
NEMOTRON_SMALL = {
    "num_hidden_layers": 5,
    "hybrid_override_pattern": "M-M*E",
    "num_key_value_heads": 2,
    "head_dim": 32,
    "mamba_num_heads": 8,
    "mamba_head_dim": 32,
    "use_bias": True,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 96,
    "moe_latent_size": 48,
}
ORACLE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [2, 5], "mamba_n_heads": 8, "num_key_value_heads": 2, "mlp_bias": True},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_ssm": None, "num_key_value_heads": 2, "projectors_bias": True},
    "granitemoehybrid": {"mamba_n_heads": 8, "layer_types": every(3, 1, 6), "attention_bias": True}
    | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "jamba": {"num_key_value_heads": 2, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_proj_bias": True}
    | {"num_experts": 4, "num_experts_per_tok": 2},
    "kimi_linear": KIMI_SMALL,
    "lfm2": {"full_attn_idxs": [1, 3], "conv_bias": True, "block_ffn_dim_multiplier": 1.3, "tie_embedding": False},
    "lfm2_moe": {"layer_types": every(2, 1, 6, hit="full_attention", miss="conv"), "num_experts": 8}
    | {"num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "mamba": {"use_bias": True, "use_conv_bias": False, "state_size": 8, "conv_kernel": 3},
    "nemotron_h": NEMOTRON_SMALL,
    "olmo_hybrid": {"attention_bias": True},
    "qwen3_next": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "mlp_only_layers": [1]}
    | {"shared_expert_intermediate_size": 96, "decoder_sparse_step": 2, "num_key_value_heads": 2},
    "recurrent_gemma": {"num_key_value_heads": 1, "lru_width": 512, "attention_bias": True},
    "zamba": {"num_key_value_heads": 8, "n_mamba_heads": 4, "num_hidden_layers": 14},
    "zamba2": {"layers_block_type": every(3, 2, 6, hit="hybrid"), "n_mamba_heads": 8, "num_mem_blocks": 2}
    | {"use_shared_attention_adapter": True, "adapter_rank": 16, "mamba_ngroups": 2},
}


@pytest.mark.oracle
@pytest.mark.parametrize("model_type", ORACLE)
def test_count_equals_that_of_the_model_class(model_type: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = SMALL | ORACLE[model_type] | {"model_type": model_type}
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    assert from_config(config).params_total == sum(parameter.numel() for parameter in built.parameters())
