"""Module patterns of quantization configs, matched against the names of tensors.

A pattern is a module path or a run of its parts ('lm_head', 'mlp.gate', 'model.layers.3.self_attn'), a path with `*`,
or a regular expression behind 're:'. Wrapping modules ('model', 'language_model') are left out on both sides, because
exporters and engines disagree about them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fitcalc.frozen import dataclass
from fitcalc.spec.model import Tensor
from fitcalc.spec.quant import is_harmless

_WRAPPERS = ("model", "language_model", "transformer", "backbone", "text_model")


@dataclass(frozen=True, slots=True)
class Patterns:
    """Patterns sorted by how they are looked up: one by one they would cost seconds, some configs list thousands."""

    numbered: frozenset[str]
    """Paths from the root that name a layer."""
    runs: frozenset[str]
    """Runs of parts without a number: they hold for all layers alike."""
    alike: re.Pattern[str] | None
    """Wildcards without a number."""
    wild: re.Pattern[str] | None
    """Wildcards that name layers."""

    def __bool__(self) -> bool:
        return bool(self.numbered or self.runs or self.alike or self.wild)


def bare(path: str) -> str:
    """The path without leading wrapping modules."""
    parts = path.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


def compiled(patterns: Iterable[str]) -> Patterns:
    """Patterns ready for `matching_layers`; an expression that is not harmless matches nothing."""
    numbered, runs, expressions = set[str](), set[str](), set[str]()
    for pattern in patterns:
        if pattern.startswith("re:"):
            expressions |= {rf"(?:{pattern[3:]})"} if is_harmless(pattern) else set()
            continue
        # A trailing star behind a module's name adds nothing: a module covers what is inside it.
        path = bare(pattern.removesuffix(".weight").removesuffix("*").rstrip("."))
        if "*" in path:
            expression = re.escape(path).replace(r"\*", ".*")
            # 'mlp.gate' is not 'mlp.gate_proj', but 'mlp.gate*' is both.
            end = "" if pattern.endswith("*") else r"(?:\..*)?$"
            expressions |= {rf"(?:[^*]*\.)?{expression}{end}"} if is_harmless(pattern) else set()
        elif any(part.isdigit() for part in path.split(".")):
            numbered.add(path)
        elif path:
            runs.add(path)
    by_layer = {expression for expression in expressions if re.search(r"[0-9]|\\d", expression)}
    return Patterns(frozenset(numbered), frozenset(runs), _either(expressions - by_layer), _either(by_layer))


def _either(expressions: set[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(sorted(expressions))) if expressions else None


def matching_layers(patterns: Patterns, tensor: Tensor) -> frozenset[int]:
    """The layers of the tensor whose module a pattern names; {0} or nothing for a tensor outside the layers."""
    every = tensor.layers or (0,)
    module = tensor.name.removesuffix(".weight").replace("{expert}", "0")
    first = module.replace("{layer}", "0")
    if any(f".{run}." in f".{first}." for run in patterns.runs):
        return frozenset(every)
    if patterns.alike and _is_named(patterns.alike, first):
        return frozenset(every)
    if not patterns.numbered and not patterns.wild:
        return frozenset()
    return frozenset(layer for layer in every if _matches(patterns, module.replace("{layer}", str(layer))))


def _is_named(expression: re.Pattern[str], module: str) -> bool:
    return expression.match(module) is not None or expression.match(bare(module)) is not None


def _matches(patterns: Patterns, module: str) -> bool:
    if patterns.numbered:
        parts = bare(module).split(".")
        if any(".".join(parts[:end]) in patterns.numbered for end in range(1, len(parts) + 1)):
            return True
    return patterns.wild is not None and _is_named(patterns.wild, module)
