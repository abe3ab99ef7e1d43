"""UNet2DConditionModel: the denoiser of Stable Diffusion 1, 2 and XL: convolutions, and attention to the prompt."""

from __future__ import annotations

from fitcalc.architectures.component import component, conv, dense, embedder, norm, resnet
from fitcalc.architectures.config import Config, flag, integer_or, size
from fitcalc.architectures.encoder_blocks import few, listed_names, sizes_of
from fitcalc.errors import ModelFileError
from fitcalc.frozen import dataclass
from fitcalc.spec.image import ImagePart
from fitcalc.spec.model import ModelSpec, Tensor

_NEEDED = ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "cross_attention_dim")
_PLAIN = {
    "class_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "time_cond_proj_dim": (None,),
    "num_class_embeds": (None,),
    "cross_attention_norm": (None,),
    "reverse_transformer_layers_per_block": (None,),
    "mid_block_only_cross_attention": (None, False),
    "dual_cross_attention": (None, False),
    "only_cross_attention": (None, False),
    "time_embedding_type": (None, "positional"),
    "time_embedding_dim": (None,),
    "resnet_time_scale_shift": (None, "default"),
    "mid_block_type": (None, "UNetMidBlock2DCrossAttn"),
    "addition_embed_type": (None, "text_time"),
    "conv_in_kernel": (None, 3),
    "conv_out_kernel": (None, 3),
}
"""Keys that change the layout, with the values this builder knows."""
_BLOCKS = {"DownBlock2D": False, "CrossAttnDownBlock2D": True, "UpBlock2D": False, "CrossAttnUpBlock2D": True}
"""Block type -> whether it attends."""


@dataclass(frozen=True, slots=True)
class _Shape:
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    """Transformer blocks in each attention of a stage."""
    resnets: int
    time: int
    memory: int
    """Width of the prompt's states."""
    linear: bool
    """Attention is entered by a linear layer instead of a 1 × 1 convolution."""


def build(config: Config) -> ModelSpec:
    """UNet2DConditionModel: down stages, a middle, up stages that also read what the down stages left."""
    if not _known(config):
        return component(config)
    widths = sizes_of(config, "block_out_channels")
    shape = _Shape(
        widths,
        _depths(config, len(widths)),
        few(config, "layers_per_block"),
        4 * widths[0],
        size(config, "cross_attention_dim"),
        flag(config, "use_linear_projection", False),
    )
    channels = {"in_channels": 4, "out_channels": 4, **config}
    added = config.get("addition_embed_type")
    pooled = size(config, "projection_class_embeddings_input_dim") if added else 0
    tensors = [
        *conv("conv_in", widths[0], size(channels, "in_channels")),
        *embedder("time_embedding", shape.time, widths[0]),
        *(embedder("add_embedding", shape.time, pooled) if pooled else ()),
        *_down(config, shape),
        *_middle(shape),
        *_up(config, shape),
        *norm("conv_norm_out", widths[0]),
        *conv("conv_out", size(channels, "out_channels"), widths[0]),
    ]
    return component(config, tensors, layers=max(shape.depths), hidden=widths[-1], image=_largest(config, shape))


def _largest(config: Config, shape: _Shape) -> ImagePart | None:
    """The first stage that attends, on the way up: there the states left by it and by the stages above still wait.

    None where stages above it have convolutions only, which may then need more.
    """
    stage = next((index for index, kind in enumerate(config["down_block_types"]) if _BLOCKS[kind]), None)
    heads = _heads(config, stage or 0)
    if stage is None or stage > 1 or not heads:
        return None
    width, above = shape.widths[stage], shape.widths[0]
    own = shape.resnets * width + (above if stage else width)
    return ImagePart(
        "unet",
        side=2**stage,
        width=width,
        kept_elems=own + stage * 4 * (shape.resnets + 1) * above,
        heads=heads,
        memory=shape.memory,
        sample_side=integer_or(config, "sample_size", 0),
        upcasts_scores=flag(config, "upcast_attention", False),
    )


def _heads(config: Config, stage: int) -> int:
    """Heads of a stage: `num_attention_heads`, else `attention_head_dim`, which holds heads in these configs."""
    for key in ("num_attention_heads", "attention_head_dim"):
        given = config.get(key)
        if isinstance(given, list | tuple):
            return size({key: given[stage]}, key) if stage < len(given) else 0
        if given is not None:
            return size(config, key)
    return 8


