"""What parts of an image generator keep alive while they run, and how several of them make a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fitcalc.frozen import dataclass

if TYPE_CHECKING:
    from fitcalc.spec.model import ModelSpec


@dataclass(frozen=True, slots=True)
class ImagePart:
    """The place of a component's pass where most is alive: a square of `side` × `side` of its own pixels is one
    position there (latent pixels of a denoiser, pixels of the picture for an autoencoder).

    unet: attention over the positions of one stage, while the states that the up path reads wait. joint: picture and
    prompt attend to each other. autoencoder: decoding at full resolution.
    """

    kind: Literal["unet", "joint", "autoencoder"]
    side: int
    width: int
    """Elements of a position's state."""
    kept_elems: int = 0
    """Elements that wait beside it, per position."""
    heads: int = 0
    memory: int = 0
    """Width of the prompt's states."""
    sample_side: int = 0
    """Side that the component was made for, in its own pixels; for an autoencoder that of a tile."""
    upcasts_scores: bool = False
    """Attention scores are computed in 32 bit whatever the type."""
    scale: int = 1
    """Pixels of the picture per latent pixel (autoencoder)."""


@dataclass(frozen=True, slots=True)
class ImageRun:
    """A pipeline: its components by role, and what its class does with them."""

    components: tuple[tuple[str, ModelSpec], ...]
    side_px: int
    """Side of the picture it was made for."""
    samples: int = 2
    """Samples that the denoiser runs per picture: 2 with classifier-free guidance."""
    upcast: tuple[str, ...] = ()
    """Roles that run in 32 bit when they are loaded in fp16."""
    on_device: tuple[str, ...] = ()
    """Roles that stay on the card when the others are offloaded."""
    quantized: tuple[str, ...] = ()
    """Roles whose linear layers a quantization takes."""
