"""Dense decoders: cache layers against measured ones, class defaults, rotary tables, names of tensors.

The oracles are shapes of caches that ran and counts that publishers give.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc.architectures import from_config
from fitcalc.architectures.nested import text_model
from fitcalc.catalog import load_model
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec

Config = dict[str, Any]
_GOLDEN = Path(__file__).parent / "golden"


def llama_like(model_type: str = "llama", **more: Any) -> Config:
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    return {"model_type": model_type, **sizes, "intermediate_size": 96, "vocab_size": 128, **more}


def kinds_by_layer(spec: ModelSpec) -> list[str]:
    kinds = {layer: entry.kind for entry in spec.cache_layers for layer in entry.layers}
    return [kinds[layer] for layer in sorted(kinds)]


# --- caches -----------------------------------------------------------------------------------------------------------


def _measured() -> list[dict[str, str]]:
    return list(csv.DictReader((_GOLDEN / "dense_cache_shapes.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("slug", sorted({row["slug"] for row in _measured()}))
def test_caches_have_the_measured_shape(slug: str) -> None:
    by_layer = {layer: entry for entry in load_model(slug).cache_layers for layer in entry.layers}
    for row in (row for row in _measured() if row["slug"] == slug):
        entry = by_layer[int(row["layer"])]
        measured = (row["kind"], int(row["kv_heads"]), int(row["head_dim"]))
        assert (entry.kind, entry.kv_heads, entry.key_dim) == measured
        assert entry.value_dim == entry.key_dim


@pytest.mark.parametrize(
    ("model_type", "more", "expected"),
    [
        ("gemma2", {}, "sfsf"),
        ("gemma3_text", {"sliding_window_pattern": 3}, "ssfs"),
        ("gemma3_text", {"_sliding_window_pattern": 2}, "sfsf"),
        ("gemma3_text", {}, "ssss"),
        ("cohere2", {}, "sssf"),
        ("olmo3", {}, "sssf"),
        ("exaone4", {"sliding_window_pattern": "LLG"}, "ssfs"),
        ("exaone4", {"sliding_window": None}, "ffff"),
        ("mistral", {}, "ssss"),
        ("mistral", {"sliding_window": None}, "ffff"),
        ("ministral3", {}, "ffff"),
        ("phi3", {}, "ffff"),
        ("phi3", {"sliding_window": 2047}, "ssss"),
        ("starcoder2", {"sliding_window": 4096}, "ssss"),
        ("qwen2", {"sliding_window": 4096}, "ffff"),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 3}, "fffs"),
        ("qwen3", {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 0}, "ssss"),
        ("llama", {"sliding_window": 4096}, "ffff"),
    ],
)
def test_which_layers_slide(model_type: str, more: Config, expected: str) -> None:
    spec = from_config(llama_like(model_type, max_position_embeddings=10**6, **more))
    assert "".join(kind[0] for kind in kinds_by_layer(spec)) == expected
    assert ("+sliding" in spec.attention) == ("s" in expected)


def test_listed_layer_types_win() -> None:
    listed = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    for model_type in ("gemma2", "qwen3", "olmo3"):
        config = llama_like(model_type, layer_types=listed, sliding_window=128, use_sliding_window=True)
        assert "".join(kind[0] for kind in kinds_by_layer(from_config(config))) == "fsff"


@given(window=st.integers(1, 300), context=st.integers(1, 300))
def test_a_window_that_reaches_the_context_keeps_every_token(window: int, context: int) -> None:
    spec = from_config(llama_like("mistral", sliding_window=window, max_position_embeddings=context))
    assert set(kinds_by_layer(spec)) == {"full" if window >= context else "sliding"}
    assert {entry.window_tokens for entry in spec.cache_layers} == {0 if window >= context else window}


@given(heads=st.integers(1, 16), head_dim=st.integers(1, 64))
def test_as_many_kv_heads_as_heads_is_multi_head_attention(heads: int, head_dim: int) -> None:
    sizes = {"num_attention_heads": heads, "head_dim": head_dim, "hidden_size": heads * head_dim}
    stated = from_config(llama_like(**sizes | {"num_key_value_heads": heads}))
    unstated = from_config(llama_like(**sizes | {"num_key_value_heads": None}))
    assert stated.attention == "mha"
    assert stated.cache_layers == unstated.cache_layers
    assert stated.params_total == unstated.params_total
    assert stated.cache_layers[0].elems_per_token == 2 * heads * head_dim


@given(kv_heads=st.sampled_from([1, 2, 4, 8]))
def test_fewer_kv_heads_cache_less_in_proportion(kv_heads: int) -> None:
    spec = from_config(llama_like(num_attention_heads=8, num_key_value_heads=kv_heads, head_dim=16))
    assert spec.cache_layers[0].elems_per_token * 8 == 2 * 8 * 16 * kv_heads
    assert spec.attention == {1: "mqa", 8: "mha"}.get(kv_heads, "gqa")


def test_every_layer_has_one_cache_entry() -> None:
    for slug in ("gemma-3-27b", "gemma-2-9b", "olmo-3.1-32b", "qwen3-32b", "falcon-180b"):
        spec = load_model(slug)
        owned = [layer for entry in spec.cache_layers for layer in entry.layers]
        assert sorted(owned) == list(range(spec.layers))


# --- the special families ---------------------------------------------------------------------------------------------


def test_gemma_3n_shares_the_cache_of_its_last_layers() -> None:
    spec = load_model("gemma-3n-e4b")
    layers = {entry.kind: entry.layers for entry in spec.cache_layers}
    assert layers["full"] == (4, 9, 14, 19)
    assert len(layers["sliding"]) == 16


def gemma4_text(**more: Any) -> Config:
    sizes = {"hidden_size": 2816, "num_hidden_layers": 30, "num_attention_heads": 16, "num_key_value_heads": 8}
    return {
        "model_type": "gemma4_text", **sizes, "intermediate_size": 2112, "vocab_size": 262144, "sliding_window": 1024,
        "attention_k_eq_v": True, "num_global_key_value_heads": 2, "hidden_size_per_layer_input": 0,
        "enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704, **more,
    }  # fmt: skip


def test_gemma_4_with_experts_counts_what_the_hub_counts() -> None:
    """google/gemma-4-26B-A4B-it: 25,805,936,206 on the hub, stored scalars and image scales among them."""
    vision = {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 72, "standardize": True,
    }  # fmt: skip
    spec = from_config({"model_type": "gemma4", "text_config": gemma4_text(), "vision_config": vision})
    assert sum(tensor.elems for tensor in spec.tensors) == 25_805_936_206
    assert {(e.kind, e.kv_heads, e.key_dim) for e in spec.cache_layers} == {("sliding", 8, 256), ("full", 2, 512)}


@pytest.mark.parametrize(
    ("hidden", "layers", "width", "kv_heads", "shared", "every", "double", "published"),
    [(2560, 42, 10240, 2, 18, 6, False, 7_996_156_490), (1536, 35, 6144, 1, 20, 5, True, 5_123_178_051)],
)
def test_small_gemma_4_counts_what_the_hub_counts(
    hidden: int, layers: int, width: int, kv_heads: int, shared: int, every: int, double: bool, published: int
) -> None:
    """google/gemma-4-E4B-it and E2B-it; the hub leaves out scalars without a dimension."""
    kinds = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
    text = {
        "model_type": "gemma4_text", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 8,
        "num_key_value_heads": kv_heads, "intermediate_size": width, "vocab_size": 262144,
        "num_kv_shared_layers": shared, "use_double_wide_mlp": double, "layer_types": kinds,
    }  # fmt: skip
    vision = {"use_clipped_linears": True}
    spec = from_config({"model_type": "gemma4", "text_config": text, "vision_config": vision, "audio_config": {}})
    assert sum(tensor.elems for tensor in spec.tensors if tensor.shape) == published
    assert sum(len(entry.layers) for entry in spec.cache_layers) == layers - shared


def test_a_sharing_layer_needs_an_earlier_layer_of_its_kind() -> None:
    with pytest.raises(ModelFileError, match="num_kv_shared_layers"):
        from_config(gemma4_text(num_kv_shared_layers=28, layer_types=None))


def test_mimo_stores_its_prediction_layers_apart() -> None:
    """XiaomiMiMo/MiMo-7B: 7,833,409,536 on the hub with one prediction layer."""
    spec = load_model("mimo-7b")
    assert sum(tensor.elems for tensor in spec.tensors) == 7_833_409_536
    assert sum(tensor.elems for tensor in spec.tensors if tensor.part == "mtp") == 210_790_400


def test_yuan_counts_what_its_paper_says() -> None:
    """Yuan 2.0 (arXiv 2311.15786): 2.1 billion parameters."""
    assert round(load_model("yuan2-2b").params_total / 10**9, 1) == 2.1


def test_opt_350m_embeds_into_a_narrower_space_and_has_no_final_norm() -> None:
    spec = load_model("opt-350m")
    shapes_by_name = {tensor.name: tensor.shape for tensor in spec.tensors}
    assert shapes_by_name["model.decoder.embed_tokens.weight"] == (50272, 512)
    assert shapes_by_name["model.decoder.project_in.weight"] == (1024, 512)
    assert "model.decoder.final_layer_norm.weight" not in shapes_by_name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"model_type": "RefinedWeb", "n_head": 8, "n_head_kv": 2, "multi_query": True, "parallel_attn": True},
            {"num_attention_heads": 8, "num_kv_heads": 2, "new_decoder_architecture": True},
        ),
        (
            {"model_type": "RefinedWebModel", "n_head": 8, "multi_query": True, "parallel_attn": True},
            {"num_attention_heads": 8, "new_decoder_architecture": False},
        ),
    ],
)
def test_first_spellings_of_falcon_mean_the_same(old: Config, new: Config) -> None:
    shared = {"hidden_size": 512, "vocab_size": 640}
    first = from_config({**shared, "n_layer": 3, **old})
    second = from_config({**shared, "num_hidden_layers": 3, "model_type": "falcon", **new})
    assert (first.tensors, first.cache_layers) == (second.tensors, second.cache_layers)


def test_falcon_40b_caches_every_head_under_transformers() -> None:
    """Keys of shape (1, 128, tokens, 64) under transformers 5.23.0; engines keep the model's 8 heads."""
    (entry,) = load_model("falcon-40b").cache_layers
    assert (entry.elems_per_token, entry.repeated_elems_per_token) == (2 * 8 * 64, 2 * 128 * 64)
    assert load_model("falcon-7b").cache_layers[0].repeated_elems_per_token == 2 * 64


