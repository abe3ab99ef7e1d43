"""What the layers of a GGUF model keep per sequence, from its metadata and tensors, as llama.cpp reads them.

Recurrent layers are known by their tensors, attention by heads and lengths, windows by the file's pattern or the
architecture's own (profiles/ggml.toml).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fitcalc.errors import ModelFileError
from fitcalc.readers import gguf_metadata as keys
from fitcalc.readers.gguf_inventory import Read, layers_with, lightning_layers
from fitcalc.readers.gguf_metadata import Metadata
from fitcalc.spec.model import CacheLayer
from fitcalc.spec.quant import GgufArchitecture

_STATE_LEAVES = ("ssm_a", "ssm_conv1d", "ssm_conv1d_q", "ssm_in", "shortconv.conv", "time_mix_key")
_SHIFTED_TOKENS = 2
"""Hidden states that an RWKV layer keeps of the token before, where the file does not say."""


class Heads(NamedTuple):
    """Attention of every layer: query heads, KV heads, lengths of a key and of a value."""

    query: tuple[int, ...]
    kv: tuple[int, ...]
    key_length: int
    value_length: int
    window_key_length: int
    window_value_length: int


def heads_of(metadata: Metadata, layers: int, hidden: int) -> Heads:
    """The attention shapes in a header; a length that is not stated is the hidden width over the heads."""
    query = keys.per_layer(metadata, "attention.head_count", layers, 0)
    kv = query
    if keys.has(metadata, "attention.head_count_kv"):
        kv = keys.per_layer(metadata, "attention.head_count_kv", layers)
    length = hidden // max(query) if max(query, default=0) else 0
    key = keys.integer(metadata, "attention.key_length", length)
    value = keys.integer(metadata, "attention.value_length", length)
    return Heads(
        query,
        kv,
        key,
        value,
        keys.integer(metadata, "attention.key_length_swa", key),
        keys.integer(metadata, "attention.value_length_swa", value),
    )


def caches_of(
    metadata: Metadata, traits: GgufArchitecture, read: list[Read], heads: Heads, layers: int
) -> tuple[CacheLayer, ...]:
    """The cache layers; none for an encoder."""
    if metadata.values.get(f"{metadata.architecture}.attention.causal") is False:
        return ()
    latent = _latent_widths(read)
    recurrent = (layers_with(read, *_STATE_LEAVES) | lightning_layers(read)) & set(range(layers))
    beside = layers_with(read, "ssm_in") & layers_with(read, "attn_q", "attn_qkv")
    owned = range(min(layers, _owned(metadata, traits, layers)))
    attending = [i for i in owned if heads.kv[i] and (i not in recurrent or i in beside)]
    return (
        *_latent_caches(read, [i for i in attending if i in latent], latent),
        *_kv_caches(metadata, traits, [i for i in attending if i not in latent], heads, layers),
        *_states(metadata, bool(lightning_layers(read)), tuple(sorted(recurrent))),
    )


def _owned(metadata: Metadata, traits: GgufArchitecture, layers: int) -> int:
    """Layers with a cache of their own; those behind them read an earlier one's."""
    if keys.has(metadata, "attention.shared_kv_layers"):
        return max(layers - keys.integer(metadata, "attention.shared_kv_layers"), 0)
    return traits.cached_layers or layers


def _latent_widths(read: list[Read]) -> dict[int, int]:
    """Layer -> elements of the latent that is kept in place of K and V: where the up-projections are split."""
    split = layers_with(read, "attn_k_b")
    return {
        one.layer: one.dimensions[-1]
        for one in read
        if one.layer in split and one.leaf == "attn_kv_a_mqa" and one.layer is not None
    }


def _latent_caches(read: list[Read], owned: list[int], latent: dict[int, int]) -> Iterator[CacheLayer]:
    index_keys = {one.layer: one.dimensions[-1] for one in read if one.leaf == "indexer.attn_k"}
    shapes = {(latent[layer], index_keys.get(layer, 0)) for layer in owned}
    for elems, index in sorted(shapes):
        held = tuple(layer for layer in owned if (latent[layer], index_keys.get(layer, 0)) == (elems, index))
        yield CacheLayer("mla", held, latent_elems=elems, index_elems=index)


