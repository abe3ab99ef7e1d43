"""What is on a card at every moment of a step: weights, adapters, states, gathered parameters, the process itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fitcalc.formulas import training as formulas
from fitcalc.frozen import replace
from fitcalc.ledger import Input, Term, computed, fixed
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.training import Settings
from fitcalc.training.profiles import overheads
from fitcalc.training.states import States
from fitcalc.units import format_params, parse_size

SOURCE = "profiles/training/overheads.toml"
ALL_SHARDED = ("zero1", "zero2", "zero3", "fsdp")
GRADIENTS_SHARDED = ("zero2", "zero3", "fsdp")
WEIGHTS_SHARDED = ("zero3", "fsdp")
_MOVING = ("activations", "logits", "gathered", "dequantized", "weight_norm")
"""Terms that come and go in a step: what fragments a sharded run's memory."""


def share(name: str, whole_bytes: int, settings: Settings, shardings: Sequence[str], note: str) -> Term:
    """A term that is divided over the cards under some ways of sharding."""
    cards = settings.cards if settings.sharding in shardings else 1
    return computed(name, formulas.share_bytes, "exact", note=note, whole_bytes=whole_bytes, cards=cards)


def held_terms(settings: Settings, states: States) -> list[Term]:
    """Weights, adapters, optimizer states and master weights, less what lies in host memory."""
    terms = []
    if not (settings.offload in ("params", "all") and settings.sharding in WEIGHTS_SHARDED):
        stored = states.scheme.id if states.scheme else {2: "16 bit", 4: "32 bit"}[settings.param_bytes]
        divided = settings.sharding in WEIGHTS_SHARDED and settings.cards > 1
        note = f"{format_params(states.weights_elems)} in {stored}" + (f", 1/{settings.cards} here" if divided else "")
        terms.append(share("weights", states.weights_bytes, settings, WEIGHTS_SHARDED, note))
    if settings.precision == "mixed":
        copies = formulas.matrix_copy_bytes
        note = "16-bit copies for the products"
        terms.append(
            computed("weight_copies", copies, "derived", note=note, elem_bytes=2, rows_times_cols=states.weights_elems)
        )
    if states.adapter_elems:
        whole = states.adapter_elems * states.grad_bytes_each
        about = f"rank {settings.rank}: {format_params(states.adapter_elems)}, {states.grad_bytes_each} B each"
        terms.append(share("adapters", whole, settings, WEIGHTS_SHARDED, about))
    if settings.offload not in ("optimizer", "all"):
        terms += _optimizer(settings, states)
    return terms


def _optimizer(settings: Settings, states: States) -> list[Term]:
    optimizer = settings.optimizer
    note = f"{optimizer.name}: {states.optimizer_bytes / max(states.trainable, 1):.3g} B per parameter trained"
    term = share("optimizer", states.optimizer_bytes, settings, ALL_SHARDED, note)
    if optimizer.paged:
        term = replace(term, low_bytes=0, basis="derived", note=note + ", can move to the host")
    return [term, share("master_weights", states.master_bytes, settings, ALL_SHARDED, "32-bit weights of ZeRO")]


