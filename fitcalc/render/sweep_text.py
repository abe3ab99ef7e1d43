"""What came of a sweep, in words: how many points of each verdict, the best of every model, why others are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitcalc.render.style import Style, plain
from fitcalc.render.wrapping import wrap

_WORDS = {"fits": ("fits", "fit"), "does_not_fit": ("does not fit", "do not fit"), "unknown": ("not decided",) * 2}
_MOST_REFUSALS, _MOST_MODELS = 3, 12


def sweep_text(
    points: int, plans: int, models: Sequence[str], counts: Mapping[str, int], refusals: Mapping[str, int],
    by: str, best: Sequence[Mapping[str, Any]], style: Style,
) -> str:  # fmt: skip
    """Counts, the best record that fits of every model, and the reasons of most refusals."""
    told = ", ".join(_counted(name, count) for name, count in counts.items() if count)
    lines = wrap(f"{_several(points, 'point')} in {_several(plans, 'plan')}: {told}", style.width)
    if best:
        word = ("most " if by.startswith("-") else "least ") + by.lstrip("-").replace("_", " ").replace(" per ", "/")
        heading = wrap(f"BEST of each model that fits, by {word}", style.width)
        lines += ["", *(style.paint(line, "bold") for line in heading), ""]
    for record in best:
        lines += [record["model"], f"  {record['quant']} on {record['device']} with {record['engine']}"]
        lines += wrap(_figures(record), style.width, initial_indent="    ", subsequent_indent="    ")
    missing = [model for model in models if model not in {record["model"] for record in best}]
    if missing:
        more = len(missing) - _MOST_MODELS
        text = f"No point that fits: {', '.join(missing[:_MOST_MODELS])}" + (f" and {more:,} more" if more > 0 else "")
        lines += ["", *wrap(text, style.width, subsequent_indent="  ")]
    return _in_style("\n".join([*lines, *_refused(refusals, style)]), style)


def _refused(refusals: Mapping[str, int], style: Style) -> list[str]:
    """The reasons that stand behind most points."""
    if not refusals:
        return []
    most = sorted(refusals.items(), key=lambda entry: -entry[1])
    lines = ["", "Refused:"]
    for text, count in most[:_MOST_REFUSALS]:
        lines += wrap(
            f"{text} ({_several(count, 'point')})", style.width, initial_indent="  ", subsequent_indent="    "
        )
    return (
        lines if len(most) <= _MOST_REFUSALS else [*lines, "  and for other reasons, in the column refusal of a file"]
    )


def _counted(name: str, count: int) -> str:
    return f"{count:,} {_WORDS.get(name, (name, name))[count != 1]}"


def _several(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _figures(record: Mapping[str, Any]) -> str:
    parts = [f"{record['context']:,} tokens × {record['concurrency']:,}"]
    if record["total_tokens_per_s"] is not None:
        parts.append(f"{record['total_tokens_per_s']:,.0f} tok/s")
    if record["usd_per_h"] is not None:
        parts.append(f"${record['usd_per_h']:,.2f}/h")
    if record["usd_per_million_tokens"] is not None:
        parts.append(f"${record['usd_per_million_tokens']:,.2f} a million")
    return " · ".join(parts)


def _in_style(text: str, style: Style) -> str:
    return text if style.blocks else plain(text)
