"""Names as people type them: one canonical spelling, and the closest ids when none matches. Knows no profiles."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_STEM_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_MAKERS = frozenset({"nvidia", "geforce", "amd", "radeon", "intel", "apple", "tesla", "instinct", "google", "aws"})
_SIZE_WORDS = frozenset({"gb", "gib"})
_SUGGESTIONS = 3


def is_stem(text: str) -> bool:
    """Can `text` be a profile's id, and thus a file's stem? (No separators of paths.)"""
    return bool(text) and text[0] not in "._-" and _STEM_CHARACTERS.issuperset(text)


def canonical(name: str) -> str:
    """'Llama3.1:70B', 'llama-3-1-70b' -> 'llama-3-1-70-b'; the parts of 'org/name' stay apart.

    Runs of letters and runs of digits are the words; case and everything between words is dropped, so that all
    usual spellings of a name fall together while 'qwen2.5-7b' and 'qwen2-57b' stay different.
    """
    parts = name.lower().replace("+", " plus ").split("/")
    return "/".join("-".join(_TOKEN.findall(part)) for part in parts)


def canonical_device(name: str) -> str:
    """Like `canonical`, without leading makers' names, a trailing 'gpu', and GB behind a size: 'a-100-80'."""
    words = canonical(name).split("-")
    while len(words) > 1 and words[0] in _MAKERS:
        words = words[1:]
    if len(words) > 1 and words[-1] == "gpu":
        words = words[:-1]
    return "-".join(word for i, word in enumerate(words) if not (i and word in _SIZE_WORDS and words[i - 1].isdigit()))


def closest(name: str, keys: Mapping[str, str]) -> tuple[str, ...]:
    """At most three ids whose canonical keys look like `name`, best first; `keys` maps key to id."""
    from difflib import SequenceMatcher

    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(name)
    best: dict[str, float] = {}
    for key, profile in keys.items():
        matcher.set_seq1(key)
        if matcher.real_quick_ratio() < 0.5 or matcher.quick_ratio() < 0.5:
            continue
        # An id is meant rather than one of its nicknames when both are equally close.
        score = matcher.ratio() + (0.01 if key.replace("-", "") == re.sub(r"\W|_", "", profile) else 0.0)
        if score >= 0.5 and score > best.get(profile, 0.0):
            best[profile] = score
    ranked = sorted(best, key=lambda profile: (-round(best[profile], 3), _distance(name, profile), profile))
    return tuple(ranked[:_SUGGESTIONS])


def _distance(name: str, profile: str) -> int:
    """How far apart the numbers in two names are, position by position: 'q-9' is nearer to 'q8_0' than to 'q2_k'."""
    # Digits beyond eight are no version, size or model number.
    numbers = [[int(word[:8]) for word in re.findall(r"\d+", text)] for text in (name, profile)]
    return sum(abs(a - b) for a, b in zip(*numbers, strict=False))