def _kv_caches(
    metadata: Metadata, traits: GgufArchitecture, owned: list[int], heads: Heads, layers: int
) -> Iterator[CacheLayer]:
    window, windowed = windows_of(metadata, traits, layers)
    for slides in (False, True):
        mine = [layer for layer in owned if (layer in windowed) == slides]
        key, value = (heads.key_length, heads.value_length)
        if slides:
            key, value = (heads.window_key_length, heads.window_value_length)
        kind = "full" if not slides else "chunked" if traits.chunk_tokens else "sliding"
        for count in sorted({heads.kv[layer] for layer in mine}):
            held = tuple(layer for layer in mine if heads.kv[layer] == count)
            yield CacheLayer(kind, held, count, key, value, window if slides else 0)  # type: ignore[arg-type]


def windows_of(metadata: Metadata, traits: GgufArchitecture, layers: int) -> tuple[int, frozenset[int]]:
    """(tokens of a window, layers that keep one), as llama.cpp uses them; (0, none) where it uses none."""
    stated = keys.integer(metadata, "attention.sliding_window", traits.chunk_tokens)
    if not traits.window_period or not stated:
        return 0, frozenset()
    listed = keys.flags(metadata, "attention.sliding_window_pattern", layers)
    if listed is not None:
        windowed = frozenset(layer for layer, slides in enumerate(listed) if slides)
    else:
        period = keys.integer(metadata, "attention.sliding_window_pattern", traits.window_period)
        place = 0 if traits.window_first_full else period - 1
        windowed = frozenset(layer for layer in range(layers) if not period or layer % period != place)
    return traits.chunk_tokens or stated, windowed


def _states(metadata: Metadata, lightning: bool, layers: tuple[int, ...]) -> Iterator[CacheLayer]:
    if not layers:
        return
    hidden = keys.integer(metadata, "embedding_length")
    if lightning:
        count = max(keys.per_layer(metadata, "attention.head_count", max(layers) + 1))
        width = keys.integer(metadata, "attention.key_length", hidden // max(count, 1))
        yield CacheLayer("recurrent", layers, state_elems=count * width * width)
    elif keys.has(metadata, "wkv.head_size"):
        shifted = keys.integer(metadata, "token_shift_count", _SHIFTED_TOKENS)
        state = hidden * keys.integer(metadata, "wkv.head_size")
        yield CacheLayer("recurrent", layers, conv_channels=shifted * hidden, conv_kernel=2, state_elems=state)
    elif keys.has(metadata, "shortconv.l_cache"):
        kernel = keys.integer(metadata, "shortconv.l_cache")
        yield CacheLayer("recurrent", layers, conv_channels=hidden, conv_kernel=kernel)
    else:
        channels, state = _delta_state(metadata, layers) if keys.has(metadata, "kda.head_dim") else _ssm_state(metadata)
        kernel = keys.integer(metadata, "ssm.conv_kernel")
        yield CacheLayer("recurrent", layers, conv_channels=channels, conv_kernel=kernel, state_elems=state)


def _ssm_state(metadata: Metadata) -> tuple[int, int]:
    """(channels of the convolution, elements of the state) of Mamba and gated delta layers."""
    inner, size = keys.integer(metadata, "ssm.inner_size"), keys.integer(metadata, "ssm.state_size")
    groups = keys.integer(metadata, "ssm.group_count", 0)
    return inner + 2 * groups * size, size * inner


def _delta_state(metadata: Metadata, layers: tuple[int, ...]) -> tuple[int, int]:
    """(channels, state) of delta attention with a gate per channel (KDA): Q, K and V of every head."""
    width = keys.integer(metadata, "kda.head_dim")
    count = max(keys.per_layer(metadata, "attention.head_count", max(layers) + 1))
    if not width or not count:
        raise ModelFileError(f"{metadata.architecture}.kda.head_dim is {width}", hint="linear attention needs heads")
    return 3 * width * count, width * width * count
