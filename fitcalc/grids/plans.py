"""The plans of a block: the same functions that `fit` calls, once for all its contexts and concurrencies.

Where an engine takes only so many requests at once, concurrencies fall into runs that have a plan each.
"""

from __future__ import annotations

from functools import lru_cache

from fitcalc.arguments import gpu_names, size_or_none
from fitcalc.catalog import load_engine
from fitcalc.errors import FitcalcError, RequestError, UnknownNameError, UnsupportedModelError
from fitcalc.frozen import dataclass
from fitcalc.grids.grid import NATIVE, Block, DeviceChoice, Grid
from fitcalc.machine import machine_of
from fitcalc.media import media_of, model_for
from fitcalc.plan import Request, case_for, named_scheme, native_scheme_id, scheme_of
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.verdict import Case

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
    """Neighbouring concurrencies, by their places on the axis, that have the same plan or none."""

    first: int
    stop: int
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


def _key(case: Case | Refusal) -> tuple[object, ...]:
    """Equal for concurrencies that share a plan: what the plan is made of beside them."""
    if isinstance(case, Refusal):
        return case.code, case.text
    work = case.workload
    return case.profile.id, work.tensor_parallel, work.pipeline_parallel, work.expert_parallel


@lru_cache(maxsize=32)
def runs_of(grid: Grid, index: int) -> tuple[Run, ...]:
    """The plans of a block along its concurrencies. What an engine refuses of more requests it refuses of still more,
    so that two ends with the same plan have it all between them."""
    block, counts = grid.block(index), grid.concurrencies
    order = sorted(range(len(counts)), key=counts.__getitem__)
    known = {place: plan_at(block, grid.contexts[0], counts[place]) for place in {order[0], order[-1]}}

    def fill(low: int, high: int) -> None:
        first, last = known[order[low]], known[order[high]]
        if _key(first[1]) == _key(last[1]):
            for place in order[low + 1 : high]:
                known[place] = first
        elif high - low > 1:
            middle = (low + high) // 2
            known[order[middle]] = plan_at(block, grid.contexts[0], counts[order[middle]])
            fill(low, middle)
            fill(middle, high)

    fill(0, len(order) - 1)
    runs: list[Run] = []
    for place in range(len(counts)):
        request, case = known[place]
        if runs and _key(runs[-1].case) == _key(case):
            last = runs[-1]
            runs[-1] = Run(last.first, place + 1, last.request, last.case)
        else:
            runs.append(Run(place, place + 1, request, case))
    return tuple(runs)
