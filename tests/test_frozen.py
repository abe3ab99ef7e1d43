"""fitcalc.frozen against the standard library: a class defined by both behaves the same."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from fitcalc.frozen import asdict, dataclass, field, replace
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB


class _Fields:
    """What both decorators get, beside a default of their own."""

    name: str
    size: int = GIB
    parts: dict[str, int]


def _made(decorate: Any, default: Any) -> Any:
    return decorate(type("Made", (), {"__doc__": "", **dict(vars(_Fields)), "parts": default}))


OURS = _made(dataclass(frozen=True, slots=True), field(default_factory=dict))
THEIRS = _made(dataclasses.dataclass(frozen=True, slots=True), dataclasses.field(default_factory=dict))


@pytest.mark.parametrize(
    "arguments", [{"name": "a"}, {"name": "a", "size": 3}, {"name": "", "size": 0, "parts": {"x": 1}}]
)
def test_values_and_views_are_those_of_the_standard_library(arguments: dict[str, Any]) -> None:
    ours, theirs = OURS(**arguments), THEIRS(**arguments)
    assert repr(ours) == repr(theirs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert dataclasses.astuple(dataclasses.replace(ours, size=7)) == dataclasses.astuple(
        dataclasses.replace(theirs, size=7)
    )
    assert asdict(ours) == dataclasses.asdict(theirs)
    assert replace(ours, size=7, parts={"y": 2}) == OURS(arguments["name"], 7, {"y": 2})
    assert [entry.name for entry in dataclasses.fields(OURS)] == [entry.name for entry in dataclasses.fields(THEIRS)]
    assert inspect.signature(OURS) == inspect.signature(THEIRS)
    assert (OURS.__match_args__, OURS.__slots__) == (THEIRS.__match_args__, THEIRS.__slots__)
    assert ours == OURS(**arguments) != theirs
    assert ours != OURS("other")


@pytest.mark.parametrize("number", [1, 100])
def test_each_object_gets_its_own_default(number: int) -> None:
    """However many there are: a class with many objects has an `__init__` of its own."""
    made = [OURS("a") for _ in range(number)]
    assert OURS("a").parts is not made[-1].parts
    assert made[-1] == OURS(name="a") == OURS("a", GIB, parts={})


def test_a_class_continues_another() -> None:
    longer = dataclass(frozen=True, slots=True)(
        type("Longer", (OURS,), {"__annotations__": {"end": "int"}, "end": 3, "__doc__": ""})
    )
    made = longer("a", parts={"x": longer("b")}, end=4)
    assert (made.name, made.size, made.end, made.__slots__) == ("a", GIB, 4, ("end",))
    assert asdict(made) == dataclasses.asdict(made)
    assert asdict(made)["parts"]["x"]["end"] == 3


def test_hash_follows_equality() -> None:
    one_field = dataclass(frozen=True, slots=True)(type("One", (), {"__annotations__": {"size": "int"}, "__doc__": ""}))
    assert hash(one_field(1)) == hash(one_field(1))
    assert {one_field(1), one_field(1), one_field(2)} == {one_field(1), one_field(2)}
    with pytest.raises(TypeError, match="unhashable"):
        hash(OURS("a"))


def test_nothing_can_be_changed() -> None:
    made = Workload(8192, 1)
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"Workload\.concurrency"):
        made.concurrency = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del made.concurrency
    with pytest.raises((AttributeError, TypeError)):
        made.colour = "red"


def test_copies_are_equal() -> None:
    made = Workload(8192, 2, options={"n": [1]})
    assert pickle.loads(pickle.dumps(made)) == copy.copy(made) == copy.deepcopy(made) == made
    assert copy.deepcopy(made).options is not made.options


def test_wrong_use_is_refused() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        OURS()
    for wrong in ({"colour": 1}, {"name": "a", "colour": 1}):
        with pytest.raises(TypeError):
            OURS(**wrong)
        with pytest.raises(TypeError):
            replace(OURS("a"), **wrong | {"colour": 1})
    with pytest.raises(TypeError, match="frozen classes with slots only"):
        dataclass(frozen=False, slots=True)
