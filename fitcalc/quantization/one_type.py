"""GGUF files of image generators: every linear in one type, the rest in 32 bit, as their converters write them."""

from __future__ import annotations

from collections.abc import Iterator

from fitcalc.quantization.stored import Stored
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import PLAIN_TYPES, Format, Scheme


def assign_one_type(model: ModelSpec, scheme: Scheme) -> tuple[Stored, ...]:
    """The tensors with their types. In a pipeline components that are not quantized stay in 16 bit."""
    return tuple(_stored(model, scheme))


def _stored(model: ModelSpec, scheme: Scheme) -> Iterator[Stored]:
    parts = dict(model.run.components) if model.run else {}
    # Such files hold the denoiser; text encoders are loaded beside it in 16 bit.
    opened = [role for role in model.run.quantized if parts[role].image] if model.run else None
    half = PLAIN_TYPES[model.dtype if model.dtype in ("fp16", "bf16") else "fp16"]
    for tensor in model.tensors:
        if opened is not None and tensor.name.partition(".")[0] not in opened:
            layout = half
        else:
            layout = _type_of(tensor, scheme.weight)
        yield Stored(tensor, tensor.layers, layout, layout)


def _type_of(tensor: Tensor, weight: Format) -> Format:
    """The file's type where rows divide into its blocks; convolutions in 16 bit."""
    if tensor.is_linear and tensor.shape[-1] % weight.block_elems == 0:
        return weight
    return PLAIN_TYPES["fp16" if len(tensor.shape) > 2 and not tensor.is_buffer else "fp32"]
