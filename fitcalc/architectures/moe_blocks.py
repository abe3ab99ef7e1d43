"""What mixture-of-experts families share: their frame, routed and shared experts, routers, indexers, MTP layers.

A layer set may be empty (a model without dense layers, without sparse ones): every builder here then returns nothing,
while a builder of `blocks` would read an empty set as "outside the layers".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.blocks import Layers
from fitcalc.architectures.common import decoder, rope_of
from fitcalc.architectures.config import (
    Config,
    flag,
    head_dim_of,
    integer,
    integer_or,
    kv_heads_of,
    layer_count,
    size,
    window_of,
)
from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.model import CacheLayer, ModelSpec, Rope, Split, Tensor

LAYER = "model.layers.{layer}"
ATTENTION = f"{LAYER}.self_attn"
NORMS = ("input_layernorm", "post_attention_layernorm")
GATE_UP_DOWN = ("gate_proj", "up_proj", "down_proj")
W1_W3_W2 = ("w1", "w3", "w2")
SHARED_ROLES = ("shared_gate", "shared_up", "shared_down")
_MOST_EXPERTS = 100_000
_MOST_MTP_LAYERS = 100


@dataclass(frozen=True, slots=True)
class Frame:
    """The dimensions that every decoder config states."""

    layers: Layers
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @property
    def count(self) -> int:
        """Number of layers, which is also the number of the first multi-token-prediction layer."""
        return len(self.layers)


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of the sparse layers: how many, how many one token uses, how wide, and the shared width."""

    layers: Layers
    count: int
    used: int
    width: int
    shared_width: int = 0


def frame_of(config: Config, *, tied: bool = False) -> Frame:
    """The frame under the common key names; `tied` is the class default of tie_word_embeddings."""
    hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    return Frame(
        layers=tuple(range(layer_count(config))),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads_of(config, heads),
        head_dim=head_dim_of(config, hidden, heads),
        vocab=size(config, "vocab_size"),
        tied=flag(config, "tie_word_embeddings", tied),
    )


def uniform(config: Config, *keys: str) -> int:
    """A whole number that a config may also give once per layer; all layers have to agree."""
    for key in keys:
        listed = config.get(key)
        if isinstance(listed, list | tuple) and listed:
            if any(value != listed[0] for value in listed):
                hint = "layers of different width are not modelled"
                raise UnsupportedModelError(f"config: {key} differs between layers", hint=hint)
            return integer({key: listed[0]}, key)
    return integer(config, *keys)


def experts_of(
    config: Config,
    layers: Layers,
    count: str = "num_experts",
    width: str = "moe_intermediate_size",
    used: str = "num_experts_per_tok",
    shared_width: int = 0,
) -> Experts:
    """The experts under the family's key names; ModelFileError when a token would use more than there are."""
    held, taken = uniform(config, count), uniform(config, used)
    if not 1 <= taken <= held <= _MOST_EXPERTS:
        hint = f"a token uses between 1 and all of at most {_MOST_EXPERTS:,} experts"
        raise ModelFileError(f"config: {used} is {taken}, {count} is {held}", hint=hint)
    return Experts(layers, held, taken, size({width: uniform(config, width)}, width), shared_width)


def without(layers: Layers, taken: Layers) -> Layers:
    """The layers that are not in `taken`."""
    held = frozenset(taken)
    return tuple(layer for layer in layers if layer not in held)


def marked(
    config: Config,
    key: str,
    layers: Layers,
    chosen: Collection[object] = (1, "sparse"),
    others: Collection[object] = (0, "dense"),
) -> Layers | None:
    """The layers whose entry in the list `key` is one of `chosen`; None when the key holds no list.

    A list may be longer than the layers (entries of multi-token-prediction layers), never shorter, and an entry that
    is neither chosen nor among the `others` is refused.
    """
    listed = config.get(key)
    if not isinstance(listed, list | tuple):
        return None
    if len(listed) < len(layers):
        raise ModelFileError(f"config: {key} has {len(listed)} entries for {len(layers)} layers", hint="one per layer")
    for entry in listed[: len(layers)]:
        if entry not in chosen and entry not in others:
            hint = f"this family knows {', '.join(str(known) for known in (*chosen, *others))}"
            raise UnsupportedModelError(f"config: {key} holds {entry!r:.40}", hint=hint)
    return tuple(layer for layer in layers if listed[layer] in chosen)


def layer_numbers(config: Config, key: str, layers: Layers) -> Layers | None:
    """The layers that the list `key` names by number; None when the key holds no list."""
    listed = config.get(key)
    if not isinstance(listed, list | tuple):
        return None
    named = {number for number in listed if isinstance(number, int)}
    return tuple(layer for layer in layers if layer in named)


