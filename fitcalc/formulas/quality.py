"""What quantization costs in perplexity: from bits per weight to the ln of the ratio of perplexities.

Each bit quarters the squared error of a weight, and small losses are proportional to it: ln of the loss is a line over
bits, whose slope is near 2 ln 2. Large losses grow faster than their error. Powers are no part of the texts that
`--explain` shows, so these functions carry none.
"""

from __future__ import annotations

from typing import Any

E = 2.718281828459045


def weight_error(*, share: Any, factor: Any, intercept: Any, slope_per_bit: Any, bits: Any) -> Any:
    """The line: what the error of the quantized `share` of the weights would cost if it were small [ln ratio].

    `bits` per quantized weight, scales included; `factor` of the way of quantizing, 1 for k-quants.
    """
    return share * factor * E ** (intercept - slope_per_bit * bits)


def log_ratio(*, error: Any, saturation: Any) -> Any:
    """Ln of the ratio of perplexities for an error: equal to it when small, more when large."""
    return error * E ** (saturation * error * error)


def rise(*, ln_ratio: Any) -> Any:
    """Relative rise of perplexity for an ln of ratios: 0.01 is 1 % more."""
    return E**ln_ratio - 1
