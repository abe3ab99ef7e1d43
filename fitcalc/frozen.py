"""`dataclass` for frozen slotted classes that are quick to define, because a start defines some fifty of them.

The standard library writes and compiles six methods per class. Here its decorator collects the fields, `__init__` alone
is written, and the others are shared by all classes. To a reader, to type checkers and to `fields`, `replace` and
`asdict` the classes are those of the standard library.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool) -> Any:
        """Like dataclasses.dataclass(frozen=True, slots=True), the only kind there is here."""
        if not (frozen and slots):
            raise TypeError("fitcalc.frozen defines frozen classes with slots only")
        return _frozen


def _frozen(plain: type[Any]) -> type[Any]:
    cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(plain)
    names = cls.__match_args__
    # An attrgetter of one name gives no tuple.
    values = attrgetter(*names) if len(names) > 1 else lambda self: (getattr(self, names[0]),)
    methods = {"__init__": _init_of(cls), "_values": staticmethod(values), **_SHARED}
    for name, method in methods.items():
        if name not in vars(plain):  # what a class writes itself stays
            setattr(cls, name, method)
    return cls


def _init_of(cls: type[Any]) -> Any:
    """`__init__` with the fields as parameters; it sets the slots themselves, past the refusing `__setattr__`."""
    known: dict[str, Any] = {"_missing": dataclasses.MISSING}
    names: list[str] = []
    defaults: list[Any] = []
    lines: list[str] = []
    for entry in dataclasses.fields(cls):
        name = value = entry.name
        names.append(name)
        known[f"_set_{name}"] = getattr(cls, name).__set__
        if entry.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = entry.default_factory
            value = f"_make_{name}() if {name} is _missing else {name}"
        if defaults or value != name or entry.default is not dataclasses.MISSING:
            defaults.append(entry.default)
        lines.append(f" _set_{name}(self, {value})")
    exec(f"def __init__(self, {', '.join(names)}):\n" + "\n".join(lines), known)
    init = known["__init__"]
    init.__defaults__ = tuple(defaults)
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return init


def _repr(self: Any) -> str:
    pairs = zip(self.__match_args__, self._values(self), strict=True)
    return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"


def _eq(self: Any, other: Any) -> Any:
    return self._values(self) == self._values(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(self._values(self))


def _reduce(self: Any) -> tuple[Any, ...]:
    return self.__class__, self._values(self)


def _refuse(self: Any, name: str, *_value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"{type(self).__qualname__}.{name} cannot be changed")


_SHARED = {
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__reduce__": _reduce,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
}
