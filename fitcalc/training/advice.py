"""What to change when a run does not fit, smallest sacrifice first; and the cards on which it would fit as it is."""

from __future__ import annotations

from collections.abc import Callable

from fitcalc import catalog, ledger
from fitcalc.errors import FitcalcError
from fitcalc.frozen import replace
from fitcalc.machine import with_cards
from fitcalc.spec.hardware import Machine
from fitcalc.spec.training import Settings
from fitcalc.training.plan import Plan, holds, ledgers, plan_of
from fitcalc.training.profiles import load_optimizer

Change = tuple[str, Callable[[Settings], Settings | None]]
"""Words, and the settings after it (None where it changes nothing)."""
_MOST_CARDS = 64
_SHORTEST = 512
_LORA_LIKE = ("lora", "dora")


def _checkpointing(settings: Settings) -> Settings | None:
    return None if settings.checkpointing else replace(settings, checkpointing=True)


def _fused_attention(settings: Settings) -> Settings | None:
    return replace(settings, attention="sdpa") if settings.attention == "eager" else None


def _pieces(settings: Settings) -> Settings | None:
    return replace(settings, loss="chunked") if settings.loss == "standard" else None


def _eight_bit(settings: Settings) -> Settings | None:
    eight = {"adamw": "adamw-8bit", "paged-adamw": "paged-adamw-8bit", "lion": "lion-8bit"}.get(settings.optimizer.id)
    return replace(settings, optimizer=load_optimizer(eight)) if eight else None


def _sharded(settings: Settings) -> Settings | None:
    if settings.cards < 2 or settings.sharding in ("zero3", "fsdp"):
        return None
    return replace(settings, sharding="zero3" if settings.sharding.startswith("zero") else "fsdp")


def _half_batch(settings: Settings) -> Settings | None:
    if settings.micro_batch == 1:
        return None
    factor = settings.micro_batch
    return replace(settings, micro_batch=1, accumulation=settings.accumulation * factor)


def _sixteen_bit(settings: Settings) -> Settings | None:
    return replace(settings, precision="bf16") if settings.precision in ("fp32", "mixed") else None


def _optimizer_on_host(settings: Settings) -> Settings | None:
    full = settings.method in ("full", "freeze") and not settings.offload
    return replace(settings, offload="optimizer") if full else None


def _lora(settings: Settings) -> Settings | None:
    if settings.method not in ("full", "freeze"):
        return None
    return replace(settings, method="lora", offload="" if settings.offload == "optimizer" else settings.offload)


def _qlora(settings: Settings) -> Settings | None:
    return replace(settings, method="qlora") if settings.method in _LORA_LIKE else None


def _shorter(settings: Settings) -> Settings | None:
    return replace(settings, length=settings.length // 2) if settings.length >= 2 * _SHORTEST else None


LADDER: tuple[Change, ...] = (
    ("gradient checkpointing", _checkpointing),
    ("attention that stores no scores (sdpa)", _fused_attention),
    ("the loss in pieces (--loss chunked)", _pieces),
    ("16-bit weights (--precision bf16)", _sixteen_bit),
    ("shards over the cards", _sharded),
    ("an 8-bit optimizer", _eight_bit),
    ("micro batch 1 with accumulation", _half_batch),
    ("optimizer states in host memory (--offload optimizer)", _optimizer_on_host),
    ("LoRA in place of full training", _lora),
    ("QLoRA: the frozen weights in NF4", _qlora),
    ("sequences of half the length", _shorter),
    ("sequences of a quarter of the length", _shorter),
)


def _try(plan: Plan, settings: Settings, trainable_layers: int) -> Plan | None:
    """The plan under other settings; None where the model cannot be trained so."""
    try:
        return plan_of(plan.model, plan.machine, settings, trainable_layers)
    except FitcalcError:
        return None


def _size(plan: Plan) -> int:
    return max(int(ledger.total_bytes(entry.terms)) for entry in ledgers(plan) if entry.id != "host")


def settings_that_fit(plan: Plan, trainable_layers: int) -> tuple[Plan, tuple[str, ...]] | None:
    """The smallest sacrifices after which the run fits, and their words; None where nothing helps.

    Sacrifices are added in order until it fits; those that it fits without are then taken back, the largest first.
    """
    taken: list[Change] = []
    current = plan
    for change in LADDER:
        if holds(current):
            break
        changed = change[1](current.settings)
        following = _try(current, changed, trainable_layers) if changed else None
        if following is not None and _size(following) < _size(current):
            current, taken = following, [*taken, change]
    if not holds(current):
        return None
    for change in reversed(list(taken)):
        fewer = [other for other in taken if other is not change]
        without = _with(plan, fewer, trainable_layers)
        if without is not None and holds(without):
            current, taken = without, fewer
    return current, tuple(_worded(words, current) for words, _ in taken)


def _worded(words: str, plan: Plan) -> str:
    settings = plan.settings
    if words == "shards over the cards":
        return f"shards over the cards (--sharding {settings.sharding})"
    if words == "an 8-bit optimizer":
        return f"{settings.optimizer.name} (--optimizer {settings.optimizer.id})"
    if words.startswith("sequences"):
        return f"sequences of {settings.length:,} tokens"
    if words.startswith("micro batch"):
        return f"micro batch 1, gradients of {settings.accumulation:,} accumulated"
    return words


def _with(plan: Plan, changes: list[Change], trainable_layers: int) -> Plan | None:
    settings: Settings | None = plan.settings
    for _, change in changes:
        settings = change(settings) if settings else None
    return _try(plan, settings, trainable_layers) if settings else None


def cards_that_fit(plan: Plan, trainable_layers: int) -> Plan | None:
    """The fewest of the same card over which the sharded run fits, in powers of two; None where 64 are too few."""
    cards = plan.machine.gpus
    if len({card.id for card in cards}) != 1 or cards[0].kind != "gpu":
        return None
    sharding = plan.settings.sharding if plan.settings.sharding in ("zero3", "fsdp") else "fsdp"
    count = 2
    while count <= _MOST_CARDS:
        if count > len(cards):
            found = _moved(plan, with_cards(plan.machine, cards[0], count), sharding, trainable_layers)
            if found is not None and holds(found):
                return found
        count *= 2
    return None


def larger_card(plan: Plan, trainable_layers: int) -> Plan | None:
    """The smallest larger card, in the same number, on which the run fits as it is."""
    cards = plan.machine.gpus
    if len({card.id for card in cards}) != 1 or cards[0].segment == "custom":
        return None
    for name in catalog.larger_devices(cards[0]):
        try:
            machine = with_cards(plan.machine, catalog.load_device(name), len(cards))
        except FitcalcError:
            continue
        found = _moved(plan, machine, plan.settings.sharding, trainable_layers)
        if found is not None and holds(found):
            return found
    return None


def _moved(plan: Plan, machine: Machine, sharding: str, trainable_layers: int) -> Plan | None:
    settings = replace(plan.settings, sharding=sharding)  # type: ignore[arg-type]
    return _try(replace(plan, machine=machine), settings, trainable_layers)
