"""Where a plan's work is done: the cards and, in llama.cpp, the host, each with the layers that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fitcalc.frozen import dataclass
from fitcalc.quantization import assign
from fitcalc.quantization.stored import Stored
from fitcalc.same import Same
from fitcalc.spec.hardware import Device
from fitcalc.spec.model import ModelSpec
from fitcalc.speeds.steps import Division
from fitcalc.speeds.work import HOST, Work, everywhere, placed, work_of
from fitcalc.verdict import Case


@dataclass(frozen=True, slots=True)
class Place:
    """A device and its part of the work; the device is None for a host whose CPU is not known."""

    device: Device | None
    work: Work
    cards: int = 1
    """Equal cards that hold the layers in turn."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All places of one replica, and how it is divided."""

    places: tuple[Place, ...]
    division: Division
    replicas: int = 1


def plan_of(case: Case, context_tokens: int, concurrency: int, unpacking: Mapping[str, float]) -> Plan:
    """The places of a settled plan."""
    prepared, machine, workload = case.prepared, case.machine, case.workload
    plan_at = getattr(case.engine, "plan_at", None)
    if plan_at is not None:
        prepared = plan_at(prepared, context_tokens, concurrency)
    if hasattr(prepared, "rules"):
        # Loaded here: a plan of any other engine does without llama.cpp's modules.
        from fitcalc.engines.llama_cpp_offload import resolved

        return _in_layers(resolved(prepared, context_tokens, concurrency), unpacking)
    work = _whole(Same(case.model), Same(assign(case.model, case.scheme)), Same(unpacking))
    device = machine.gpus[0] if machine.gpus else machine.cpu
    stages = workload.pipeline_parallel if case.profile.splits_tensors else max(len(machine.gpus), 1)
    division = Division(workload.tensor_parallel, stages, 0)
    if workload.data_parallel > 1 and workload.expert_parallel:
        # Attention is copied, experts are divided over all ranks: one step over the requests of all.
        division = Division(workload.tensor_parallel * workload.data_parallel, stages, 1)
        return Plan((Place(device, work),), division)
    return Plan((Place(device, work),), division, workload.data_parallel)


@lru_cache(maxsize=16)
def _whole(model: Same[ModelSpec], stored: Same[tuple[Stored, ...]], unpacking: Same[Mapping[str, float]]) -> Work:
    """The work of a device that has a part of everything."""
    return work_of(model.value, stored.value, unpacking.value, everywhere)


def _in_layers(prepared: Any, unpacking: Mapping[str, float]) -> Plan:
    """llama.cpp: every card and the host work in turn on the layers that they hold; equal cards are one place."""
    from fitcalc.engines.llama_cpp_layout import ranks_of_layers

    model, rules, machine = prepared.model, prepared.rules, prepared.machine
    ranks = ranks_of_layers(model.layers, rules)
    experts = rules.cpu_expert_layers
    cards: dict[Device, list[int]] = {}
    for rank, card in enumerate(machine.gpus):
        cards.setdefault(card, []).append(rank)
    places = []
    for card, members in cards.items():
        merged = tuple(members[0] if rank in members else rank for rank in ranks)
        busy = sum(1 for rank in members if rank in ranks)
        place = Place(card, _work(prepared, unpacking, merged, members[0], experts), busy)
        places += [place] if busy else []
    host = _work(prepared, unpacking, ranks, HOST, experts)
    if host.fixed_bytes or host.expert_bytes or host.head_bytes or not machine.gpus:
        places.append(Place(machine.cpu, host))
    return Plan(tuple(places), Division(1, sum(place.cards for place in places if place.device), 0))


def _work(prepared: Any, unpacking: Mapping[str, float], ranks: tuple[int, ...], rank: int, experts: int) -> Work:
    return _part(Same(prepared.model), Same(prepared.stored), Same(unpacking), ranks, rank, experts)


@lru_cache(maxsize=256)
def _part(
    model: Same[ModelSpec], stored: Same[tuple[Stored, ...]], unpacking: Same[Mapping[str, float]],
    ranks: tuple[int, ...], rank: int, experts: int,
) -> Work:  # fmt: skip
    """The work of a device that holds some of the layers."""
    return work_of(model.value, stored.value, unpacking.value, placed(ranks, rank, experts), absorbs=True)
