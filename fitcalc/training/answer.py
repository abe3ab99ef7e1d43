"""`fitcalc.finetune` below its thin face: words to settings, the plan, its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fitcalc import __version__, arguments, verdict
from fitcalc.errors import RequestError, UnsupportedModelError
from fitcalc.machine import device_counts, machine_label
from fitcalc.quantization import checkpoint_bytes
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import PLAIN_TYPES
from fitcalc.spec.report import Alternative, KvCache, Limits, Recommendation, Speed, Verdict
from fitcalc.spec.training import (
    ATTENTIONS,
    LOSSES,
    METHODS,
    OFFLOADS,
    PRECISIONS,
    SHARDINGS,
    FinetuneReport,
    Settings,
    Training,
)
from fitcalc.training import advice, starter
from fitcalc.training.duration import duration_of
from fitcalc.training.plan import Plan, ledgers, max_length, max_micro_batch, peak_of, plan_of, verdict_of
from fitcalc.training.profiles import load_optimizer, load_trainer, overheads
from fitcalc.units import format_gib

_MOST_RANK = 2**14
_SPOKEN = {"amp": "mixed", "bf16-mixed": "mixed", "fp16-mixed": "mixed", "bfloat16": "bf16", "float32": "fp32"}
_OFFLOADED = {"cpu": "all", "optim": "optimizer", "parameters": "params", "weights": "params"}
_FLASH = {"flash_attention_2": "flash", "flash-attention-2": "flash", "flash2": "flash"}
_LOSSY = {"nll": "standard", "chunked_nll": "chunked", "liger": "fused", "cce": "fused"}


def settings_of(
    *,
    method: str,
    micro_batch: int,
    seq_len: int,
    rank: int,
    target_modules: str | Sequence[str],
    optimizer: str,
    precision: str,
    gradient_checkpointing: bool,
    sharding: str,
    attention: str,
    loss: str,
    offload: str | None,
    trainer: str = "peft",
    gradient_accumulation: int = 1,
    compiled: bool = False,
    padded: bool = False,
    dropout: bool | None = None,
    step_in_backward: bool = False,
) -> Settings:
    """Words as settings. Raises RequestError or UnknownNameError for what is none."""
    arguments.whole_number("micro_batch", micro_batch, arguments.MOST_REQUESTS, required=True)
    arguments.whole_number("seq_len", seq_len, arguments.MOST_TOKENS, required=True)
    arguments.whole_number("rank", rank, _MOST_RANK, required=True)
    arguments.whole_number("gradient_accumulation", gradient_accumulation, arguments.MOST_REQUESTS, required=True)
    program = load_trainer(arguments.text("trainer", trainer, "give an id, such as 'peft'"))
    chosen: Any = _one_of("method", method, METHODS, {})
    shards: Any = _one_of("sharding", sharding, SHARDINGS, {"deepspeed": "zero3"})
    adapted = chosen in ("lora", "qlora", "dora")
    found = Settings(
        method=chosen,
        micro_batch=micro_batch,
        length=seq_len,
        rank=rank,
        targets=_targets(target_modules),
        optimizer=load_optimizer(arguments.text("optimizer", optimizer, "give an id, such as 'adamw-8bit'")),
        precision=_one_of("precision", precision, PRECISIONS, _SPOKEN),
        checkpointing=_flag("gradient_checkpointing", gradient_checkpointing),
        sharding=shards,
        attention=_one_of("attention", attention, ATTENTIONS, _FLASH),
        loss=_one_of("loss", loss, LOSSES, _LOSSY),
        offload="" if offload in (None, "none") else _one_of("offload", offload, OFFLOADS, _OFFLOADED),
        trainer=program,
        accumulation=gradient_accumulation,
        compiled=compiled,
        padded=padded,
        dropout=adapted and (program.adapter_dropout if dropout is None else dropout),
        step_in_backward=step_in_backward,
    )
    if found.offload == "params" and found.sharding not in ("zero3", "fsdp"):
        hint = "add --sharding fsdp or zero3: only a sharded run keeps its weights elsewhere"
        raise RequestError("weights can lie in host memory only where they are divided", hint=hint)
    return found


def _one_of(name: str, value: Any, allowed: Sequence[str], spoken: dict[str, str]) -> str:
    word = arguments.text(name, value, f"give one of {', '.join(allowed)}").strip().lower()
    word = spoken.get(word, word)
    if word not in allowed:
        raise RequestError(f"unknown {name.replace('_', ' ')} {value!r}", hint=f"there are {', '.join(allowed)}")
    return word


def _flag(name: str, value: Any) -> bool:
    found = arguments.flag_or_none(name, value)
    return bool(found)


def _targets(value: str | Sequence[str]) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else list(value)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        hint = "give 'all-linear', 'attention', or module names such as q_proj,v_proj"
        raise RequestError("no modules to adapt", hint=hint)
    return tuple(dict.fromkeys(name.strip() for name in names))


def answer(
    model: ModelSpec,
    machine: Machine,
    settings: Settings,
    *,
    trainable_layers: int | None = None,
    tokens: int | None = None,
    price_per_hour: float | None = None,
    emit: str | None = None,
) -> FinetuneReport:
    """The report of a run on a machine.

    Raises UnsupportedModelError for a model or device that training is not modelled for, RequestError for settings
    that make no sense together.
    """
    _refuse(model, machine)
    layers = overheads()["freeze"]["layers"] if trainable_layers is None else trainable_layers
    arguments.whole_number("trainable_layers", layers, max(model.layers, 1), required=True)
    if settings.sharding != "none" and len({card.id for card in machine.gpus}) > 1:
        raise RequestError("shards are divided over equal cards only", hint="name one kind of card, or --sharding none")
    plan = plan_of(model, machine, settings, layers)
    if emit is not None and emit not in starter.FORMS:
        raise RequestError(f"unknown form {emit!r}", hint=f"there are {', '.join(starter.FORMS)}")
    return _report(plan, layers, tokens, price_per_hour, emit)


def _refuse(model: ModelSpec, machine: Machine) -> None:
    if model.kind != "decoder" or not model.tensors:
        said = f"fine-tuning is modelled for decoders; {model.name} is none, or its tensors are not known"
        raise UnsupportedModelError(said, hint="fitcalc models lists the decoders")
    vendors = overheads()["devices"]["vendors"]
    if not machine.gpus or any(card.kind == "accelerator" or card.vendor not in vendors for card in machine.gpus):
        raise UnsupportedModelError("fine-tuning is modelled for NVIDIA and AMD GPUs", hint="name one: --gpu rtx-4090")


def _report(
    plan: Plan, layers: int, tokens: int | None, price_per_hour: float | None, emit: str | None
) -> FinetuneReport:
    found = verdict_of(plan)
    entries = ledgers(plan)
    known = all(entry.usable_bytes is not None for entry in entries if entry.decisive)
    length, batch = (max_length(plan), max_micro_batch(plan)) if known else (None, None)
    # A run that does not fit is answered with one that does: its configuration is the one to start from.
    better = advice.settings_that_fit(plan, layers) if found == "does_not_fit" else None
    started = better[0] if better else plan
    scheme = plan.states.scheme
    stored = scheme or _plain(plan)
    return FinetuneReport(
        inputs=_inputs(plan, layers, tokens),
        model=_facts(plan.model),
        verdict=found,
        weights_bytes=plan.states.weights_bytes,
        checkpoint_bytes=checkpoint_bytes(plan.model, stored),
        kv_cache=KvCache(0, 0),
        devices=tuple(verdict.device_report(entry) for entry in entries),
        limits=Limits(length, batch, None),
        speed=Speed(note="training is timed in tokens per second of a step: see training.duration"),
        recommendation=_recommendation(plan, found, better, emit, layers),
        choices=(),
        notes=tuple(_notes(plan)),
        fitcalc_version=__version__,
        training=Training(
            method=plan.settings.method,
            trainable_params=plan.states.trainable,
            total_params=plan.states.weights_elems + plan.states.adapter_elems,
            phase=peak_of(plan)[1],
            max_seq_len=length,
            max_micro_batch=batch,
            duration=duration_of(plan, tokens, price_per_hour) if tokens is not None else None,
            starter=starter.starter_text(started, emit) if emit else "",
        ),
    )


def _plain(plan: Plan) -> Any:
    """The scheme of the model's own 16-bit type, for the size of its checkpoint."""
    from fitcalc import catalog

    return catalog.load_scheme(plan.model.dtype if plan.model.dtype in PLAIN_TYPES else "bf16")