# --- class defaults, nested text models, rotary positions -------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "tied"),
    [
        ("llama", False), ("mistral", False), ("qwen2", False), ("qwen3", False), ("phi", False), ("phi3", False),
        ("gpt_neox", False), ("persimmon", False), ("granite", False), ("stablelm", False), ("olmo2", False),
        ("glm4", False), ("seed_oss", False), ("gemma", True), ("gemma2", True), ("gemma3_text", True),
        ("cohere", True), ("starcoder2", True), ("smollm3", True), ("ernie4_5", True),
    ],
)  # fmt: skip
def test_a_missing_tie_takes_the_class_default(model_type: str, tied: bool) -> None:
    config = llama_like(model_type)
    spec = from_config(config)
    assert spec.tied_embeddings is tied
    assert any(tensor.role == "lm_head" for tensor in spec.tensors) is not tied
    untied, joined = (from_config({**config, "tie_word_embeddings": flag}) for flag in (False, True))
    head_bias = 128 if model_type == "phi" else 0
    assert untied.params_total - joined.params_total == 128 * 64
    assert head_bias == sum(t.elems for t in joined.tensors if t.name == "lm_head.bias")


@pytest.mark.parametrize(
    ("model_type", "head_dim"), [("llama", 16), ("gemma", 256), ("qwen3", 128), ("nemotron", 16), ("glm", 128)]
)
def test_a_missing_head_dim_takes_the_class_default(model_type: str, head_dim: int) -> None:
    assert from_config(llama_like(model_type)).head_dim == head_dim


