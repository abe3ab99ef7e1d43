"""MobileNet-V5 300M, Gemma 3n's image tower: the one network of its name, as rows of inverted residual blocks."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.encoder_blocks import convolution
from fitcalc.spec.model import Tensor

Layers = tuple[int, ...]
_EVEN_2, _ODD_2 = tuple(range(10, 37, 2)), tuple(range(9, 36, 2))
_EVEN_3, _ODD_3 = tuple(range(2, 39, 2)), tuple(range(1, 38, 2))

_EDGE_BLOCKS: tuple[tuple[int, Layers, int, int, int], ...] = ((0, (0,), 64, 256, 128), (0, (1, 2), 128, 512, 128))
"""Stage, blocks, width in, middle, out; the expansion is a 3 x 3 convolution."""

_INVERTED_BLOCKS: tuple[tuple[int, Layers, int, int, int, int, int], ...] = (
    (1, (0,), 128, 768, 256, 3, 5),
    (1, (1, 3), 256, 1024, 256, 5, 0),
    (1, (2, 4), 256, 1024, 256, 3, 0),
    (2, (0,), 256, 1536, 640, 5, 5),
    (2, tuple(range(1, 8)), 640, 2560, 640, 5, 0),
    (2, (8,), 640, 640, 640, 0, 0),
    (2, _EVEN_2, 640, 1280, 640, 0, 0),
    (3, (0,), 640, 3840, 1280, 5, 5),
    (3, _EVEN_3, 1280, 2560, 1280, 0, 0),
)
"""Stage, blocks, width in, middle, out, kernels of the depthwise convolutions at the start and in the middle."""

_ATTENTION_BLOCKS: tuple[tuple[int, Layers, int, int, int, int], ...] = (
    (2, _ODD_2, 640, 768, 64, 3),
    (3, _ODD_3, 1280, 1536, 96, 0),
)
"""Stage, blocks, width, query width, width of the one K and V head, kernel that shrinks K and V."""


def mobilenet_v5(prefix: str) -> list[Tensor]:
    """mobilenetv5_300m_enc of timm, without a classifier: 294,126,912 parameters."""
    tensors = [
        *convolution(f"{prefix}.conv_stem.conv", (64, 3, 3, 3), bias=True, part="vision"),
        *_norm(f"{prefix}.conv_stem.bn", 64, ()),
    ]
    for stage, layers, width, middle, out in _EDGE_BLOCKS:
        place = f"{prefix}.blocks.{stage}.{{layer}}"
        tensors += _conv(f"{place}.conv_exp", (middle, width, 3, 3), layers) + _norm(f"{place}.bn1", middle, layers)
        tensors += _conv(f"{place}.conv_pwl", (out, middle, 1, 1), layers) + _norm(f"{place}.bn2", out, layers)
    for stage, layers, width, middle, out, start, mid in _INVERTED_BLOCKS:
        tensors += _inverted(f"{prefix}.blocks.{stage}.{{layer}}", layers, width, middle, out, start, mid)
    for stage, layers, width, query, head, kernel in _ATTENTION_BLOCKS:
        tensors += _attention(f"{prefix}.blocks.{stage}.{{layer}}", layers, width, query, head, kernel)
    fused = f"{prefix}.msfa"
    return [
        *tensors,
        *_conv_norm(f"{fused}.ffn.pw_exp", (3840, 1920, 1, 1), ()),
        *_conv_norm(f"{fused}.ffn.pw_proj", (2048, 3840, 1, 1), ()),
        *_norm(f"{fused}.norm", 2048, ()),
    ]


def _inverted(place: str, layers: Layers, width: int, middle: int, out: int, start: int, mid: int) -> list[Tensor]:
    return [
        *(_conv_norm(f"{place}.dw_start", (width, 1, start, start), layers) if start else ()),
        *_conv_norm(f"{place}.pw_exp", (middle, width, 1, 1), layers),
        *(_conv_norm(f"{place}.dw_mid", (middle, 1, mid, mid), layers) if mid else ()),
        *_conv_norm(f"{place}.pw_proj", (out, middle, 1, 1), layers),
        _scale(place, out, layers),
    ]


def _attention(place: str, layers: Layers, width: int, query: int, head: int, kernel: int) -> list[Tensor]:
    shrunk = [
        *(
            tensor
            for side in ("key", "value")
            for tensor in (
                *_conv(f"{place}.attn.{side}.down_conv", (width, 1, kernel, kernel), layers),
                *_norm(f"{place}.attn.{side}.norm", width, layers),
            )
        )
    ]
    return [
        *_norm(f"{place}.norm", width, layers),
        *_conv(f"{place}.attn.query.proj", (query, width, 1, 1), layers),
        *(shrunk if kernel else ()),
        *_conv(f"{place}.attn.key.proj", (head, width, 1, 1), layers),
        *_conv(f"{place}.attn.value.proj", (head, width, 1, 1), layers),
        *_conv(f"{place}.attn.output.proj", (width, query, 1, 1), layers),
        _scale(place, width, layers),
    ]


def _conv(name: str, shape: tuple[int, ...], layers: Layers) -> list[Tensor]:
    return convolution(name, shape, layers, part="vision")


def _norm(name: str, width: int, layers: Layers) -> list[Tensor]:
    return blocks.norm(name, width, layers, part="vision")


def _conv_norm(name: str, shape: tuple[int, ...], layers: Layers) -> list[Tensor]:
    return _conv(f"{name}.conv", shape, layers) + _norm(f"{name}.bn", shape[0], layers)


def _scale(place: str, width: int, layers: Layers) -> Tensor:
    return blocks.vector(f"{place}.layer_scale.gamma", "vector", width, layers, part="vision")