def _known(config: Config) -> bool:
    if not all(config.get(key) for key in _NEEDED):
        return False
    numbers = ("cross_attention_dim", "layers_per_block")
    types = [listed_names(config, key) for key in ("down_block_types", "up_block_types")]
    stages = len(listed_names(config, "block_out_channels"))
    return (
        all(isinstance(config[key], int) for key in numbers)
        and all(set(names) <= set(_BLOCKS) and len(names) == stages for names in types)
        and all(config.get(key) in values for key, values in _PLAIN.items())
    )


def _depths(config: Config, stages: int) -> tuple[int, ...]:
    key = "transformer_layers_per_block"
    given = config.get(key)
    if isinstance(given, list):
        if len(given) != stages:
            raise ModelFileError(
                f"config: {key} has {len(given)} entries for {stages} stages", hint="one entry a stage"
            )
        return tuple(few({key: depth}, key) for depth in sizes_of(config, key))
    return (few(config, key) if given is not None else 1,) * stages


def _down(config: Config, shape: _Shape) -> list[Tensor]:
    tensors: list[Tensor] = []
    inputs = shape.widths[0]
    for index, (kind, out) in enumerate(zip(config["down_block_types"], shape.widths, strict=True)):
        place = f"down_blocks.{index}"
        for layer in range(shape.resnets):
            tensors += resnet(f"{place}.resnets.{layer}", inputs, out, shape.time)
            tensors += _attention(f"{place}.attentions.{layer}", out, shape.depths[index], shape, attends=_BLOCKS[kind])
            inputs = out
        if index < len(shape.widths) - 1:
            tensors += conv(f"{place}.downsamplers.0.conv", out, out)
    return tensors


def _middle(shape: _Shape) -> list[Tensor]:
    width = shape.widths[-1]
    return [
        *resnet("mid_block.resnets.0", width, width, shape.time),
        *_attention("mid_block.attentions.0", width, shape.depths[-1], shape),
        *resnet("mid_block.resnets.1", width, width, shape.time),
    ]


def _up(config: Config, shape: _Shape) -> list[Tensor]:
    """Each resnet reads the stage's states beside those that a down stage's resnet or sampler left."""
    tensors: list[Tensor] = []
    left = [width for width in shape.widths for _ in range(shape.resnets + 1)]
    left = [shape.widths[0], *left[:-1]]
    inputs = shape.widths[-1]
    turned = list(reversed(list(zip(shape.widths, shape.depths, strict=True))))
    for index, (kind, (out, depth)) in enumerate(zip(config["up_block_types"], turned, strict=True)):
        place = f"up_blocks.{index}"
        for layer in range(shape.resnets + 1):
            tensors += resnet(f"{place}.resnets.{layer}", inputs + left.pop(), out, shape.time)
            tensors += _attention(f"{place}.attentions.{layer}", out, depth, shape, attends=_BLOCKS[kind])
            inputs = out
        if index < len(turned) - 1:
            tensors += conv(f"{place}.upsamplers.0.conv", out, out)
    return tensors


def _attention(place: str, width: int, depth: int, shape: _Shape, *, attends: bool = True) -> list[Tensor]:
    """Transformer blocks over the pixels of one stage: self-attention, attention to the prompt, gated MLP."""
    if not attends:
        return []
    layers, block = tuple(range(depth)), f"{place}.transformer_blocks.{{layer}}"
    enter = [
        tensor
        for name in ("proj_in", "proj_out")
        for tensor in (
            dense(f"{place}.{name}", "other", width, width)
            if shape.linear
            else conv(f"{place}.{name}", width, width, 1)
        )
    ]
    linears = [
        *((f"attn1.to_{name}", f"attn_{name}", width, width, False) for name in "qkv"),
        ("attn1.to_out.0", "attn_o", width, width, True),
        ("attn2.to_q", "cross_q", width, width, False),
        *((f"attn2.to_{name}", f"cross_{name}", width, shape.memory, False) for name in "kv"),
        ("attn2.to_out.0", "cross_o", width, width, True),
        ("ff.net.0.proj", "mlp_gate_up", 8 * width, width, True),
        ("ff.net.2", "mlp_down", width, 4 * width, True),
    ]
    return [
        *norm(f"{place}.norm", width),
        *enter,
        *(tensor for index in (1, 2, 3) for tensor in norm(f"{block}.norm{index}", width, layers)),
        *(
            tensor
            for name, role, out, inputs, bias in linears
            for tensor in dense(f"{block}.{name}", role, out, inputs, layers, bias=bias)
        ),
    ]
