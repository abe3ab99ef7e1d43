"""Mixtures of experts: published counts, closed forms, measured cache shapes, and laws any such model obeys."""

import csv
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc.architectures import from_config
from fitcalc.errors import FitcalcError, ModelFileError, UnsupportedModelError
from fitcalc.spec.model import CacheLayer, ModelSpec

ROOT = Path(__file__).parent
GOLDEN = ROOT / "golden" / "moe_cache_shapes.csv"

# Counts of the safetensors metadata that the hub lists, through PyPI llmfit 1.1.17 (MIT): parameters only.
PARAMETERS = {
    "arctic-480b": 478_584_608_768,
    "dbrx": 131_596_523_520,
    "deepseek-moe-16b": 16_375_728_128,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "ernie-4.5-21b-a3b": 21_825_437_888,
    "flexolmo-7x7b": 33_270_665_216,
    "gpt-oss-120b": 116_829_156_672,
    "gpt-oss-20b": 20_914_757_184,
    "granite-3.0-3b-a800m": 3_298_793_472,
    "hunyuan-a13b": 80_393_183_232,
    "mixtral-8x22b": 140_620_634_112,
    "mixtral-8x7b": 46_702_792_704,
    "olmoe-1b-7b": 6_919_161_856,
    "phi-3.5-moe": 41_873_153_344,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2-57b-a14b": 57_408_658_944,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-coder-480b-a35b": 480_154_875_392,
}

# The same source, for files that also hold multi-token-prediction layers and router biases.
FILES = {
    "deepseek-r1": 684_489_845_504,
    "deepseek-v3.2": 685_355_329_792,
    "deepseek-v4-flash": 290_944_616_402,
    "deepseek-v4-pro": 1_598_839_674_782,
    "glm-4.5": 358_337_791_296,
    "glm-4.5-air": 110_468_824_832,
    "glm-5": 753_864_139_008,
    "glm-5.3": 753_329_940_480,
}

# The same source; the configs are those of the published config.json, as far as they decide a shape.
GLM_47_FLASH = {
    "model_type": "glm4_moe_lite",
    "vocab_size": 154880,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "n_shared_experts": 1,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 768,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 1,
}
DOTS = {
    "model_type": "dots1",
    "vocab_size": 152064,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "n_shared_experts": 2,
    "n_routed_experts": 128,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
}
MINIMAX_M2 = {
    "model_type": "minimax_m2",
    "vocab_size": 200064,
    "hidden_size": 3072,
    "intermediate_size": 1536,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
}
STEP_35 = {
    "model_type": "step3p5",
    "vocab_size": 128896,
    "hidden_size": 4096,
    "intermediate_size": 11264,
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
    "num_attention_groups": 8,
    "head_dim": 128,
    "moe_num_experts": 288,
    "moe_top_k": 8,
    "moe_intermediate_size": 1280,
    "share_expert_dim": 1280,
    "sliding_window": 512,
    "attention_other_setting": {"num_attention_heads": 96, "num_attention_groups": 8},
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"] * 12,
    "moe_layers_enum": ",".join(str(layer) for layer in range(3, 45)),
    "num_nextn_predict_layers": 3,
}
LING_MINI = {
    "model_type": "bailing_moe",
    "vocab_size": 157184,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "use_qk_norm": True,
    "moe_router_enable_expert_bias": True,
}
LING_1T = LING_MINI | {
    "hidden_size": 8192,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "first_k_dense_replace": 4,
}
MIMO_V2_FLASH = {
    "model_type": "mimo_v2_flash",
    "vocab_size": 152576,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 192,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "sliding_window": 128,
    "swa_num_key_value_heads": 8,
    "hybrid_layer_pattern": [int(n % 6 != 5 and n > 0) for n in range(48)],
    "moe_layer_freq": [0] + [1] * 47,
}
ERNIE_300B = {
    "model_type": "ernie4_5_moe",
    "vocab_size": 103424,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "moe_intermediate_size": 3584,
    "num_hidden_layers": 54,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "moe_num_experts": 64,
    "moe_k": 8,
    "moe_num_shared_experts": 0,
    "moe_layer_start_index": 3,
    "moe_layer_end_index": 53,
    "num_nextn_predict_layers": 1,
    "tie_word_embeddings": False,
}
MISTRAL_SMALL_4 = {
    "model_type": "mistral4",
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 128,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 0,
    "kv_lora_rank": 256,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 128,
}
RELATIVES = {
    "GLM-4.7-Flash": (GLM_47_FLASH, 31_221_488_576),
    "dots.llm1": (DOTS, 142_774_381_696),
    "MiniMax-M2": (MINIMAX_M2, 228_689_764_864),
    "Step-3.5-Flash": (STEP_35, 199_384_301_376),
    "Ling-mini-2.0": (LING_MINI, 16_255_643_392),
    "Ling-1T": (LING_1T, 999_705_328_640),
    "ERNIE-4.5-300B-A47B-Paddle": (ERNIE_300B, 300_474_051_776),
}

