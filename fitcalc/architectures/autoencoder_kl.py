"""AutoencoderKL: the image autoencoder of Stable Diffusion and FLUX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.architectures.component import component, conv, dense, norm, resnet
from fitcalc.architectures.config import Config, flag, integer_or, size
from fitcalc.architectures.encoder_blocks import few, listed_names, sizes_of
from fitcalc.spec.image import ImagePart
from fitcalc.spec.model import ModelSpec, Tensor

_NEEDED = ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "latent_channels")
_DEFAULTS: Mapping[str, Any] = {"in_channels": 3, "out_channels": 3}
_BLOCKS = {"DownEncoderBlock2D", "UpDecoderBlock2D"}


def build(config: Config) -> ModelSpec:
    """AutoencoderKL: encoder, decoder, and the 1 × 1 convolutions between them where the config has them."""
    if not _known(config):
        return component(config)
    config = {**_DEFAULTS, **config}
    widths, latent = sizes_of(config, "block_out_channels"), size(config, "latent_channels")
    between = [
        *(conv("quant_conv", 2 * latent, 2 * latent, 1) if flag(config, "use_quant_conv", True) else ()),
        *(conv("post_quant_conv", latent, latent, 1) if flag(config, "use_post_quant_conv", True) else ()),
    ]
    tensors = [*_encoder(config, widths, latent), *_decoder(config, widths, latent), *between]
    scale = 2 ** (len(widths) - 1)
    tile = integer_or(config, "sample_size", 0)
    part = ImagePart("autoencoder", side=1, width=_widest(widths), sample_side=tile, scale=scale)
    return component(config, tensors, hidden=widths[-1], image=part)


def _widest(widths: tuple[int, ...]) -> int:
    """Channels per pixel that enter the decoder's largest block: the first one of a stage still has the width of the
    stage before, and each stage further in has a quarter of the pixels."""
    enter = zip(widths, (*widths[1:], 0), strict=True)
    return max(-(-max(pair) // (1 << 2 * index)) for index, pair in enumerate(enter))


def _known(config: Config) -> bool:
    types = [*listed_names(config, "down_block_types"), *listed_names(config, "up_block_types")]
    return all(config.get(key) for key in _NEEDED) and set(types) <= _BLOCKS


def _encoder(config: Config, widths: tuple[int, ...], latent: int) -> list[Tensor]:
    tensors = conv("encoder.conv_in", widths[0], size(config, "in_channels"))
    inputs = widths[0]
    for index, out in enumerate(widths):
        place = f"encoder.down_blocks.{index}"
        for layer in range(few(config, "layers_per_block")):
            tensors += resnet(f"{place}.resnets.{layer}", inputs, out)
            inputs = out
        if index < len(widths) - 1:
            tensors += conv(f"{place}.downsamplers.0.conv", out, out)
    tensors += _middle(config, "encoder.mid_block", inputs)
    return [*tensors, *norm("encoder.conv_norm_out", inputs), *conv("encoder.conv_out", 2 * latent, inputs)]


def _decoder(config: Config, widths: tuple[int, ...], latent: int) -> list[Tensor]:
    inputs = widths[-1]
    tensors = [*conv("decoder.conv_in", inputs, latent), *_middle(config, "decoder.mid_block", inputs)]
    for index, out in enumerate(reversed(widths)):
        place = f"decoder.up_blocks.{index}"
        for layer in range(few(config, "layers_per_block") + 1):
            tensors += resnet(f"{place}.resnets.{layer}", inputs, out)
            inputs = out
        if index < len(widths) - 1:
            tensors += conv(f"{place}.upsamplers.0.conv", out, out)
    out = size(config, "out_channels")
    return [*tensors, *norm("decoder.conv_norm_out", inputs), *conv("decoder.conv_out", out, inputs)]


def _middle(config: Config, prefix: str, width: int) -> list[Tensor]:
    attention = f"{prefix}.attentions.0"
    linears = [
        tensor
        for name, role in (("to_q", "attn_q"), ("to_k", "attn_k"), ("to_v", "attn_v"), ("to_out.0", "attn_o"))
        for tensor in dense(f"{attention}.{name}", role, width, width)
    ]
    attends = flag(config, "mid_block_add_attention", True)
    return [
        *([*norm(f"{attention}.group_norm", width), *linears] if attends else ()),
        *resnet(f"{prefix}.resnets.0", width, width),
        *resnet(f"{prefix}.resnets.1", width, width),
    ]
