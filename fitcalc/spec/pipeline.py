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


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Models that are loaded together (Stable Diffusion's UNet, VAE and text encoders)."""

    id: str
    name: str
    components: tuple[Component, ...]
    source: str = ""
    notes: tuple[str, ...] = ()
