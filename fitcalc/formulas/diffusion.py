"""What parts of an image generator keep alive during a pass: denoisers by position, autoencoders by pixel.

Counts of live elements are those of the classes of diffusers 0.42.1 with fused attention; convolution workspaces and
what an allocator holds unused come on top, so each of these is a lower bound of what a card shows.
"""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import least, most


@formula("ceil_div(height_px, side_px) * ceil_div(width_px, side_px)")
def positions(*, width_px: Any, height_px: Any, side_px: Any) -> Any:
    """Positions of a picture: squares of `side_px` × `side_px` pixels."""
    return -(-height_px // side_px) * -(-width_px // side_px)


@formula(
    "samples * elem_bytes * (positions * (kept_elems + own_widths * width) + prompt_tokens * memory)"
    " + 2 * score_rows * positions * positions * score_bytes"
)
def unet_bytes(
    *,
    samples: Any,
    elem_bytes: Any,
    positions: Any,
    kept_elems: Any,
    own_widths: Any,
    width: Any,
    prompt_tokens: Any,
    memory: Any,
    score_rows: Any,
    score_bytes: Any,
) -> Any:
    """A UNet at its largest attention: states that wait for the up path, the block's own, and kept score matrices.

    The gated MLP with its inputs is 23 widths; with scores kept (twice: before and after the softmax) 8 widths stand
    beside the `score_rows` matrices of positions × positions.
    """
    states = samples * elem_bytes * (positions * (kept_elems + own_widths * width) + prompt_tokens * memory)
    return states + 2 * score_rows * positions * positions * score_bytes


@formula(
    "samples * elem_bytes * (positions * picture_widths * width + prompt_tokens * (prompt_widths * width + memory))"
)
def joint_bytes(
    *,
    samples: Any,
    elem_bytes: Any,
    positions: Any,
    picture_widths: Any,
    width: Any,
    prompt_tokens: Any,
    prompt_widths: Any,
    memory: Any,
) -> Any:
    """A transformer over picture and prompt at its largest block, in widths per position and per token."""
    picture, prompt = positions * picture_widths * width, prompt_tokens * (prompt_widths * width + memory)
    return samples * elem_bytes * (picture + prompt)


@formula("3 * samples * elem_bytes * pixels * channels + upcast_bytes")
def decode_bytes(*, samples: Any, elem_bytes: Any, pixels: Any, channels: Any, upcast_bytes: Any) -> Any:
    """An autoencoder's decoder at full resolution: a block's input, its norm and its activation, `channels` wide."""
    return 3 * samples * elem_bytes * pixels * channels + upcast_bytes


@formula("least(width_px, tile_px) * least(height_px, tile_px)")
def tile_pixels(*, width_px: Any, height_px: Any, tile_px: Any) -> Any:
    """Pixels of the largest tile."""
    return least(width_px, tile_px) * least(height_px, tile_px)


@formula("most(most(prompt_bytes, denoise_bytes), decode_bytes)")
def largest_phase(*, prompt_bytes: Any, denoise_bytes: Any, decode_bytes: Any) -> Any:
    """The passes come one after another: text encoders, denoiser, autoencoder."""
    return most(most(prompt_bytes, denoise_bytes), decode_bytes)
