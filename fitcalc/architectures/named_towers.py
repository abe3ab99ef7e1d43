"""Models whose config names its image tower instead of describing it, or describes it in the maker's own keys.

LLaVA's first files, Phi-3-vision, DeepSeek-VL2 and Janus are run from code beside the checkpoint; the shapes of the
towers they name are those of the towers' own published configs.
"""

from __future__ import annotations

import re

from fitcalc.architectures import blocks, llama
from fitcalc.architectures.config import Config, layer_count, mapping, size
from fitcalc.architectures.encoder_blocks import (
    class_of,
    convolution,
    fused_heads,
    norms,
    patches_of,
    side_of,
    stored,
    with_defaults,
)
from fitcalc.architectures.multimodal import compose, text_part, two_layer_projector
from fitcalc.architectures.vision_towers import clip_tower
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec, Tensor

_CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}
NAMED = {
    "openai/clip-vit-large-patch14": _CLIP_LARGE,
    "openai/clip-vit-large-patch14-336": {**_CLIP_LARGE, "image_size": 336},
}
"""Repository of a CLIP tower -> the shape in its config.json."""

_TIMM_DEFAULTS = {"image_size": 384, "patch_size": 16, "width": 1024, "layers": 24, "heads": 16, "num_channels": 3}
_WIDEST_MLP = 64
_MLP_DEFAULTS = {"input_dim": 1152, "n_embed": 2048, "downsample_ratio": 2}
_JANUS_UNKNOWN = "image tower, aligners and image generator (aligner_config, gen_*_config) are not counted"


def _uncounted(name: object) -> str:
    return f"the shape of vision tower {name!r:.60} is not in the config: it is not counted"


def build_flat_llava(config: Config) -> ModelSpec:
    """llava as first published: text keys at the top, `mm_*` keys for tower and projector."""
    made_by = f"{class_of(config)} {config.get('model_type')}"
    kind = next((kind for kind in ("mistral", "qwen2") if kind.removesuffix("2") in made_by.lower()), "llama")
    text, name = text_part(config, kind), config.get("mm_vision_tower")
    shape = NAMED.get(str(name))
    projector = _mlp_projector(config, text.hidden)
    if shape is None:
        return compose(config, text, projector, unknowns=(_uncounted(name),))
    return compose(config, text, [*clip_tower(shape, "model.vision_tower.vision_tower.vision_model"), *projector])


def _mlp_projector(config: Config, hidden: int) -> list[Tensor]:
    """'linear', or 'mlpNx_gelu': N linears with an activation between, numbered with the activations."""
    inputs, kind = size(config, "mm_hidden_size"), str(config.get("mm_projector_type") or "linear")
    found = re.fullmatch(r"mlp([1-9])x_gelu", kind)
    depth = int(found[1]) if found else 1
    prefix = "model.mm_projector"
    names = [f"{prefix}.{2 * index}" for index in range(depth)] if found else [prefix]
    return [
        tensor
        for index, name in enumerate(names)
        for tensor in blocks.linear(
            name, "projector", hidden, hidden if index else inputs, split="replicated", bias=True, part="projector"
        )
    ]


def build_phi3_v(config: Config) -> ModelSpec:
    """phi3_v: Phi-3, a CLIP tower, a two-layer projector over four patches, and two learned separators."""
    image = mapping(config, "img_processor")
    text, name = llama.build(config), image.get("model_name")
    shape = NAMED.get(str(name))
    if shape is None:
        return compose(config, text, (), unknowns=(_uncounted(name),))
    prefix = "model.vision_embed_tokens"
    inputs = 4 * size(image, "image_dim_out")
    projector = two_layer_projector(f"{prefix}.img_projection", text.hidden, inputs, names=("0", "2"))
    separators = [
        stored(f"{prefix}.glb_GN", "vector", (1, 1, inputs), part="projector"),
        stored(f"{prefix}.sub_GN", "vector", (1, 1, 1, inputs), part="projector"),
    ]
    tower = clip_tower(shape, f"{prefix}.img_processor.vision_model")
    return compose(config, text, [*tower, *projector, *separators])


