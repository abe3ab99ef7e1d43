"""What Ollama reckons with before it starts a model: its own forecast, and the batch that follows from it."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula


@formula("file_bytes + 4 * layers * kv_heads * head_dim * cells")
def forecast_bytes(*, file_bytes: Any, layers: Any, kv_heads: Any, head_dim: Any, cells: Any) -> Any:
    """Ollama's forecast of a model's memory: its file and a 16-bit cache in which every layer keeps every token."""
    return file_bytes + 4 * layers * kv_heads * head_dim * cells


def is_roomy(forecast: Any, available_bytes: Any, share_percent: int, surcharge_bytes: int) -> Any:
    """Does a batch leave room: the forecast within a share of memory and, with the batch's surcharge, within 80 %?

    True where nothing is known of the memory (0).
    """
    threshold = available_bytes * 80 // 100
    fits = (forecast <= available_bytes * share_percent // 100) * (forecast + surcharge_bytes <= threshold)
    return fits + (available_bytes == 0) * (1 - fits)


def automatic_batch(
    *, cells: Any, forecast: Any, available_bytes: Any, tiers: list[list[int]], least_batch: int
) -> Any:
    """Tokens of a batch where none is asked for: the largest tier that the cells call for and memory has room for.

    A tier is [batch, above so many cells, forecast's share of memory in percent, surcharge in bytes], largest first.
    """
    batch: Any = least_batch
    # From the smallest tier up, so that a larger one replaces it.
    for size, above, share, surcharge in reversed(tiers):
        takes = (cells > above) * is_roomy(forecast, available_bytes, share, surcharge)
        batch = batch + (size - batch) * takes
    return batch
