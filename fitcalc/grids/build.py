"""fitcalc.sweep: from its arguments to a Sweep."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from difflib import get_close_matches
from typing import Any

from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.grids.chunks import COLUMNS
from fitcalc.grids.grid import grid_of
from fitcalc.grids.sweep import Sweep


def sweep(
    models: Any,
    *,
    devices: Any,
    quants: Any = "native",
    contexts: Any = 8192,
    concurrencies: Any = 1,
    engines: Any = None,
    kv_dtypes: Any = None,
    tensor_parallel: Any = None,
    columns: Sequence[str] | None = None,
    executor: Executor | None = None,
) -> Sweep:
    """Every combination of the values on eight axes, each point as `fit` answers it, as arrays that are computed when
    they are asked for. Each axis takes one value or many.

    models: ids, paths or ModelSpecs. devices: 'a100-80:2', '24GB', a node, a CPU or board with its RAM, cards joined by
    '+', or {'gpu': ..., 'cpu': ..., 'ram': ..., 'gpu_used': ...}. quants: ids, 'native' for each model's own type.
    contexts: tokens per request. concurrencies: requests at once. engines, kv_dtypes, tensor_parallel: None where `fit`
    chooses. columns: only these, by default all. executor: whatever has a `submit` that returns
    concurrent.futures' futures: a process pool, Dask's `client.get_executor()`, Ray's `remote(...).future()`.

    Raises UnknownNameError, RequestError; combinations that no engine runs are masked, with the reason.
    """
    axes = (models, devices, quants, contexts, concurrencies, engines, kv_dtypes, tensor_parallel)
    return sweep_of(axes, columns, executor)


def sweep_of(axes: tuple[Any, ...], columns: Sequence[str] | None = None, executor: Executor | None = None) -> Sweep:
    """The sweep of eight axes, in the order of `grid_of`."""
    if executor is not None and not hasattr(executor, "submit"):
        hint = "give a ProcessPoolExecutor, or a cluster's client.get_executor()"
        raise RequestError(f"executor is {type(executor).__name__}, which has no submit", hint=hint)
    return Sweep(grid_of(*axes), wanted=columns_of(columns), executor=executor)


def columns_of(names: Sequence[str] | None) -> tuple[str, ...]:
    """The columns that are wanted, in their usual order; `reason` is always one of them."""
    if names is None:
        return COLUMNS
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if name not in COLUMNS:
            raise UnknownNameError("column", str(name), tuple(get_close_matches(str(name), COLUMNS, 3, 0.4)))
    return tuple(name for name in COLUMNS if name in listed or name == "reason")