def build_deepseek_vl2(config: Config) -> ModelSpec:
    """deepseek_vl_v2: DeepSeek-MoE with or without MLA, a SigLIP tower of timm, a projector over merged patches."""
    language = mapping(config, "language_config")
    plain = {"language_config": {**language, "model_type": "deepseek"}} if language.get("use_mla") is False else {}
    text, vision = text_part({**config, **plain}, "deepseek_v2"), mapping(config, "vision_config")
    renames = {"": "language."}
    if "width" not in vision:
        unknown = _uncounted(vision.get("model_name"))
        return compose(config, text, (), renames=renames, unknowns=(unknown,))
    return compose(config, text, [*_timm_tower(vision), *_downsampling(config, text.hidden)], renames=renames)


def _downsampling(config: Config, hidden: int) -> list[Tensor]:
    """Patches merged two by two into the text's width, and the two vectors that mark rows and views."""
    shape = with_defaults(mapping(config, "projector_config"), _MLP_DEFAULTS)
    inputs = size(shape, "input_dim") * size(shape, "downsample_ratio") ** 2
    return [
        *two_layer_projector("projector.layers", size(shape, "n_embed"), inputs, names=("0", "2")),
        *(stored(name, "vector", (hidden,), part="projector") for name in ("image_newline", "view_seperator")),
    ]


def _timm_tower(config: Config) -> list[Tensor]:
    """SigLIP as timm builds it: fused Q K V, and an attention pool whose result the model does not use."""
    config = with_defaults(config, _TIMM_DEFAULTS)
    hidden, heads, count = size(config, "width"), size(config, "heads"), layer_count(config, "layers")
    mlp = _mlp_width(config, hidden)
    layers, block, patch = tuple(range(count)), "vision.blocks.{layer}", side_of(config, "patch_size")
    patches = patches_of(config)
    return [
        stored("vision.pos_embed", "position_embedding", (1, patches, hidden), part="vision"),
        *convolution(
            "vision.patch_embed.proj", (hidden, size(config, "num_channels"), patch, patch), bias=True, part="vision"
        ),
        *fused_heads(f"{block}.attn", hidden, heads, layers, bias=True, names=("qkv", "proj"), part="vision"),
        *blocks.plain_mlp(f"{block}.mlp", hidden, mlp, layers, part="vision"),
        *norms((f"{block}.norm1", f"{block}.norm2"), hidden, layers, bias=True, part="vision"),
        *blocks.norm("vision.norm", hidden, bias=True, part="vision"),
        *_timm_pool(hidden, mlp),
    ]


def _mlp_width(config: Config, hidden: int) -> int:
    ratio = config.get("mlp_ratio", 4)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < _WIDEST_MLP:
        raise ModelFileError(f"config: mlp_ratio is {ratio!r:.40}", hint="mlp_ratio has to be a positive number")
    return int(hidden * ratio)


def _timm_pool(hidden: int, mlp: int) -> list[Tensor]:
    prefix = "vision.attn_pool"
    linears = [("q", hidden, hidden), ("kv", 2 * hidden, hidden), ("proj", hidden, hidden)]
    linears += [("mlp.fc1", mlp, hidden), ("mlp.fc2", hidden, mlp)]
    return [
        stored(f"{prefix}.latent", "vector", (1, 1, hidden), part="vision"),
        *blocks.norm(f"{prefix}.norm", hidden, bias=True, part="vision"),
        *(
            tensor
            for name, outputs, inputs in linears
            for tensor in blocks.linear(
                f"{prefix}.{name}", "other", outputs, inputs, split="replicated", bias=True, part="vision"
            )
        ),
    ]


def build_janus(config: Config) -> ModelSpec:
    """multi_modality (Janus): the text part; what its towers and image generator weigh is stated as unknown."""
    text = text_part(config, "llama")
    return compose(config, text, (), renames={"": "language_model."}, unknowns=(_JANUS_UNKNOWN,))
