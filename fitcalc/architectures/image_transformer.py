"""Image transformers: Stable Diffusion 3 and FLUX.1, in which picture and prompt attend to each other."""

from __future__ import annotations

from fitcalc.architectures.component import component, conv, dense, embedder, norm
from fitcalc.architectures.config import Config, flag, integer_or, layer_count, size
from fitcalc.architectures.encoder_blocks import Layers
from fitcalc.spec.image import ImagePart
from fitcalc.spec.model import ModelSpec, Tensor

_SHARED = ("num_layers", "num_attention_heads", "attention_head_dim", "joint_attention_dim", "pooled_projection_dim")
_NEEDED = {"FluxTransformer2DModel": ("num_single_layers",), "SD3Transformer2DModel": ("pos_embed_max_size",)}
_PROMPT_FLUX, _PROMPT_SD3 = 512, 77 + 256
"""Tokens of a prompt: as many as the pipelines let T5 read, for SD3 beside CLIP's."""
_STEP = 256
"""Width of the sinusoidal embedding of a time step (a constant of both classes)."""
_QKV = ("q", "k", "v")


def build_flux(config: Config) -> ModelSpec:
    """FluxTransformer2DModel: double blocks with weights for each side, then single blocks over both."""
    if not _known(config):
        return component(config)
    width, head_dim = _width(config), size(config, "attention_head_dim")
    double = tuple(range(layer_count(config, "num_layers")))
    single = tuple(range(layer_count(config, "num_single_layers")))
    given = {"in_channels": 64, "patch_size": 1, **config}
    channels, time = size(given, "in_channels"), "time_text_embed"
    out = size(given, "out_channels") if given.get("out_channels") else channels
    tensors = [
        *_conditioning(config, width),
        *(embedder(f"{time}.guidance_embedder", width, _STEP) if flag(config, "guidance_embeds", False) else ()),
        *dense("x_embedder", "other", width, channels),
        *_joint("transformer_blocks.{layer}", width, double),
        *_head_norms("transformer_blocks.{layer}.attn", head_dim, double, added=True),
        *_single("single_transformer_blocks.{layer}", width, single),
        *_head_norms("single_transformer_blocks.{layer}.attn", head_dim, single),
        *dense("norm_out.linear", "other", 2 * width, width),
        *dense("proj_out", "other", size(given, "patch_size") ** 2 * out, width),
    ]
    # the class sees pictures as rows of 2 × 2 latent pixels already packed
    part = _picture(config, width, 2 * size(given, "patch_size"))
    depth = max(len(double), len(single))
    return component(config, tensors, layers=depth, hidden=width, image=part, prompt_tokens=_PROMPT_FLUX)


def build_sd3(config: Config) -> ModelSpec:
    """SD3Transformer2DModel: joint blocks, of which the last drops the prompt; 3.5 adds norms and second attentions."""
    if not _known(config) or config.get("qk_norm") not in (None, "rms_norm"):
        return component(config)
    width, head_dim = _width(config), size(config, "attention_head_dim")
    layers, block = tuple(range(layer_count(config, "num_layers"))), "transformer_blocks.{layer}"
    given = {"in_channels": 16, "patch_size": 2, **config}
    channels, patch, table = size(given, "in_channels"), size(given, "patch_size"), size(config, "pos_embed_max_size")
    out = size(given, "out_channels") if given.get("out_channels") else channels
    twice = _twice(config, layers)
    normed = config.get("qk_norm") is not None
    tensors = [
        *conv("pos_embed.proj", width, channels, patch),
        Tensor("pos_embed.pos_embed", "position_embedding", (1, table * table, width), part="other", is_buffer=True),
        *_conditioning(config, width),
        *_joint(block, width, layers, dropped=layers[-1:], twice=twice),
        *(_head_norms(f"{block}.attn", head_dim, layers, added=True) if normed else ()),
        *(_head_norms(f"{block}.attn2", head_dim, twice) if normed and twice else ()),
        *dense("norm_out.linear", "other", 2 * width, width),
        *dense("proj_out", "other", patch * patch * out, width),
    ]
    part = _picture(config, width, patch)
    return component(config, tensors, layers=len(layers), hidden=width, image=part, prompt_tokens=_PROMPT_SD3)


