"""The axes of a sweep: what is combined, checked before anything is computed, and cut into blocks.

A block is one combination of model, quantization, engine, device, tensor parallel degree and KV type: one plan.
Contexts and concurrencies are the two axes of the arrays inside a block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

from fitcalc import __version__, arguments, catalog
from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass
from fitcalc.spec.model import ModelSpec
from fitcalc.units import parse_tokens

PLAN_AXES = ("model", "quant", "engine", "device", "tensor_parallel", "kv_dtype")
"""Axes whose combinations are blocks, slowest first."""
AXES = (*PLAN_AXES, "context", "concurrency")
NATIVE = "native"
"""In place of a quantization: the type that each model is published in."""
_MOST_POINTS = 10**15
_HOST_KEYS = ("gpu", "cpu", "ram", "gpu_used")


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """One entry of the device axis: the words of --gpu, --cpu, --ram and --gpu-used, and how it is shown."""

    label: str
    gpu: tuple[str, ...] = ()
    cpu: str | None = None
    ram: str | int | None = None
    gpu_used: str | int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """One combination of the plan axes: its number in the grid and its value on each axis."""

    index: int
    model: str | ModelSpec
    quant: str
    engine: str | None
    device: DeviceChoice
    tensor_parallel: int | None
    kv_dtype: str

    @property
    def labels(self) -> dict[str, Any]:
        """Axis -> what was asked for there, as it is shown; None where it was left open."""
        return {
            "model": label_of(self.model),
            "quant": self.quant,
            "engine": self.engine,
            "device": self.device.label,
            "tensor_parallel": self.tensor_parallel,
            "kv_dtype": self.kv_dtype or None,
        }


@dataclass(frozen=True, slots=True)
class Grid:
    """The values on every axis. Small beside its points, and picklable: workers get it whole."""

    models: tuple[str | ModelSpec, ...]
    quants: tuple[str, ...]
    engines: tuple[str | None, ...]
    devices: tuple[DeviceChoice, ...]
    tensor_parallel: tuple[int | None, ...]
    kv_dtypes: tuple[str, ...]
    contexts: tuple[int, ...]
    concurrencies: tuple[int, ...]

    @property
    def _plan_values(self) -> tuple[tuple[Any, ...], ...]:
        return (self.models, self.quants, self.engines, self.devices, self.tensor_parallel, self.kv_dtypes)

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Axis -> its values as they are shown."""
        plan = dict(zip(PLAN_AXES, self._plan_values, strict=True))
        plan["model"] = tuple(label_of(model) for model in self.models)
        plan["device"] = tuple(device.label for device in self.devices)
        plan["kv_dtype"] = tuple(name or None for name in self.kv_dtypes)
        return {**plan, "context": self.contexts, "concurrency": self.concurrencies}

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values on every axis, in the order of AXES."""
        return (*(len(values) for values in self._plan_values), len(self.contexts), len(self.concurrencies))

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return prod(self.shape[: len(PLAN_AXES)])

    @property
    def points(self) -> int:
        """Number of points."""
        return prod(self.shape)

    def block(self, index: int) -> Block:
        """The block of a number from 0 to `blocks` - 1; the last plan axis changes fastest."""
        chosen, rest = [], index
        for values in reversed(self._plan_values):
            rest, place = divmod(rest, len(values))
            chosen.append(values[place])
        return Block(index, *reversed(chosen))

    @property
    def fingerprint(self) -> str:
        """Equal for equal grids under the same version of fitcalc, different for others."""
        return hashlib.sha256(repr((__version__, self)).encode()).hexdigest()[:32]


def label_of(model: str | ModelSpec) -> str:
    """A model as it is shown: the name it was asked for by, or its id."""
    return model if isinstance(model, str) else model.id


def grid_of(
    models: Any,
    devices: Any,
    quants: Any,
    contexts: Any,
    concurrencies: Any,
    engines: Any,
    kv_dtypes: Any,
    tensor_parallel: Any,
) -> Grid:
    """The grid of what was asked for; every name, number and degree is checked here.

    Raises RequestError for what is empty, doubled or of the wrong type, UnknownNameError for names.
    """
    found = Grid(
        models=_values("models", models, _model),
        quants=_values("quants", quants, _quant),
        engines=_values("engines", engines, _engine),
        devices=_values("devices", devices, _device),
        tensor_parallel=_values("tensor_parallel", tensor_parallel, _degree),
        kv_dtypes=_values("kv_dtypes", kv_dtypes, _kv_dtype),
        contexts=_values("contexts", contexts, lambda value: _count("contexts", value, arguments.MOST_TOKENS)),
        concurrencies=_values(
            "concurrencies", concurrencies, lambda value: _count("concurrencies", value, arguments.MOST_REQUESTS)
        ),
    )
    if found.points > _MOST_POINTS:
        raise RequestError(f"a grid of {found.points:,} points is too large", hint=f"stay below {_MOST_POINTS:,}")
    return found


def _values(name: str, given: Any, checked: Any) -> tuple[Any, ...]:
    """The values of one axis: a single one or any iterable of them."""
    single = given is None or isinstance(given, str | os.PathLike | ModelSpec | Mapping | int)
    listed: Iterable[Any] = [given] if single else given
    if not isinstance(listed, Iterable):
        raise RequestError(f"{name} is {type(given).__name__}, not a list of values", hint=f"give {name} as a list")
    values = tuple(checked(value) for value in listed)
    if not values:
        raise RequestError(f"{name} is empty", hint=f"give at least one value for {name}")
    seen: set[str] = set()
    for value in values:
        if repr(value) in seen:
            raise RequestError(f"{name} names {_shown(value)} twice", hint="leave one of them out")
        seen.add(repr(value))
    return values


def _shown(value: Any) -> str:
    return str(getattr(value, "label", None) or getattr(value, "id", None) or value)


def _model(value: Any) -> str | ModelSpec:
    from fitcalc.grids.plans import load_model

    if isinstance(value, ModelSpec):
        return value
    name = arguments.text("models", os.fspath(value) if isinstance(value, os.PathLike) else value, "give ids as text")
    load_model(name)
    return name


def _quant(value: Any) -> str:
    name = arguments.text("quants", value, f"give ids as text, or '{NATIVE}' for each model's own type").strip().lower()
    if name != NATIVE:
        catalog.load_scheme(name)
    return name


def _engine(value: Any) -> str | None:
    name = arguments.text_or_none("engines", value)
    return None if name is None else catalog.load_engine(name).id


def _kv_dtype(value: Any) -> str:
    return (arguments.text_or_none("kv_dtypes", value) or "").strip().lower()


def _degree(value: Any) -> int | None:
    arguments.whole_number("tensor_parallel", value, arguments.MOST_PARTS)
    degree: int | None = value
    return degree


def _count(name: str, value: Any, largest: int) -> int:
    number = parse_tokens(value) if isinstance(value, str) else value
    # Whole numbers of numpy count as such.
    number = number.__index__() if not isinstance(number, bool) and hasattr(number, "__index__") else number
    arguments.whole_number(name, number, largest, required=True)
    return int(number)


def _device(value: Any) -> DeviceChoice:
    from fitcalc.grids.plans import machine_at

    if isinstance(value, Mapping):
        choice = _described(value)
    else:
        text = arguments.text("devices", value, "give 'a100-80:2', '24GB', a node, a CPU, or {'gpu': …, 'ram': …}")
        names = tuple(part.strip() for part in text.split("+"))
        choice = DeviceChoice(text.strip(), gpu=names)
        if len(names) == 1 and _is_cpu(names[0]):
            choice = DeviceChoice(text.strip(), cpu=names[0])
    machine_at(choice)
    return choice


def _is_cpu(name: str) -> bool:
    from fitcalc.errors import UnknownNameError

    try:
        return catalog.load_device(name).kind == "cpu"
    except UnknownNameError:
        return False


def _described(value: Mapping[str, Any]) -> DeviceChoice:
    unknown = sorted(set(value) - set(_HOST_KEYS))
    if unknown:
        raise RequestError(f"a device has no {unknown[0]!r}", hint=f"it has {', '.join(_HOST_KEYS)}")
    gpu = value.get("gpu") or ()
    names = (gpu,) if isinstance(gpu, str) else tuple(gpu)
    words = [" + ".join(names)] if names else []
    words += [f"{key} {value[key]}" if key != "cpu" else str(value[key]) for key in _HOST_KEYS[1:] if value.get(key)]
    return DeviceChoice(", ".join(words), names, value.get("cpu"), value.get("ram"), value.get("gpu_used"))


def pieces(grid: Grid, chunk_points: int) -> Iterator[tuple[int, int, int]]:
    """(block, first context, stop) of every piece: whole blocks, or rows of contexts of at most `chunk_points`."""
    rows = max(chunk_points // len(grid.concurrencies), 1)
    contexts = len(grid.contexts)
    for block in range(grid.blocks):
        for first in range(0, contexts, rows):
            yield block, first, min(first + rows, contexts)
