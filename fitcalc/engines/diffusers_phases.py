"""The passes of an image pipeline, one after another: prompt, denoising, decoding. What each keeps alive, and what of
the weights has to be on the device for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fitcalc.engines.base import elem_bytes_of
from fitcalc.engines.transformers_passes import encoder_pass
from fitcalc.formulas import diffusion
from fitcalc.frozen import dataclass
from fitcalc.ledger import Term, computed
from fitcalc.quantization.stored import Stored, stored_bytes
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.image import ImagePart
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload

_SINGLE = "component"
"""Role of a component that runs alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """A component with its bytes on the device."""

    role: str
    model: ModelSpec
    weight_bytes: int
    largest_bytes: int
    """Its largest tensor: what sequential offloading brings to the card at once."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One component's pass: its weights and its term."""

    part: Part
    term: Term


def parts_of(model: ModelSpec, stored: tuple[Stored, ...]) -> tuple[Part, ...]:
    """The components with their bytes; a component that runs alone is its own only part."""
    if model.run is None:
        sizes = [stored_bytes(entry) for entry in stored]
        return (Part(_SINGLE, model, sum(sizes), max(sizes, default=0)),)
    sizes_of: dict[str, list[int]] = {role: [0] for role, _ in model.run.components}
    largest_of = dict.fromkeys(sizes_of, 0)
    for entry in stored:
        role, size = entry.tensor.name.partition(".")[0], stored_bytes(entry)
        sizes_of[role].append(size)
        largest_of[role] = max(largest_of[role], size // (entry.repeats * entry.tensor.copies))
    return tuple(Part(role, spec, sum(sizes_of[role]), largest_of[role]) for role, spec in model.run.components)


def passes(
    model: ModelSpec,
    scheme: Scheme,
    parts: tuple[Part, ...],
    asked: Workload,
    profile: EngineProfile,
    prompt_tokens: Any,
    pictures: Any,
) -> Iterator[Pass]:
    """Every component's pass, in the order in which they run."""
    elem_bytes = elem_bytes_of(scheme)
    # The kinds come in the order of the run: encoders have no image part.
    for part in sorted(parts, key=lambda part: _ORDER[part.model.image.kind if part.model.image else ""]):
        image = part.model.image
        if image is None:
            samples = pictures * (model.run.samples if model.run else 1)
            term = encoder_pass(part.model, profile, elem_bytes, prompt_tokens, samples)
        elif image.kind == "autoencoder":
            upcast = model.run is not None and part.role in model.run.upcast and scheme.weight.id == "fp16"
            term = _decoder(part, image, asked, elem_bytes, pictures, upcast=upcast)
        else:
            term = _denoiser(
                part.model, image, asked, profile, elem_bytes, prompt_tokens, _samples(model, asked, pictures)
            )
        yield Pass(part, term)


_ORDER: Mapping[str, int] = {"": 0, "unet": 1, "joint": 1, "autoencoder": 2}


def _samples(model: ModelSpec, asked: Workload, pictures: Any) -> Any:
    """Samples in a denoiser's batch: with guidance two for a picture; a denoiser alone runs what it is given."""
    guided = model.run is not None and asked.options["guidance_scale"] > 1
    return pictures * (model.run.samples if model.run and guided else 1)


def _denoiser(
    model: ModelSpec,
    image: ImagePart,
    asked: Workload,
    profile: EngineProfile,
    elem_bytes: int,
    prompt_tokens: Any,
    samples: Any,
) -> Term:
    known, (width_px, height_px) = profile.constants, asked.media.picture_px
    places = diffusion.positions(width_px=width_px, height_px=height_px, side_px=image.side * known["latent_px"])
    if image.kind == "joint":
        widths = known["joint_widths"][model.model_type]
        return computed(
            "activations", diffusion.joint_bytes, "derived", samples=samples, elem_bytes=elem_bytes, positions=places,
            picture_widths=widths["picture"], width=image.width, prompt_tokens=prompt_tokens,
            prompt_widths=widths["prompt"], memory=image.memory, sources=profile.sources,
        )  # fmt: skip
    common = {
        "samples": samples, "elem_bytes": elem_bytes, "positions": places, "kept_elems": image.kept_elems,
        "width": image.width, "prompt_tokens": prompt_tokens, "memory": image.memory,
    }  # fmt: skip
    fused = computed(
        "activations", diffusion.unet_bytes, "derived", own_widths=known["unet_widths"], score_rows=0, score_bytes=0,
        sources=profile.sources, **common,
    )  # fmt: skip
    rows = score_rows(image, asked, samples)
    if rows is None:
        return fused
    own = known["unet_widths_upcast" if image.upcasts_scores else "unet_widths_scores"]
    score_bytes = 4 if image.upcasts_scores else elem_bytes
    kept = computed(
        "activations", diffusion.unet_bytes, "derived", own_widths=own, score_rows=rows, score_bytes=score_bytes,
        sources=profile.sources, **common,
    )  # fmt: skip
    return _larger(kept, fused)


def score_rows(image: ImagePart, asked: Workload, samples: Any) -> Any:
    """Score matrices that are alive at once: one per head and sample, a slice of them with slicing; None: fused."""
    sliced = asked.options["enable_attention_slicing"].lower()
    if sliced in ("", "false", "0", "none"):
        return samples * image.heads if asked.options["attention"] == "eager" else None
    if sliced == "max":
        return 1
    return int(sliced) if sliced.isdigit() and sliced != "1" else max(image.heads // 2, 1)


def _larger(one: Term, other: Term) -> Term:
    """Of two terms of a pass the larger; arrays of requests keep the first where they differ in their order."""
    bigger = other.bytes > one.bytes
    return other if isinstance(bigger, bool) and bigger else one


def _decoder(part: Part, image: ImagePart, asked: Workload, elem_bytes: int, pictures: Any, *, upcast: bool) -> Term:
    width_px, height_px = asked.media.picture_px
    pixels, options = width_px * height_px, asked.options
    samples = 1 if options["enable_vae_slicing"] else pictures
    note = []
    if options["enable_vae_tiling"] and image.sample_side:
        tile = diffusion.tile_pixels(width_px=width_px, height_px=height_px, tile_px=image.sample_side)
        note = ["tiles"] if tile < pixels else []
        # Rows of finished tiles and the picture that they are joined to.
        beside = 2 * elem_bytes * 3 * pixels * pictures if tile < pixels else 0
        pixels = tile
    else:
        beside = 0
    size = 4 if upcast else elem_bytes
    more = part.weight_bytes if upcast else 0
    return computed(
        "activations", diffusion.decode_bytes, "derived", samples=samples, elem_bytes=size, pixels=pixels,
        channels=image.width, upcast_bytes=more + beside, note=", ".join(note),
    )  # fmt: skip
