"""The peak of a training step on one card: what is held all the time, and the moment in which the rest is largest.

Moments: the start of the backward pass (activations, logits and their gradients), with checkpointing the first and
the last block that is computed again, the end of the backward pass (all gradients), and the optimizer's step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fitcalc.formulas import training as formulas
from fitcalc.frozen import dataclass
from fitcalc.ledger import Input, Term, fixed
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.training import Loss, Settings
from fitcalc.training import activations
from fitcalc.training.activations import Kept
from fitcalc.training.profiles import overheads
from fitcalc.training.states import States
from fitcalc.units import parse_size

_SOURCE = "profiles/training/overheads.toml"
_START, _FIRST, _END, _STEP = "start of the backward pass", "first block again", "end of the backward pass", "step"
_MOVING = ("activations", "logits", "gathered", "dequantized", "weight_norm")
PHASES = {
    _START: "at the start of the backward pass",
    _FIRST: "when the last block is computed again",
    _END: "at the end of the backward pass",
    _STEP: "in the optimizer's step",
}


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a step: gradients, activations and logits that are there at once."""

    name: str
    gradients: int
    activations: Term
    logits: Term

    @property
    def total(self) -> int:
        """Bytes that are there beside weights, states and buffers."""
        return self.gradients + self.activations.bytes + self.logits.bytes


@dataclass(frozen=True, slots=True)
class Blocks:
    """What the blocks keep per token, all together and the largest, and what stands beside them."""

    all: Kept
    largest: Kept
    unseen: int
    input_bytes: int
    """Per token: the inputs of all blocks that are kept for computing them again."""
    head_bytes: int
    rotary_bytes: int
    estimated: bool
    """Some of it was not measured: experts, state space layers."""


def blocks_of(model: ModelSpec, settings: Settings, states: States) -> Blocks:
    """The activations of a model under these settings, per token."""
    names = frozenset(tensor.name for tensor in states.wrapped)
    layers = activations.kept_by_layer(model, settings, names, states.first_trained, quantized=states.scheme is not None)
    size = settings.compute_bytes
    held = 2 if settings.offload == "activations" else model.layers - states.first_trained
    mixed = any(t.role.startswith(("expert_", "ssm_", "linear_", "indexer")) for t in model.tensors if t.part == "text")
    return Blocks(
        all=activations.summed(layers),
        largest=max(layers, key=lambda kept: kept.total, default=Kept()),
        unseen=layers[0].unseen if layers else 0,
        input_bytes=held * size * model.hidden,
        head_bytes=activations.head_bytes(model, settings),
        rotary_bytes=activations.rotary_bytes(model, settings),
        estimated=mixed,
    )


def peak_terms(model: ModelSpec, settings: Settings, states: States, blocks: Blocks) -> tuple[tuple[Term, ...], str]:
    """The terms of one card at its peak, and the moment in words."""
    phases = phases_of(model, settings, states, blocks)
    peak = max(phases, key=lambda phase: phase.total)
    terms = [
        *_held(settings, states),
        _gradients(peak.gradients, settings, states, peak.name),
        peak.activations,
        peak.logits,
        *_sharded(model, settings, states),
    ]
    terms = [term for term in terms if term.high_bytes]
    return (*terms, *_process(terms, settings)), PHASES[peak.name]


def phases_of(model: ModelSpec, settings: Settings, states: States, blocks: Blocks) -> list[Phase]:
    """The moments of a step that can be its peak."""
    whole = _per_card(states.trainable * states.grad_bytes_each, settings, ("zero2", "zero3", "fsdp"))
    if settings.step_in_backward:
        whole = 0
    before = whole if settings.accumulation > 1 else 0
    none = fixed("logits", 0, "derived")
    ends = states.tied_grad_bytes
    phases = [Phase(_START, before, _kept(settings, blocks), _logits(model, settings, states))]
    if settings.checkpointing:
        head = _per_card(states.head_grad_bytes, settings, ("zero2", "zero3", "fsdp"))
        phases.append(Phase(_FIRST, max(before, head), _again(settings, blocks, blocks.input_bytes), none))
        phases.append(Phase(_END, whole + ends, _again(settings, blocks, 0), none))
    else:
        phases.append(Phase(_END, whole + ends, fixed("activations", 0, "derived"), none))
    phases.append(Phase(_STEP, whole + _step_extra(settings, states), fixed("activations", 0, "derived"), none))
    return phases


