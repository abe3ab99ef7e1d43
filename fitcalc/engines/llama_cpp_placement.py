"""Tensors placed by hand: llama.cpp's --override-tensor, 'pattern=CPU' or 'pattern=CUDA0', first match wins."""

from __future__ import annotations

import re

from fitcalc.errors import RequestError

HOST = -1
"""Rank of the host."""
_MOST_PATTERN_CHARS = 400
_HOST_NAMES = ("cpu", "host")
_CARD = re.compile(r"^[a-z]+(\d+)$")

Overrides = tuple[tuple[re.Pattern[str], int], ...]
"""(pattern of tensor names, rank)."""


def _rank(buffer: str, cards: int) -> int:
    word = buffer.strip().lower()
    if word in _HOST_NAMES or word.endswith("_host"):
        return HOST
    match = _CARD.match(word)
    if match is None or int(match[1]) >= max(cards, 1):
        have = ", ".join(["CPU", *(f"CUDA{rank}" for rank in range(cards))])
        raise RequestError(f"option override_tensor: no buffer {buffer!r}", hint=f"this machine has {have}")
    return int(match[1])


def overrides_of(text: str, cards: int) -> Overrides:
    """Parse 'blk\\.[0-9]\\.ffn_.*_exps=CPU,output=CUDA0'. Raises RequestError for what llama.cpp would not take."""
    found = []
    for part in filter(None, (entry.strip() for entry in text.split(","))):
        pattern, equals, buffer = part.rpartition("=")
        if not equals or not pattern or len(pattern) > _MOST_PATTERN_CHARS:
            hint = "give it as PATTERN=CPU or PATTERN=CUDA0, several with commas"
            raise RequestError(f"option override_tensor: {part!r} names no buffer", hint=hint)
        try:
            compiled = re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            hint = "it is a regular expression over tensor names such as blk.0.ffn_up_exps.weight"
            raise RequestError(f"option override_tensor: {pattern!r} is not a pattern", hint=hint) from None
        found.append((compiled, _rank(buffer, cards) if cards else HOST))
    return tuple(found)


def overridden(overrides: Overrides, name: str, layer: int | None) -> int | None:
    """Rank of a tensor that a pattern names; None where none does. `name` holds {layer} for the layer's number."""
    full = name if layer is None else name.replace("{layer}", str(layer))
    return next((rank for pattern, rank in overrides if pattern.search(full)), None)