# FP8 files also list one scale per block of 128 × 128 of each quantized matrix: file with scales − file without.
FP8_SCALES = {
    "deepseek-v3": 684_531_386_000 - 684_489_845_504,
    "deepseek-v3.2": 685_396_921_376 - 685_355_329_792,
    "glm-5": 753_910_024_032 - 753_864_139_008,
    "qwen3-30b-a3b": 30_533_947_392 - 30_532_122_624,
    # The base files store their own embedding and head for the MTP layer, the instruct files do not.
    "deepseek-v4-flash": 292_021_347_282 - 290_944_616_402 - 2 * 129280 * 4096,
    "deepseek-v4-pro": 1_600_790_440_862 - 1_598_839_674_782 - 2 * 129280 * 7168,
}


def config_of(slug: str) -> dict[str, Any]:
    profile = tomllib.loads((ROOT.parent / "profiles" / "models" / f"{slug}.toml").read_text(encoding="utf-8"))
    config: dict[str, Any] = profile["config"] | dict.fromkeys(profile.get("null_keys", []))
    return config


def model_of(slug: str) -> ModelSpec:
    return from_config(config_of(slug))


def in_file(spec: ModelSpec) -> int:
    return sum(tensor.elems for tensor in spec.tensors)


@pytest.mark.parametrize(("slug", "count"), PARAMETERS.items())
def test_parameters_equal_the_published_count(slug: str, count: int) -> None:
    assert model_of(slug).params_total == count


@pytest.mark.parametrize(("slug", "count"), FILES.items())
def test_file_equals_the_published_count_with_prediction_layers_and_buffers(slug: str, count: int) -> None:
    assert in_file(model_of(slug)) == count


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_equal_the_published_count(name: str) -> None:
    config, count = RELATIVES[name]
    assert in_file(from_config(config)) == count


