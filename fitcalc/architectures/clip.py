"""CLIP: the text encoder (with or without projection), the image tower, both, and the safety checker built on it."""

from __future__ import annotations

from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, layer_count, mapping, size
from fitcalc.architectures.encoder_blocks import class_of, encoder, stored, with_defaults
from fitcalc.architectures.vision_towers import clip_layers, clip_tower, width_of
from fitcalc.spec.model import ModelSpec, Part, Tensor

_TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "projection_dim": 512,
}
_VISION_DEFAULTS = {
    "model_type": "clip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 512,
}
_JOINT_DEFAULTS = {"projection_dim": 512}
_CONCEPTS, _SPECIAL_CARE = 17, 3
"""Embeddings that the safety checker compares with: 17 concepts and 3 that need special care (its own class)."""


def build_text(config: Config) -> ModelSpec:
    """clip_text_model: CLIPTextModel, or CLIPTextModelWithProjection by the config's `architectures`."""
    config = with_defaults(config, _TEXT_DEFAULTS)
    projected = class_of(config).endswith("WithProjection")
    tensors = _text(config)
    if projected:
        tensors += _projection("text_projection", size(config, "projection_dim"), size(config, "hidden_size"), "text")
    return encoder(config, tensors=tensors, vocab=size(config, "vocab_size"), **_shape(config))


def build_vision(config: Config) -> ModelSpec:
    """clip_vision_model: the image tower alone, or with its projection."""
    config = with_defaults(config, _VISION_DEFAULTS)
    tensors = clip_tower(config, "vision_model", part="encoder")
    if class_of(config).endswith("WithProjection"):
        width, hidden = size(config, "projection_dim"), size(config, "hidden_size")
        tensors += _projection("visual_projection", width, hidden, "encoder")
    return encoder(config, tensors=tensors, **_shape(config))


def build(config: Config) -> ModelSpec:
    """clip: text encoder, image tower and their projections; the image side alone in a safety checker."""
    config = with_defaults(config, _JOINT_DEFAULTS)
    if class_of(config).endswith("SafetyChecker"):
        return _safety_checker(config)
    text = with_defaults(mapping(config, "text_config"), _TEXT_DEFAULTS)
    vision = with_defaults(mapping(config, "vision_config"), _VISION_DEFAULTS)
    width = size(config, "projection_dim")
    return encoder(
        config,
        tensors=[
            *_text(text),
            *clip_tower(vision, "vision_model"),
            *_projection("text_projection", width, size(text, "hidden_size"), "text"),
            *_projection("visual_projection", width, width_of(vision), "projector"),
            stored("logit_scale", "vector", ()),
        ],
        vocab=size(text, "vocab_size"),
        max_context_tokens=size(text, "max_position_embeddings"),
        **_shape(text),
    )


def _safety_checker(config: Config) -> ModelSpec:
    vision = with_defaults(mapping(config, "vision_config"), _VISION_DEFAULTS)
    width = size(config, "projection_dim")
    return encoder(
        config,
        tensors=[
            *clip_tower(vision, "vision_model.vision_model", part="encoder"),
            *_projection("visual_projection", width, width_of(vision), "encoder"),
            stored("concept_embeds", "other", (_CONCEPTS, width), part="encoder"),
            stored("special_care_embeds", "other", (_SPECIAL_CARE, width), part="encoder"),
            stored("concept_embeds_weights", "vector", (_CONCEPTS,), part="encoder"),
            stored("special_care_embeds_weights", "vector", (_SPECIAL_CARE,), part="encoder"),
        ],
        **_shape(vision),
    )


def _text(config: Config) -> list[Tensor]:
    hidden, positions = size(config, "hidden_size"), size(config, "max_position_embeddings")
    tables = "text_model.embeddings"
    return [
        blocks.embedding(f"{tables}.token_embedding", size(config, "vocab_size"), hidden),
        stored(f"{tables}.position_embedding.weight", "position_embedding", (positions, hidden)),
        *clip_layers(config, "text_model", part="text"),
        *blocks.norm("text_model.final_layer_norm", hidden, bias=True),
    ]


def _projection(name: str, width: int, hidden: int, part: Part) -> list[Tensor]:
    return blocks.linear(name, "projector", width, hidden, split="replicated", part=part)


def _shape(config: Config) -> dict[str, Any]:
    return {
        "layers": layer_count(config),
        "hidden": size(config, "hidden_size"),
        "heads": size(config, "num_attention_heads"),
        "intermediate": size(config, "intermediate_size"),
    }
