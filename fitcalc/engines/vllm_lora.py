"""LoRA adapters in vLLM: room for every slot is set aside beside each linear layer when the server starts.

A slot holds A (rank × in) and B (out × rank) of every matrix, in the model's 16-bit type, whatever the adapter that is
put in has. Tensor parallelism divides B of matrices that are divided by rows and A of those divided by columns; the
other factor is whole on every rank. (vLLM 0.32, lora/layers; unused slots on the host: max_cpu_loras.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fitcalc.engines.shards import Rank, rank_shape, repeats_of
from fitcalc.errors import RequestError
from fitcalc.ledger import Input, Term
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import Format

_SLICES = {"attn_qkv": 3, "mlp_gate_up": 2, "shared_gate_up": 2, "expert_gate_up": 2}
"""Role -> matrices that a fused tensor holds: each has its own A."""
_LEFT_OUT = ("router", "shared_router")
_PLAIN = Format("bf16", 1, 2)


def check_options(options: Mapping[str, Any], profile_ranks: tuple[int, ...]) -> None:
    """Raise RequestError for slots or ranks that vLLM would refuse."""
    if not options["enable_lora"]:
        return
    if options["max_loras"] < 1:
        raise RequestError(f"max_loras is {options['max_loras']}", hint="at least one adapter runs at a time")
    if options["max_lora_rank"] not in profile_ranks:
        hint = f"vLLM takes {', '.join(map(str, profile_ranks))}"
        raise RequestError(f"max_lora_rank is {options['max_lora_rank']}", hint=hint)
    held = options["max_cpu_loras"]
    if held and held < options["max_loras"]:
        hint = "the host keeps at least those that run"
        raise RequestError(f"max_cpu_loras {held} is below max_loras {options['max_loras']}", hint=hint)


def _adapted(tensor: Tensor) -> bool:
    """A linear of the text model, or its head."""
    is_linear = tensor.is_linear and len(tensor.shape) == 2 and tensor.role not in _LEFT_OUT
    return tensor.part == "text" and (is_linear or tensor.role == "lm_head")


def slot_elems(model: ModelSpec, rank: Rank, *, fully_sharded: bool) -> int:
    """Elements per unit of LoRA rank that one slot takes on a rank: in and out widths of every adapted matrix."""
    total = 0
    for tensor in model.tensors:
        if not _adapted(tensor):
            continue
        count = repeats_of(tensor, tensor.layers, rank)
        rows, cols, copies = rank_shape(tensor, _PLAIN, rank)
        if tensor.role == "lm_head":
            # Logits are gathered: their B covers the whole vocabulary.
            rows = tensor.shape[0]
        whole_rows = tensor.shape[0]
        slices = _SLICES.get(tensor.role, 1)
        inputs, outputs = cols * slices, rows
        if fully_sharded and rank.ranks > 1 and copies == 1 and tensor.role != "lm_head":
            divided_rows = rows < whole_rows
            inputs = math.ceil(inputs / rank.ranks) if divided_rows else inputs
            outputs = rows if divided_rows else math.ceil(rows / rank.ranks)
        total += (inputs + outputs) * copies * count
    if not any(tensor.role == "lm_head" for tensor in model.tensors) and rank.is_last:
        total += model.hidden + model.vocab
    return int(total)


def lora_term(model: ModelSpec, rank: Rank, options: Mapping[str, Any]) -> tuple[Term, ...]:
    """Room for `max_loras` adapters of `max_lora_rank`; none where LoRA is off."""
    if not options["enable_lora"]:
        return ()
    elems = slot_elems(model, rank, fully_sharded=options["fully_sharded_loras"])
    slots, width = options["max_loras"], options["max_lora_rank"]
    size = elems * width * slots * 2
    inputs = (Input("slot_elems", elems), Input("max_lora_rank", width), Input("max_loras", slots))
    note = "A and B of every linear layer and the head, for each slot"
    # Builds differ in whether the embedding is adapted too.
    high = size + (model.vocab + model.hidden) * width * slots * 2
    return (Term("lora", size, size, high, "derived", "slot_elems * max_lora_rank * max_loras * 2", inputs, note),)


def host_bytes(model: ModelSpec, options: Mapping[str, Any]) -> int:
    """RAM for the adapters that wait on the host."""
    if not options["enable_lora"]:
        return 0
    waiting = options["max_cpu_loras"] or options["max_loras"]
    elems = slot_elems(model, Rank(stop=model.layers), fully_sharded=False)
    size: int = elems * options["max_lora_rank"] * waiting * 2
    return size
