"""Weights of a checkpoint -> Tensors: alike layers in one entry, experts as copies, matrices as (out, in)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from fitcalc.frozen import replace
from fitcalc.quantization.stored import shape_bytes
from fitcalc.readers.safetensors_names import Place, meaning_of, place_of
from fitcalc.readers.safetensors_packing import Weight
from fitcalc.spec.model import Tensor
from fitcalc.spec.quant import Format

_TO_HIDDEN = ("attn_o", "mlp_down", "shared_down", "expert_down", "ssm_out")
"""Roles that write the hidden state: their rows are its width; the other linears read it with their columns."""
_OF_HIDDEN = (
    "attn_q", "attn_k", "attn_v", "attn_qkv", "mlp_gate", "mlp_up", "mlp_gate_up", "shared_gate", "shared_up",
    "shared_gate_up", "expert_gate", "expert_up", "expert_gate_up", "ssm_in",
)  # fmt: skip
_INTEGERS = ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool")
_NO_LAYER = -1


def inventory_of(weights: Sequence[Weight], expected: Iterable[Tensor] = ()) -> tuple[Tensor, ...]:
    """Tensors named by their templates, each with the format that the file stores it in.

    `expected` is the inventory that they will be held against: what it numbers as layers or copies is read so.
    """
    held = tuple(expected)
    words = [_words_before(number, held) for number in (".{layer}", ".{expert}")]
    spelled = dict(_spelled_out(held))
    meanings = [(weight, spelled.get(weight.name) or place_of(weight.name, *words)) for weight in weights]
    hidden = _hidden(weights)
    counts: dict[tuple[str, tuple[int, ...], Format], dict[int, int]] = {}
    for weight, place in meanings:
        shape, copies, layout = _unstacked(weight, place.template, hidden)
        layer = _NO_LAYER if place.layer is None else place.layer
        by_layer = counts.setdefault((place.template, shape, layout), {})
        by_layer[layer] = by_layer.get(layer, 0) + copies
    tensors = [
        _tensor(template, shape, layout, layers, copies)
        for (template, shape, layout), by_layer in counts.items()
        for copies, layers in _alike(by_layer)
    ]
    return tuple(_with_mtp_layers(tensors))


def _words_before(number: str, tensors: Iterable[Tensor]) -> set[str]:
    parted = (tensor.name.partition(number) for tensor in tensors)
    return {before.rpartition(".")[2] for before, found, _ in parted if found}


def _spelled_out(tensors: Iterable[Tensor]) -> Iterator[tuple[str, Place]]:
    """Names in which another number stands before the layer's, each with its place."""
    for tensor in tensors:
        before, found, _ = tensor.name.partition(".{layer}")
        if found and any(word.isdigit() for word in before.split(".")):
            for layer in tensor.layers:
                yield tensor.name.replace("{layer}", str(layer)), Place(tensor.name, layer, None)


def _hidden(weights: Iterable[Weight]) -> int:
    """Width of the hidden state: the columns of the largest text embedding; 0 where there is none."""
    tables = [
        weight
        for weight in weights
        if len(weight.shape) == 2
        and meaning_of(weight.name, 2)[::2] in (("embedding", "text"), ("embedding", "encoder"))
    ]
    return max(tables, key=lambda weight: math.prod(weight.shape)).shape[1] if tables else 0


def _unstacked(weight: Weight, template: str, hidden: int) -> tuple[tuple[int, ...], int, Format]:
    """(shape of one copy as (out, in), copies, format): stacked experts apart, transposed matrices turned."""
    shape, copies, layout = weight.shape or (1,), weight.copies, weight.format
    role = meaning_of(template, len(shape)).role
    stacked = len(shape) == (3 if role.startswith("expert") else 2 if role == "bias" else 0)
    if stacked and "experts" in template.split(".") and shape[0] and not weight.quantized:
        shape, copies = shape[1:], shape[0]
    if weight.flattened:
        return _arranged(shape[0], role, hidden), copies, layout
    if len(shape) == 2 and hidden and _is_turned(shape, role, hidden) and _fits_turned(layout, shape):
        shape = (shape[1], shape[0])
    return shape, copies, layout


def _arranged(elements: int, role: str, hidden: int) -> tuple[int, ...]:
    """A flattened matrix with the hidden width on the side that its role has it on."""
    if not hidden or elements % hidden:
        return (elements,)
    return (hidden, elements // hidden) if role in _TO_HIDDEN else (elements // hidden, hidden)


def _is_turned(shape: tuple[int, ...], role: str, hidden: int) -> bool:
    side = 0 if role in _TO_HIDDEN else 1 if role in _OF_HIDDEN else None
    return side is not None and shape[side] != hidden and shape[1 - side] == hidden


def _fits_turned(layout: Format, shape: tuple[int, ...]) -> bool:
    return shape_bytes(layout, shape) == shape_bytes(layout, (shape[1], shape[0]))


def _alike(by_layer: dict[int, int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(copies, layers that have as many)."""
    layers_of: dict[int, list[int]] = {}
    for layer, copies in by_layer.items():
        layers_of.setdefault(copies, []).append(layer)
    for copies, layers in layers_of.items():
        yield copies, tuple(sorted(layer for layer in layers if layer != _NO_LAYER))


def _tensor(template: str, shape: tuple[int, ...], layout: Format, layers: tuple[int, ...], copies: int) -> Tensor:
    role, split, part, is_buffer = meaning_of(template, len(shape))
    is_linear = len(shape) == 2 and role not in ("embedding", "position_embedding", "token_type_embedding", "bias",
                                                 "router_bias", "norm", "vector", "ssm_a", "ssm_d")  # fmt: skip
    is_index = layout.id in _INTEGERS and not (is_linear and template.endswith(".weight"))
    return Tensor(
        template, role, shape, layers, copies, copies, split, part, is_buffer=is_buffer or is_index,
        is_linear=is_linear, stored=layout,
    )  # fmt: skip


def _with_mtp_layers(tensors: list[Tensor]) -> Iterator[Tensor]:
    """A layer that holds a prediction head's tensors belongs to multi-token prediction as a whole."""
    heads = {
        (tensor.name.partition("{layer}")[0], layer)
        for tensor in tensors
        if tensor.part == "mtp"
        for layer in tensor.layers
    }
    for tensor in tensors:
        prefix = tensor.name.partition("{layer}")[0]
        moved = tuple(layer for layer in tensor.layers if (prefix, layer) in heads)
        if not moved or tensor.part == "mtp":
            yield tensor
            continue
        yield replace(tensor, layers=moved, part="mtp")
        kept = tuple(layer for layer in tensor.layers if (prefix, layer) not in heads)
        if kept:
            yield replace(tensor, layers=kept)
