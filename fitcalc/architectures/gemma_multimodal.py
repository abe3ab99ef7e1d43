"""Gemma 3n and Gemma 4 with their image and audio towers, which engines keep whole on every rank."""

from __future__ import annotations

from collections.abc import Iterable

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, layer_count, mapping, size
from fitcalc.architectures.encoder_blocks import (
    Layers,
    convolution,
    head_dim_of_tower,
    norms,
    stored,
    with_defaults,
)
from fitcalc.architectures.mobilenet import mobilenet_v5
from fitcalc.architectures.multimodal import NESTED, compose, text_part
from fitcalc.errors import ModelFileError
from fitcalc.frozen import dataclass
from fitcalc.spec.model import ModelSpec, Part, Tensor

_NAMED = {"mobilenetv5_300m_enc": mobilenet_v5}
"""Image encoders that a config names without shapes -> their tensors."""
_IMAGE_3N = {"architecture": "mobilenetv5_300m_enc", "hidden_size": 2048, "vocab_size": 128}
_AUDIO_3N = {
    "hidden_size": 1536,
    "vocab_size": 128,
    "input_feat_size": 128,
    "conf_num_hidden_layers": 12,
    "conf_num_attention_heads": 8,
    "conf_conv_kernel_size": 5,
    "sscp_conv_channel_size": [128, 32],
}
_IMAGE_4 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "patch_size": 16,
    "position_embedding_size": 10240,
}
_AUDIO_4 = {
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "conv_kernel_size": 5,
    "subsampling_conv_channels": [128, 32],
    "output_proj_dims": 1536,
}
"""Class defaults of the vision and audio configs."""
_BOUNDS = ("input_min", "input_max", "output_min", "output_max")
_KERNEL, _STRIDES = 3, 4
"""Both audio convolutions are 3 × 3 and halve time and frequency."""


@dataclass(frozen=True, slots=True)
class _Conformer:
    """Where a conformer layer keeps its parts, and whether its linears clip (with stored bounds)."""

    feed_forward: tuple[str, str]
    attention: str
    post: str
    relative: str
    layer_norms: tuple[str, str, str]
    nested: str = ""
    bounded: bool = False


_CONFORMER_3N = _Conformer(
    ("ffw_layer_start", "ffw_layer_end"), "attention.attn", "attention.post", "relative_position_embedding.pos_proj",
    ("attention.pre_attn_norm", "attention.post_norm", "norm"),
)  # fmt: skip
_LAYER_NORMS_4 = ("norm_pre_attn", "norm_post_attn", "norm_out")


def build_3n(config: Config) -> ModelSpec:
    """gemma3n: text, an image encoder known by name, a conformer for audio, an embedder for each."""
    text = text_part(config, "gemma3n_text")
    image = with_defaults(mapping(config, "vision_config"), _IMAGE_3N)
    audio = with_defaults(mapping(config, "audio_config"), _AUDIO_3N)
    named = str(image["architecture"])
    encoder = _NAMED.get(named)
    towers = [
        *(encoder("model.vision_tower.timm_model") if encoder else ()),
        *_embedder_3n("model.embed_vision", image, text.hidden),
        *_audio_3n(audio, "model.audio_tower"),
        *_embedder_3n("model.embed_audio", audio, text.hidden),
    ]
    unknown = f"the shape of image encoder {named!r:.60} is not in the config: it is not counted"
    return compose(config, text, towers, renames=NESTED, unknowns=() if encoder else (unknown,))


def build_4(config: Config) -> ModelSpec:
    """gemma4: text, and the towers whose configs are not null."""
    text, towers = text_part(config, "gemma4_text"), list[Tensor]()
    if config.get("vision_config") is not None:
        image = with_defaults(mapping(config, "vision_config"), _IMAGE_4)
        towers += _image_4(image, "model.vision_tower")
        towers += _embedder_4("model.embed_vision", size(image, "hidden_size"), text.hidden)
    if config.get("audio_config") is not None:
        audio = with_defaults(mapping(config, "audio_config"), _AUDIO_4)
        towers += _audio_4(audio, "model.audio_tower")
        towers += _embedder_4("model.embed_audio", size(audio, "output_proj_dims"), text.hidden)
    return compose(config, text, towers, renames=NESTED)


