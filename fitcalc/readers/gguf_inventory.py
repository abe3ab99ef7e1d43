"""Tensor entries of a GGUF header -> inventory: names to roles and layers, alike ones of all layers in one entry.

Names are those that llama.cpp gives (gguf-py, constants.py); a name that is not known keeps a role of its own kind
(vector, other), so that its bytes count all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import prod
from typing import NamedTuple

from fitcalc.errors import ModelFileError
from fitcalc.readers.gguf_header import TensorEntry
from fitcalc.spec.model import Part, Tensor
from fitcalc.spec.quant import Format, GgmlTable

_ROLES = {
    "token_embd": "embedding",
    "per_layer_token_embd": "per_layer_embedding",
    "position_embd": "position_embedding",
    "token_types": "token_type_embedding",
    "output": "lm_head",
    "attn_q": "attn_q",
    "attn_k": "attn_k",
    "attn_v": "attn_v",
    "attn_qkv": "attn_qkv",
    "attn_output": "attn_o",
    "attn_o": "attn_o",
    "attn_gate": "attn_gate",
    "cross_attn_q": "cross_q",
    "cross_attn_k": "cross_k",
    "cross_attn_v": "cross_v",
    "cross_attn_o": "cross_o",
    "attn_q_a": "mla_q_a",
    "attn_q_b": "mla_q_b",
    "attn_kv_a_mqa": "mla_kv_a",
    "attn_kv_b": "mla_kv_b",
    "attn_k_b": "mla_k_b",
    "attn_v_b": "mla_v_b",
    "ffn_gate": "mlp_gate",
    "ffn_up": "mlp_up",
    "ffn_down": "mlp_down",
    "ffn_gate_exps": "expert_gate",
    "ffn_up_exps": "expert_up",
    "ffn_gate_up_exps": "expert_gate_up",
    "ffn_down_exps": "expert_down",
    "ffn_gate_shexp": "shared_gate",
    "ffn_up_shexp": "shared_up",
    "ffn_down_shexp": "shared_down",
    "ffn_gate_inp": "router",
    "ffn_gate_inp_shexp": "shared_router",
    "exp_probs_b": "router_bias",
    "ssm_in": "ssm_in",
    "ssm_out": "ssm_out",
    "ssm_x": "ssm_x",
    "ssm_dt": "ssm_dt",
    "ssm_a": "ssm_a",
    "ssm_d": "ssm_d",
    "ssm_conv1d": "ssm_conv",
    "ssm_conv1d_q": "ssm_conv",
    "ssm_conv1d_k": "ssm_conv",
    "ssm_conv1d_v": "ssm_conv",
    **dict.fromkeys(("ssm_ba", "ssm_alpha", "ssm_beta", "ssm_f_a", "ssm_f_b", "ssm_g_a", "ssm_g_b"), "linear_in"),
    "shortconv.conv": "ssm_conv",
    "shortconv.in_proj": "ssm_in",
    "shortconv.out_proj": "ssm_out",
    **dict.fromkeys(("indexer.proj", "indexer.attn_k", "indexer.attn_q_b"), "indexer"),
}
"""Name without block and ending -> role."""
_LINEAR_ATTENTION = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate"), "linear_in"),
    "attn_o": "linear_out",
    "ssm_out": "linear_out",
}
"""Roles in a layer of linear attention (gated delta, KDA), whose projections share their names with attention's."""
_NO_LINEARS = ("embedding", "per_layer_embedding", "position_embedding", "token_type_embedding", "norm", "bias",
               "ssm_conv", "ssm_a", "ssm_d", "vector")  # fmt: skip
_PER_EXPERT = ("expert_gate", "expert_up", "expert_gate_up", "expert_down")
_HELPERS = ("rope_freqs", "rope_factors_long", "rope_factors_short")
"""Tensors that llama.cpp's converter adds; a checkpoint has no such parameters."""

_BLOCK = re.compile(r"(?P<stack>(?:enc\.|dec\.)?blk)\.(?P<layer>[0-9]{1,6})\.(?P<rest>.+)", re.DOTALL)
_ONE_EXPERT = re.compile(r"(?P<leaf>ffn_(?:gate|up|down))\.(?P<expert>[0-9]{1,6})\.weight")
_ENDING = re.compile(r"(?P<leaf>.+?)(?P<ending>\.(?:weight|bias|scale|input_scale))?", re.DOTALL)


class Read(NamedTuple):
    """A tensor of a file with what its name says."""

    template: str
    """The name with `{layer}` and `{expert}` in place of numbers."""
    leaf: str
    ending: str
    stack: str
    """blk, enc.blk, dec.blk, or '' outside the layers."""
    layer: int | None
    expert: int | None
    dimensions: tuple[int, ...]
    """Row length first."""
    stored: Format


def read_names(entries: Iterable[TensorEntry], ggml: GgmlTable, blocks: int) -> list[Read]:
    """What every name says; ModelFileError for a layer beyond the file's own number of `blocks`."""
    found = []
    for entry in entries:
        stored = ggml.types[ggml.type_ids[entry.type_id]]
        found.append(_named(entry.name, entry.dimensions, stored))
        layer = found[-1].layer
        if layer is not None and layer >= blocks:
            raise ModelFileError(
                f"tensor {entry.name!r} in a model of {blocks} blocks", hint="the file was made wrongly"
            )
    return found


