"""Nouns of fine-tuning: optimizers, trainers and settings as profiles state them, and what a report adds."""

from __future__ import annotations

from typing import Literal

from fitcalc.frozen import dataclass
from fitcalc.spec.report import Estimate, FitReport

Method = Literal["full", "lora", "qlora", "dora", "freeze"]
METHODS = ("full", "lora", "qlora", "dora", "freeze")
Sharding = Literal["none", "zero1", "zero2", "zero3", "fsdp"]
SHARDINGS = ("none", "zero1", "zero2", "zero3", "fsdp")
PRECISIONS = ("bf16", "fp16", "fp32", "mixed")
"""bf16, fp16: weights, gradients and computation in 16 bit; mixed: float32 weights, 16-bit computation (autocast)."""
ATTENTIONS = ("sdpa", "flash", "eager")
LOSSES = ("standard", "chunked", "fused")
OFFLOADS = ("optimizer", "params", "all", "activations")
"""What lies in host memory; params: the weights of a sharded run; all: weights and optimizer."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """What an optimizer keeps per trainable parameter."""

    id: str
    name: str
    states: int
    moment: tuple[int, int] | None = None
    """(bytes, elements) of one moment; None: as the parameter."""
    factored: bool = False
    """A float32 per row and per column of a matrix."""
    paged: bool = False
    """In managed memory, which the driver moves to the host when the card is full."""
    others: str = ""
    """The optimizer of what is not a hidden matrix; '': this one."""
    names: tuple[tuple[str, str], ...] = ()
    """(trainer, its own name for it)."""
    aliases: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """Bytes per entry of the vocabulary that a loss takes, per token."""

    kept: int
    passing: int
    pieces: int = 0
    """Into so many pieces the tokens are divided; 0: not."""
    piece_tokens: int = 0
    """Tokens of one piece; 0: all."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """How a training program computes, as far as memory depends on it."""

    id: str
    name: str
    version: str
    adapter_bytes: int
    losses: tuple[tuple[str, Loss], ...]
    adapter_dropout: bool = False
    expands_kv: bool = False
    """K and V are repeated to all heads before attention."""
    fuses_qkv: bool = False
    """One projection for q, k and v, whatever the checkpoint has; v stays a view of its output."""
    unfused_mqa: bool = False
    """A single KV head keeps the scores: no fused kernel takes it."""
    keeps_quantized_inputs: bool = False
    """Every frozen quantized linear keeps its input."""
    quantizes_head: bool = False
    keeps_whole_copy: bool = False
    """A whole copy of the weights stays beside the shards."""
    double_quant: bool = True
    aliases: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """A fine-tuning run, every value settled."""

    method: Method
    micro_batch: int
    length: int
    rank: int
    targets: tuple[str, ...]
    optimizer: Optimizer
    precision: str
    checkpointing: bool
    sharding: Sharding
    attention: str
    loss: str
    offload: str
    trainer: Trainer
    cards: int = 1
    accumulation: int = 1
    compiled: bool = False
    padded: bool = False
    """Sequences of a batch have different lengths: attention gets an explicit mask."""
    dropout: bool = False
    """Adapters drop a share of their input."""
    step_in_backward: bool = False
    """Each parameter is updated as soon as its gradient is known."""

    @property
    def tokens(self) -> int:
        """Tokens of one micro batch."""
        return self.micro_batch * self.length

    @property
    def compute_bytes(self) -> int:
        """Bytes of an element in matrix products."""
        return 4 if self.precision == "fp32" else 2

    @property
    def param_bytes(self) -> int:
        """Bytes of a weight that is not quantized."""
        return 2 if self.precision in ("bf16", "fp16") else 4


@dataclass(frozen=True, slots=True)
class Duration:
    """Time and cost of training on a number of tokens; None where the card's rate or price is not known."""

    tokens: int
    seconds: Estimate | None
    tokens_per_s: Estimate | None
    cost: Estimate | None
    """USD."""
    price: str
    """What the cost rests on, or why there is none."""
    flop_per_token: int
    note: str


@dataclass(frozen=True, slots=True)
class Training:
    """What a fine-tuning report says beside the ledger."""

    method: str
    trainable_params: int
    total_params: int
    phase: str
    """The moment of a step in which memory peaks."""
    max_seq_len: int | None
    max_micro_batch: int | None
    duration: Duration | None
    starter: str
    """A starter configuration; '' where none was asked for."""


@dataclass(frozen=True, slots=True)
class FinetuneReport(FitReport):
    """A FitReport of a fine-tuning run: limits are the longest sequence and the largest micro batch."""

    training: Training | None = None