def _picture(config: Config, width: int, side: int) -> ImagePart:
    heads, memory = size(config, "num_attention_heads"), size(config, "joint_attention_dim")
    sample = integer_or(config, "sample_size", 0)
    return ImagePart("joint", side=side, width=width, heads=heads, memory=memory, sample_side=sample)


def _known(config: Config) -> bool:
    built = str(config.get("model_type") or config.get("_class_name"))
    return all(config.get(key) for key in (*_SHARED, *_NEEDED[built]))


def _width(config: Config) -> int:
    return size(config, "num_attention_heads") * size(config, "attention_head_dim")


def _twice(config: Config, layers: Layers) -> Layers:
    """Layers with a second attention over the picture alone."""
    listed = config.get("dual_attention_layers")
    return tuple(layer for layer in layers if isinstance(listed, list | tuple) and layer in listed)


def _conditioning(config: Config, width: int) -> list[Tensor]:
    return [
        *embedder("time_text_embed.timestep_embedder", width, _STEP),
        *embedder("time_text_embed.text_embedder", width, size(config, "pooled_projection_dim")),
        *dense("context_embedder", "other", width, size(config, "joint_attention_dim")),
    ]


def _joint(block: str, width: int, layers: Layers, *, dropped: Layers = (), twice: Layers = ()) -> list[Tensor]:
    """Blocks with modulation, attention and MLP for picture and prompt; `dropped` ones end the prompt's side."""
    kept, once = _without(layers, dropped), _without(layers, twice)
    attention = [
        *((f"to_{name}", f"attn_{name}", layers) for name in _QKV),
        ("to_out.0", "attn_o", layers),
        *((f"add_{name}_proj", f"attn_{name}", layers) for name in _QKV),
        ("to_add_out", "attn_o", kept),
    ]
    return [
        *_modulation(f"{block}.norm1.linear", 6, width, once),
        *_modulation(f"{block}.norm1.linear", 9, width, twice),
        *_modulation(f"{block}.norm1_context.linear", 6, width, kept),
        *_modulation(f"{block}.norm1_context.linear", 2, width, dropped),
        *(
            tensor
            for name, role, owners in attention
            for tensor in dense(f"{block}.attn.{name}", role, width, width, owners)
        ),
        *(
            tensor
            for name in ("to_q", "to_k", "to_v", "to_out.0")
            for tensor in dense(f"{block}.attn2.{name}", f"attn_{name.removesuffix('ut.0')[-1]}", width, width, twice)
            if twice
        ),
        *_mlp(f"{block}.ff", width, layers),
        *(_mlp(f"{block}.ff_context", width, kept) if kept else ()),
    ]


def _without(layers: Layers, others: Layers) -> Layers:
    return tuple(layer for layer in layers if layer not in others)


def _modulation(name: str, factors: int, width: int, layers: Layers) -> list[Tensor]:
    """Shifts, scales and gates of a block from the conditioning."""
    return dense(name, "other", factors * width, width, layers) if layers else []


def _mlp(prefix: str, width: int, layers: Layers) -> list[Tensor]:
    return [
        *dense(f"{prefix}.net.0.proj", "mlp_up", 4 * width, width, layers),
        *dense(f"{prefix}.net.2", "mlp_down", width, 4 * width, layers),
    ]


def _head_norms(prefix: str, head_dim: int, layers: Layers, *, added: bool = False) -> list[Tensor]:
    names = ("norm_q", "norm_k", *(("norm_added_q", "norm_added_k") if added else ()))
    return [tensor for name in names for tensor in norm(f"{prefix}.{name}", head_dim, layers, bias=False)]


def _single(block: str, width: int, layers: Layers) -> list[Tensor]:
    """Attention and MLP side by side, joined by one output matrix."""
    return [
        *_modulation(f"{block}.norm.linear", 3, width, layers),
        *(tensor for name in _QKV for tensor in dense(f"{block}.attn.to_{name}", f"attn_{name}", width, width, layers)),
        *dense(f"{block}.proj_mlp", "mlp_up", 4 * width, width, layers),
        *dense(f"{block}.proj_out", "mlp_down", width, 5 * width, layers),
    ]
