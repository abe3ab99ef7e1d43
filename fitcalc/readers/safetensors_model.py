"""A ModelSpec from headers alone: exact parameters and bytes, and of the cache what follows from shapes.

K and V rows give the bytes of a cached token whatever the head size is. What shapes do not show is stated: the upper
end of its range in the ModelSpec, the lower one in `at_least`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fitcalc.architectures.common import max_context_of
from fitcalc.architectures.nested import TEXT_KEYS
from fitcalc.frozen import dataclass, replace
from fitcalc.readers.safetensors_names import CROSS_WORDS
from fitcalc.readers.safetensors_quant import dtype_of, quant_of
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

Config = Mapping[str, Any]
_WINDOW_WORDS = {"sliding_attention": "sliding", "chunked_attention": "chunked"}
_WINDOW_KEYS = ("sliding_window", "attention_chunk_size")
_ACTIVE_KEYS = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k",
                "experts_per_token", "num_experts_per_topk", "moe_k")  # fmt: skip
_HEAD_KEYS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_LARGEST_HEAD = 1024
_RECURRENT = "the state of recurrent or linear-attention layers: its size does not follow from the tensors' shapes"
_CROSS = "what the decoder keeps of the encoder's output: it does not follow from the tensors' shapes"
_NO_TEXT = "what a run takes: the tensors are not those of a language model"


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of Q, K and V that one layer projects to; for a latent cache its width alone."""

    query: int
    key: int
    value: int
    latent: int = 0


def model_from_tensors(tensors: Sequence[Tensor], config: Config | None, file_bytes: int) -> ModelSpec:
    """The model that a checkpoint's tensors show; `config` is read for the few keys that all families share.

    What neither shows is named in `unknowns`, with `at_least` as the lower end where there is one.
    """
    text = _text_part(config or {})
    by_layer = _rows_by_layer(tensors)
    head_dim = _head_dim(text, tensors, by_layer)
    held = tuple(_with_active(tensor, text) for tensor in tensors)
    table = max((t for t in held if t.role == "embedding" and t.part in ("text", "encoder") and len(t.shape) == 2),
                key=lambda tensor: tensor.elems, default=None)  # fmt: skip
    states, missing = _recurrent(held, by_layer)
    missing += [_CROSS] if any(word in tensor.name for tensor in held for word in CROSS_WORDS) else []
    missing += [] if table is not None else [_NO_TEXT]
    bounded = _bounded_words(text, by_layer, head_dim)
    layers = 1 + max((max(t.layers) for t in held if t.layers and t.part == "text"), default=-1)
    heads = max((rows.query for rows in by_layer.values()), default=0) // head_dim if head_dim else 0
    widest = max((rows.key for rows in by_layer.values() if not rows.latent), default=0)
    spec = ModelSpec(
        id="",
        name="",
        family=str(text.get("model_type", "")),
        model_type=str((config or {}).get("model_type", "")),
        kind=_kind(held, table),
        tensors=tuple(_with_heads(tensor, head_dim) for tensor in held),
        cache_layers=(*_cache(by_layer, text, head_dim), *states),
        layers=layers,
        hidden=table.shape[1] if table is not None else 0,
        heads=heads,
        kv_heads=widest // head_dim if head_dim else 0,
        head_dim=head_dim,
        intermediate=_width(held, ("mlp_up", "mlp_gate", "mlp_gate_up")),
        vocab=table.shape[0] if table is not None else 0,
        max_context_tokens=max_context_of(text) or _positions(held),
        attention=_label(by_layer),
        tied_embeddings=not any(t.role == "lm_head" and t.part == "text" for t in held),
        gated_mlp=any(t.role in ("mlp_gate", "mlp_gate_up", "expert_gate", "expert_gate_up") for t in held),
        dtype=dtype_of(tensors),
        experts=max((t.copies for t in held if t.role.startswith("expert")), default=0),
        experts_per_token=max((t.active for t in held if t.role.startswith("expert")), default=0),
        moe_intermediate=_width(held, ("expert_up", "expert_gate", "expert_gate_up")),
        shared_intermediate=_width(held, ("shared_up", "shared_gate", "shared_gate_up")),
        quant=quant_of(tensors),
        unknowns=(*bounded, *missing),
        notes=_active_note(held, text),
        file_bytes=file_bytes,
    )
    return replace(spec, at_least=_least(spec, by_layer, head_dim, text)) if bounded and not missing else spec


def _text_part(config: Config) -> Config:
    nested = next((config[key] for key in TEXT_KEYS if isinstance(config.get(key), Mapping)), None)
    return {**config, **nested} if nested is not None else config