def test_a_text_config_of_two_keys_is_filled_by_its_class() -> None:
    """llava-hf/llava-1.5-7b-hf and google/gemma-3-4b-it leave out what equals the class defaults."""
    vicuna = text_model({"text_config": {"model_type": "llama", "vocab_size": 32064}}, "llama")
    assert vicuna.params_total == load_model("llama-2-7b").params_total + 2 * 64 * 4096
    stated = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    gemma = text_model({"text_config": stated}, "gemma3_text")
    assert (gemma.heads, gemma.kv_heads, gemma.head_dim, gemma.vocab) == (8, 4, 256, 262208)
    assert gemma.tied_embeddings


def test_a_size_that_is_left_out_is_the_class_default_and_said() -> None:
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"):
        config = llama_like()
        del config[key]
        assert any(key in note and "class default" in note for note in from_config(config).notes)
        with pytest.raises(ModelFileError, match=key):
            from_config({**config, key: None})


@pytest.mark.parametrize(
    ("slug", "rotary_dim", "tables"),
    [
        ("llama-3.1-8b", 128, 1), ("phi-2", 32, 1), ("phi-1.5", 32, 1), ("gpt-j-6b", 64, 1), ("gpt-neox-20b", 24, 1),
        ("stablelm-3b-4e1t", 20, 1), ("persimmon-8b", 32, 1), ("glm-4-32b-0414", 64, 1), ("chatglm3-6b", 64, 1),
        ("phi-4-mini", 96, 1), ("nemotron-4-minitron-8b", 64, 1), ("gemma-3-27b", 128, 2), ("olmo-3.1-32b", 128, 2),
        ("falcon-7b", 64, 1),
    ],
)  # fmt: skip
def test_rotary_tables(slug: str, rotary_dim: int, tables: int) -> None:
    rope = load_model(slug).rope
    assert rope is not None
    assert (rope.rotary_dim, rope.tables) == (rotary_dim, tables)


