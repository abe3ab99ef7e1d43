"""A fine-tuning run on a machine: the ledger of every device, the verdict, and how far it could be stretched."""

from __future__ import annotations

from fitcalc import ledger, verdict
from fitcalc.engines.base import DeviceLedger
from fitcalc.frozen import dataclass, replace
from fitcalc.ledger import Input, Term, fixed
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import Verdict
from fitcalc.spec.training import Settings
from fitcalc.training.peak import Blocks, blocks_of, peak_terms
from fitcalc.training.states import States, scheme_for, states_of

MOST_MICRO_BATCH = 2**12
LENGTH_CEILING_TOKENS = 2**20


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that is settled; `states` and `blocks` do not depend on length and micro batch."""

    model: ModelSpec
    machine: Machine
    settings: Settings
    states: States
    blocks: Blocks


def plan_of(model: ModelSpec, machine: Machine, settings: Settings, trainable_layers: int) -> Plan:
    """Settle a run on a machine. Raises RequestError for settings that the model cannot be trained with."""
    settings = replace(settings, cards=max(len(machine.gpus), 1))
    scheme = scheme_for(model, settings)
    states = states_of(model, settings, scheme, max(model.layers - trainable_layers, 0))
    return Plan(model, machine, settings, states, blocks_of(model, settings, states))


def sized(plan: Plan, *, length: int | None = None, micro_batch: int | None = None) -> Plan:
    """The same run with another length or micro batch."""
    settings = replace(
        plan.settings,
        length=plan.settings.length if length is None else length,
        micro_batch=plan.settings.micro_batch if micro_batch is None else micro_batch,
    )
    return replace(plan, settings=settings)


def peak_of(plan: Plan) -> tuple[tuple[Term, ...], str]:
    """The terms of one card, and the moment of its peak."""
    return peak_terms(plan.model, plan.settings, plan.states, plan.blocks)


def ledgers(plan: Plan) -> tuple[DeviceLedger, ...]:
    """One ledger per card, and the host's where something lies there."""
    terms, _ = peak_of(plan)
    used = plan.machine.gpu_used_bytes
    if used:
        terms = (*terms, fixed("desktop", used, "exact", "", (Input("bytes", used, "--gpu-used"),)))
    cards = [_card(device, rank, terms) for rank, device in enumerate(plan.machine.gpus)]
    return (*cards, *_host(plan))


def _card(device: Device, rank: int, terms: tuple[Term, ...]) -> DeviceLedger:
    return DeviceLedger(device.id, device.name, rank, device.memory_bytes, device.usable_bytes, terms)


def _host(plan: Plan) -> list[DeviceLedger]:
    """What is offloaded, over all cards of the host; decisive where the host's size was given."""
    states, settings = plan.states, plan.settings
    terms = []
    if settings.offload in ("optimizer", "all"):
        size = states.optimizer_bytes + states.master_bytes
        terms.append(fixed("optimizer", size, "derived", "states of one copy", (), settings.optimizer.name))
    if settings.offload in ("params", "all"):
        terms.append(fixed("weights", states.weights_bytes, "derived", "weights", (), "shards of all cards"))
    if settings.offload == "activations":
        size = settings.cards * settings.tokens * plan.model.layers * settings.compute_bytes * plan.model.hidden
        terms.append(fixed("activations", size, "derived", "tokens * layers * hidden * bytes", (), "block inputs"))
    if not terms:
        return []
    nodes = plan.machine.nodes
    terms = [replace(term, bytes=-(-term.bytes // nodes), low_bytes=-(-term.bytes // nodes),
                     high_bytes=-(-term.bytes // nodes)) for term in terms]  # fmt: skip
    ram = plan.machine.ram_bytes
    return [DeviceLedger("host", "Host memory", len(plan.machine.gpus), ram, ram, tuple(terms), ram is not None)]


def verdict_of(plan: Plan) -> Verdict:
    """fits, tight, does_not_fit or unknown, as of a serving plan."""
    found = verdict.worst([verdict.device_verdict(entry) for entry in ledgers(plan)])
    return "unknown" if plan.model.unknowns and found != "does_not_fit" else found


def holds(plan: Plan) -> bool:
    """The estimate stays within every device whose size is known and decides."""
    return all(
        entry.usable_bytes is not None and ledger.total_bytes(entry.terms) <= entry.usable_bytes
        for entry in ledgers(plan)
        if entry.decisive
    )


def _one_card(plan: Plan) -> Plan:
    """Equal cards have equal ledgers: one of them is enough to look at."""
    smallest = min(plan.machine.gpus, key=lambda card: card.usable_bytes or 0)
    return replace(plan, machine=replace(plan.machine, gpus=(smallest,), node_cards=0, node=None))


def max_length(plan: Plan) -> int:
    """The longest sequence that fits at this micro batch; 0 for none."""
    one = _one_card(plan)
    ceiling = plan.model.max_context_tokens or LENGTH_CEILING_TOKENS
    return verdict.largest(lambda length: holds(sized(one, length=length)), ceiling)


def max_micro_batch(plan: Plan) -> int:
    """The most sequences of this length that fit at once; 0 for none."""
    one = _one_card(plan)
    return verdict.largest(lambda batch: holds(sized(one, micro_batch=batch)), MOST_MICRO_BATCH)
