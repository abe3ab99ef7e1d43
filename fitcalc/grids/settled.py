"""What is known of the plan of a run once for all pieces of its block."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fitcalc.choice import offload_case
from fitcalc.frozen import dataclass
from fitcalc.grids.kinds import kinds_of
from fitcalc.grids.limits import limits
from fitcalc.grids.placing import Array
from fitcalc.grids.plans import Run
from fitcalc.same import Same
from fitcalc.verdict import Case


@dataclass(frozen=True, slots=True)
class Settled:
    """The plan along all contexts and the requests of a run."""

    case: Case
    moved: Case | None
    """The plan that keeps in RAM what does not fit; None where there is no RAM, or the engine cannot."""
    contexts: tuple[int, ...]
    requests: tuple[int, ...]
    kind: Any
    """The numpy type that all numbers have room in; None where results have none."""
    sought_kind: Any
    """The type that all numbers on the way to limits have room in."""


@lru_cache(maxsize=32)
def settled(run: Same[Run], contexts: Same[tuple[int, ...]]) -> Settled:
    """The plan of a run that has one."""
    request, case, requests = run.value.request, run.value.case, run.value.requests
    assert request is not None
    assert isinstance(case, Case)
    moved = None if request.machine.ram_bytes is None else offload_case(request, case)
    kind, sought_kind = kinds_of(case, contexts.value, requests)
    if moved is not None:
        others = kinds_of(moved, contexts.value, requests)
        kind, sought_kind = _wider(kind, others[0]), _wider(sought_kind, others[1])
    return Settled(case, moved, contexts.value, requests, kind, sought_kind)


def _wider(one: Any, other: Any) -> Any:
    return next((kind for kind in (None, object) if kind in (one, other)), np.int64)


@lru_cache(maxsize=32)
def limits_along(plan: Same[Settled]) -> tuple[Array, Array]:
    """The largest contexts along the requests of a run, as a row, and the most requests along all contexts."""
    found = plan.value
    longest, most = limits(found.case, found.contexts, found.requests, found.sought_kind)
    return longest[None, :], most[:, None]