def _named(name: str, dimensions: tuple[int, ...], stored: Format) -> Read:
    block = _BLOCK.fullmatch(name)
    rest = block["rest"] if block else name
    expert = _ONE_EXPERT.fullmatch(rest) if block else None
    if expert:
        leaf, ending = f"{expert['leaf']}_exps", ".weight"
        rest = f"{expert['leaf']}.{{expert}}.weight"
    else:
        parts = _ENDING.fullmatch(rest)
        leaf, ending = (parts["leaf"], parts["ending"] or "") if parts else (rest, "")
    return Read(
        template=f"{block['stack']}.{{layer}}.{rest}" if block else rest,
        leaf=leaf,
        ending=ending,
        stack=block["stack"] if block else "",
        layer=int(block["layer"]) if block else None,
        expert=int(expert["expert"]) if expert else None,
        dimensions=dimensions,
        stored=stored,
    )


def layers_with(read: Iterable[Read], *leaves: str) -> frozenset[int]:
    """Layers of the model that hold one of the tensors."""
    return frozenset(
        one.layer for one in read if one.layer is not None and one.leaf in leaves and one.stack != "enc.blk"
    )


def lightning_layers(read: list[Read]) -> frozenset[int]:
    """Layers of lightning attention: a fused projection with a gate and a norm behind it, and a state alone."""
    return layers_with(read, "attn_norm_2") & layers_with(read, "attn_qkv") & layers_with(read, "attn_gate")


def linear_attention_layers(read: list[Read]) -> frozenset[int]:
    """Layers with a recurrent state whose projections are named like attention's."""
    stateful = layers_with(read, "ssm_a", "ssm_conv1d", "ssm_conv1d_q", "ssm_alpha", "ssm_ba")
    return (stateful & layers_with(read, "attn_qkv", "attn_q") - layers_with(read, "ssm_in")) | lightning_layers(read)


def inventory(
    read: list[Read], *, main_layers: int, experts_used: int, gate_up_rows: int, tied: bool
) -> tuple[Tensor, ...]:
    """The tensors, one entry for all layers that hold the same in the same type.

    Layers from `main_layers` on are for multi-token prediction. `gate_up_rows` is the height of an up projection that
    holds the gate too; `tied` says that an output matrix is a copy of the embedding.
    """
    linear = linear_attention_layers(read)
    groups: dict[tuple[str, Part, str, tuple[int, ...], Format], list[Read]] = {}
    for one in read:
        role, part = _role(one, linear, gate_up_rows), _part(one, main_layers)
        groups.setdefault((role, part, one.template, one.dimensions, one.stored), []).append(one)
    tensors: list[Tensor] = []
    for (role, part, *_), members in groups.items():
        tensors += _entries(members, role, part, experts_used, tied)
    return tuple(tensors)


def _role(one: Read, linear: frozenset[int], gate_up_rows: int) -> str:
    role = _ROLES.get(one.leaf, "")
    if one.ending == ".bias" and role != "router_bias":
        return "bias"
    if one.leaf.endswith(("norm", "norm_2", "norm_1", "norm_exps")):
        return "norm"
    if not role or one.ending in (".scale", ".input_scale"):
        return "vector" if len(one.dimensions) == 1 else "other"
    if one.layer in linear and one.stack == "blk":
        return _LINEAR_ATTENTION.get(role, role)
    if role == "mlp_up" and gate_up_rows and one.dimensions[-1] == gate_up_rows:
        return "mlp_gate_up"
    return role


def _entries(members: list[Read], role: str, part: Part, experts_used: int, tied: bool) -> Iterator[Tensor]:
    first = members[0]
    per_layer: dict[int | None, int] = {}
    for one in members:
        per_layer[one.layer] = per_layer.get(one.layer, 0) + 1
    for count in sorted(set(per_layer.values())):
        layers = tuple(sorted(layer for layer, held in per_layer.items() if held == count and layer is not None))
        shape, copies = _shape(first, role, count)
        routed = role in _PER_EXPERT or (role == "bias" and first.leaf.endswith("_exps"))
        yield Tensor(
            name=first.template,
            role=role,
            shape=shape,
            layers=layers,
            copies=copies,
            active=min(experts_used, copies) if routed and experts_used else copies,
            part=part,
            is_buffer=first.leaf in _HELPERS or role == "router_bias" or (role == "lm_head" and tied),
            is_linear=len(shape) > 1 and role not in _NO_LINEARS,
            stored=first.stored,
        )


def _shape(one: Read, role: str, experts: int) -> tuple[tuple[int, ...], int]:
    """(shape of one copy as (out, in), copies); biases of stacked experts are one row for each."""
    if role == "bias" and one.leaf.endswith("_exps") and len(one.dimensions) == 2:
        return (one.dimensions[0],), one.dimensions[1]
    return tuple(reversed(one.dimensions[:2])), prod(one.dimensions[2:]) * experts


def _part(one: Read, main_layers: int) -> Part:
    if one.stack == "enc.blk" or one.leaf == "enc.output_norm":
        return "encoder"
    return "mtp" if one.layer is not None and one.layer >= main_layers else "text"
