"""Pipelines as models: the tensors of their components under one name, and which of them a quantization takes."""

from __future__ import annotations

from collections.abc import Sequence

from fitcalc import catalog
from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.spec.image import ImageRun
from fitcalc.spec.model import ModelSpec


def pipeline_model(name: str) -> ModelSpec:
    """The pipeline of an id or alias as one model: every component's tensors, named after its role."""
    pipeline = catalog.load_pipeline(name)
    parts = tuple(
        (part.role, catalog.load_model(part.model)) for part in pipeline.components for _ in range(part.count)
    )
    denoiser = next(spec for _, spec in parts if spec.image and spec.image.kind != "autoencoder")
    run = ImageRun(
        parts,
        pipeline.side_px,
        pipeline.samples,
        tuple(part.role for part in pipeline.components if part.upcast),
        tuple(part.role for part in pipeline.components if part.on_device),
    )
    whole = replace(
        denoiser,
        id=pipeline.id,
        name=pipeline.name,
        kind="pipeline",
        max_context_tokens=pipeline.prompt_tokens,
        attention="pipeline",
        unknowns=tuple(dict.fromkeys(text for _, spec in parts for text in spec.unknowns)),
        dtype=pipeline.dtype,
        notes=pipeline.notes,
        source=pipeline.source,
        image=None,
        run=run,
    )
    return with_quantized(whole, [part.role for part in pipeline.components if part.quantized])


def with_quantized(model: ModelSpec, roles: Sequence[str]) -> ModelSpec:
    """The pipeline with the linears of these components open to quantization, and of no other."""
    if model.run is None:
        return model
    known = [role for role, _ in model.run.components]
    wrong = next((role for role in roles if role not in known), None)
    if wrong is not None:
        raise RequestError(f"{model.name} has no component {wrong!r}", hint=f"it has {', '.join(known)}")
    tensors = tuple(
        replace(tensor, name=f"{role}.{tensor.name}", is_linear=tensor.is_linear and role in roles)
        for role, spec in model.run.components
        for tensor in spec.tensors
    )
    return replace(model, tensors=tensors, run=replace(model.run, quantized=tuple(roles)))
