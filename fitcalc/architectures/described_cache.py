"""What the layers of a described family cache: rows of their K and V projections, latents, windows, cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitcalc.architectures.blocks import attention_label
from fitcalc.architectures.scope import Scope
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.model import CacheLayer, Tensor

_FULL, _WINDOWS = (
    ("full_attention", "attention", "global"),
    {"sliding_attention": "sliding", "chunked_attention": "chunked"},
)
_INDEXER = "indexer"
_WINDOW_KEYS = ("sliding_window", "attention_chunk_size")
_STATE_ROLES = ("ssm_in", "ssm_conv", "ssm_out", "ssm_a", "ssm_d", "ssm_dt", "ssm_x")
_UNKNOWN_STATE = "the state of layers without plain attention ({count} layers): this family's is not described"
_UNKNOWN_CACHE = "what the layers cache: it does not follow from the shapes of this family's projections"
_SOURCE_KEYS = ("max_source_positions", "encoder_config.max_position_embeddings", "audio_config.max_source_positions")


def with_kv_rows(tensors: Sequence[Tensor], description: Mapping[str, Any], scope: Scope) -> list[Tensor]:
    """The same tensors, projections to K and V with their whole heads and rows."""
    if "kv_heads" not in description:
        return list(tensors)
    heads, kv_heads = scope.whole(description["heads"]), scope.whole(description["kv_heads"])
    found = []
    for tensor in tensors:
        rows = 0
        if tensor.role in ("attn_k", "attn_v", "cross_k", "cross_v"):
            rows = tensor.shape[0]
        elif tensor.role == "attn_qkv" and heads + 2 * kv_heads:
            rows = tensor.shape[0] * 2 * kv_heads // (heads + 2 * kv_heads)
        found.append(replace(tensor, kv_heads=kv_heads, kv_rows=rows) if rows and kv_heads else tensor)
    return found


def cache_of(
    tensors: Sequence[Tensor], scope: Scope, known: str = ""
) -> tuple[tuple[CacheLayer, ...], tuple[str, ...]]:
    """(cache layers, what is not known of them); `known`: 'unknown' for families whose projections do not show it,
    'plain' for those whose other tensors only look like a state's.
    """
    if known == "unknown":
        return (), (_UNKNOWN_CACHE,)
    text = [tensor for tensor in tensors if tensor.part == "text" and tensor.layers]
    stacks, index = _stacks(text), _index_rows(text)
    windows = _windows(scope, sorted({layer for stack in stacks.values() for layer in stack}))
    found: list[CacheLayer] = []
    for (cross, _), rows in stacks.items():
        groups: dict[tuple[Any, ...], list[int]] = {}
        for layer, (key, value, latent, heads) in sorted(rows.items()):
            kind = ("cross", 0) if cross else windows.get(layer, ("full", 0))
            extra = 0 if cross else index.get(layer, 0)
            groups.setdefault((key, value, latent, heads, *kind, extra), []).append(layer)
        found += [_entry(group, tuple(layers), scope) for group, layers in groups.items()]
    return tuple(found), () if known == "plain" else _open_words(text, found)


def _index_rows(tensors: Sequence[Tensor]) -> dict[int, int]:
    """Layer -> elements of an indexer's key per token."""
    keys = [tensor for tensor in tensors if _INDEXER in tensor.name and tensor.role == "attn_k"]
    return {layer: tensor.shape[0] for tensor in keys for layer in tensor.layers if len(tensor.shape) == 2}


def _stacks(tensors: Sequence[Tensor]) -> dict[tuple[bool, str], dict[int, tuple[int, int, int, int]]]:
    """(cross-attention?, place) -> layer -> (rows of K, of V, of a latent, KV heads)."""
    found: dict[tuple[bool, str], dict[int, dict[str, int]]] = {}
    for tensor in tensors:
        short = tensor.role.removeprefix("attn_").removeprefix("cross_")
        if short not in ("k", "v", "qkv", "mla_kv_a") or len(tensor.shape) != 2 or _INDEXER in tensor.name:
            continue
        place = tensor.name.rpartition("{layer}")[2].rsplit(".", 2)[0] + tensor.name.partition("{layer}")[0]
        stack = found.setdefault((tensor.role.startswith("cross"), place), {})
        for layer in tensor.layers:
            rows = stack.setdefault(layer, {})
            rows[short] = tensor.kv_rows if short == "qkv" else tensor.shape[0]
            rows["heads"] = tensor.kv_heads
    return {key: {layer: _rows(rows) for layer, rows in stack.items()} for key, stack in found.items()}