def _recommendation(
    plan: Plan, found: Verdict, better: tuple[Plan, tuple[str, ...]] | None, emit: str | None, layers: int
) -> Recommendation:
    form = emit or (plan.settings.trainer.id if plan.settings.trainer.id in starter.FORMS else "peft")
    taken = better[0] if better else plan
    others = _alternatives(plan, layers) if found == "does_not_fit" else []
    fits: Verdict = verdict_of(taken) if better else found
    reasons = better[1] if better else tuple(_reasons(plan))
    return Recommendation(
        summary=_summary(taken),
        quant=taken.states.scheme.id if taken.states.scheme else taken.settings.precision,
        engine=form,
        devices=_devices(taken),
        tensor_parallel=1,
        pipeline_parallel=1,
        context_tokens=taken.settings.length,
        concurrency=taken.settings.micro_batch,
        kv_dtype="",
        verdict=fits,
        command=starter.start_command(taken, form),
        reasons=tuple(reasons),
        alternatives=tuple(others),
        data_parallel=taken.settings.cards,
        nodes=taken.machine.nodes,
    )


def _summary(plan: Plan) -> str:
    """'QLoRA, micro batch 1 × 2,048 tokens on 1 × GeForce RTX 3060 12GB'."""
    settings = plan.settings
    shards = f", {_SHARDED[settings.sharding]}" if settings.sharding != "none" else ""
    size = f"micro batch {settings.micro_batch:,} × {settings.length:,} tokens"
    return f"{METHOD_NAMES[settings.method]}{shards}, {size} on {machine_label(plan.machine)}"


