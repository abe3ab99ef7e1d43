"""Described families: expressions, defaults that are said, unknown families, and any config at all."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc import catalog
from fitcalc.architectures import from_config, unknown
from fitcalc.architectures.expressions import evaluate
from fitcalc.architectures.families import described_types, family
from fitcalc.catalog.building import config_of
from fitcalc.catalog.files import read_toml
from fitcalc.errors import FitcalcError, ModelFileError, UnsupportedModelError
from fitcalc.spec.model import ModelSpec

Config = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 * a + b // 3", 13),
        ("(a // b) ** 2 * 2", 0),
        ("int(c * a)", 7),
        ("-(-a // 4) * 4", 8),
        ("a if_", None),
        ("kinds[a - 5] == 'x' and not b < 2", True),
        ("a in kinds or len(kinds) > 1", True),
        ("vision.width - 1", 63),
        ("nothing is None", True),
    ],
)
def test_expressions(text: str, value: Any) -> None:
    values = {"a": 5, "b": 10, "c": 1.5, "kinds": ["x", "y"], "vision.width": 64, "nothing": None}
    if value is None:
        with pytest.raises(SyntaxError):
            evaluate(text, values.__getitem__)
        return
    assert evaluate(text, values.__getitem__) == value


@pytest.mark.parametrize("text", ["a.b()", "[x for x in a]", "a ** 9", "a + 'x'", "a // 0", "a[9]", "lambda: 1"])
def test_what_is_no_expression_of_sizes_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError):
        evaluate(text, {"a": [1], "x": 1}.__getitem__)


@pytest.mark.parametrize("model_type", [kind for kind in described_types() if "made_by" in family(kind)])
def test_every_family_builds_from_its_class_defaults_and_says_so(model_type: str) -> None:
    spec = from_config({"model_type": model_type})
    assert spec.tensors or spec.unknowns
    assert all(dim > 0 for tensor in spec.tensors for dim in tensor.shape)
    assert spec.model_type == model_type
    lawful(spec)


def test_sizes_that_a_config_leaves_out_are_filled_and_named() -> None:
    spec = from_config({"model_type": "llama", "num_hidden_layers": 2})
    assert spec.hidden == 4096
    assert any("class default" in note and "hidden_size = 4096" in note for note in spec.notes)
    assert any("vocab_size = 200192" in note for note in from_config({"model_type": "afmoe"}).notes)


def test_a_null_is_not_a_missing_key() -> None:
    with pytest.raises(ModelFileError, match="hidden_size"):
        from_config({"model_type": "llama", "hidden_size": None})


def test_windows_follow_the_layer_types_of_the_class() -> None:
    """Trinity: every fourth layer attends to everything, the others to the last `sliding_window` tokens."""
    spec = from_config({"model_type": "afmoe", "num_hidden_layers": 8, "sliding_window": 128})
    by_kind = {entry.kind: (entry.layers, entry.window_tokens) for entry in spec.cache_layers}
    assert by_kind == {"full": ((3, 7), 0), "sliding": ((0, 1, 2, 4, 5, 6), 128)}
    assert {(entry.kv_heads, entry.key_dim) for entry in spec.cache_layers} == {(16, 128)}


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": "8"}, "num_hidden_layers"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"head_dim": 2**40}, "head_dim"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
    ],
)
def test_a_wrong_value_is_named_and_costs_no_time(more: Config, word: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(ModelFileError, match=word):
        from_config({"model_type": "afmoe", "num_hidden_layers": 8, **more})
    assert time.perf_counter() - begun < 2


QWEN3_8B: Config = {
    "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
    "tie_word_embeddings": False,
}  # fmt: skip
INTERN_VIT: Config = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


@pytest.mark.parametrize(
    "config",
    [
        {
            "model_type": "internvl",
            "text_config": QWEN3_8B,
            "vision_config": {**INTERN_VIT, "image_size": [448, 448], "attention_bias": True},
            "tie_word_embeddings": False,
        },
        {
            "model_type": "internvl_chat",
            "llm_config": QWEN3_8B,
            "vision_config": {
                **INTERN_VIT, "image_size": 448, "norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True,
            },
        },
    ],
    ids=["internvl", "internvl_chat"],
)  # fmt: skip
def test_internvl_3_5_8b_counts_as_published(config: Config) -> None:
    """8,528,318,464 on the Hub, in both of its spellings."""
    assert from_config(config).params_total == 8_528_318_464


# --- families that nobody knows ---------------------------------------------------------------------------------------

NOVEL: Config = {
    "model_type": "novel", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 1000,
}  # fmt: skip

WHY = UnsupportedModelError("why it is not built")


def test_an_unknown_family_is_what_its_keys_state_and_the_rest_is_unknown() -> None:
    spec = unknown.build({**NOVEL, "auto_map": {"AutoModel": "code.Model"}}, WHY)
    (entry,) = spec.cache_layers
    assert (entry.kv_heads, entry.key_dim, entry.layers) == (2, 8, (0, 1, 2, 3))
    assert spec.params_total == 64_000
    assert spec.is_unbounded
    assert "64,000" in spec.unknowns[0]
    assert any("never run" in note for note in spec.notes)


def test_an_unknown_family_with_a_latent_keeps_the_latent() -> None:
    spec = unknown.build({**NOVEL, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, WHY)
    assert [(entry.kind, entry.latent_elems) for entry in spec.cache_layers] == [("mla", 576)]


def test_an_unknown_family_without_sizes_is_unsupported() -> None:
    for config in ({}, {"model_type": "novel"}, {"model_type": "../llama"}, {"model_type": 7}):
        with pytest.raises(UnsupportedModelError, match="not known"):
            from_config(config)
        with pytest.raises(UnsupportedModelError, match="why"):
            unknown.build(config, WHY)


# --- any config -------------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 2**70, -(2**40), 0.5, float("inf"), "", "8", [], {}]),
    st.integers(-3, 300),
    st.lists(st.sampled_from(["full_attention", "sliding_attention", 0, 1, None]), max_size=4),
    st.dictionaries(st.sampled_from(["hidden_size", "model_type"]), st.sampled_from([1, "llama", None]), max_size=2),
)


def lawful(spec: ModelSpec) -> None:
    """What holds for every model, whatever its config."""
    for tensor in spec.tensors:
        assert tensor.elems >= 0
        assert 0 <= tensor.active_elems <= tensor.elems
        assert all(0 <= layer < 20_000 for layer in tensor.layers)
    for entry in spec.cache_layers:
        assert entry.elems_per_token >= 0
        assert entry.window_tokens >= 0
        assert all(0 <= layer < 20_000 for layer in entry.layers)
    assert 0 <= spec.params_active <= spec.params_total


@pytest.fixture(scope="module")
def configs() -> list[Config]:
    held = [dict(config_of(read_toml(catalog.resolve("models", model).path))) for model in catalog.ids("models")]
    return [*held, *({**family(kind).get("defaults", {}), "model_type": kind} for kind in described_types())]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_config_is_a_lawful_model_or_one_line(configs: list[Config], data: st.DataObject) -> None:
    config = dict(data.draw(st.sampled_from(configs)))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Config = config
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place[key] = place = dict(place[key])
            key = data.draw(st.sampled_from(sorted(place)))
        if data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
        else:
            del place[key]
        if not config:
            return
    begun = time.perf_counter()
    refusal = ""
    try:
        lawful(from_config(config))
    except FitcalcError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 500
    assert time.perf_counter() - begun < 5