def _embedder_3n(prefix: str, config: Config, hidden: int) -> list[Tensor]:
    width, rows = size(config, "hidden_size"), size(config, "vocab_size")
    return [
        stored(f"{prefix}.embedding.weight", "other", (rows, width), part="projector"),
        *norms((f"{prefix}.hard_embedding_norm", f"{prefix}.soft_embedding_norm"), width, bias=False, part="projector"),
        *_embedder_4(prefix, width, hidden),
    ]


def _embedder_4(prefix: str, width: int, hidden: int) -> list[Tensor]:
    name = f"{prefix}.embedding_projection"
    return blocks.linear(name, "projector", hidden, width, split="replicated", part="projector")


def _bounded(tensors: Iterable[Tensor], nested: str, bounded: bool) -> list[Tensor]:
    """Linears that clip: the weight lies one module deeper, four scalar bounds are stored beside it."""
    result: list[Tensor] = []
    for tensor in tensors:
        module = tensor.name.removesuffix(".weight")
        name = f"{module}{nested}.weight"
        result.append(Tensor(name, tensor.role, tensor.shape, tensor.layers, part=tensor.part, is_linear=True))
        result += [
            Tensor(f"{module}.{bound}", "vector", (), tensor.layers, part=tensor.part, is_buffer=True)
            for bound in _BOUNDS
            if bounded
        ]
    return result


def _image_4(config: Config, prefix: str) -> list[Tensor]:
    """Patches by a linear, two position tables (rows and columns), gated MLPs, four norms a layer."""
    part: Part = "vision"
    hidden, heads, width = (size(config, key) for key in ("hidden_size", "num_attention_heads", "intermediate_size"))
    kv_heads, head_dim = size(config, "num_key_value_heads"), size(config, "head_dim")
    layers, block = tuple(range(layer_count(config))), f"{prefix}.encoder.layers.{{layer}}"
    positions, pixels = size(config, "position_embedding_size"), 3 * size(config, "patch_size") ** 2
    embedder, attention = f"{prefix}.patch_embedder", f"{block}.self_attn"
    linears = [
        *blocks.attention(attention, hidden, heads, kv_heads, head_dim, layers, part=part),
        *blocks.gated_mlp(f"{block}.mlp", hidden, width, layers, part=part),
    ]
    names = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    scales = [f"{prefix}.{name}" for name in ("std_bias", "std_scale") if flag(config, "standardize", False)]
    return [
        stored(f"{embedder}.position_embedding_table", "position_embedding", (2, positions, hidden), part=part),
        *blocks.linear(f"{embedder}.input_proj", "other", hidden, pixels, split="replicated", part=part),
        *_bounded(linears, ".linear", flag(config, "use_clipped_linears", False)),
        *norms((f"{attention}.q_norm", f"{attention}.k_norm"), head_dim, layers, bias=False, part=part),
        *norms([f"{block}.{name}" for name in names], hidden, layers, bias=False, part=part),
        *(Tensor(name, "vector", (hidden,), part=part, is_buffer=True) for name in scales),
    ]


def _audio_3n(config: Config, prefix: str) -> list[Tensor]:
    hidden, heads = size(config, "hidden_size"), size(config, "conf_num_attention_heads")
    layers = tuple(range(layer_count(config, "conf_num_hidden_layers")))
    channels, kernel = _channels(config, "sscp_conv_channel_size"), size(config, "conf_conv_kernel_size")
    front = f"{prefix}.subsample_conv_projection"
    return [
        *_front(front, ("conv_0", "conv_1"), channels, size(config, "input_feat_size"), hidden),
        *_conformer(f"{prefix}.conformer.{{layer}}", _CONFORMER_3N, hidden, heads, kernel, layers),
    ]


