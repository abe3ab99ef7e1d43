"""Encoders, encoder-decoders and models with towers: tensors against the classes, parts, closed forms, caches.

golden/class_tensors.json: parameter names, shapes and counts of small models made by the classes of transformers
5.23.0, with timm 1.0, on the meta device (`by`: 'names' where checkpoints carry the class's own names, 'shapes' where
they keep older ones, 'totals' where they fuse what the class splits). golden/part_counts.csv: counts of parts.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc.architectures import from_config
from fitcalc.catalog import load_model
from fitcalc.errors import FitcalcError, ModelFileError, UnsupportedModelError
from fitcalc.spec.model import ModelSpec, Tensor

_GOLDEN = Path(__file__).parent / "golden"
_CLASSES: list[dict[str, Any]] = json.loads((_GOLDEN / "class_tensors.json").read_text(encoding="utf-8"))
_PARTS = list(csv.DictReader((_GOLDEN / "part_counts.csv").read_text(encoding="utf-8").splitlines()))
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def _label(case: dict[str, Any]) -> str:
    return f"{case['class']}-{case['by']}"


def _counted(spec: ModelSpec, named: bool) -> Counter[tuple[str, tuple[int, ...]]]:
    counts: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for tensor in spec.tensors:
        if not tensor.is_buffer:
            name = _NUMBER.sub("#", tensor.name.replace("{layer}", "#").replace("{expert}", "#")) if named else ""
            counts[name, tensor.shape] += tensor.copies * tensor.repeats
    return counts


def _sum(tensors: list[Tensor]) -> int:
    return sum(tensor.elems for tensor in tensors)


# --- against the classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", _CLASSES, ids=_label)
def test_every_tensor_of_the_class_is_in_the_inventory(case: dict[str, Any]) -> None:
    spec = from_config(case["config"])
    assert spec.params_total == case["params"]
    assert spec.params_active <= spec.params_total
    assert not spec.unknowns
    if case["by"] != "totals":
        expected = Counter({(name, tuple(shape)): count for name, shape, count in case["tensors"]})
        assert _counted(spec, case["by"] == "names") == expected


@pytest.mark.parametrize("case", _CLASSES, ids=_label)
def test_linears_are_matrices_and_splits_fit_the_shapes(case: dict[str, Any]) -> None:
    for tensor in from_config(case["config"]).tensors:
        if tensor.is_linear:
            assert len(tensor.shape) == 2, tensor.name
        if tensor.split == "rows":
            assert tensor.is_linear, tensor.name
        if tensor.split == "heads":
            assert tensor.kv_rows <= tensor.shape[0]
            assert not tensor.kv_rows or tensor.kv_rows % tensor.kv_heads == 0


def test_names_are_unique() -> None:
    for case in _CLASSES:
        tensors = from_config(case["config"]).tensors
        names = Counter((tensor.name, layer) for tensor in tensors for layer in tensor.layers or (0,))
        assert names.most_common(1)[0][1] == 1, case["class"]


# --- parts, as others counted them ------------------------------------------------------------------------------------


def _part(spec: ModelSpec, part: str) -> int:
    """Parameters of a part of the model, or of the tensors whose names start so."""
    if part in ("encoder", "text", "vision", "audio", "projector"):
        return _sum([tensor for tensor in spec.tensors if tensor.part == part])
    return _sum([tensor for tensor in spec.tensors if tensor.name.startswith(part)])


@pytest.mark.parametrize("row", _PARTS, ids=lambda row: f"{row['model']}-{row['part']}")
def test_parts_count_as_published(row: dict[str, str]) -> None:
    assert _part(load_model(row["model"]), row["part"]) == int(row["params"])


def test_hub_counts_of_models_outside_the_catalogue() -> None:
    # parameter totals that huggingface.co shows from each repository's safetensors headers
    siglip = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304}
    so400m = {**siglip, "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14}
    gemma = {
        "model_type": "gemma",
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "vocab_size": 257216,
    }
    for side, params in ((224, 2_923_466_480), (448, 2_924_351_216)):
        config = {"model_type": "paligemma", "text_config": gemma, "vision_config": {**so400m, "image_size": side}}
        assert from_config(config).params_total == params
    smol = {
        "model_type": "idefics3",
        "tie_word_embeddings": False,
        "scale_factor": 4,
        "vision_config": {"hidden_size": 768, "image_size": 512, "patch_size": 16, "num_attention_heads": 12},
        "text_config": {
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49280,
        },
    }
    assert from_config(smol).params_total == 256_484_928
    clip = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096}
    large = {**clip, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    mistral = {"model_type": "mistral", "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32064}
    llava_next = {"model_type": "llava_next", "vision_config": large, "text_config": mistral}
    assert from_config({**llava_next, "image_newline": True}).params_total == 7_566_747_648


def test_files_that_name_their_tower() -> None:
    flat = {
        "model_type": "llava_mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "mm_hidden_size": 1024,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    assert from_config(flat).params_total == 7_566_219_264  # hub count of microsoft/llava-med-v1.5-mistral-7b
    strange = from_config({**flat, "mm_vision_tower": "someone/tower"})
    assert strange.params_total == 7_566_219_264 - 303_507_456
    assert "someone/tower" in strange.unknowns[0]


# --- closed forms -----------------------------------------------------------------------------------------------------

_WIDTHS = st.integers(1, 64)
_COUNTS = st.integers(1, 12)


@given(h=_WIDTHS, f=_WIDTHS, count=_COUNTS, v=st.integers(1, 500), positions=_WIDTHS)
def test_bert_closed_form(h: int, f: int, count: int, v: int, positions: int) -> None:
    config = {
        "model_type": "bert", "hidden_size": h, "intermediate_size": f, "num_hidden_layers": count,
        "num_attention_heads": 1, "vocab_size": v, "max_position_embeddings": positions,
    }  # fmt: skip
    layer = 4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h
    spec = from_config(config)
    assert spec.params_total == (v + positions + 2) * h + 2 * h + count * layer + h * h + h
    assert spec.cache_layers == ()
    assert spec.kind == "encoder"


@given(d=_WIDTHS, inner=_WIDTHS, heads=_COUNTS, f=_WIDTHS, up=_COUNTS, down=_COUNTS, tied=st.booleans())
def test_t5_closed_form(d: int, inner: int, heads: int, f: int, up: int, down: int, tied: bool) -> None:
    config = {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": d, "d_kv": inner,
        "num_heads": heads, "d_ff": f, "num_layers": up, "num_decoder_layers": down, "vocab_size": 100,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": tied,
    }  # fmt: skip
    attention, mlp = 4 * d * heads * inner, 3 * d * f
    stacks = up * (attention + mlp + 2 * d) + down * (2 * attention + mlp + 3 * d) + 2 * (32 * heads + d)
    spec = from_config(config)
    assert spec.params_total == 100 * d * (1 if tied else 2) + stacks
    alone = from_config({**config, "architectures": ["T5EncoderModel"]})
    assert alone.params_total == 100 * d + up * (attention + mlp + 2 * d) + 32 * heads + d
    assert alone.cache_layers == ()


@given(d=_WIDTHS, f=_WIDTHS, up=_COUNTS, down=_COUNTS, bins=_COUNTS)
def test_whisper_closed_form(d: int, f: int, up: int, down: int, bins: int) -> None:
    config = {
        "model_type": "whisper", "d_model": d, "encoder_layers": up, "decoder_layers": down,
        "encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": f, "decoder_ffn_dim": f,
        "num_mel_bins": bins, "vocab_size": 100,
    }  # fmt: skip
    attention, mlp = 4 * d * d + 3 * d, 2 * d * f + f + d
    front = 3 * bins * d + d + 3 * d * d + d + 1500 * d
    layers = up * (attention + mlp + 4 * d) + down * (2 * attention + mlp + 6 * d)
    assert from_config(config).params_total == front + (100 + 448) * d + layers + 4 * d


@given(h=st.integers(1, 16), f=_WIDTHS, count=_COUNTS, side=st.integers(1, 8), patch=st.integers(1, 16))
def test_vit_closed_form(h: int, f: int, count: int, side: int, patch: int) -> None:
    config = {
        "model_type": "vit", "hidden_size": h, "intermediate_size": f, "num_hidden_layers": count,
        "num_attention_heads": 1, "image_size": side * patch, "patch_size": patch,
    }  # fmt: skip
    tables = h + (side * side + 1) * h + 3 * patch * patch * h + h
    layer = 4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h
    assert from_config(config).params_total == tables + count * layer + 2 * h + h * h + h


def test_safety_checker_is_a_tower_and_its_tables() -> None:
    tower, projection, tables = 303_179_776, 768 * 1024, (17 + 3) * 768 + 17 + 3
    assert load_model("sd15-safety-checker").params_total == tower + projection + tables


# --- caches -----------------------------------------------------------------------------------------------------------


def test_t5_keeps_what_was_measured() -> None:
    # transformers, t5-small, one sequence of 8 tokens: 12 layers of keys and of values, each 1 × 8 × 8 × 64
    own, cross = load_model("t5-small").cache_layers
    assert (own.kind, cross.kind) == ("full", "cross")
    assert len(own.layers) + len(cross.layers) == 12
    for layer in (own, cross):
        assert layer.elems_per_token * 8 == 2 * 8 * 8 * 64
    assert cross.window_tokens == 0


def test_whisper_keeps_a_fixed_window_of_sound_in_its_decoder() -> None:
    own, cross = load_model("whisper-large-v3-turbo").cache_layers
    assert own.layers == cross.layers == (0, 1, 2, 3)
    assert (cross.kind, cross.window_tokens) == ("cross", 1500)
    assert own.elems_per_token == cross.elems_per_token == 2 * 1280
    assert load_model("whisper-large-v3-turbo").max_context_tokens == 448


@pytest.mark.parametrize(
    ("name", "grows", "fixed"), [("llama-3.2-11b-vision", 32, 8), ("llama-3.2-90b-vision", 80, 20)]
)
def test_mllama_keeps_the_image_apart(name: str, grows: int, fixed: int) -> None:
    own, cross = load_model(name).cache_layers
    assert (own.kind, len(own.layers)) == ("full", grows)
    assert (cross.kind, len(cross.layers)) == ("cross", fixed)
    assert cross.window_tokens == 4 * (40 * 40 + 1)  # four tiles of 560 pixels in patches of 14, and a class token
    assert not set(own.layers) & set(cross.layers)


@pytest.mark.parametrize("name", ["bert-base", "bge-large-en", "albert-base-v1", "vit-base", "instructor-xl"])
def test_encoders_keep_nothing(name: str) -> None:
    spec = load_model(name)
    assert (spec.kind, spec.cache_layers) == ("encoder", ())


# --- the text part and what is added to it ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in _CLASSES if "text_config" in case["config"]], ids=_label)
def test_the_text_part_is_the_text_model_alone(case: dict[str, Any]) -> None:
    config, nested = case["config"], case["config"]["text_config"]
    if "model_type" not in nested:
        return
    spec = from_config(config)
    inherited = {"tie_word_embeddings": config["tie_word_embeddings"]} if "tie_word_embeddings" in config else {}
    text = from_config({**inherited, **nested})
    own = [tensor for tensor in spec.tensors if tensor.part == "text"]
    assert [(t.role, t.shape, t.layers) for t in own] == [(t.role, t.shape, t.layers) for t in text.tensors]
    assert [t.kind for t in spec.cache_layers] == [t.kind for t in text.cache_layers]
    assert (spec.model_type, spec.hidden, spec.vocab) == (config["model_type"], text.hidden, text.vocab)


@pytest.mark.parametrize(
    "kind", ["llava", "mistral3", "gemma3", "paligemma", "idefics3", "qwen3_vl", "mllama", "llama4", "kimi_k25"]
)
def test_a_trimmed_config_says_that_the_tower_is_missing(kind: str) -> None:
    text = (
        {**_LLAMA, "model_type": "mllama_text_model", "num_key_value_heads": 2, "cross_attention_layers": [1]}
        if kind == "mllama"
        else _LLAMA
    )
    spec = from_config({"model_type": kind, "text_config": text})
    assert any("vision_config" in unknown for unknown in spec.unknowns)
    assert spec.tensors


def test_an_unknown_tower_is_stated() -> None:
    spec = from_config({"model_type": "llava", "text_config": _LLAMA, "vision_config": {"model_type": "radio"}})
    assert "radio" in spec.unknowns[0]


def test_a_t5_without_a_class_says_what_is_counted() -> None:
    config = {"model_type": "t5", "d_model": 8, "d_kv": 2, "num_heads": 4, "d_ff": 8, "num_layers": 1, "vocab_size": 9}
    assert "names no class" in from_config(config).notes[0]


# --- files that are wrong ---------------------------------------------------------------------------------------------

_BERT = {**_LLAMA, "model_type": "bert"}
_CLIP = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14}


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({**_BERT, "num_attention_heads": 3}, ModelFileError),
        ({**_BERT, "num_attention_heads": 0}, ModelFileError),
        ({**_BERT, "architectures": ["BertForNothing"]}, UnsupportedModelError),
        ({**_BERT, "model_type": "albert", "architectures": ["AlbertForNothing"]}, UnsupportedModelError),
        ({**_BERT, "model_type": "vit", "architectures": ["ViTForNothing"]}, UnsupportedModelError),
        ({**_BERT, "model_type": "vit", "image_size": [224, 112]}, ModelFileError),
        ({**_BERT, "model_type": "vit", "patch_size": "16"}, ModelFileError),
        ({"model_type": "llava", "text_config": {**_LLAMA, "text_config": _LLAMA}}, ModelFileError),
        ({"model_type": "llava", "text_config": "llama"}, ModelFileError),
        ({"model_type": "llava", "text_config": {"model_type": "nonesuch"}}, UnsupportedModelError),
        ({"model_type": "llava", "text_config": _LLAMA, "vision_config": {**_CLIP, "patch_size": 0}}, ModelFileError),
        ({"model_type": "mllama", "text_config": {"cross_attention_layers": [40]}}, ModelFileError),
        ({"model_type": "mllama", "text_config": {"cross_attention_layers": [True]}}, ModelFileError),
        ({"model_type": "mllama", "text_config": {"cross_attention_layers": [1, 1]}}, ModelFileError),
        ({"model_type": "gemma4", "text_config": {}, "audio_config": {"subsampling_conv_channels": 3}}, ModelFileError),
        ({"model_type": "deepseek_vl_v2", "language_config": _LLAMA, "vision_config": {"width": 8, "mlp_ratio": "x"}},
         ModelFileError),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_in_one_line(config: dict[str, Any], error: type[FitcalcError]) -> None:
    with pytest.raises(error) as caught:
        from_config(config)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


_STRANGE = [None, 0, -1, 3, 2**31, 2**40, "x", [], {}, [1, 2], True, 1.5, ["a"], {"a": 1}, 10_000, [[1]], [{"a": 2}]]


def _places(config: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = [_places(value, (*above, key)) for key, value in config.items() if isinstance(value, dict)]
    return [*((*above, key) for key in config), *(place for places in below for place in places)]


def _with(config: dict[str, Any], place: tuple[str, ...], value: object) -> dict[str, Any]:
    key, *rest = place
    return config | {key: _with(config[key], tuple(rest), value) if rest else value}


def _outcome(config: dict[str, Any]) -> ModelSpec | FitcalcError:
    try:
        return from_config(config)
    except FitcalcError as error:
        return error


@given(data=st.data(), case=st.sampled_from(_CLASSES), value=st.sampled_from(_STRANGE))
def test_one_strange_value_gives_a_model_or_one_line(data: st.DataObject, case: dict[str, Any], value: object) -> None:
    place = data.draw(st.sampled_from(_places(case["config"])))
    outcome = _outcome(_with(case["config"], place, value))
    if isinstance(outcome, FitcalcError):
        assert "\n" not in str(outcome)
        assert len(str(outcome)) < 300
    else:
        assert outcome.params_total > 0
