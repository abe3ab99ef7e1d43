"""The expected loss of quality in words."""

from __future__ import annotations

from fitcalc.spec.report import Quality


def quality_words(quality: Quality | None) -> str:
    """'medium: perplexity +3.3 % (2.0–5.3), as Llama 3 at 4.80 bit'; '' where nothing is quantized."""
    if quality is None:
        return ""
    rise = quality.perplexity_rise
    if rise is None:
        return quality.note
    if rise.estimate == 0:
        return f"{quality.level}: {quality.note}" if quality.note else ""
    line = f", as {quality.generation} at {quality.bits_per_weight:.2f} bit" if quality.generation else ""
    return f"{quality.level}: perplexity +{percent(rise.estimate)} % ({percent(rise.low)}–{percent(rise.high)}){line}"


def percent(share: float) -> str:
    """Two digits: '3.3', '1.0', '0.024', '130'."""
    value = 100 * share
    return f"{value:,.0f}" if value >= 9.95 else f"{value:#.2g}"
