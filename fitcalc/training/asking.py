"""fitcalc.finetune: its arguments, checked and handed to the answer."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fitcalc.api import machine_asked
from fitcalc.sources import load_model
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.training import FinetuneReport
from fitcalc.training.answer import answer, settings_of


def finetune(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    method: str,
    gpu: str | Sequence[str] | None = None,
    micro_batch: int = 1,
    seq_len: int = 2048,
    rank: int = 16,
    target_modules: str | Sequence[str] = "all-linear",
    optimizer: str = "adamw",
    precision: str = "bf16",
    gradient_checkpointing: bool = True,
    sharding: str = "none",
    attention: str = "sdpa",
    loss: str = "standard",
    offload: str | None = None,
    gradient_accumulation: int = 1,
    trainable_layers: int | None = None,
    trainer: str = "peft",
    tokens: int | None = None,
    price_per_hour: float | None = None,
    emit: str | None = None,
    ram: str | int | None = None,
    gpu_used: str | int | None = None,
    **details: bool,
) -> FinetuneReport:
    """Does a fine-tuning run fit, what is each byte for at its peak, and which settings make it fit.

    method: full, lora, qlora, dora or freeze (the last `trainable_layers`). gpu, ram, gpu_used: as for `fit`.
    micro_batch: sequences of `seq_len` tokens per card at once. target_modules: 'all-linear', 'attention', or names.
    optimizer: adamw, adamw-8bit, paged-adamw-8bit, adafactor, sgd, lion, muon … precision: bf16, fp16, fp32, mixed.
    sharding: none, zero1, zero2, zero3, fsdp. attention: sdpa, flash, eager. loss: standard, chunked, fused. offload:
    optimizer, params, all or activations into host memory. trainer: peft, axolotl, torchtune or litgpt, whose habits
    the estimate follows. tokens: of an epoch, for its time and cost at `price_per_hour` [USD] of a card. emit: a
    starter configuration for peft, axolotl or torchtune. details: compiled, padded, dropout, step_in_backward.

    The report is a FitReport whose limits are the longest sequence and the largest micro batch, with `training`.
    Raises UnknownNameError, RequestError, UnsupportedModelError (no decoder, no GPU).
    """
    settings = settings_of(
        method=method, micro_batch=micro_batch, seq_len=seq_len, rank=rank, target_modules=target_modules,
        optimizer=optimizer, precision=precision, gradient_checkpointing=gradient_checkpointing, sharding=sharding,
        attention=attention, loss=loss, offload=offload, trainer=trainer, gradient_accumulation=gradient_accumulation,
        **details,
    )  # fmt: skip
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    machine = machine_asked(gpu, None, ram, gpu_used)
    return answer(
        spec, machine, settings, trainable_layers=trainable_layers, tokens=tokens, price_per_hour=price_per_hour,
        emit=emit,
    )  # fmt: skip
