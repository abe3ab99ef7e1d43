"""Parts of image generators (UNets, diffusion transformers, image autoencoders): their weights, and what a pass keeps.

A config whose layout is not known gives a component without tensors, known by its published count alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from fitcalc.architectures import blocks
from fitcalc.architectures.common import dtype_of
from fitcalc.architectures.config import Config
from fitcalc.architectures.encoder_blocks import Layers, convolution
from fitcalc.spec.image import ImagePart
from fitcalc.spec.model import ModelSpec, Tensor

ACTIVATIONS = "memory of a run: what this component's activations take is not known"
LAYOUT = "the layout of this component is not known: its weights are its published count"
KERNEL = 3
"""Convolutions of UNets and autoencoders are 3 × 3 unless they only change the width."""


def component(
    config: Config,
    tensors: Iterable[Tensor] = (),
    layers: int = 0,
    hidden: int = 0,
    image: ImagePart | None = None,
    prompt_tokens: int = 77,
) -> ModelSpec:
    """A component: no cache, no tokens. Without tensors the profile's published count stands for them."""
    kind, owned = str(config.get("_class_name") or ""), tuple(tensors)
    return ModelSpec(
        id=kind,
        name=kind,
        family=kind,
        model_type=kind,
        kind="component",
        tensors=owned,
        cache_layers=(),
        layers=layers,
        hidden=hidden,
        heads=0,
        kv_heads=0,
        head_dim=0,
        intermediate=0,
        vocab=0,
        max_context_tokens=prompt_tokens,
        attention="component",
        tied_embeddings=False,
        gated_mlp=False,
        dtype=dtype_of(config),
        unknowns=(() if image else (ACTIVATIONS,)) if owned else (LAYOUT, ACTIVATIONS),
        image=image,
    )


def dense(name: str, role: str, out: int, inputs: int, layers: Layers = (), *, bias: bool = True) -> list[Tensor]:
    """A linear layer of a component."""
    return blocks.linear(name, role, out, inputs, layers, split="replicated", bias=bias, part="other")


def conv(name: str, out: int, inputs: int, kernel: int = KERNEL) -> list[Tensor]:
    """A square convolution with a bias."""
    return convolution(name, (out, inputs, kernel, kernel), bias=True, part="other")


def norm(name: str, width: int, layers: Layers = (), *, bias: bool = True) -> list[Tensor]:
    """A group norm or layer norm."""
    return blocks.norm(name, width, layers, bias=bias, part="other")


def resnet(prefix: str, inputs: int, out: int, time: int = 0) -> list[Tensor]:
    """Two normed convolutions, a shortcut where the width changes, a projection of the time embedding if given."""
    return [
        *norm(f"{prefix}.norm1", inputs),
        *conv(f"{prefix}.conv1", out, inputs),
        *(dense(f"{prefix}.time_emb_proj", "other", out, time) if time else ()),
        *norm(f"{prefix}.norm2", out),
        *conv(f"{prefix}.conv2", out, out),
        *(conv(f"{prefix}.conv_shortcut", out, inputs, 1) if inputs != out else ()),
    ]


def embedder(prefix: str, width: int, inputs: int) -> list[Tensor]:
    """Two linears that make an embedding of a time step or of pooled text."""
    return [
        *dense(f"{prefix}.linear_1", "other", width, inputs),
        *dense(f"{prefix}.linear_2", "other", width, width),
    ]
