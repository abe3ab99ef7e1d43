"""ModelSpec: a model as an inventory of tensors and a list of cache layers.

Layers that are alike share one entry: a tensor names the layers that hold it, so an 80-layer model is a dozen
entries and every count is a short sum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from fitcalc.frozen import dataclass
from fitcalc.spec.quant import CheckpointQuant, Format

if TYPE_CHECKING:
    from fitcalc.spec.image import ImagePart, ImageRun

Split = Literal["columns", "rows", "vocab", "heads", "experts", "replicated"]
"""How tensor parallelism divides a tensor of shape (out, in).

columns: the first dimension; rows: the second; vocab: the first, after padding the vocabulary;
heads: the first, but the rows that belong to K and V are whole heads, copied when there are fewer than ranks;
experts: each expert's width (its first or second dimension, see `Tensor.expert_dim`); replicated: whole on each rank.
"""

Part = Literal["text", "encoder", "vision", "audio", "projector", "mtp", "other"]
"""The component that owns a tensor. `mtp` tensors are in the file but loaded only for speculative decoding."""

CacheKind = Literal["full", "sliding", "chunked", "mla", "recurrent", "cross", "compressed"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One kind of tensor and every layer that holds one.

    `name` is the checkpoint's parameter name with `{layer}` (and `{expert}`) in place of numbers. `shape` is that of
    one copy, linears as (out, in). `copies` counts experts, `active` how many of them one token uses.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    layers: tuple[int, ...] = ()
    copies: int = 1
    active: int = 1
    split: Split = "replicated"
    part: Part = "text"
    kv_heads: int = 0
    """KV heads whose K and V rows this tensor holds (split 'heads'); 0 for a pure Q projection."""
    kv_rows: int = 0
    """Rows of the first dimension that belong to K and V."""
    dtype: str = ""
    """Set when the checkpoint fixes the type (fp32 router biases); '' follows the model."""
    is_buffer: bool = False
    """Stored and loaded, but not a parameter."""
    is_linear: bool = False
    """A weight of a linear layer: what quantizers work on (subject to their own exceptions)."""
    stored: Format | None = None
    """As the model's file stores it, where a file was read; layers stored otherwise are another entry."""

    @property
    def repeats(self) -> int:
        """Layers that hold it; 1 for a tensor outside the layers."""
        return len(self.layers) or 1

    @property
    def elems(self) -> int:
        """Elements over all layers and copies."""
        return math.prod(self.shape) * self.copies * self.repeats

    @property
    def active_elems(self) -> int:
        """Elements that one token uses."""
        return math.prod(self.shape) * self.active * self.repeats


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """What the layers of one kind keep per sequence.

    full: K and V for every token. sliding / chunked: for at most `window_tokens`. mla: `latent_elems` per token,
    shared by all heads. recurrent: a fixed state. cross: K and V of `window_tokens` encoder positions (0: the prompt).
    compressed: one entry of `latent_elems` (and `index_elems`) per `compression` tokens, beside a window of
    `window_tokens` entries of `latent_elems`; `state_elems` wait to be compressed.
    """

    kind: CacheKind
    layers: tuple[int, ...]
    kv_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    window_tokens: int = 0
    latent_elems: int = 0
    index_elems: int = 0
    """Elements per token of a sparse-attention indexer's keys."""
    compression: int = 1
    conv_channels: int = 0
    conv_kernel: int = 0
    state_elems: int = 0
    state_dtype: str = "fp32"
    repeated_heads: int = 0
    """Heads that the model's own class repeats K and V to before it caches them; 0: it caches them as they are."""

    @property
    def elems_per_token(self) -> int:
        """Elements that one cached token takes in one of these layers (0 for recurrent ones)."""
        if self.kind in ("mla", "compressed"):
            return self.latent_elems + self.index_elems
        return self.kv_heads * (self.key_dim + self.value_dim) + self.index_elems

    @property
    def repeated_elems_per_token(self) -> int:
        """`elems_per_token` as an engine that runs the model's own class caches them (Transformers)."""
        if not self.repeated_heads:
            return self.elems_per_token
        return self.repeated_heads * (self.key_dim + self.value_dim) + self.index_elems


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position set-up, as far as an engine's cos/sin table needs it."""

    rotary_dim: int
    positions: int
    scaling: str = ""
    factor: float = 1.0
    original_positions: int = 0
    tables: int = 1
    """Distinct tables (models with another base on local layers keep two)."""
    sectioned: bool = False
    """Positions have sections for time, height and width (mrope_section)."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as fitcalc knows it: shapes, tensors, cache layers and where they came from."""

    id: str
    name: str
    family: str
    model_type: str
    kind: Literal["decoder", "encoder", "encoder-decoder", "component", "pipeline"]
    tensors: tuple[Tensor, ...]
    cache_layers: tuple[CacheLayer, ...]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of a dense MLP; of the widest dense one in a mixture-of-experts model, 0 if it has none."""
    vocab: int
    max_context_tokens: int | None
    attention: str
    """Label: mha, gqa, mqa, mla, with '+sliding', 'hybrid(...)', 'encoder(...)' as in the catalogue."""
    tied_embeddings: bool
    gated_mlp: bool
    dtype: str = "bf16"
    experts: int = 0
    experts_per_token: int = 0
    moe_intermediate: int = 0
    shared_intermediate: int = 0
    """Summed width of the shared experts of one layer."""
    stores_tied_head: bool = False
    """The checkpoint holds a copy of a tied head."""
    rope: Rope | None = None
    quant: CheckpointQuant | None = None
    """The scheme that the checkpoint itself is stored in (config's quantization_config)."""
    hf_repo: str = ""
    quantized_repos: tuple[tuple[str, str], ...] = ()
    """(quantization id, repository) where checked."""
    license: str = ""
    source: str = ""
    unknowns: tuple[str, ...] = ()
    """What could not be derived, in words; a non-empty tuple makes the affected terms unknown."""
    notes: tuple[str, ...] = ()
    published_params: int | None = None
    """The maker's own count, where the inventory does not cover the model."""
    file_bytes: int | None = None
    """Size of the file or files that were read, header included; None when only a description was."""
    at_least: ModelSpec | None = None
    """Where `unknowns` leave a range this inventory is its upper end and `at_least` the model at its lower end; None:
    what is unknown has no bound."""
    container: Literal["", "gguf"] = ""
    """gguf: these are the tensors of a GGUF file, which other engines than those of its world do not read."""
    image: ImagePart | None = None
    """Of a component of an image generator: what its pass keeps alive."""
    run: ImageRun | None = None
    """Of a pipeline: the components whose tensors these are."""

    @property
    def params_total(self) -> int:
        """Parameters: a tied head once, buffers and multi-token-prediction layers not counted."""
        return sum(t.elems for t in self.tensors if not t.is_buffer and t.part != "mtp")

    @property
    def params_active(self) -> int:
        """Parameters that one token uses: `experts_per_token` of the routed experts, everything else in full."""
        return sum(t.active_elems for t in self.tensors if not t.is_buffer and t.part != "mtp")

    @property
    def is_unbounded(self) -> bool:
        """What is unknown of it has no bound, so that nothing fits for sure."""
        return bool(self.unknowns) and self.at_least is None

    @property
    def makes_images(self) -> bool:
        """A pipeline that generates images, or a part of one: it is asked by resolution, not by tokens."""
        return self.image is not None or self.run is not None

    @property
    def is_moe(self) -> bool:
        """Has routed experts."""
        return self.experts > 0
