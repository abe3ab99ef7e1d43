"""Image generators' parts that fitcalc does not take apart: UNets, diffusion transformers, image autoencoders."""

from __future__ import annotations

from fitcalc.architectures.common import dtype_of
from fitcalc.architectures.config import Config
from fitcalc.spec.model import ModelSpec

UNKNOWN = "memory model of UNets/VAEs/DiTs not yet modelled"


def build(config: Config) -> ModelSpec:
    """A component known by its published count alone: no tensors, no cache; the profile gives `published_params`."""
    kind = str(config.get("model_type") or config.get("_class_name") or "")
    return ModelSpec(
        id=kind,
        name=kind,
        family=kind,
        model_type=kind,
        kind="component",
        tensors=(),
        cache_layers=(),
        layers=0,
        hidden=0,
        heads=0,
        kv_heads=0,
        head_dim=0,
        intermediate=0,
        vocab=0,
        max_context_tokens=None,
        attention="component",
        tied_embeddings=False,
        gated_mlp=False,
        dtype=dtype_of(config),
        unknowns=(UNKNOWN,),
        notes=("parameters: published component count",),
    )