METHOD_NAMES = {
    "full": "full fine-tuning",
    "lora": "LoRA",
    "qlora": "QLoRA (NF4)",
    "dora": "DoRA",
    "freeze": "training of the last layers",
}
_SHARDED = {"zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp": "FSDP"}


def settings_words(plan_settings: Settings) -> str:
    """'AdamW · bf16 · checkpointing · sdpa · standard loss'."""
    parts = [plan_settings.optimizer.name, plan_settings.precision]
    parts += ["gradient checkpointing"] if plan_settings.checkpointing else ["no checkpointing"]
    parts += [plan_settings.attention, f"{plan_settings.loss} loss"]
    parts += [f"{plan_settings.offload} in host memory"] if plan_settings.offload else []
    return " · ".join(parts)


def _reasons(plan: Plan) -> list[str]:
    trained, total = plan.states.trainable, plan.states.weights_elems
    share = trained / max(total + plan.states.adapter_elems, 1)
    return [f"{trained / 1e6:,.1f} M of {total / 1e9:,.2f} B parameters are trained ({share:.2%})"]


def _devices(plan: Plan) -> tuple[dict[str, Any], ...]:
    return tuple({"id": device.id, "count": count} for device, count in device_counts(plan.machine))


def _alternatives(plan: Plan, layers: int) -> list[Alternative]:
    """The same run on more cards, and on a larger one."""
    found = []
    more = advice.cards_that_fit(plan, layers)
    if more is not None:
        found.append(_alternative(more, f"more cards, {_SHARDED[more.settings.sharding]}"))
    larger = advice.larger_card(plan, layers)
    if larger is not None:
        found.append(_alternative(larger, "a larger card"))
    return found