@pytest.mark.parametrize("slug", ["gpt2", "bloom-560m", "mpt-7b", "opt-1.3b", "falcon-rw-1b", "starcoderbase-1b"])
def test_learned_and_linear_positions_have_no_rotary_table(slug: str) -> None:
    assert load_model(slug).rope is None


def test_baichuan_13b_has_linear_biases_in_place_of_rotary_positions() -> None:
    """Its configuration has no max_position_embeddings, that of the 7B model has."""
    sizes = llama_like("baichuan", num_key_value_heads=None)
    assert from_config({**sizes, "model_max_length": 4096}).rope is None
    assert from_config({**sizes, "model_max_length": 4096, "max_position_embeddings": 4096}).rope is not None


def test_stretched_positions_are_read() -> None:
    rope = load_model("llama-3.1-8b").rope
    assert rope is not None
    assert (rope.scaling, rope.factor, rope.original_positions, rope.positions) == ("llama3", 8.0, 8192, 131072)


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_llama_names_and_shapes_are_those_of_the_checkpoint() -> None:
    spec = from_config(llama_like(tie_word_embeddings=False))
    assert {tensor.name: tensor.shape for tensor in spec.tensors} == {
        "model.embed_tokens.weight": (128, 64),
        "model.layers.{layer}.input_layernorm.weight": (64,),
        "model.layers.{layer}.post_attention_layernorm.weight": (64,),
        "model.layers.{layer}.self_attn.q_proj.weight": (64, 64),
        "model.layers.{layer}.self_attn.k_proj.weight": (32, 64),
        "model.layers.{layer}.self_attn.v_proj.weight": (32, 64),
        "model.layers.{layer}.self_attn.o_proj.weight": (64, 64),
        "model.layers.{layer}.mlp.gate_proj.weight": (96, 64),
        "model.layers.{layer}.mlp.up_proj.weight": (96, 64),
        "model.layers.{layer}.mlp.down_proj.weight": (64, 96),
        "model.norm.weight": (64,),
        "lm_head.weight": (128, 64),
    }


DENSE = (
    "llama-3.1-8b",
    "phi-3-mini-4k",
    "falcon-40b",
    "starcoder-15b",
    "gpt2",
    "qwen2.5-7b",
    "chatglm3-6b",
    "bloom-560m",
)


@pytest.mark.parametrize("slug", DENSE)
def test_rows_of_k_and_v_are_marked_for_tensor_parallelism(slug: str) -> None:
    spec = load_model(slug)
    weights = [tensor for tensor in spec.tensors if tensor.split == "heads" and tensor.is_linear]
    kv_rows = dict.fromkeys(range(spec.layers), 0)
    for tensor in weights:
        assert tensor.kv_rows <= tensor.shape[0]
        assert (tensor.kv_heads == spec.kv_heads) == (tensor.kv_rows > 0)
        for layer in tensor.layers:
            kv_rows[layer] += tensor.kv_rows
    assert set(kv_rows.values()) == {2 * spec.kv_heads * spec.head_dim}


@pytest.mark.parametrize("slug", DENSE)
def test_linears_are_two_dimensional_and_names_are_unique(slug: str) -> None:
    spec = load_model(slug)
    assert all(len(tensor.shape) == 2 for tensor in spec.tensors if tensor.is_linear)
    placed = [(tensor.name, layer) for tensor in spec.tensors for layer in tensor.layers or (-1,)]
    assert len(placed) == len(set(placed))
    assert len(spec.tensors) <= 40
