"""fitcalc.frozen against the standard library: a class defined by both behaves the same."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from fitcalc.frozen import dataclass
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB


class _Fields:
    """What both decorators get."""

    name: str
    size: int = GIB
    parts: dict[str, int] = dataclasses.field(default_factory=dict)


def _made(decorate: Any) -> Any:
    return decorate(type("Made", (), {"__doc__": "", **dict(vars(_Fields))}))


OURS = _made(dataclass(frozen=True, slots=True))
THEIRS = _made(dataclasses.dataclass(frozen=True, slots=True))


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
    assert (OURS.__match_args__, OURS.__slots__) == (THEIRS.__match_args__, THEIRS.__slots__)
    assert ours == OURS(**arguments) != theirs
    assert ours != OURS("other")


def test_each_object_gets_its_own_default() -> None:
    assert OURS("a").parts is not OURS("a").parts


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
    with pytest.raises(TypeError, match="frozen classes with slots only"):
        dataclass(frozen=False, slots=True)
