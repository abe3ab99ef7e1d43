"""What is asked of the model: context, concurrency, KV type, and how the engine is started."""

from __future__ import annotations

from typing import Any

from fitcalc.frozen import dataclass, field
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme


@dataclass(frozen=True, slots=True)
class Media:
    """Pictures and sound of one request: what goes into a model that reads them, and the size of what one makes."""

    images: int = 0
    image_px: tuple[int, int] = (0, 0)
    """Width and height of each image that goes in; (0, 0): the size the model was made for."""
    audio_seconds: float = 0
    picture_px: tuple[int, int] = (0, 0)
    """Width and height of each picture that is made."""
    tokens: int = 0
    """Tokens of the context that the images and the sound of a request take."""
    positions: int = 0
    """Positions (patches, class tokens) that the image encoder sees of a request."""
    sound_positions: int = 0
    """Positions that the encoder of sound sees of a request."""


NO_MEDIA = Media()


@dataclass(frozen=True, slots=True)
class Workload:
    """One request shape. `context_tokens` is per request (prompt and answer); both numbers may be arrays in a sweep."""

    context_tokens: Any
    concurrency: Any = 1
    kv_dtype: str = ""
    """Id of the KV cache type (fp16, bf16, fp8, int8, q8_0 …); '' is the engine's default."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    """Engine options under the engine's own names, already of the right type."""
    data_parallel: int = 1
    """Copies of everything but the routed experts, each with its own cache and its share of the requests."""
    expert_parallel: bool = False
    """Whole experts are divided over the tensor × data parallel ranks, instead of each expert's width."""
    draft: tuple[ModelSpec, Scheme] | None = None
    """A model that proposes tokens for this one to check, and how it is stored."""
    media: Media = NO_MEDIA

    @property
    def ranks(self) -> int:
        """Cards that have work."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel
