"""Which tensor gets which format: the inventory of a model under a quantization, its bytes in memory and on disk."""

from __future__ import annotations

from functools import lru_cache

from fitcalc.quantization.as_stored import as_stored
from fitcalc.quantization.checkpoint import checkpoint_bytes
from fitcalc.quantization.file_types import assign_file, file_scheme
from fitcalc.quantization.linear_layers import assign_linear, is_own, obeyed
from fitcalc.quantization.stored import Stored, stored_bytes, total_bytes
from fitcalc.same import Same
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme, split_group, with_group

__all__ = [
    "Stored",
    "assign",
    "checkpoint_bytes",
    "file_scheme",
    "is_own",
    "obeyed",
    "split_group",
    "stored_bytes",
    "total_bytes",
    "weights_bytes",
    "with_group",
]


def assign(model: ModelSpec, scheme: Scheme, *, gguf: bool = False, imatrix: bool = False) -> tuple[Stored, ...]:
    """The tensors that an engine loads, each with its format in the file and in the engine.

    `gguf` puts a float scheme into a GGUF file (norms in 32 bit, llama.cpp's tensors); `imatrix` is for the recipes
    that depend on an importance matrix. A checkpoint that is already stored in the scheme keeps its own group size
    and exceptions. Multi-token-prediction layers are not loaded. Raises UnsupportedModelError where the layout of a
    family or of a mixed checkpoint is not known.
    """
    return _assigned(Same(model), Same(scheme), gguf, imatrix)


@lru_cache(maxsize=16)
def _assigned(model_: Same[ModelSpec], scheme_: Same[Scheme], gguf: bool, imatrix: bool) -> tuple[Stored, ...]:
    model, scheme = model_.value, scheme_.value
    if scheme.kind == "file":
        return assign_file(model)
    if model.makes_images and scheme.kind == "gguf":
        from fitcalc.quantization.one_type import assign_one_type

        return assign_one_type(model, scheme)
    if gguf or scheme.kind == "gguf":
        from fitcalc.quantization.gguf_tensors import assign_gguf

        return assign_gguf(model, scheme, imatrix=imatrix)
    loaded = [tensor for tensor in model.tensors if tensor.part != "mtp"]
    return as_stored(model, scheme, assign_linear(model, scheme, loaded))


def weights_bytes(model: ModelSpec, scheme: Scheme, *, gguf: bool = False, imatrix: bool = False) -> int:
    """Bytes of the loaded tensors as the engine keeps them, each once: no rank copies, no padding."""
    return _total_bytes(Same(assign(model, scheme, gguf=gguf, imatrix=imatrix)))


@lru_cache(maxsize=16)
def _total_bytes(stored: Same[tuple[Stored, ...]]) -> int:
    return total_bytes(stored.value)
