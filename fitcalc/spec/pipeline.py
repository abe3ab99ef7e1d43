"""Pipeline: several models that run together, each a component by its model id."""

from __future__ import annotations

from fitcalc.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Component:
    """One model of a pipeline; `count` of them."""

    role: str
    model: str
    """Model id."""
    count: int = 1
    params: int | None = None
    """Parameters of this part alone, where it is a part of its model."""
    upcast: bool = False
    """Runs in 32 bit when it is loaded in fp16."""
    on_device: bool = False
    """Stays on the card when the other components are offloaded."""
    quantized: bool = False
    """A quantization takes its linear layers, unless others are named."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Models that are loaded together (Stable Diffusion's UNet, VAE and text encoders)."""

    id: str
    name: str
    components: tuple[Component, ...]
    source: str = ""
    notes: tuple[str, ...] = ()
    dtype: str = "fp16"
    """Type that its documentation loads it in."""
    side_px: int = 0
    """Side of the picture it makes by default."""
    samples: int = 2
    """Samples that the denoiser runs per picture: 2 with classifier-free guidance."""
    prompt_tokens: int = 77
    """Length that a prompt is filled up to."""
