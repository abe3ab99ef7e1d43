"""What a request holds besides text: the size of a picture to make; images and sound, with what they take of the
context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc import catalog
from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.workload import Media

_DEFAULT_SIDE_PX = 1024
_MOST_SIDE_PX = 16384
_MOST_IMAGES = 4096
_MOST_SECONDS = 24 * 3600
_TEXT_TOKENS = 1024
"""Room for text beside images where no context was asked for."""


def pixels(name: str, value: Any) -> tuple[int, int]:
    """(width, height) of '1024x768', '1024', 1024 or a pair; (0, 0) for None. Raises RequestError."""
    if value is None:
        return 0, 0
    parts: Any = value.lower().replace("×", "x").split("x") if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int) and not isinstance(parts, bool) else parts
    try:
        sides = [int(part) for part in parts]
    except (TypeError, ValueError):
        sides = []
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(1 <= side <= _MOST_SIDE_PX for side in sides):
        hint = f"give it as 1024 or 1024x768, each side from 1 to {_MOST_SIDE_PX:,} pixels"
        raise RequestError(f"{name} {value!r} is not a size in pixels", hint=hint)
    return sides[0], sides[1]


def media_of(
    model: ModelSpec, *, images: Any = None, image_size: Any = None, audio_seconds: Any = None, resolution: Any = None
) -> Media:
    """The media of a request, sizes filled in. Raises RequestError for what the model does not take."""
    if model.makes_images:
        if images or audio_seconds or image_size is not None:
            raise RequestError(f"{model.name} makes pictures and reads none", hint="give --resolution and --batch")
        size = _own_side(model) if resolution is None else pixels("resolution", resolution)
        _in_steps(model, size)
        return Media(picture_px=size)
    if resolution is not None:
        hint = "images that go in are given as --images 1 --image-size 1024x768"
        raise RequestError(f"{model.name} makes no pictures: resolution has no meaning", hint=hint)
    count = _whole("images", images, _MOST_IMAGES)
    seconds = _seconds(audio_seconds)
    if image_size is not None and not count:
        raise RequestError("image_size without images", hint="say how many: --images 1")
    if not count and not seconds:
        return Media()
    from fitcalc.media_tokens import with_tokens

    return with_tokens(model, Media(count, pixels("image_size", image_size), seconds))


def _own_side(model: ModelSpec) -> tuple[int, int]:
    """The side that a pipeline or component was made for."""
    if model.run is not None:
        side = model.run.side_px
    else:
        part = model.image
        side = part.sample_side * (1 if part.kind == "autoencoder" else 8) if part else 0
    side = side or _DEFAULT_SIDE_PX
    return side, side


def _in_steps(model: ModelSpec, size: tuple[int, int]) -> None:
    """Refuse a picture whose sides the engine's step does not divide."""
    step = catalog.load_engine("diffusers").constants["side_step"]
    if any(side % step for side in size):
        near = "x".join(str(max(side // step, 1) * step) for side in size)
        said = f"{model.name} makes pictures whose sides {step} divides, not {size[0]}x{size[1]}"
        raise RequestError(said, hint=f"the nearest below is --resolution {near}")


def _whole(name: str, value: Any, most: int) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise RequestError(f"{name} {value!r} is out of range", hint=f"give a whole number from 0 to {most:,}")
    return value


def _seconds(value: Any) -> float:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_SECONDS:
        hint = f"give seconds from 0 to {_MOST_SECONDS:,}"
        raise RequestError(f"audio_seconds {value!r} is out of range", hint=hint)
    return value


def batch_of(concurrency: Any, batch: Any) -> Any:
    """`batch` is the word of image generators and encoders for requests at once. Raises RequestError for both."""
    if batch is None:
        return concurrency
    if concurrency not in (1, batch):
        hint = "both say how much runs at once: give one of them"
        raise RequestError(f"batch {batch!r} and concurrency {concurrency!r}", hint=hint)
    return batch


def model_for(model: ModelSpec, media: Media, options: Mapping[str, Any] | None) -> ModelSpec:
    """The model as the request uses it: the components that are quantized, cross-attention over all images."""
    roles = options.get("components_to_quantize") if isinstance(options, Mapping) else None
    if model.run is not None and roles:
        from fitcalc.pipelines import with_quantized

        listed = roles.split(",") if isinstance(roles, str) else roles
        return with_quantized(model, [str(role).strip() for role in listed])
    if media.images > 1 and any(layer.kind == "cross" for layer in model.cache_layers):
        layers = tuple(
            replace(layer, window_tokens=layer.window_tokens * media.images) if layer.kind == "cross" else layer
            for layer in model.cache_layers
        )
        return replace(model, cache_layers=layers)
    return model


def context_with(model: ModelSpec, media: Media, tokens: int, *, asked: int | None) -> int:
    """The context with room for the media: as asked, else the default or what they take with text beside.

    Raises RequestError where they do not go into what was asked for, or into what the model takes.
    """
    if not media.tokens:
        return tokens
    room = tokens if asked is not None else max(tokens, media.tokens + _TEXT_TOKENS)
    limit = model.max_context_tokens
    room = min(room, limit) if limit and asked is None else room
    if media.tokens >= room:
        said = f"images and sound take {media.tokens:,} tokens, more than the context of {room:,} holds"
        raise RequestError(said, hint="give fewer or smaller ones, or more --context")
    return room


def media_inputs(media: Media) -> dict[str, Any]:
    """What of a report's inputs a model of text alone does not have; null where it was not asked for."""
    given = media.images or media.audio_seconds
    return {
        "images": media.images or None,
        "image_size": list(media.image_px) if media.images else None,
        "audio_seconds": media.audio_seconds or None,
        "media_tokens": media.tokens if given else None,
        "resolution": list(media.picture_px) if any(media.picture_px) else None,
    }


def media_words(media: Media, context_tokens: int) -> list[str]:
    """What the media of a request are and take, as a note."""
    parts = []
    if media.images:
        size = f" of {media.image_px[0]:,} × {media.image_px[1]:,} px" if any(media.image_px) else ""
        parts.append(f"{media.images:,} image{'' if media.images == 1 else 's'}{size}")
    if media.audio_seconds:
        parts.append(f"{media.audio_seconds:g} s of sound")
    if not parts:
        return []
    taken = f"{media.tokens:,} of the {context_tokens:,} tokens of context" if media.tokens else "no tokens of context"
    return [f"{' and '.join(parts)} in each request take {taken}"]