def sparse_after_dense(config: Config, layers: Layers) -> Layers:
    """The sparse layers of DeepSeek-like configs: mlp_layer_types, else first_k_dense_replace and moe_layer_freq."""
    listed = marked(config, "mlp_layer_types", layers)
    if listed is None:
        listed = marked(config, "moe_layer_freq", layers)
    if listed is not None:
        return listed
    first, step = integer(config, "first_k_dense_replace"), integer_or(config, "moe_layer_freq", 1)
    return tuple(layer for layer in layers if layer >= first and layer % max(step, 1) == 0)


def deepseek_experts(config: Config, layers: Layers) -> Experts:
    """Experts under DeepSeek's keys: n_routed_experts behind the dense layers, n_shared_experts of the same width."""
    shared = integer_or(config, "n_shared_experts", 0) * size(config, "moe_intermediate_size")
    return experts_of(config, sparse_after_dense(config, layers), "n_routed_experts", shared_width=shared)


def ends(frame: Frame, *, head_bias: bool = False, norm_bias: bool = False) -> list[Tensor]:
    """Token embedding, final norm and output projection under their usual names."""
    return [
        blocks.embedding("model.embed_tokens", frame.vocab, frame.hidden),
        *blocks.norm("model.norm", frame.hidden, bias=norm_bias),
        *blocks.lm_head(frame.vocab, frame.hidden, tied=frame.tied, bias=head_bias),
    ]


def layer_norms(
    frame: Frame, layers: Layers, *, names: Sequence[str] = NORMS, bias: bool = False, prefix: str = LAYER
) -> list[Tensor]:
    """The norms of a decoder layer, each of the hidden width."""
    return [t for name in names for t in blocks.norm(f"{prefix}.{name}", frame.hidden, layers, bias=bias)]


def dense_mlp(
    prefix: str,
    hidden: int,
    width: int,
    layers: Layers,
    *,
    bias: bool = False,
    names: tuple[str, str, str] = GATE_UP_DOWN,
) -> list[Tensor]:
    """The gated MLP of the layers that are not sparse."""
    return blocks.gated_mlp(prefix, hidden, width, layers, bias=bias, names=names) if layers else []


def shared_expert(
    prefix: str,
    hidden: int,
    width: int,
    layers: Layers,
    *,
    bias: bool = False,
    names: tuple[str, str, str] = GATE_UP_DOWN,
) -> list[Tensor]:
    """The shared experts of a layer, stored as one gated MLP of their summed width."""
    if not (layers and width):
        return []
    return blocks.gated_mlp(prefix, hidden, width, layers, bias=bias, names=names, roles=SHARED_ROLES)


def routed(
    prefix: str,
    hidden: int,
    experts: Experts,
    *,
    layers: Layers | None = None,
    gate: str = "gate",
    names: tuple[str, str, str] = GATE_UP_DOWN,
    bias: bool = False,
    score_bias: str = "",
) -> list[Tensor]:
    """Router and experts stored one by one under `prefix`.experts; `score_bias` names the router's bias buffer."""
    owned = experts.layers if layers is None else layers
    if not owned:
        return []
    return [
        *blocks.router(f"{prefix}.{gate}", hidden, experts.count, owned),
        *([router_bias(f"{prefix}.{score_bias}", experts.count, owned)] if score_bias else []),
        *blocks.experts(
            f"{prefix}.experts", hidden, experts.width, experts.count, experts.used, owned, names=names, bias=bias
        ),
    ]


def stacked_experts(roles: Mapping[str, str], hidden: int, experts: Experts) -> list[Tensor]:
    """Experts stored as one tensor per projection and layer: full tensor name -> role."""
    shapes = {
        "expert_gate": (experts.width, hidden),
        "expert_up": (experts.width, hidden),
        "expert_gate_up": (2 * experts.width, hidden),
        "expert_down": (hidden, experts.width),
    }
    if not experts.layers:
        return []
    return [
        Tensor(
            name, role, shapes[role], experts.layers, experts.count, experts.used, split="experts", is_linear=True
        )
        for name, role in roles.items()
    ]  # fmt: skip


def stacked_bias(name: str, width: int, experts: Experts, *, split: Split) -> Tensor:
    """The biases of one projection of all experts, stored as one tensor per layer."""
    return Tensor(name, "bias", (width,), experts.layers, experts.count, experts.used, split=split)


def router_bias(name: str, count: int, layers: Layers) -> Tensor:
    """The correction added to the router's scores: fp32 in the file, learned outside the optimizer."""
    return Tensor(name, "router_bias", (count,), layers, dtype="fp32", is_buffer=True)


def indexer(prefix: str, hidden: int, query_rank: int, heads: int, head_dim: int, layers: Layers) -> list[Tensor]:
    """The indexer of DeepSeek sparse attention: its own small queries and one key per token, whole on every rank.

    Its per-head weights stay in 16 bit where the rest of the model is FP8.
    """
    if not layers:
        return []
    return [
        *blocks.linear(f"{prefix}.wq_b", "indexer", heads * head_dim, query_rank, layers, split="replicated"),
        *blocks.linear(f"{prefix}.wk", "indexer", head_dim, hidden, layers, split="replicated"),
        *blocks.norm(f"{prefix}.k_norm", head_dim, layers, bias=True),
        kept_linear(f"{prefix}.weights_proj", "indexer", heads, hidden, layers),
    ]


