"""What llama.cpp takes beside the weights of a vision tower: the compute buffer of one image."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import most


@formula("4 * patches * (6 * hidden + most(2 * mlp_width, score_heads * patches))")
def vision_buffer_bytes(*, patches: Any, mlp_width: Any, hidden: Any, score_heads: Any) -> Any:
    """The compute buffer of an image of `patches` patches, in 32 bit.

    `score_heads` is the number of heads where attention scores are kept whole, 0 with flash attention. Held against
    248.1 MiB (Qwen3.6-27B, flash attention) and 8.8 GiB (Pixtral's tower, 110 × 110 patches, without).
    """
    return 4 * patches * (6 * hidden + most(2 * mlp_width, score_heads * patches))