@pytest.mark.parametrize(("slug", "scales"), FP8_SCALES.items())
def test_linear_layers_are_those_the_fp8_files_quantize(slug: str, scales: int) -> None:
    blocks = sum(
        math.prod(-(-side // 128) for side in tensor.shape) * tensor.copies * tensor.repeats
        for tensor in model_of(slug).tensors
        if tensor.is_linear and tensor.role not in ("router", "lm_head")
    )
    assert blocks == scales


def test_minimax_m3_lacks_only_the_vision_part_of_the_published_file() -> None:
    # Vision tower and projector as the model class builds them by default: 631,185,920 + 234,381,312.
    assert 427_040_140_160 - in_file(model_of("minimax-m3")) == 631_185_920 + 234_381_312


def test_mistral_small_4_lacks_only_vision_part_and_scales_of_the_published_file() -> None:
    # Pixtral tower of 24 layers, projector with patch merger; two FP8 scales for each of 8 + 2 · 128 matrices a layer.
    tower = 24 * (4 * 1024**2 + 3 * 1024 * 4096 + 2 * 1024) + 3 * 14**2 * 1024 + 1024
    projector = 1024 + 4 * 1024 * 1024 + 1024 * 4096 + 4096**2
    rest = 119_401_317_952 - in_file(from_config(MISTRAL_SMALL_4))
    assert rest == tower + projector + 36 * 2 * (8 + 2 * 128)


def test_step37_equals_the_published_file_with_the_heads_of_its_windowed_layers() -> None:
    # The packaged config leaves out attention_other_setting, which the sister model Step-3.5 states.
    config = config_of("step-3.7-flash") | {"attention_other_setting": {"num_attention_heads": 96}}
    spec = from_config(config)
    assert in_file(spec) == 201_365_316_160
    assert sum(t.elems for t in spec.tensors if t.part in ("vision", "projector")) == 1_955_848_960 + 25_165_824


def test_grok1_closed_form() -> None:
    h, f, q, kv = 6144, 32768, 48 * 128, 8 * 128
    layer = 2 * h * q + 2 * h * kv + 8 * 3 * h * f + 8 * h + 4 * h
    assert model_of("grok-1").params_total == 131072 * h + 64 * layer + h


def test_deepseek_v3_prediction_layer_by_hand() -> None:
    spec, h = model_of("deepseek-r1"), 7168
    attention = h * 1536 + 1536 + 1536 * 128 * 192 + h * 576 + 512 + 512 * 128 * 256 + 128 * 128 * h
    experts = 257 * 3 * h * 2048 + 256 * h
    layer = attention + experts + 2 * h
    assert layer == 11_507_286_016
    extra = [tensor for tensor in spec.tensors if tensor.part == "mtp"]
    assert sum(t.elems for t in extra if not t.is_buffer) == layer + 2 * h * h + 3 * h + 2 * 129280 * h
    assert {t.layers for t in extra} == {(61,)}
    assert sum(t.elems for t in spec.tensors if t.is_buffer) == 59 * 256
    assert spec.params_total == 671_026_404_352


@pytest.mark.parametrize(
    ("slug", "active"),
    [
        ("mixtral-8x7b", 12_879_925_248),
        ("deepseek-v3", 37_552_282_624),
        ("deepseek-v2", 21_375_800_320),
        ("gpt-oss-120b", 5_711_982_912),
        ("qwen3-30b-a3b", 3_353_032_704),
        ("arctic-480b", 17_318_647_808),
        ("kimi-k2", 32_861_477_888),
        ("deepseek-v4-flash", 13_799_622_231),
    ],
)
def test_active_parameters(slug: str, active: int) -> None:
    """Total less the routed experts a token leaves out; totals by the transformers classes, 5.23.0."""
    spec = model_of(slug)
    routed = sum(t.elems for t in spec.tensors if t.copies > 1 and t.part == "text")
    left_out = routed * (spec.experts - spec.experts_per_token) // spec.experts
    assert spec.params_active == active == spec.params_total - left_out


@pytest.mark.parametrize(
    ("slug", "elems", "layers"),
    [
        ("deepseek-v3", 576, 61),
        ("kimi-k2", 576, 61),
        ("deepseek-v2-lite", 576, 27),
        ("deepseek-v3.2", 576 + 128, 61),
        ("glm-5", 576 + 128, 78),
        ("mixtral-8x7b", 2 * 8 * 128, 32),
        ("qwen3-235b-a22b", 2 * 4 * 128, 94),
        ("deepseek-moe-16b", 2 * 16 * 128, 28),
    ],
)
def test_cache_elements_per_token(slug: str, elems: int, layers: int) -> None:
    cache = model_of(slug).cache_layers
    assert [(layer.elems_per_token, len(layer.layers)) for layer in cache] == [(elems, layers)]


def test_shared_indexers_own_neither_weights_nor_keys() -> None:
    spec = model_of("glm-5.3")
    full = (0, 1, *range(2, 78, 4))
    keys = {layer.layers: layer.index_elems for layer in spec.cache_layers}
    assert keys == {full: 128, tuple(n for n in range(78) if n not in full): 0}
    assert {t.layers for t in spec.tensors if t.role == "indexer" and t.part == "text"} == {full}


def test_index_keys_of_minimax_m3_stand_beside_key_and_value() -> None:
    cache = model_of("minimax-m3").cache_layers
    assert [(len(layer.layers), layer.elems_per_token) for layer in cache] == [(3, 1024), (57, 1024 + 128)]


def test_windowed_layers_of_step35_and_mimo() -> None:
    step = from_config(STEP_35)
    assert [(c.kind, len(c.layers), c.window_tokens) for c in step.cache_layers] == [
        ("full", 12, 0),
        ("sliding", 33, 512),
    ]
    mimo = from_config(MIMO_V2_FLASH)
    assert mimo.params_total == 308_778_768_832  # parameters of the class in transformers 5.23.0
    assert [(c.kind, len(c.layers), c.elems_per_token) for c in mimo.cache_layers] == [
        ("full", 9, 4 * (192 + 128)),
        ("sliding", 39, 8 * (192 + 128)),
    ]


def measured() -> dict[tuple[str, int], list[tuple[str, int]]]:
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    shapes: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for row in csv.DictReader(lines):
        elems = math.prod(int(side) for side in row["shape"].split("x"))
        shapes.setdefault((row["slug"], int(row["layer"])), []).append((row["tensor"], elems))
    return shapes


@pytest.mark.parametrize(("place", "tensors"), measured().items(), ids=lambda part: str(part)[:40])
def test_cache_of_eight_tokens_equals_the_measured_tensors(
    place: tuple[str, int], tensors: list[tuple[str, int]]
) -> None:
    slug, number = place
    (layer,) = (layer for layer in model_of(slug).cache_layers if number in layer.layers)
    kept = dict.fromkeys(("keys", "values", "indexer_keys", "compressed_kv"), 0)
    for name, elems in tensors:
        if name in kept:
            kept[name] += elems
    if layer.key_dim and not layer.value_dim:  # keys are values: one storage seen under two names
        assert kept["keys"] == kept["values"] == 8 * layer.kv_heads * layer.key_dim
        kept["values"] = 0
    assert sum(kept.values()) == elems_of_eight(layer)
    waiting = sum(elems for name, elems in tensors if name.startswith(("buffer", "overlap")))
    assert waiting <= layer.state_elems


def elems_of_eight(layer: CacheLayer) -> int:
    if layer.kind == "compressed":
        return 8 * layer.latent_elems + 8 // layer.compression * layer.elems_per_token
    return 8 * layer.elems_per_token


OWN = sorted([*PARAMETERS, *FILES, "grok-1", "kimi-k2", "minimax-m3", "step-3.7-flash", "deepseek-v3"])


@pytest.mark.parametrize("slug", OWN)
def test_every_tensor_has_one_name_and_a_place_for_its_numbers(slug: str) -> None:
    spec, seen = model_of(slug), set()
    for tensor in spec.tensors:
        for layer in tensor.layers or (-1,):
            assert (tensor.name, layer) not in seen
            seen.add((tensor.name, layer))
        assert bool(tensor.layers) == ("{layer}" in tensor.name)
        assert tensor.copies in (1, spec.experts)
        assert tensor.copies == 1 or tensor.active == spec.experts_per_token
        assert tensor.role.startswith("expert") <= (tensor.split == "experts")
    cached = sorted(number for layer in spec.cache_layers for number in layer.layers)
    assert cached == list(range(spec.layers))
    assert not spec.unknowns


WIDTHS = st.integers(1, 6).map(lambda n: 64 * n)


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    experts = draw(st.integers(1, 40))
    layers = draw(st.integers(1, 12))
    return {
        "model_type": draw(st.sampled_from(["qwen3_moe", "glm4_moe", "deepseek_v3", "deepseek_v32", "dots1"])),
        "vocab_size": draw(st.integers(1, 5000)),
        "hidden_size": draw(WIDTHS),
        "intermediate_size": draw(WIDTHS),
        "moe_intermediate_size": draw(WIDTHS),
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_experts": experts,
        "n_routed_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, experts)),
        "n_shared_experts": draw(st.integers(0, 2)),
        "first_k_dense_replace": draw(st.integers(0, layers)),
        "num_nextn_predict_layers": draw(st.integers(0, 2)),
        "q_lora_rank": 48,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        **({"index_head_dim": 16, "index_n_heads": 2} if draw(st.booleans()) else {}),
    }


def with_layers(config: dict[str, Any], count: int) -> dict[str, Any]:
    return config | {"num_hidden_layers": count}


@given(mixtures())
def test_active_is_total_exactly_when_every_expert_is_used(config: dict[str, Any]) -> None:
    spec, full = from_config(config), from_config(config | {"num_experts_per_tok": config["num_experts"]})
    assert spec.params_active <= spec.params_total == full.params_total == full.params_active
    routed = any(tensor.copies > 1 for tensor in spec.tensors if tensor.part == "text")
    assert (spec.params_active < spec.params_total) == (routed and spec.experts_per_token < spec.experts)


@given(mixtures(), st.integers(1, 5))
def test_every_further_layer_adds_the_same(config: dict[str, Any], more: int) -> None:
    count = config["num_hidden_layers"]
    totals = [from_config(with_layers(config, count + extra)) for extra in (0, 1, 1 + more)]
    one, several = (totals[1].params_total - totals[0].params_total, totals[2].params_total - totals[1].params_total)
    assert several == more * one
    per_token = [sum(c.elems_per_token * len(c.layers) for c in spec.cache_layers) for spec in totals]
    assert (per_token[2] - per_token[1]) == more * (per_token[1] - per_token[0])


@given(mixtures())
def test_prediction_layers_change_the_file_but_not_the_model(config: dict[str, Any]) -> None:
    spec, bare = from_config(config), from_config(config | {"num_nextn_predict_layers": 0})
    assert (spec.params_total, spec.params_active, spec.cache_layers) == (
        bare.params_total,
        bare.params_active,
        bare.cache_layers,
    )
    assert in_file(spec) >= in_file(bare)


@given(st.integers(1, 8), WIDTHS, WIDTHS, st.integers(1, 16), st.integers(0, 8), st.integers(0, 96))
def test_deepseek_closed_form(layers: int, h: int, fm: int, experts: int, dense: int, q_rank: int) -> None:
    f, heads, nope, rope, value, latent, vocab = 192, 4, 16, 8, 24, 32, 1000
    config = {
        "model_type": "deepseek_v2",
        "vocab_size": vocab,
        "hidden_size": h,
        "intermediate_size": f,
        "moe_intermediate_size": fm,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "n_routed_experts": experts,
        "num_experts_per_tok": 1,
        "n_shared_experts": 2,
        "first_k_dense_replace": dense,
        "q_lora_rank": q_rank or None,
        "kv_lora_rank": latent,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": value,
    }
    width = heads * (nope + rope)
    query = h * q_rank + q_rank + q_rank * width if q_rank else h * width
    attention = query + h * (latent + rope) + latent + latent * heads * (nope + value) + heads * value * h
    first = min(dense, layers)
    mlp = first * 3 * h * f + (layers - first) * ((experts + 2) * 3 * h * fm + h * experts)
    expected = 2 * vocab * h + layers * (attention + 2 * h) + mlp + h
    assert from_config(config).params_total == expected


def broken(slug: str, **changes: Any) -> dict[str, Any]:
    return config_of(slug) | changes


@pytest.mark.parametrize(
    ("config", "error", "word"),
    [
        (broken("mixtral-8x7b", num_experts_per_tok=9), ModelFileError, "num_experts_per_tok"),
        (broken("mixtral-8x7b", num_local_experts=None), ModelFileError, "num_local_experts"),
        (broken("deepseek-v3", first_k_dense_replace=None), ModelFileError, "first_k_dense_replace"),
        (broken("deepseek-v3", num_nextn_predict_layers=10**6), ModelFileError, "num_nextn_predict_layers"),
        (broken("deepseek-v4-flash", compress_ratios=[0, 4]), ModelFileError, "compress_ratios"),
        (broken("deepseek-v4-flash", compress_ratios=[16] * 43), UnsupportedModelError, "compress_ratios"),
        (broken("gpt-oss-20b", layer_types=["linear_attention"] * 24), UnsupportedModelError, "layer_types"),
        (broken("hunyuan-a13b", moe_topk=[8] * 31 + [4]), UnsupportedModelError, "moe_topk"),
        (broken("minimax-m3", moe_layer_freq=[1, 1]), ModelFileError, "moe_layer_freq"),
        (STEP_35 | {"moe_layers_enum": "3,x"}, ModelFileError, "moe_layers_enum"),
    ],
)
def test_what_cannot_be_sized_is_refused_by_name(config: dict[str, Any], error: type[FitcalcError], word: str) -> None:
    with pytest.raises(error, match=word) as raised:
        from_config(config)
    assert raised.value.hint


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**40),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.integers(-1, 200), st.text(max_size=3), st.lists(st.none())), max_size=100),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(st.sampled_from(sorted(set(OWN))), st.data())
def test_any_value_of_any_key_gives_a_model_or_a_named_error(slug: str, data: st.DataObject) -> None:
    config = config_of(slug)
    key = data.draw(st.sampled_from(sorted(config)))
    try:
        spec = from_config(config | {key: data.draw(JUNK)})
    except FitcalcError:
        return
    assert 0 < spec.params_active <= spec.params_total