def _rows(rows: Mapping[str, int]) -> tuple[int, int, int, int]:
    latent = rows.get("mla_kv_a", 0)
    both = rows.get("qkv", 0)
    key = 0 if latent else rows.get("k", both // 2)
    return key, 0 if latent else rows.get("v", both - both // 2 or key), latent, rows.get("heads", 0)


def _windows(scope: Scope, layers: Sequence[int]) -> dict[int, tuple[str, int]]:
    """Layer -> (kind, window), as the families' classes cache: by layer_types, else one window for all layers."""
    window = next((value for key in _WINDOW_KEYS if (value := _optional(scope, key)) and type(value) is int), 0)
    if not window or _optional(scope, "use_sliding_window") is False:
        return {}
    kinds = _optional(scope, "layer_types")
    if kinds is None:
        return dict.fromkeys(layers, ("sliding", window))
    if layers and layers[-1] >= len(kinds):
        raise ModelFileError(
            f"config: layer_types has {len(kinds)} entries for {layers[-1] + 1} layers", hint="one a layer"
        )
    named = {layer: _WINDOWS.get(kinds[layer] if isinstance(kinds[layer], str) else "", "") for layer in layers}
    return {layer: (kind, window) for layer, kind in named.items() if kind}


def _optional(scope: Scope, key: str) -> Any:
    for name in (key, f"text_config.{key}"):
        try:
            return scope.value(name)
        except ModelFileError as error:
            if "missing" not in str(error):
                raise
    return None


def _entry(group: tuple[Any, ...], layers: tuple[int, ...], scope: Scope) -> CacheLayer:
    key, value, latent, heads, kind, window, index = group
    if latent:
        return CacheLayer("mla", layers, latent_elems=latent, index_elems=index)
    heads = heads if heads and key % heads == 0 and value % heads == 0 else 1
    if kind == "cross":
        window = next((v for name in _SOURCE_KEYS if type(v := _optional(scope, name)) is int), 0)
    return CacheLayer(kind, layers, heads, key // heads, value // heads, window, index_elems=index)


def _open_words(tensors: Sequence[Tensor], cache: Sequence[CacheLayer]) -> tuple[str, ...]:
    """A word for layers that keep something which no projection to K and V shows."""
    cached = {layer for entry in cache for layer in entry.layers}
    mixing = {layer for t in tensors if t.role in _STATE_ROLES or _is_mixer(t.name) for layer in t.layers}
    every = {layer for t in tensors for layer in t.layers}
    if not cached:
        return (_UNKNOWN_CACHE,)
    bare = (mixing | every) - cached if mixing else mixing
    return (_UNKNOWN_STATE.format(count=len(mixing | bare)),) if mixing else ()


def _is_mixer(name: str) -> bool:
    return any(word in name for word in ("mamba", "linear_attn", "ssm", "conv.conv", "rwkv", "mlstm", "time_mix"))


def attention_name(kind: str, cache: Sequence[CacheLayer], heads: int, kv_heads: int) -> str:
    """The label: mha, gqa, mqa or mla, with windows, and encoder or encoder-decoder around it."""
    plain = attention_label(heads, kv_heads) if heads else "none"
    if kind == "encoder":
        return f"encoder({plain if heads else 'mha'})"
    if any(entry.kind == "mla" for entry in cache):
        plain = "mla"
    for word in ("sliding", "chunked"):
        plain += f"+{word}" if any(entry.kind == word for entry in cache) else ""
    return f"encdec({plain})" if kind == "encoder-decoder" else plain
