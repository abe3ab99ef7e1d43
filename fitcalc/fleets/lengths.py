"""How long requests are: what the formulas need of a distribution of prompts and answers."""

from __future__ import annotations

from collections.abc import Sequence

from fitcalc.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of requests."""

    prompt_tokens: float
    """Mean."""
    output_tokens: float
    """Mean."""
    running_tokens: float
    """Mean context of a running request: long answers run longer, and so count for more."""
    longest_tokens: int
    """Prompt and answer of the longest."""


def constant(prompt_tokens: int, output_tokens: int) -> Lengths:
    """All requests alike."""
    return Lengths(prompt_tokens, output_tokens, prompt_tokens + output_tokens / 2, prompt_tokens + output_tokens)


def mixed(pairs: Sequence[tuple[int, int]]) -> Lengths:
    """Of (prompt, output) pairs, at least one."""
    outputs = sum(output for _, output in pairs)
    # Sums of whole numbers, so that equal pairs give exactly what `constant` does.
    doubled = sum(output * (2 * prompt + output) for prompt, output in pairs)
    return Lengths(
        prompt_tokens=sum(prompt for prompt, _ in pairs) / len(pairs),
        output_tokens=outputs / len(pairs),
        running_tokens=doubled / (2 * outputs),
        longest_tokens=max(prompt + output for prompt, output in pairs),
    )
