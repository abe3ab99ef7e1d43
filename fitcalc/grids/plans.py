"""The plans of a block: the same functions that `fit` calls, once for all its contexts and concurrencies.

Where an engine takes only so many requests at once, concurrencies fall into runs that have a plan each.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from fitcalc.arguments import gpu_names, size_or_none
from fitcalc.catalog import load_engine
from fitcalc.errors import FitcalcError, RequestError, UnknownNameError, UnsupportedModelError
from fitcalc.frozen import dataclass, replace
from fitcalc.grids.grid import NATIVE, Block, DeviceChoice, Grid
from fitcalc.machine import machine_of
from fitcalc.media import media_of, model_for
from fitcalc.plan import Request, accepted, case_for, named_scheme, native_scheme_id, scheme_of
from fitcalc.same import Same
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.verdict import Case, largest

REASONS = ("", "refused", "unknown_name", "not_decided", "too_large")
"""Why a point has no numbers, by code: '' it has; no engine runs it so; the engine has no such KV type; the model
cannot be decided; its numbers are beyond 64 bits."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a combination has no plan: the code's place in REASONS, and the words."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring concurrencies that have the same plan or none: their places on the axis, and their values."""

    first: int
    stop: int
    requests: tuple[int, ...]
    request: Request | None
    case: Case | Refusal


@lru_cache(maxsize=1024)
def load_model(name: str) -> ModelSpec:
    """A model by name, read once in a process."""
    from fitcalc.sources import load_model as read

    return read(name)


@lru_cache(maxsize=1024)
def machine_at(choice: DeviceChoice) -> Machine:
    """The machine of an entry of the device axis."""
    names = gpu_names(list(choice.gpu) or None, choice.cpu)
    ram, used = size_or_none("ram", choice.ram, least=1), size_or_none("gpu_used", choice.gpu_used, least=0)
    return machine_of(names, choice.cpu, ram, used)


def request_of(block: Block, context_tokens: int, concurrency: int) -> Request:
    """What `fit` is asked at one point of a block, its quantization apart."""
    spec = load_model(block.model) if isinstance(block.model, str) else block.model
    media = media_of(spec)
    if spec.makes_images:
        raise RequestError(f"{spec.name} makes pictures: contexts say nothing of it", hint="ask fitcalc fit")
    return Request(
        model=model_for(spec, media, None),
        machine=machine_at(block.device),
        context_tokens=context_tokens,
        concurrency=concurrency,
        kv_dtype=block.kv_dtype,
        tensor_parallel=block.tensor_parallel,
        engine=load_engine(block.engine) if block.engine else None,
        media=media,
    )


def scheme_at(block: Block, model: ModelSpec) -> Scheme:
    """The quantization of a block."""
    return scheme_of(model, native_scheme_id(model)) if block.quant == NATIVE else named_scheme(model, block.quant)


def plan_at(block: Block, context_tokens: int, concurrency: int) -> tuple[Request | None, Case | Refusal]:
    """The request and its plan; a refusal in place of whatever `fit` would raise."""
    try:
        request = request_of(block, context_tokens, concurrency)
        found = case_for(request, scheme_at(block, request.model))
    except UnknownNameError as error:
        return None, Refusal(2, f"{error}; {error.hint}" if error.hint else str(error))
    except UnsupportedModelError as error:
        return None, Refusal(3, str(error))
    except FitcalcError as error:
        return None, Refusal(1, str(error))
    return request, Refusal(1, found) if isinstance(found, str) else found


Planned = tuple[Request | None, Case | Refusal]


def _plans(block: Block, contexts: tuple[int, ...], counts: list[int]) -> Iterator[Planned]:
    """The plan at each of ascending numbers of requests: one holds as far as nothing speaks against it."""
    first = plan_at(block, contexts[0], counts[0])
    last = largest(lambda place: place == 0 or _holds_at(block, first, counts[place]), len(counts) - 1)
    yield from (first for _ in range(last + 1))
    if last + 1 < len(counts):
        yield from _plans(block, contexts, counts[last + 1 :])


def _holds_at(block: Block, planned: Planned, concurrency: int) -> bool:
    """Whether a plan that was made for fewer requests is that of more too, a refusal with the same words.

    What an engine refuses of some requests it refuses of more, so that engines which come before a plan's own need not
    be asked again.
    """
    request, case = planned
    if request is None or isinstance(case, Refusal):
        context = request.context_tokens if request is not None else 1
        return plan_at(block, context, concurrency)[1] == case
    found = accepted(replace(request, concurrency=concurrency), case.scheme, case.profile)
    return not isinstance(found, str) and replace(found, concurrency=case.workload.concurrency) == case.workload


@lru_cache(maxsize=32)
def runs_of(grid: Same[Grid], index: int) -> tuple[Run, ...]:
    """The plans of a block along its concurrencies."""
    counts = grid.value.concurrencies
    order = sorted(range(len(counts)), key=counts.__getitem__)
    plans = _plans(grid.value.block(index), grid.value.contexts, [counts[place] for place in order])
    known = dict(zip(order, plans, strict=True))
    runs: list[Run] = []
    first = 0
    for place in range(1, len(counts) + 1):
        if place == len(counts) or known[place][1] is not known[first][1]:
            runs.append(Run(first, place, counts[first:place], *known[first]))
            first = place
    return tuple(runs)
