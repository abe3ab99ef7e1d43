"""LLaVA and models of the same plan: a shared image tower, a small projector, a text model (see the registry)."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, integer_or, mapping, size
from fitcalc.architectures.encoder_blocks import stored, with_defaults
from fitcalc.architectures.multimodal import NO_VISION, WRAPPED, compose, text_part, two_layer_projector
from fitcalc.architectures.named_towers import build_flat_llava
from fitcalc.architectures.vision_towers import is_known, siglip_tower, tower, width_of
from fitcalc.spec.model import ModelSpec, Tensor

_POOLLESS = {"model_type": "siglip_vision_model", "vision_use_head": False}
_IDEFICS = {"model.": "model.text_model."}
_IDEFICS_DEFAULTS = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 32,
}
"""Class defaults of Idefics3VisionConfig."""


def build(config: Config) -> ModelSpec:
    """llava: CLIP, SigLIP or Pixtral tower and a two-layer projector; flat files name their tower instead."""
    return build_flat_llava(config) if "mm_vision_tower" in config else _llava(config)


def build_tiled(config: Config) -> ModelSpec:
    """llava_next, llava_onevision: LLaVA with a learned end-of-row vector for images cut into tiles."""
    text_width = text_part(config, "llama").hidden
    return _llava(config, stored("image_newline", "vector", (text_width,), part="projector"))


def _llava(config: Config, *more: Tensor) -> ModelSpec:
    text, vision = text_part(config, "llama"), mapping(config, "vision_config")
    if not is_known(vision):
        return compose(config, text, more, renames=WRAPPED, unknowns=(_uncounted(vision),))
    inputs = width_of(vision) * _feature_layers(config)
    bias = flag(config, "multimodal_projector_bias", True)
    towers = [
        *tower(vision, _place(vision)),
        *two_layer_projector("multi_modal_projector", text.hidden, inputs, bias=bias),
        *more,
    ]
    return compose(config, text, towers, renames=WRAPPED)


def _place(vision: Config) -> str:
    """Pixtral's tower is its own module, CLIP's and SigLIP's stand inside a wrapper."""
    return "vision_tower" if vision.get("model_type") == "pixtral" else "vision_tower.vision_model"


def _feature_layers(config: Config) -> int:
    """Layers of the tower whose outputs the projector reads side by side."""
    chosen = config.get("vision_feature_layer")
    return len(chosen) if isinstance(chosen, list) and chosen else 1


def _uncounted(vision: Config) -> str:
    kind = str(vision.get("model_type", ""))
    return f"vision tower {kind!r:.60} is not known: it and its projector are not counted" if vision else NO_VISION


def build_mistral3(config: Config) -> ModelSpec:
    """mistral3: Pixtral tower, patches merged two by two, a two-layer projector."""
    text, vision = text_part(config, "mistral"), mapping(config, "vision_config")
    if not is_known(vision):
        return compose(config, text, (), renames=WRAPPED, unknowns=(_uncounted(vision),))
    width, merge = width_of(vision), integer_or(config, "spatial_merge_size", 2)
    prefix, bias = "multi_modal_projector", flag(config, "multimodal_projector_bias", False)
    towers = [
        *tower(vision, _place(vision)),
        *blocks.norm(f"{prefix}.norm", width, part="projector"),
        *blocks.linear(
            f"{prefix}.patch_merger.merging_layer", "projector", width, width * merge**2, split="replicated",
            part="projector",
        ),
        *two_layer_projector(prefix, text.hidden, width * _feature_layers(config), bias=bias),
    ]  # fmt: skip
    return compose(config, text, towers, renames=WRAPPED)


def build_gemma3(config: Config) -> ModelSpec:
    """gemma3: SigLIP tower without its pool; one matrix, not a linear layer, leads into the text model."""
    text, vision = text_part(config, "gemma3_text"), mapping(config, "vision_config")
    if not vision:
        return compose(config, text, (), renames=WRAPPED, unknowns=(NO_VISION,))
    vision = {**_POOLLESS, **vision}
    width, prefix = width_of(vision), "multi_modal_projector"
    towers = [
        *siglip_tower(vision, "vision_tower.vision_model"),
        stored(f"{prefix}.mm_input_projection_weight", "projector", (width, text.hidden), part="projector"),
        *blocks.norm(f"{prefix}.mm_soft_emb_norm", width, part="projector"),
    ]
    return compose(config, text, towers, renames=WRAPPED)


def build_paligemma(config: Config) -> ModelSpec:
    """paligemma: SigLIP tower without its pool, one linear into Gemma; the head is always the embedding."""
    text, vision = text_part(config, "gemma"), mapping(config, "vision_config")
    if not vision:
        return compose(config, text, (), renames=WRAPPED, unknowns=(NO_VISION,))
    vision = {**_POOLLESS, **vision}
    towers = [
        *siglip_tower(vision, "vision_tower.vision_model"),
        *blocks.linear(
            "multi_modal_projector.linear", "projector", text.hidden, width_of(vision), split="replicated", bias=True,
            part="projector",
        ),
    ]  # fmt: skip
    return compose(config, text, towers, renames=WRAPPED)


def build_idefics3(config: Config) -> ModelSpec:
    """idefics3, smolvlm: SigLIP layers without the pool, patches shuffled into fewer tokens, one linear."""
    text, vision = text_part(config, "llama"), mapping(config, "vision_config")
    if not vision:
        return compose(config, text, (), renames=_IDEFICS, unknowns=(NO_VISION,))
    filled = with_defaults({**vision, "vision_use_head": False}, _IDEFICS_DEFAULTS)
    inputs = size(filled, "hidden_size") * integer_or(config, "scale_factor", 2) ** 2
    towers = [
        *siglip_tower(filled, "model.vision_model"),
        *blocks.linear(
            "model.connector.modality_projection.proj", "projector", text.hidden, inputs, split="replicated",
            part="projector",
        ),
    ]  # fmt: skip
    return compose(config, text, towers, renames=_IDEFICS)
