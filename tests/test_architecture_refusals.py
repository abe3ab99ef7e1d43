"""Configs that make no sense are refused in one line that names the key; no value makes a builder crash."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc.architectures import from_config
from fitcalc.errors import FitcalcError, ModelFileError, UnsupportedModelError

Config = dict[str, Any]


def llama_like(model_type: str = "llama", **more: Any) -> Config:
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    return {"model_type": model_type, **sizes, "intermediate_size": 96, "vocab_size": 128, **more}


@pytest.mark.parametrize(
    ("model_type", "more", "word"),
    [
        ("llama", {"hidden_size": "64"}, "hidden_size"),
        ("llama", {"hidden_size": 64.5}, "hidden_size"),
        ("llama", {"hidden_size": True}, "hidden_size"),
        ("llama", {"hidden_size": 0}, "hidden_size"),
        ("llama", {"hidden_size": -64}, "hidden_size"),
        ("llama", {"hidden_size": 10**30}, "hidden_size"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("llama", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("llama", {"num_key_value_heads": 8}, "num_key_value_heads"),
        ("llama", {"num_attention_heads": 128, "num_key_value_heads": 128}, "heads"),
        ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ("llama", {"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ("llama", {"max_position_embeddings": 9, "rope_scaling": {"type": "yarn", "factor": float("nan")}}, "factor"),
        ("llama", {"max_position_embeddings": 9, "rope_scaling": {"type": "yarn", "factor": 10**400}}, "factor"),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma2", {"layer_types": "full_attention"}, "layer_types"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
        ("exaone4", {"sliding_window_pattern": "LXG"}, "sliding_window_pattern"),
        ("exaone4", {"sliding_window_pattern": ""}, "sliding_window_pattern"),
        ("mpt", {"attn_config": [1]}, "attn_config"),
        ("mpt", {"expansion_ratio": "four"}, "expansion_ratio"),
        ("qwen", {"intermediate_size": 95}, "intermediate_size"),
        ("gemma3n_text", {"intermediate_size": [96, 96]}, "widths"),
    ],
)
def test_nonsense_is_a_file_error_that_names_the_key(model_type: str, more: Config, word: str) -> None:
    with pytest.raises(ModelFileError, match=word) as caught:
        from_config(llama_like(model_type, **more))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("gemma2", {"layer_types": ["full_attention", "lightning", "full_attention", "full_attention"]}),
        ("gemma2", {"layer_types": [{}, [], None, "full_attention"]}),
        ("mpt", {"attn_config": {"alibi": False}}),
        ("mpt", {"no_bias": False}),
        ("mpt", {"attn_config": {"attn_type": "spiral"}}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 128}),
        ("opt", {"layer_norm_elementwise_affine": False, "ffn_dim": 96}),
    ],
)
def test_unknown_variants_are_refused_not_guessed(model_type: str, more: Config) -> None:
    with pytest.raises(UnsupportedModelError):
        from_config(llama_like(model_type, **more))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "max_position_embeddings", "tie_word_embeddings", "rope_scaling", "rope_parameters", "sliding_window",
    "layer_types", "sliding_window_pattern", "torch_dtype", "partial_rotary_factor", "rotary_dim",
    "num_kv_shared_layers", "attn_config", "multi_query", "num_kv_heads", "new_decoder_architecture",
    "word_embed_proj_dim",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    model_type=st.sampled_from(
        [
            "llama",
            "gemma2",
            "gemma3_text",
            "gemma3n_text",
            "gemma4_text",
            "falcon",
            "mpt",
            "opt",
            "phi3",
            "qwen",
            "yuan",
        ]
    ),
    more=st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4),
)
def test_any_value_builds_or_is_refused(model_type: str, more: Config) -> None:
    answer = _built_or_refused(llama_like(model_type, **more))
    assert answer
    assert "\n" not in str(answer)


def _built_or_refused(config: Config) -> int | str:
    """The parameter count, or the words of the refusal."""
    try:
        return from_config(config).params_total
    except FitcalcError as error:
        return str(error)