def _alternative(plan: Plan, change: str) -> Alternative:
    settings = plan.settings
    return Alternative(
        summary=f"{_summary(plan)}",
        model=plan.model.id,
        quant=plan.states.scheme.id if plan.states.scheme else settings.precision,
        engine=settings.trainer.id,
        devices=_devices(plan),
        tensor_parallel=1,
        context_tokens=settings.length,
        concurrency=settings.micro_batch,
        kv_dtype="",
        verdict=verdict_of(plan),
        changes=(change,),
        data_parallel=settings.cards,
        nodes=plan.machine.nodes,
    )


def _inputs(plan: Plan, layers: int, tokens: int | None) -> dict[str, Any]:
    settings = plan.settings
    return {
        "model": plan.model.id,
        "method": settings.method,
        "quant": plan.states.scheme.id if plan.states.scheme else settings.precision,
        "quant_name": METHOD_NAMES[settings.method],
        "kv_dtype": "",
        "engine": settings.trainer.id,
        "engine_name": settings.trainer.name,
        "engine_version": settings.trainer.version,
        "context_tokens": settings.length,
        "concurrency": settings.micro_batch,
        "micro_batch": settings.micro_batch,
        "seq_len": settings.length,
        "rank": settings.rank if plan.states.adapter_elems else None,
        "target_modules": list(settings.targets) if plan.states.adapter_elems else None,
        "trainable_layers": layers if settings.method == "freeze" else None,
        "optimizer": settings.optimizer.id,
        "precision": settings.precision,
        "gradient_checkpointing": settings.checkpointing,
        "gradient_accumulation": settings.accumulation,
        "sharding": settings.sharding,
        "attention": settings.attention,
        "loss": settings.loss,
        "offload": settings.offload or None,
        "tokens": tokens,
        "settings": settings_words(settings),
        "devices": list(_devices(plan)),
        "devices_name": machine_label(plan.machine),
        "tensor_parallel": 1,
        "pipeline_parallel": 1,
        "data_parallel": settings.cards,
        "ram_bytes": plan.machine.ram_bytes,
        "gpu_used_bytes": plan.machine.gpu_used_bytes,
    }


def _facts(spec: ModelSpec) -> dict[str, Any]:
    from fitcalc.reporting import model_facts

    return model_facts(spec)


def _notes(plan: Plan) -> list[str]:
    settings, model, machine = plan.settings, plan.model, plan.machine
    notes = [*machine.notes, *model.notes, *(f"not known: {text}" for text in model.unknowns)]
    if model.quant is not None:
        notes.append(f"the checkpoint is stored in {model.quant.scheme}: it is computed as if from 16 bit")
    if plan.blocks.estimated:
        notes.append("experts and state space layers were not measured: their activations are an estimate")
    if plan.states.adapter_elems and model.is_moe:
        notes.append("experts get no adapters: PEFT reaches them by target_parameters only")
    if plan.states.scheme is not None and model.is_moe:
        notes.append("experts count in NF4: a program that keeps them as one parameter may leave them in 16 bit")
    most = model.max_context_tokens
    if most and settings.length > most:
        notes.append(f"{settings.length:,} tokens are more than the model's own limit of {most:,}")
    if settings.cards > 1 and settings.sharding == "none":
        notes.append("every card holds the whole run and takes its own micro batch; --sharding divides it")
    host = next((entry for entry in ledgers(plan) if entry.id == "host"), None)
    if host is not None and host.usable_bytes is None:
        size = format_gib(sum(term.bytes for term in host.terms), 1)
        notes.append(f"{size} lie in host memory: --ram says whether it is there")
    old = settings.method == "qlora" and not settings.checkpointing and not settings.trainer.keeps_quantized_inputs
    if old:
        notes.append("bitsandbytes before 0.43.2 keeps the input of every frozen linear: 15 to 30 % more")
    return notes
