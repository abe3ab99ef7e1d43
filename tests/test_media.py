"""Images and sound that go into a model: their tokens, against the processors themselves; their terms; refusals.

golden/media_tokens.csv: tokens of one image by the processors of transformers 5.23.0 (`_get_num_multimodal_tokens`),
with the sizes of the published models: Qwen2-VL to 12,845,056 pixels, Qwen3-VL from 65,536 to 16,777,216, Pixtral 1024,
Mistral Small 3.1 1540, LLaVA 336, InternVL 448 in up to 12 tiles.
"""

from __future__ import annotations

import csv
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.architectures import from_config
from fitcalc.errors import RequestError
from fitcalc.media_tokens import tower_of, with_tokens
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.workload import Media

_ROWS = list(
    csv.DictReader((Path(__file__).parent / "golden" / "media_tokens.csv").read_text(encoding="utf-8").splitlines())
)
_TEXT = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 256, "max_position_embeddings": 131072,
}  # fmt: skip
_SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 2, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
_CATALOGUED = {
    "gemma3": "gemma-3-27b", "gemma4": "gemma-4-31b-it-nvfp4", "llava": "llava-1.5-13b",
    "llava_next": "llava-1.6-vicuna-7b", "mistral3": "mistral-small-3.1-24b", "pixtral": "pixtral-12b",
    "qwen2_vl": "qwen2-vl-7b", "qwen3_vl": "qwen3-vl-8b",
}  # fmt: skip
_CONFIGS: dict[str, dict[str, Any]] = {
    "idefics3": {"text_config": _TEXT, "vision_config": {**_SIGLIP, "image_size": 364}, "scale_factor": 2},
    "llava_onevision": {"text_config": _TEXT, "vision_config": {**_SIGLIP, "image_size": 384}},
    "internvl": {
        "text_config": {**_TEXT, "model_type": "qwen2", "num_key_value_heads": 2},
        "vision_config": {
            "model_type": "internvl_vision", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": [448, 448], "patch_size": [14, 14],
        },
    },
}  # fmt: skip


@lru_cache
def _model(model_type: str) -> ModelSpec:
    if model_type in _CATALOGUED:
        return catalog.load_model(_CATALOGUED[model_type])
    return from_config({"model_type": model_type, **_CONFIGS[model_type]})


def _tokens(model: ModelSpec, width: int, height: int, images: int = 1) -> Media:
    return with_tokens(model, Media(images=images, image_px=(width, height)))


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: f"{row['model_type']} {row['width']}x{row['height']}")
def test_as_many_tokens_as_the_processor_puts_in(row: dict[str, str]) -> None:
    found = _tokens(_model(row["model_type"]), int(row["width"]), int(row["height"]))
    assert found.tokens == int(row["tokens"])


_sides = st.integers(16, 4096)


@settings(max_examples=40, deadline=None)
@given(width=_sides, height=_sides, images=st.integers(1, 9), model=st.sampled_from(sorted(_CATALOGUED)))
def test_images_add_up_and_are_seen_by_at_least_as_many_positions(
    width: int, height: int, images: int, model: str
) -> None:
    one, several = _tokens(_model(model), width, height), _tokens(_model(model), width, height, images)
    assert (several.tokens, several.positions) == (images * one.tokens, images * one.positions)
    # Markers at the ends of rows are tokens that no position stands for.
    assert one.positions + math.isqrt(one.positions) * 24 >= one.tokens > 0


def test_blip2_reads_through_its_queries_and_llama_vision_through_cross_attention() -> None:
    assert _tokens(catalog.load_model("blip2-opt-2.7b"), 224, 224).tokens == 32
    llama = _tokens(catalog.load_model("llama-3.2-11b-vision"), 560, 560)
    assert (llama.tokens, llama.positions) == (1, 4 * 1601)


def test_towers_show_their_patches() -> None:
    clip, qwen = tower_of(catalog.load_model("llava-1.5-13b")), tower_of(catalog.load_model("qwen2-vl-7b"))
    assert (clip.patch, clip.positions, clip.classes, clip.side) == (14, 577, 1, 336)
    assert (qwen.patch, qwen.positions) == (14, 0)


