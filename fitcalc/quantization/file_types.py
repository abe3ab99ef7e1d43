"""A GGUF file as it is: the scheme that its own types make, and its tensors with them."""

from __future__ import annotations

from fitcalc.quantization.stored import Stored
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import Format, Scheme

_SPELLED = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
_MIX = "-mix"


def file_scheme(model: ModelSpec) -> Scheme | None:
    """What a GGUF file is quantized in, under the name that the file gives it; None for other models."""
    if model.container != "gguf" or model.quant is None:
        return None
    scheme_id = model.quant.scheme
    named = _SPELLED.get(scheme_id, scheme_id.upper())
    if scheme_id.endswith(_MIX):
        named = f"mostly {named.removesuffix(_MIX.upper())}"
    weight = _most_used(model.tensors)
    return Scheme(
        id=scheme_id,
        name=f"{named} (GGUF file)",
        kind="file",
        weight=weight,
        bits=max(weight.block_bytes * 8 // weight.block_elems, 1),
        quality_rank=0,
        engines=("llama.cpp", "ollama"),
        method="gguf",
        recipe=named,
        source=model.source,
    )


def _most_used(tensors: tuple[Tensor, ...]) -> Format:
    elems: dict[Format, int] = {}
    for tensor in tensors:
        if tensor.stored is not None:
            elems[tensor.stored] = elems.get(tensor.stored, 0) + tensor.elems
    return max(elems, key=lambda layout: elems[layout])


def assign_file(model: ModelSpec) -> tuple[Stored, ...]:
    """The tensors that llama.cpp loads from the file, as they are stored there; prediction layers stay on disk."""
    return tuple(
        Stored(tensor, tensor.layers, tensor.stored, tensor.stored)
        for tensor in model.tensors
        if tensor.stored is not None and tensor.part != "mtp"
    )