def _audio_4(config: Config, prefix: str) -> list[Tensor]:
    hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    layers, channels = tuple(range(layer_count(config))), _channels(config, "subsampling_conv_channels")
    layout = _Conformer(
        ("feed_forward1", "feed_forward2"), "self_attn", "self_attn.post", "relative_k_proj", _LAYER_NORMS_4,
        ".linear", flag(config, "use_clipped_linears", True),
    )  # fmt: skip
    block, kernel = f"{prefix}.layers.{{layer}}", size(config, "conv_kernel_size")
    out = size(config, "output_proj_dims")
    return [
        # the model class takes as many input frequencies as the first convolution has channels
        *_front(f"{prefix}.subsample_conv_projection", ("layer0", "layer1"), channels, channels[0], hidden),
        *_conformer(block, layout, hidden, heads, kernel, layers),
        *blocks.linear(f"{prefix}.output_proj", "other", out, hidden, split="replicated", bias=True, part="audio"),
    ]


def _channels(config: Config, key: str) -> tuple[int, int]:
    listed = config[key]
    if not isinstance(listed, list | tuple) or len(listed) != 2:
        raise ModelFileError(f"config: {key} is {listed!r:.40}", hint=f"{key} has to hold two numbers")
    return size({key: listed[0]}, key), size({key: listed[1]}, key)


def _front(
    prefix: str, names: tuple[str, str], channels: tuple[int, int], frequencies: int, hidden: int
) -> list[Tensor]:
    """Two strided convolutions over the spectrogram with a norm each, and a linear into the tower's width."""
    first, second = channels
    out = second * -(-frequencies // _STRIDES)
    one, two = (f"{prefix}.{name}" for name in names)
    return [
        *convolution(f"{one}.conv", (first, 1, _KERNEL, _KERNEL), part="audio"),
        *blocks.norm(f"{one}.norm", first, part="audio"),
        *convolution(f"{two}.conv", (second, first, _KERNEL, _KERNEL), part="audio"),
        *blocks.norm(f"{two}.norm", second, part="audio"),
        *blocks.linear(f"{prefix}.input_proj_linear", "other", hidden, out, split="replicated", part="audio"),
    ]


def _conformer(block: str, layout: _Conformer, hidden: int, heads: int, kernel: int, layers: Layers) -> list[Tensor]:
    """Half a feed-forward, attention with relative positions, a light convolution, the other half."""
    head_dim, attention, light = head_dim_of_tower(hidden, heads), f"{block}.{layout.attention}", f"{block}.lconv1d"
    halves = [f"{block}.{name}" for name in layout.feed_forward]
    shapes = [
        *((f"{attention}.{name}_proj", f"attn_{name}", hidden, hidden) for name in "qkv"),
        (f"{block}.{layout.post}", "attn_o", hidden, hidden),
        *((f"{half}.ffw_layer_1", "mlp_up", 4 * hidden, hidden) for half in halves),
        *((f"{half}.ffw_layer_2", "mlp_down", hidden, 4 * hidden) for half in halves),
        (f"{light}.linear_start", "other", 2 * hidden, hidden),
        (f"{light}.linear_end", "other", hidden, hidden),
    ]
    linears = [
        tensor
        for name, role, out, inputs in shapes
        for tensor in blocks.linear(name, role, out, inputs, layers, split="replicated", part="audio")
    ]
    relative = f"{attention}.{layout.relative}"
    layer_norms = [
        *(f"{half}.{side}_layer_norm" for half in halves for side in ("pre", "post")),
        *(f"{light}.{name}" for name in ("pre_layer_norm", "conv_norm")),
        *(f"{block}.{name}" for name in layout.layer_norms),
    ]
    return [
        *_bounded(linears, layout.nested, layout.bounded),
        *blocks.linear(relative, "other", hidden, hidden, layers, split="replicated", part="audio"),
        stored(f"{attention}.per_dim_scale", "vector", (head_dim,), layers, part="audio"),
        *convolution(f"{light}.depthwise_conv1d", (hidden, 1, kernel), layers, part="audio"),
        *norms(layer_norms, hidden, layers, bias=False, part="audio"),
    ]