def buffer_terms(model: ModelSpec, settings: Settings, states: States) -> list[Term]:
    """What a sharded run gathers or buffers, and matrices that exist for a moment."""
    terms = [term for term in (_gathered(model, settings, states),) if term is not None]
    if settings.trainer.keeps_whole_copy and settings.sharding in WEIGHTS_SHARDED:
        whole = share("whole_copy", states.weights_bytes, settings, (), "a whole copy stays beside the shards")
        terms.append(replace(whole, low_bytes=whole.bytes * 9 // 10, basis="estimated"))
    if states.scheme is not None:
        rows_times_cols = states.largest_matrix_elems
        if settings.trainer.quantizes_head:
            rows_times_cols = max(rows_times_cols, model.vocab * model.hidden)
        terms.append(_copy("dequantized", 2, rows_times_cols, "the largest matrix in 16 bit"))
    if settings.method == "dora":
        terms.append(_copy("weight_norm", 8, states.largest_matrix_elems, "weight plus adapter in 32 bit"))
    return terms


def _copy(name: str, elem_bytes: int, rows_times_cols: int, note: str) -> Term:
    return computed(
        name,
        formulas.matrix_copy_bytes,
        "derived",
        note=note,
        elem_bytes=elem_bytes,
        rows_times_cols=rows_times_cols,
    )


def _gathered(model: ModelSpec, settings: Settings, states: States) -> Term | None:
    zero, form = overheads()["zero"], overheads()["gathered"]
    bucket_elems = min(zero["bucket_elems"], model.hidden * model.hidden)
    if settings.sharding == "zero3":
        term = computed(
            "gathered", formulas.zero3_gathered, "estimated", note="parameters of the other cards, buckets",
            sources={"live_bytes": SOURCE}, whole_bytes=states.weights_bytes, live_bytes=2 * zero["live_elems"],
            bucket_bytes=4 * bucket_elems,
        )  # fmt: skip
    elif settings.sharding == "fsdp":
        term = computed(
            "gathered", formulas.fsdp_gathered, "estimated", note="two blocks, embedding and head whole", blocks=2,
            block_bytes=states.block_bytes, root_bytes=states.root_bytes, grad_bytes=states.block_grad_bytes,
        )  # fmt: skip
    elif settings.sharding in ("zero1", "zero2"):
        elems = min(zero["bucket_elems"], states.trainable)
        term = _copy("gathered", 2, elems, "buckets of gradients")
    else:
        return None
    low, high = (term.bytes * permille // 1000 for permille in (1000 - form["low"], 1000 + form["high"]))
    return replace(term, low_bytes=low, high_bytes=high, basis="estimated")


def process_terms(terms: Sequence[Term], settings: Settings) -> list[Term]:
    """The driver's context, libraries, and what the allocator reserves beyond what is in use: of a sharded run, whose
    parameters come and go, a share of all that is not held for good."""
    form = overheads()
    held = sum(term.bytes for term in terms)
    sharded = settings.sharding in WEIGHTS_SHARDED
    slack: dict[str, Any] = form["sharded_slack" if sharded else "slack"]
    moving = sum(term.bytes for term in terms if term.name in _MOVING) if sharded else held
    sizes = [formulas.slack_bytes(held_bytes=moving, permille=slack[key]) for key in ("permille", "low", "high")]
    inputs = (Input("held_bytes", moving), Input("permille", slack["permille"], slack["source"]))
    note = "reserved beyond what is in use"
    size, low, high = sizes
    booked = Term("allocator", size, low, high, "estimated", formulas.slack_bytes.text, inputs, note)
    workspace = _workspace(form["workspace"], held)
    context = _measured("cuda_context", form["context"], "the driver's own, per process")
    links = [_measured("communication", form["communication"], "buffers of NCCL")] if settings.cards > 1 else []
    return [workspace, booked, context, *links]


def _workspace(form: dict[str, Any], held: int) -> Term:
    """Workspaces of libraries, and a small share of what is held for tensors that no formula counts."""
    term = _measured("runtime", form, "workspaces and short-lived tensors")
    size = term.bytes + held * form["permille"] // 1000
    high = term.high_bytes + held * form["high_permille"] // 1000
    inputs = (*term.inputs, Input("held_bytes", held), Input("permille", form["permille"], SOURCE))
    return replace(term, bytes=size, high_bytes=high, inputs=inputs)


def _measured(name: str, form: dict[str, Any], note: str) -> Term:
    size, low, high = (parse_size(form[key]) for key in ("bytes", "low", "high"))
    stated = fixed(name, size, "estimated", "", (Input("bytes", size, form["source"]),), note)
    return replace(stated, low_bytes=low, high_bytes=high)
