"""`dataclass` for frozen slotted classes that are quick to define, because a start defines some seventy of them.

The standard library reads the fields of every class and writes and compiles six methods for it. Here a class gets its
slots and methods that all classes share; its fields are described when somebody asks for them, and an `__init__` of its
own is written when objects of it become many. To a reader, to type checkers and to `dataclasses.fields` and its
siblings the classes are those of the standard library. `field`, `replace` and `asdict` are here too, so that a start
does without that module.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from dataclasses import asdict as asdict
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:

    def dataclass(*, frozen: bool, slots: bool) -> Any:
        """Like dataclasses.dataclass(frozen=True, slots=True), the only kind there is here."""
        if not (frozen and slots):
            raise TypeError("fitcalc.frozen defines frozen classes with slots only")
        return _frozen

    def field(*, default_factory: Any) -> Any:
        """Like dataclasses.field for a default that each object gets anew."""
        return _Anew(default_factory)

    def replace(made: Any, /, **changes: Any) -> Any:
        """Like dataclasses.replace."""
        cls = made.__class__
        values = [changes.pop(name) if name in changes else getattr(made, name) for name in cls.__match_args__]
        return cls(*values, **changes)

    def asdict(made: Any) -> dict[str, Any]:
        """Like dataclasses.asdict; what is no container is not copied."""
        return {name: _plain(getattr(made, name)) for name in made.__match_args__}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_plain(entry) for entry in value])
    return asdict(value) if hasattr(value, "_made") else value


_WRITTEN_AFTER_OBJECTS = 16
"""Writing and compiling an `__init__` takes as long as some thirty calls of the shared one save."""


class _Anew:
    """A default that is made for each object."""

    __slots__ = ("make",)

    def __init__(self, make: Any) -> None:
        self.make = make


def _frozen(plain: type[Any]) -> type[Any]:
    """The slotted twin of a class whose annotations are its fields."""
    space = dict(vars(plain))
    own = tuple(plain.__annotations__)
    names = (*getattr(plain.__base__, "__match_args__", ()), *own)
    defaults = {name: space.pop(name) for name in own if name in space}
    space.pop("__dict__", None)
    space.pop("__weakref__", None)
    # An attrgetter of one name gives no tuple.
    values = attrgetter(*names) if len(names) > 1 else lambda self: tuple(getattr(self, name) for name in names)
    cls = type(
        plain.__name__,
        plain.__bases__,
        {
            **_SHARED,
            "_plain": plain,
            "_values": staticmethod(values),
            "_defaults": getattr(plain.__base__, "_defaults", {}) | defaults,
            "_made": [0],
            **space,  # what a class writes itself stays
            "__slots__": own,
            "__match_args__": names,
        },
    )
    cls._setters = [getattr(cls, name).__set__ for name in names]  # type: ignore[attr-defined]
    return cls


class _Described:
    """What the standard library asks of a class, made by it when it does."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, _instance: object, owner: Any) -> Any:
        plain = owner._plain
        if "__dataclass_fields__" not in vars(plain):
            _describe(plain)
        if self._name == "__signature__":
            from inspect import signature

            return signature(plain)
        return vars(plain)[self._name]


def _describe(plain: type[Any]) -> None:
    import dataclasses

    for name, default in tuple(vars(plain).items()):
        if isinstance(default, _Anew):
            setattr(plain, name, dataclasses.field(default_factory=default.make))
    dataclasses.dataclass(repr=False, eq=False)(plain)


def _init(self: Any, *values: Any, **named: Any) -> None:
    """Sets the slots past the refusing `__setattr__`; what is not the plain case is left to a written `__init__`."""
    cls = type(self)
    names, made = cls.__match_args__, cls._made
    made[0] += 1
    if named or len(values) < len(names):
        by_name = cls._defaults | dict(zip(names, values, strict=False)) | named
        odd = len(by_name) != len(names) or not named.keys().isdisjoint(names[: len(values)])
        ordered: Any = () if odd else [by_name[name] for name in names if name in by_name]
    else:
        ordered = values
    if len(ordered) != len(names) or made[0] > _WRITTEN_AFTER_OBJECTS:
        cls.__init__ = _written_init(cls)
        cls.__init__(self, *values, **named)
        return
    for set_slot, value in zip(cls._setters, ordered, strict=True):
        set_slot(self, value.make() if value.__class__ is _Anew else value)


def _written_init(cls: Any) -> Any:
    """`__init__` with the fields as parameters."""
    known: dict[str, Any] = {"_missing": _Anew}
    defaults: list[Any] = []
    lines: list[str] = []
    for name, set_slot in zip(cls.__match_args__, cls._setters, strict=True):
        value, default = name, cls._defaults.get(name)
        known[f"_set_{name}"] = set_slot
        if isinstance(default, _Anew):
            known[f"_make_{name}"], default = default.make, _Anew
            value = f"_make_{name}() if {name} is _missing else {name}"
        if name in cls._defaults:
            defaults.append(default)
        lines.append(f" _set_{name}(self, {value})")
    exec(f"def __init__(self, {', '.join(cls.__match_args__)}):\n" + "\n".join(lines), known)
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
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"{type(self).__qualname__}.{name} cannot be changed")


_SHARED = {
    "__init__": _init,
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__reduce__": _reduce,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    **{name: _Described(name) for name in ("__dataclass_fields__", "__dataclass_params__", "__signature__")},
}