def _positive(config: Config, keys: Iterable[str]) -> int:
    for key in keys:
        value = config.get(key)
        if type(value) is int and 0 < value < 2**31:
            return value
    return 0


# --- attention --------------------------------------------------------------------------------------------------------


def _rows_by_layer(tensors: Sequence[Tensor]) -> dict[int, _Rows]:
    """Layer -> rows of its projections, for the text layers that keep K and V (or a latent)."""
    rows: dict[str, dict[int, int]] = {}
    for tensor in tensors:
        if tensor.part == "text" and len(tensor.shape) == 2 and not any(word in tensor.name for word in CROSS_WORDS):
            side = 1 if tensor.role == "attn_o" else 0
            rows.setdefault(tensor.role, {}).update(dict.fromkeys(tensor.layers, tensor.shape[side]))
    query, output = rows.get("attn_q", {}), rows.get("attn_o", {})
    keys, values = rows.get("attn_k", {}), rows.get("attn_v", {})
    found = {layer: _Rows(query.get(layer, 0), key, values.get(layer, key)) for layer, key in keys.items()}
    for layer, fused in rows.get("attn_qkv", {}).items():
        kept = fused - output.get(layer, fused)
        if kept > 0:
            found[layer] = _Rows(fused - kept, kept // 2, kept - kept // 2)
    latents = rows.get("mla_kv_a", {})
    return found | {layer: _Rows(query.get(layer, 0), 0, 0, latent) for layer, latent in latents.items()}


def _head_dim(config: Config, tensors: Sequence[Tensor], by_layer: Mapping[int, _Rows]) -> int:
    """Elements of a head where a key, a norm per head or a rotary table shows them; 0 where nothing does.

    Models whose layers differ in it have no one head size.
    """
    plain = [rows for rows in by_layer.values() if not rows.latent]
    heads, stated = _positive(config, _HEAD_KEYS), _positive(config, ("head_dim",))
    norms = {t.shape[0] for t in tensors if t.part == "text" and len(t.shape) == 1 and _is_head_norm(t.name)}
    tables = {2 * t.shape[0] for t in tensors if t.name.endswith("rotary_emb.inv_freq") and len(t.shape) == 1}
    queries = {rows.query for rows in plain}
    by_heads = {rows // heads for rows in queries} if heads and all(rows % heads == 0 for rows in queries) else set()
    for sizes in ({stated} if stated else set(), by_heads, norms, tables):
        size = next(iter(sizes)) if len(sizes) == 1 else 0
        if 0 < size <= _LARGEST_HEAD and plain and all(not r.key % size and not r.value % size for r in plain):
            return size
    return 0


def _is_head_norm(name: str) -> bool:
    return name.endswith((".q_norm.weight", ".k_norm.weight", ".q_layernorm.weight", ".k_layernorm.weight"))


def _windows(config: Config, layers: Iterable[int]) -> dict[int, tuple[str, int]] | None:
    """Layer -> (kind, window) of layers that the config's list names; None where it has no list that says all."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        return None
    found: dict[int, tuple[str, int]] = {}
    for layer in layers:
        kind = kinds[layer] if layer < len(kinds) else ""
        window = _positive(config, _WINDOW_KEYS)
        if kind in _WINDOW_WORDS and window:
            found[layer] = (_WINDOW_WORDS[kind], window)
        elif kind != "full_attention":
            return None
    return found


def _cache(by_layer: Mapping[int, _Rows], config: Config, head_dim: int) -> tuple[CacheLayer, ...]:
    """The upper end: every layer in full unless the config's list names its window; one head where its size is open."""
    windows = _windows(config, by_layer) or {}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for layer, rows in sorted(by_layer.items()):
        groups.setdefault((rows.key, rows.value, rows.latent, *windows.get(layer, ("full", 0))), []).append(layer)
    found = []
    for (key, value, latent, kind, window), layers in groups.items():
        if latent:
            found.append(CacheLayer("mla", tuple(layers), latent_elems=latent))
            continue
        heads = max(key // head_dim, 1) if head_dim else 1
        found.append(CacheLayer(kind, tuple(layers), heads, key // heads, value // heads, window))
    return tuple(found)


def _bounded_words(config: Config, by_layer: Mapping[int, _Rows], head_dim: int) -> list[str]:
    """What is open between two ends that are both known."""
    words = []
    plain = {layer: rows for layer, rows in by_layer.items() if not rows.latent}
    if plain and _windows(config, plain) is None:
        elements = sum(rows.key + rows.value for rows in plain.values())
        words.append(f"which layers keep only a window: all count in full, {elements:,} elements a token at most")
    if plain and not head_dim:
        words.append("the size of a head: it decides how tensor parallelism divides the cache, a copy a card at most")
    return words


def _least(spec: ModelSpec, by_layer: Mapping[int, _Rows], head_dim: int, config: Config) -> ModelSpec:
    """The model at the lower end: windows of a token where they are open, heads that divide without copies."""
    open_windows = _windows(config, (layer for layer, rows in by_layer.items() if not rows.latent)) is None
    kept: list[CacheLayer] = []
    for layer in spec.cache_layers:
        if layer.kind in ("mla", "recurrent"):
            kept.append(layer)
            continue
        small = layer
        if not head_dim and layer.key_dim and not layer.value_dim % layer.key_dim:
            small = replace(small, kv_heads=layer.key_dim, key_dim=1, value_dim=layer.value_dim // layer.key_dim)
        kept.append(replace(small, kind="sliding", window_tokens=1) if open_windows else small)
    tensors = tuple(
        tensor if head_dim or not tensor.kv_rows else replace(tensor, kv_heads=tensor.kv_rows)
        for tensor in spec.tensors
    )
    return replace(spec, cache_layers=tuple(kept), tensors=tensors, unknowns=())


def _with_heads(tensor: Tensor, head_dim: int) -> Tensor:
    """K and V rows as whole heads; one head where its size is open."""
    if tensor.role not in ("attn_k", "attn_v") or not tensor.shape[0]:
        return tensor
    rows = tensor.shape[0]
    heads = rows // head_dim if head_dim and rows % head_dim == 0 else 1
    return replace(tensor, kv_rows=rows, kv_heads=max(heads, 1))


def _label(by_layer: Mapping[int, _Rows]) -> str:
    if any(rows.latent for rows in by_layer.values()):
        return "mla"
    if not by_layer:
        return "none"
    return "mha" if all(rows.query == rows.key for rows in by_layer.values()) else "gqa"


# --- everything else --------------------------------------------------------------------------------------------------


def _recurrent(tensors: Sequence[Tensor], by_layer: Mapping[int, _Rows]) -> tuple[list[CacheLayer], list[str]]:
    """States of Mamba layers, whose shapes show them; a word for those of which they do not."""
    states: list[CacheLayer] = []
    known: set[int] = set()
    kernels = {layer: t.shape for t in tensors if t.role == "ssm_conv" and len(t.shape) == 3 for layer in t.layers}
    for tensor in tensors:
        if tensor.role == "ssm_a" and len(tensor.shape) == 2 and tensor.layers and tensor.layers[0] in kernels:
            channels, _, kernel = kernels[tensor.layers[0]]
            states.append(CacheLayer("recurrent", tensor.layers, conv_channels=channels, conv_kernel=kernel,
                                     state_elems=tensor.elems // tensor.repeats))  # fmt: skip
            known.update(tensor.layers)
    mixing = {
        layer
        for t in tensors
        if t.part == "text" and t.layers and (t.role.startswith("ssm") or (t.role == "other" and t.is_linear))
        for layer in t.layers
    }
    return states, [_RECURRENT] if mixing - known - by_layer.keys() else []


def _with_active(tensor: Tensor, config: Config) -> Tensor:
    """Routed experts with as many active as the config says; all of them where it does not."""
    used = _positive(config, _ACTIVE_KEYS)
    if tensor.copies == 1 or tensor.split != "experts" or not used:
        return tensor
    return replace(tensor, active=min(used, tensor.copies))


def _active_note(tensors: Sequence[Tensor], config: Config) -> tuple[str, ...]:
    routed = any(tensor.role.startswith("expert") for tensor in tensors)
    if not routed or _positive(config, _ACTIVE_KEYS):
        return ()
    return ("how many experts a token uses is not known: all are counted as active",)


def _width(tensors: Sequence[Tensor], roles: tuple[str, ...]) -> int:
    widths = [t.shape[0] // (2 if "gate_up" in t.role else 1) for t in tensors if t.role in roles and t.part == "text"]
    return max(widths, default=0)


def _positions(tensors: Sequence[Tensor]) -> int | None:
    rows = [t.shape[0] for t in tensors if t.role == "position_embedding" and t.part in ("text", "encoder")]
    return max(rows, default=None)


def _kind(tensors: Sequence[Tensor], table: Tensor | None) -> Any:
    if table is None:
        return "component"
    if any(word in tensor.name for tensor in tensors for word in CROSS_WORDS):
        return "encoder-decoder"
    kept = any(t.role in ("attn_k", "attn_qkv", "mla_kv_a") or t.role.startswith("ssm") for t in tensors
               if t.part == "text")  # fmt: skip
    one_sided = any(t.role == "token_type_embedding" for t in tensors)
    return "decoder" if kept and not one_sided else "encoder"