def _per_card(size_bytes: int, settings: Settings, shardings: tuple[str, ...]) -> int:
    cards = settings.cards if settings.sharding in shardings else 1
    return -(-size_bytes // cards)


def _step_extra(settings: Settings, states: States) -> int:
    """ZeRO-3 makes float32 gradients of one sub-group at a time in its step."""
    if settings.sharding != "zero3" or states.grad_bytes_each == 4 or settings.offload in ("optimizer", "all"):
        return 0
    return 4 * min(-(-states.trainable // settings.cards), overheads()["zero"]["step_elems"])


def _spread(term: Term, estimated: bool) -> Term:
    form = overheads()["activation"]
    low, high = (form["estimated_low"], form["estimated_high"]) if estimated else (form["low"], form["high"])
    return Term(
        term.name, term.bytes, term.bytes * (1000 - low) // 1000, term.bytes * (1000 + high) // 1000, "estimated",
        term.formula, (*term.inputs, Input("spread", f"-{low / 10:g} % to +{high / 10:g} %", _SOURCE)), term.note,
    )  # fmt: skip


def _kept(settings: Settings, blocks: Blocks) -> Term:
    """What is kept at the start of the backward pass."""
    tokens, length = settings.tokens, settings.length
    if settings.checkpointing:
        return _again(settings, blocks, blocks.input_bytes + blocks.head_bytes, block=False)
    kept = blocks.all
    # What the first block does not keep comes off the norms and masks of all blocks together.
    inputs = {
        "tokens": tokens,
        "length": length,
        "norm_bytes": kept.norms + blocks.head_bytes - blocks.unseen,
        "attention_bytes": kept.attention,
        "score_bytes": kept.scores,
        "mlp_bytes": kept.mlp,
        "adapter_bytes": kept.adapters,
        "fixed": blocks.rotary_bytes,
    }
    about = {
        "norm_bytes": "per token, all blocks and the last norm",
        "attention_bytes": "per token, all blocks: q, k, v, output",
        "mlp_bytes": "per token, all blocks: gate, up, product",
        "adapter_bytes": "per token, all blocks: the adapters' own inputs",
    }
    listed = tuple(Input(name, value, about.get(name, "")) for name, value in inputs.items())
    size = formulas.kept_bytes(**inputs)
    each = f"{tokens:,} tokens × {size // tokens / 1e6:,.2f} MB"
    term = fixed("activations", size, "estimated", formulas.kept_bytes.text, listed, each)
    return _spread(term, blocks.estimated)


def _again(settings: Settings, blocks: Blocks, input_bytes: int, *, block: bool = True) -> Term:
    """The kept inputs and the block that is computed again."""
    inputs = {
        "tokens": settings.tokens,
        "length": settings.length,
        "input_bytes": input_bytes,
        "head_bytes": 0,
        "block_bytes": blocks.largest.total if block else 0,
        "score_bytes": blocks.largest.scores if block else 0,
    }
    about = {"input_bytes": "per token: inputs of the blocks", "block_bytes": "per token: the largest block"}
    listed = tuple(Input(name, value, about.get(name, "")) for name, value in inputs.items())
    size = formulas.checkpointed_bytes(**inputs)
    note = "checkpointed: inputs of the blocks" + (" and one block" if block else "")
    term = fixed("activations", size, "estimated", formulas.checkpointed_bytes.text, listed, note)
    return _spread(term, blocks.estimated and block)


def _logits(model: ModelSpec, settings: Settings, states: States) -> Term:
    """Logits and their gradients, and for a loss in pieces the head's gradient that grows meanwhile."""
    loss = dict(settings.trainer.losses)[settings.loss]
    inputs = {
        "vocab": model.vocab,
        "tokens": settings.tokens,
        "kept_per_logit": loss.kept,
        "passing_tokens": _passing_tokens(loss, settings.tokens),
        "passing_per_logit": loss.passing,
    }
    source = f"profiles/training/trainers/{settings.trainer.id}.toml"
    listed = tuple(Input(name, value, source if "logit" in name else "") for name, value in inputs.items())
    size = formulas.logits_bytes(**inputs)
    text = formulas.logits_bytes.text
    pieces = bool(loss.pieces or loss.piece_tokens)
    if pieces and states.head_grad_bytes:
        size += 2 * states.head_grad_bytes
        text += " + 2 * head_grad_bytes"
        listed = (*listed, Input("head_grad_bytes", states.head_grad_bytes, "summed piece by piece"))
    words = {"standard": "whole", "chunked": "in pieces", "fused": "fused"}[settings.loss]
    term = fixed("logits", size, "estimated", text, listed, f"{words}: {settings.tokens:,} tokens × {model.vocab:,}")
    return _spread(term, estimated=False)


def _passing_tokens(loss: Loss, tokens: int) -> int:
    if loss.pieces:
        found: int = formulas.piece_tokens(tokens=tokens, pieces=loss.pieces)
        return found
    return min(tokens, loss.piece_tokens) if loss.piece_tokens else tokens


def _held(settings: Settings, states: States) -> list[Term]:
    """Weights, adapters, optimizer states and master weights: there at every moment."""
    sharded = settings.sharding in ("zero3", "fsdp")
    on_host = settings.offload in ("params", "all")
    weights = 0 if on_host and sharded else _per_card(states.weights_bytes, settings, ("zero3", "fsdp"))
    divided = f", 1/{settings.cards} of them here" if sharded and settings.cards > 1 else ""
    held_in = states.scheme.name if states.scheme else {2: "16 bit", 4: "32 bit"}[settings.param_bytes]
    note = f"{states.weights_elems / 1e9:,.2f} B parameters in {held_in}{divided}"
    terms = [_sum("weights", weights, "elements of every tensor in their format / cards", note, states.weights_bytes)]
    if settings.precision == "mixed":
        note = "16-bit copies for the matrix products"
        terms.append(fixed("weight_copies", 2 * states.weights_elems, "derived", "2 * elems", (), note))
    if states.adapter_elems:
        size = _per_card(states.adapter_elems * states.grad_bytes_each, settings, ("zero3", "fsdp"))
        about = f"rank {settings.rank} on {len(states.wrapped)} kinds of module, {states.adapter_elems / 1e6:,.1f} M"
        terms.append(_sum("adapters", size, "elems * bytes_each / cards", about, states.adapter_elems))
    if settings.offload not in ("optimizer", "all"):
        terms += _optimizer(settings, states)
    return terms


def _optimizer(settings: Settings, states: States) -> list[Term]:
    divided = ("zero1", "zero2", "zero3", "fsdp")
    size = _per_card(states.optimizer_bytes, settings, divided)
    optimizer = settings.optimizer
    each = states.optimizer_bytes / max(states.trainable, 1)
    note = f"{optimizer.name}: {each:.3g} B per trained parameter"
    term = _sum("optimizer", size, "states of one copy / cards", note, states.optimizer_bytes)
    if optimizer.paged:
        note += ", can move to the host"
        term = Term("optimizer", size, 0, size, "derived", term.formula, term.inputs, note)
    master = _per_card(states.master_bytes, settings, divided)
    return [term, _sum("master_weights", master, "4 * trainable / cards", "32-bit weights of ZeRO", states.trainable)]


def _sum(name: str, size: int, text: str, note: str, whole: int) -> Term:
    return fixed(name, size, "exact", text, (Input("over all cards", whole),), note)


def _gradients(size: int, settings: Settings, states: States, phase: str) -> Term:
    copies = 2 if settings.cards > 1 and settings.sharding == "none" else 1
    note = f"{states.trainable / 1e6:,.1f} M trained, {states.grad_bytes_each} B each"
    if copies == 2:
        size += states.trainable * states.grad_bytes_each
        note += ", and buckets for the other cards"
    elif phase == _START and size == 0:
        note = "not there yet at this moment"
    inputs = (Input("trainable", states.trainable), Input("bytes_each", states.grad_bytes_each))
    low = size - states.tied_grad_bytes if phase == _END else size
    return Term("gradients", size, low, size, "derived", "trainable * bytes_each / cards", inputs, note)


def _sharded(model: ModelSpec, settings: Settings, states: States) -> list[Term]:
    """What a sharded run gathers or buffers; also the 16-bit copy of a matrix that is dequantized."""
    zero, form = overheads()["zero"], overheads()["gathered"]
    terms = []
    buckets = 2 * min(zero["bucket_elems"], model.hidden * model.hidden)
    text, inputs, note = "", {}, ""
    if settings.sharding == "zero3":
        inputs = {"whole_bytes": states.weights_bytes, "live_bytes": 2 * zero["live_elems"], "bucket_bytes": 2 * buckets}
        size, text = formulas.zero3_gathered(**inputs), formulas.zero3_gathered.text
        note = "parameters gathered from the other cards"
    elif settings.sharding == "fsdp":
        inputs = {
            "blocks": 2,
            "block_bytes": states.block_bytes,
            "root_bytes": states.root_bytes,
            "grad_bytes": states.block_grad_bytes,
        }
        size, text = formulas.fsdp_gathered(**inputs), formulas.fsdp_gathered.text
        note = "two blocks, embedding and head whole"
    elif settings.sharding in ("zero1", "zero2"):
        size, note = 2 * min(zero["bucket_elems"], max(states.trainable, 1)), "buckets of gradients"
    else:
        size = 0
    if size:
        listed = tuple(Input(name, value, _SOURCE if name == "live_bytes" else "") for name, value in inputs.items())
        low, high = size * (1000 - form["low"]) // 1000, size * (1000 + form["high"]) // 1000
        terms.append(Term("gathered", size, low, high, "estimated", text, listed, note))
    if settings.trainer.keeps_whole_copy and settings.sharding in ("zero3", "fsdp"):
        copy, whole = "a whole copy stays beside the shards", states.weights_bytes
        terms.append(Term("whole_copy", whole, whole * 9 // 10, whole, "estimated", "weights", (), copy))
    return [*terms, *_passing(settings, states)]


def _passing(settings: Settings, states: States) -> list[Term]:
    """Matrices that exist for a moment: dequantized to 16 bit, or DoRA's sum of weight and adapter in float32."""
    terms = []
    if states.scheme is not None:
        whole = states.root_bytes if settings.trainer.quantizes_head else 0
        largest = max(2 * states.largest_matrix_elems, whole)
        terms.append(fixed("dequantized", largest, "derived", "2 * rows * cols", (), "the largest matrix in 16 bit"))
    if settings.method == "dora":
        size = 8 * states.largest_matrix_elems
        terms.append(fixed("weight_norm", size, "derived", "8 * rows * cols", (), "weight plus adapter in 32 bit"))
    return terms


def _process(terms: list[Term], settings: Settings) -> list[Term]:
    """The driver's context, libraries, and what the allocator reserves beyond what is in use: of a sharded run, whose
    parameters come and go, a share of all that is not held for good."""
    form = overheads()
    held = sum(term.bytes for term in terms)
    sharded = settings.sharding in ("zero3", "fsdp")
    slack: dict[str, Any] = form["sharded_slack" if sharded else "slack"]
    moving = sum(term.bytes for term in terms if term.name in _MOVING) if sharded else held
    sizes = [formulas.slack_bytes(held_bytes=moving, permille=slack[key]) for key in ("permille", "low", "high")]
    inputs = (Input("held_bytes", moving), Input("permille", slack["permille"], slack["source"]))
    note = "reserved beyond what is in use"
    booked = Term("allocator", *sizes, "estimated", formulas.slack_bytes.text, inputs, note)
    workspace = _measured("runtime", form["workspace"], "workspaces and short-lived tensors")
    room = held * form["workspace"]["high_permille"] // 1000
    context = _measured("cuda_context", form["context"], "the driver's own, per process")
    links = [_measured("communication", form["communication"], "buffers of NCCL")] if settings.cards > 1 else []
    return [replace(workspace, high_bytes=workspace.high_bytes + room), booked, context, *links]


def _measured(name: str, form: dict[str, str], note: str) -> Term:
    size, low, high = (parse_size(form[key]) for key in ("bytes", "low", "high"))
    return Term(name, size, low, high, "estimated", "", (Input("bytes", size, form["source"]),), note)