@pytest.mark.parametrize(
    ("model", "seconds", "tokens", "positions"),
    [
        ("voxtral-mini-3b", 10, 375, 1500),
        ("voxtral-mini-3b", 31, 750, 3000),
        ("qwen2-audio-7b", 10, 250, 1500),
        ("whisper-large-v3", 30, 0, 1500),
    ],
)
def test_sound_by_its_seconds(model: str, seconds: float, tokens: int, positions: int) -> None:
    """375 tokens per 30 s (Voxtral), 750 at most (Qwen2-Audio); Whisper's decoder reads none."""
    found = with_tokens(catalog.load_model(model), Media(audio_seconds=seconds))
    assert (found.tokens, found.sound_positions) == (tokens, positions)


# --- in a report ------------------------------------------------------------------------------------------------------


def _term(report: Any, name: str) -> Any:
    return next((term for term in report.devices[0].terms if term.name == name), None)


def test_images_are_part_of_the_context() -> None:
    report = fitcalc.fit("llava-1.5-13b", gpu="rtx-4090", images=4)
    assert report.inputs["media_tokens"] == 4 * 576
    assert report.inputs["context_tokens"] == 4096
    assert any("2,304 of the 4,096 tokens" in note for note in report.notes)
    assert _term(report, "vision")


def test_the_context_grows_with_images_where_none_was_asked_for() -> None:
    report = fitcalc.fit("qwen2.5-vl-7b", gpu="a100-80", images=8, image_size="1920x1080")
    assert report.inputs["context_tokens"] == 8 * 2691 + 1024
    with pytest.raises(RequestError, match="more than the context"):
        fitcalc.fit("qwen2.5-vl-7b", gpu="a100-80", images=8, image_size="1920x1080", context=8192)


def test_each_image_more_takes_a_tower_pass_more_in_transformers() -> None:
    def seen(images: int) -> Any:
        return _term(
            fitcalc.fit(
                "gemma-3-27b", gpu="h100-sxm", quant="bf16", engine="transformers", images=images, context=4096
            ),
            "vision",
        )

    two, four = (next(i.value for i in seen(count).inputs if i.name == "pass_bytes") for count in (2, 4))
    assert four == 2 * two
    # 4096 patches, three MLP widths and four hidden widths of 16 bit each.
    assert two == 2 * 4096 * 2 * (3 * 4304 + 4 * 1152)
    assert seen(0) is None


def test_cross_attention_holds_every_image() -> None:
    one, three = (
        fitcalc.fit("llama-3.2-11b-vision", gpu="a100-80", engine="transformers", images=n, context=1024)
        for n in (1, 3)
    )
    added = three.kv_cache.bytes - one.kv_cache.bytes
    assert added == 2 * (4 * 1601) * 8 * (2 * 8 * 128) * 2


def test_llama_cpp_loads_the_tower_with_images_only() -> None:
    with_images = fitcalc.fit("llava-1.5-13b", gpu="rtx-4090", quant="q4_k_m", images=1)
    without = fitcalc.fit("llava-1.5-13b", gpu="rtx-4090", quant="q4_k_m")
    assert _term(with_images, "vision")
    assert _term(without, "vision") is None
    assert with_images.recommendation
    assert "--mmproj" in with_images.recommendation.command


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "llama-3.1-8b", "images": 1},
        {"model": "llama-3.1-8b", "audio_seconds": 10},
        {"model": "llava-1.5-13b", "images": -1},
        {"model": "llava-1.5-13b", "images": True},
        {"model": "llava-1.5-13b", "image_size": "336"},
        {"model": "llava-1.5-13b", "images": 1, "image_size": "wide"},
        {"model": "llava-1.5-13b", "images": 1, "image_size": (1, 2, 3)},
        {"model": "llava-1.5-13b", "images": 9},
        {"model": "qwen2-audio-7b", "audio_seconds": 60},
        {"model": "qwen2-audio-7b", "audio_seconds": float("nan")},
        {"model": "qwen2-audio-7b", "audio_seconds": "ten"},
        {"model": "phi-3-vision", "images": 1},
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        fitcalc.fit(arguments.pop("model"), gpu="rtx-4090", **arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_without_images_reports_stay_as_they_were() -> None:
    inputs = fitcalc.fit("llama-3.1-8b", gpu="rtx-4090").inputs
    assert all(inputs[name] is None for name in ("images", "image_size", "audio_seconds", "media_tokens", "resolution"))
