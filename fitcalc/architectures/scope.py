"""What the names in a family's description stand for: a config's keys, then class defaults, then derived values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.architectures.config import MOST_LAYERS, Config, MissingKeyError
from fitcalc.architectures.expressions import evaluate
from fitcalc.architectures.families import class_defaults
from fitcalc.errors import ModelFileError

_LARGEST = 2**31


class Scope:
    """A config read through a description: `value('hidden_size')`, `count('num_layers')`, `whole('a * b')`."""

    def __init__(self, config: Config, description: Mapping[str, Any]) -> None:
        self._config = config
        self._defaults: Mapping[str, Any] = description.get("defaults", {})
        self._derived: Mapping[str, str] = description.get("derived", {})
        self._lists: Mapping[str, Mapping[str, str]] = description.get("lists", {})
        self._aliases: Mapping[str, list[str]] = description.get("aliases", {})
        self._known: dict[str, Any] = {}
        self._layer = 0
        self.filled: dict[str, Any] = {}
        """Keys that the config leaves out -> the class default used."""

    def value(self, key: str) -> Any:
        """The value of a key, dotted for a nested config; ModelFileError where nothing gives it one."""
        if key == "layer":
            return self._layer
        if key not in self._known:
            self._known[key] = self._found(key)
        return self._known[key]

    def holds(self, condition: str, layer: int = 0) -> bool:
        """Whether a condition is true ('' always is), with `layer` standing for that number."""
        self._layer = layer
        return not condition or bool(evaluate(condition, self.value))

    def whole(self, expression: str, layer: int = 0) -> int:
        """A size: the whole number that an expression has, at least 0."""
        self._layer = layer
        value = evaluate(expression, self.value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelFileError(
                f"config: {expression.strip():.60} is {value!r:.40}", hint="it has to be a whole number"
            )
        return value

    def count(self, expression: str) -> int:
        """A number of layers: bounded, so that no file makes an inventory of millions of them."""
        value = self.whole(expression)
        if value > MOST_LAYERS:
            hint = f"{expression:.60} has to lie between 0 and {MOST_LAYERS:,}"
            raise ModelFileError(f"config: {expression:.60} is {value}", hint=hint)
        return value

    def _found(self, key: str) -> Any:
        stated, present = self._stated(key)
        default = self._defaults.get(key)
        if present and stated is not None:
            return _checked(key, stated, default)
        if key in self._lists:
            return self._listed(self._lists[key])
        if key in self._derived:
            return evaluate(self._derived[key], self.value)
        if present:
            return None
        if key in self._defaults:
            self.filled[key] = default
            return default
        nested = self._nested_default(key)
        if nested is None:
            raise MissingKeyError((key,), str(self._config.get("model_type", "this model")))
        return nested

    def _stated(self, key: str) -> tuple[Any, bool]:
        """(value, whether the config has the key at all), under its own name or another that the class accepts."""
        for name in (key, *self._aliases.get(key, ())):
            place: Any = self._config
            *path, last = name.split(".")
            for step in path:
                place = place.get(step) if isinstance(place, Mapping) else None
            if isinstance(place, Mapping) and last in place:
                return place[last], True
        return None, False

    def _nested_default(self, key: str) -> Any:
        """The default of the nested config's own class, where it names another than the usual one."""
        path, _, last = key.rpartition(".")
        kind, present = self._stated(f"{path}.model_type") if path else (None, False)
        return class_defaults(str(kind)).get(last) if present else None

    def _listed(self, kinds: Mapping[str, str]) -> list[str]:
        """One kind for each layer: the first whose condition holds."""
        conditions = {kind: condition for kind, condition in kinds.items() if kind != "count"}
        asked, found = self._layer, []
        for layer in range(self.count(kinds["count"])):
            found += [kind for kind, condition in conditions.items() if self.holds(condition, layer)][:1] or [""]
        self._layer = asked
        return found


def _checked(key: str, value: Any, default: Any) -> Any:
    """A value of the kind that its default has; numbers within what any model states."""
    wanted: tuple[tuple[type, ...], str] | None = None
    if isinstance(default, bool):
        wanted = (bool,), "true or false"
    elif isinstance(default, int):
        wanted = (int,), "a whole number"
    elif isinstance(default, float):
        wanted = (int, float), "a number"
    elif isinstance(default, list):
        wanted = (list,), "a list"
    if wanted and (not isinstance(value, wanted[0]) or (isinstance(value, bool) and bool not in wanted[0])):
        raise ModelFileError(f"config: {key} is {value!r:.40}", hint=f"{key} has to be {wanted[1]}")
    if isinstance(value, int | float) and not -_LARGEST < value < _LARGEST:
        raise ModelFileError(f"config: {key} is {value!r:.40}", hint=f"{key} has to lie below 2^31")
    return value