def kept_linear(name: str, role: str, out_width: int, in_width: int, layers: Layers) -> Tensor:
    """A small linear layer that stays in 16 bit where the published checkpoint is FP8; whole on every rank."""
    return Tensor(f"{name}.weight", role, (out_width, in_width), layers)


def as_mtp(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors as part of the multi-token-prediction layers."""
    return [replace(tensor, part="mtp") for tensor in tensors]


def mtp_layers(config: Config, frame: Frame, key: str = "num_nextn_predict_layers") -> Layers:
    """The numbers of the multi-token-prediction layers, which follow the model's own; none where not declared."""
    declared = integer_or(config, key, 0)
    if declared > _MOST_MTP_LAYERS:
        raise ModelFileError(f"config: {key} is {declared}", hint=f"at most {_MOST_MTP_LAYERS} are possible")
    return tuple(range(frame.count, frame.count + declared))


def mtp(
    frame: Frame,
    layers: Layers,
    layer_tensors: Sequence[Tensor],
    *,
    embedding: str = "embed_tokens",
    head: str = "shared_head.head",
    norm: str = "shared_head.norm",
) -> list[Tensor]:
    """Multi-token-prediction layers as DeepSeek-V3 stores them, around the `layer_tensors` of a decoder layer.

    Two norms and a projection of both inputs (never quantized) in front, a norm behind. `embedding` and `head` name
    copies of the model's own; '' where the file holds none.
    """
    if not layers:
        return []
    hidden, vocab = frame.hidden, frame.vocab
    table = Tensor(f"{LAYER}.{embedding}.weight", "embedding", (vocab, hidden), layers, split="vocab")
    return as_mtp(
        [
            *([table] if embedding else []),
            *(blocks.linear(f"{LAYER}.{head}", "lm_head", vocab, hidden, layers, split="vocab") if head else []),
            kept_linear(f"{LAYER}.eh_proj", "other", hidden, 2 * hidden, layers),
            *layer_norms(frame, layers, names=("enorm", "hnorm", norm)),
            *layer_tensors,
        ]
    )


def self_attention(
    frame: Frame,
    layers: Layers,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: tuple[int, int] = (0, 0),
    norm_names: tuple[str, str] = ("q_norm", "k_norm"),
) -> list[Tensor]:
    """Separate Q, K, V and output projections of the frame's shape."""
    return blocks.attention(
        ATTENTION, frame.hidden, frame.heads, frame.kv_heads, frame.head_dim, layers,
        qkv_bias=qkv_bias, out_bias=out_bias, qk_norm=qk_norm, norm_names=norm_names,
    )  # fmt: skip


def moe_decoder(
    config: Config,
    frame: Frame,
    experts: Experts,
    tensors: Sequence[Tensor],
    *,
    cache: Sequence[CacheLayer],
    attention: str,
    dense_width: int = 0,
    rope: Rope | None = None,
    **more: Any,
) -> ModelSpec:
    """The ModelSpec of a mixture of experts; `dense_width` counts only if some layer is dense."""
    return decoder(
        config,
        tensors=tensors,
        cache=cache,
        layers=frame.count,
        hidden=frame.hidden,
        heads=frame.heads,
        kv_heads=frame.kv_heads,
        head_dim=frame.head_dim,
        intermediate=dense_width if without(frame.layers, experts.layers) else 0,
        vocab=frame.vocab,
        tied=frame.tied,
        attention=attention,
        rope=rope,
        experts=experts.count,
        experts_per_token=experts.used,
        moe_intermediate=experts.width,
        shared_intermediate=experts.shared_width,
        **more,
    )


def full_moe(
    config: Config,
    frame: Frame,
    experts: Experts,
    tensors: Sequence[Tensor],
    *,
    dense_width: int = 0,
    rotary: float = 1.0,
) -> ModelSpec:
    """A mixture of experts with full attention on every layer; `rotary` is the share of each head that is rotated."""
    return moe_decoder(
        config,
        frame,
        experts,
        tensors,
        cache=blocks.full_cache(frame.layers, frame.kv_heads, frame.head_dim),
        attention=blocks.attention_label(frame.heads, frame.kv_heads),
        dense_width=dense_width,
        rope=rope_of(config, int(frame.head_dim * rotary)),
    )


def windowed_cache(config: Config, frame: Frame) -> tuple[list[CacheLayer], str]:
    """Cache and label of layers that all share one window, if it is shorter than the longest context."""
    label = blocks.attention_label(frame.heads, frame.kv_heads)
    window, longest = window_of(config), integer_or(config, "max_position_embeddings", 0)
    if not window or (longest and window >= longest):
        return blocks.full_cache(frame.layers, frame.kv_heads, frame.head_dim), label
    return blocks.window_cache(frame.layers, frame.kv_heads, frame.head_dim, window), f"{label}+sliding"
