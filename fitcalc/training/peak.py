"""The peak of a training step on one card: what is held all the time, and the moment in which the rest is largest.

Moments: the start of the backward pass (activations, logits and their gradients), with checkpointing the first and
the last block that is computed again, the end of the backward pass (all gradients), and the optimizer's step.
"""

from __future__ import annotations

from fitcalc.formulas import training as formulas
from fitcalc.frozen import dataclass, replace
from fitcalc.ledger import Input, Term, computed, fixed
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.training import Loss, Settings
from fitcalc.training import activations
from fitcalc.training.activations import Kept
from fitcalc.training.held import GRADIENTS_SHARDED, SOURCE, buffer_terms, held_terms, process_terms
from fitcalc.training.profiles import overheads
from fitcalc.training.states import States
from fitcalc.units import format_params

START = "at the start of the backward pass"
AGAIN = "when the last block is computed again"
LAST = "when the first block is computed again"
END = "at the end of the backward pass"
STEP = "in the optimizer's step"


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a step: gradients, activations and logits that are there at once."""

    name: str
    gradients: Term
    activations: Term
    logits: Term

    @property
    def total(self) -> int:
        """Bytes that are there beside weights, states and buffers."""
        return self.gradients.bytes + self.activations.bytes + self.logits.bytes


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
    layers = activations.kept_by_layer(
        model, settings, names, states.first_trained, quantized=states.scheme is not None
    )
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
    peak = max(phases_of(model, settings, states, blocks), key=lambda phase: phase.total)
    moment = [peak.gradients, peak.activations, peak.logits]
    terms = [*held_terms(settings, states), *moment, *buffer_terms(model, settings, states)]
    terms = [term for term in terms if term.high_bytes]
    return (*terms, *process_terms(terms, settings)), peak.name


def phases_of(model: ModelSpec, settings: Settings, states: States, blocks: Blocks) -> list[Phase]:
    """The moments of a step that can be its peak."""
    nothing, none = fixed("activations", 0, "derived"), fixed("logits", 0, "derived")
    everything = 0 if settings.step_in_backward else states.trainable
    before = everything if settings.accumulation > 1 else 0
    step = _step_extra(settings, states)
    start = Phase(
        START, _gradients(settings, states, before), _kept(settings, blocks), _logits(model, settings, states)
    )
    end = _gradients(settings, states, everything, tied_bytes=states.tied_grad_bytes)
    last = Phase(STEP, _gradients(settings, states, everything, step_bytes=step), nothing, none)
    if not settings.checkpointing:
        return [start, Phase(END, end, nothing, none), last]
    head = max(before, states.head_grad_bytes // states.grad_bytes_each)
    first = Phase(AGAIN, _gradients(settings, states, head), _again(settings, blocks, blocks.input_bytes), none)
    # The gradients of the first block and of the embedding come when the block is gone.
    most = max(everything - states.late_elems, 0)
    second = Phase(LAST, _gradients(settings, states, most), _again(settings, blocks, 0), none)
    return [start, first, second, Phase(END, end, nothing, none), last]


def _gradients(settings: Settings, states: States, elems: int, *, tied_bytes: int = 0, step_bytes: int = 0) -> Term:
    """Gradients of `elems` parameters; what a tied embedding adds at the end may be less than its bound."""
    cards = settings.cards if settings.sharding in GRADIENTS_SHARDED else 1
    buckets = states.trainable * states.grad_bytes_each if settings.cards > 1 and settings.sharding == "none" else 0
    note = f"{format_params(states.trainable)} trained, {states.grad_bytes_each} B each"
    term = computed(
        "gradients", formulas.gradient_bytes, "derived", note=note + (", and buckets" if buckets else ""),
        trainable=elems, bytes_each=states.grad_bytes_each, cards=cards, bucket_bytes=buckets,
        extra_bytes=tied_bytes + step_bytes,
    )  # fmt: skip
    return replace(term, low_bytes=term.bytes - tied_bytes)


def _step_extra(settings: Settings, states: States) -> int:
    """ZeRO-3 makes float32 gradients of one sub-group at a time in its step."""
    if settings.sharding != "zero3" or states.grad_bytes_each == 4 or settings.offload in ("optimizer", "all"):
        return 0
    limit: int = overheads()["zero"]["step_elems"]
    return 4 * min(-(-states.trainable // settings.cards), limit)


def _spread(term: Term, *, estimated: bool) -> Term:
    form = overheads()["activation"]
    low, high = (form["estimated_low"], form["estimated_high"]) if estimated else (form["low"], form["high"])
    spread = Input("spread", f"-{low / 10:g} % to +{high / 10:g} %", SOURCE)
    ends = {"low_bytes": term.bytes * (1000 - low) // 1000, "high_bytes": term.bytes * (1000 + high) // 1000}
    return replace(term, **ends, inputs=(*term.inputs, spread))


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
    return _spread(term, estimated=blocks.estimated)


def _again(settings: Settings, blocks: Blocks, input_bytes: int, *, block: bool = True) -> Term:
    """The kept inputs and the block that is computed again."""
    inputs = {
        "tokens": settings.tokens,
        "length": settings.length,
        "input_bytes": input_bytes,
        "head_bytes": 0,
        "block_bytes": blocks.largest.total + blocks.largest.moving if block else 0,
        "score_bytes": blocks.largest.scores if block else 0,
    }
    about = {
        "input_bytes": "per token: inputs of the blocks",
        "block_bytes": "per token: the largest block and its gradients",
    }
    listed = tuple(Input(name, value, about.get(name, "")) for name, value in inputs.items())
    size = formulas.checkpointed_bytes(**inputs)
    note = "checkpointed: inputs of the blocks" + (" and one block" if block else "")
    term = fixed("activations", size, "estimated", formulas.checkpointed_bytes.text, listed, note)
    return _spread(term, estimated=blocks.estimated and block)


def _logits(model: ModelSpec, settings: Settings, states: States) -> Term:
    """Logits and their gradients, and for a loss in pieces the head's gradient that grows meanwhile."""
    loss = dict(settings.trainer.losses)[settings.loss]
    source = f"profiles/training/trainers/{settings.trainer.id}.toml"
    words = {"standard": "whole", "chunked": "in pieces", "fused": "fused"}[settings.loss]
    term = computed(
        "logits", formulas.logits_bytes, "estimated", note=f"{words}: {settings.tokens:,} tokens × {model.vocab:,}",
        sources={"kept_per_logit": source, "passing_per_logit": source}, vocab=model.vocab, tokens=settings.tokens,
        kept_per_logit=loss.kept, passing_tokens=_passing_tokens(loss, settings.tokens), passing_per_logit=loss.passing,
        head_grad_bytes=states.head_grad_bytes if loss.pieces or loss.piece_tokens else 0,
    )  # fmt: skip
    return _spread(term, estimated=False)


def _passing_tokens(loss: Loss, tokens: int) -> int:
    if loss.pieces:
        found: int = formulas.piece_tokens(tokens=tokens, pieces=loss.pieces)
        return found
    return min(tokens, loss.piece_tokens) if loss.piece_tokens else tokens
