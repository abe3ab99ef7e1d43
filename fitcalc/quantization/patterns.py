"""Module patterns of quantization configs, matched against the names of tensors.

A pattern is a module path or a run of its parts ('lm_head', 'mlp.gate', 'model.layers.3.self_attn'), a path with `*`,
or a regular expression behind 're:'. Wrapping modules ('model', 'language_model') are left out on both sides, because
exporters and engines disagree about them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fitcalc.spec.model import Tensor

_WRAPPERS = ("model", "language_model", "transformer", "backbone", "text_model")
_LONGEST_PATTERN = 500
_MOST_PATTERNS = 20_000


@dataclass(frozen=True, slots=True)
class Patterns:
    """Patterns sorted by how they are looked up."""

    numbered: frozenset[str]
    """Paths from the root that name a layer."""
    runs: re.Pattern[str] | None
    """Runs of parts that name no layer."""
    wild: re.Pattern[str] | None
    """Everything with a wildcard."""

    def __bool__(self) -> bool:
        return bool(self.numbered or self.runs or self.wild)


def bare(path: str) -> str:
    """The path without leading wrapping modules."""
    parts = path.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


def compiled(patterns: Iterable[str]) -> Patterns:
    """Patterns ready for `matching_layers`; those that cannot be read as a regular expression count as plain text."""
    numbered, runs, wild = set[str](), set[str](), list[str]()
    for pattern in list(patterns)[:_MOST_PATTERNS]:
        text = pattern[:_LONGEST_PATTERN]
        if text.startswith("re:"):
            wild += _expression(text[3:])
            continue
        # A trailing star behind a module's name adds nothing: a module covers what is inside it.
        path = bare(text.removesuffix(".weight").removesuffix("*").rstrip("."))
        if "*" in path:
            wild.append(r"(?:.*\.)?" + re.escape(path).replace(r"\*", ".*") + r"(?:\..*)?")
        elif any(part.isdigit() for part in path.split(".")):
            numbered.add(path)
        elif path:
            runs.add(path)
    either = "|".join(re.escape(run) for run in sorted(runs))
    return Patterns(
        frozenset(numbered),
        re.compile(rf"(?:^|\.)(?:{either})(?:\.|$)") if runs else None,
        re.compile("|".join(wild)) if wild else None,
    )


def _expression(text: str) -> list[str]:
    try:
        re.compile(text)
    except (re.error, RecursionError):
        return [re.escape(text)]
    return [f"(?:{text})"]


def matching_layers(patterns: Patterns, tensor: Tensor) -> frozenset[int]:
    """The layers of the tensor whose module a pattern names; {0} or nothing for a tensor outside the layers."""
    every = tensor.layers or (0,)
    if not patterns:
        return frozenset()
    module = tensor.name.removesuffix(".weight").replace("{expert}", "0")
    if patterns.runs and patterns.runs.search(module):
        return frozenset(every)
    if not patterns.numbered and not patterns.wild:
        return frozenset()
    return frozenset(layer for layer in every if _matches(patterns, module.replace("{layer}", str(layer))))


def _matches(patterns: Patterns, module: str) -> bool:
    path = bare(module)
    if patterns.numbered:
        parts = path.split(".")
        if any(".".join(parts[:end]) in patterns.numbered for end in range(1, len(parts) + 1)):
            return True
    wild = patterns.wild
    return wild is not None and (wild.match(module) is not None or wild.match(path) is not None)
