"""A GGUF file, or all parts of a split one -> ModelSpec: every tensor as it is stored, and the caches of its layers."""

from __future__ import annotations

from collections.abc import Sequence

from fitcalc.architectures.blocks import attention_label
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.readers import gguf_metadata as keys
from fitcalc.readers.gguf_caches import Heads, caches_of, heads_of
from fitcalc.readers.gguf_header import Header, Value
from fitcalc.readers.gguf_inventory import Read, inventory, read_names
from fitcalc.readers.gguf_metadata import Metadata
from fitcalc.readers.gguf_parts import read_parts, stem_of
from fitcalc.spec.model import CacheLayer, ModelSpec, Rope, Tensor
from fitcalc.spec.quant import CheckpointQuant, GgmlTable, GgufArchitecture

_MOST_LAYERS = 4096
"""llama.cpp takes at most 512."""
_GUESSED = 1024
"""Flag of a file type that was not stated when the file was made."""
_GATES = ("mlp_gate", "mlp_gate_up", "expert_gate", "expert_gate_up", "shared_gate")


def model_from_gguf(path: str) -> ModelSpec:
    """The model in a GGUF file; of a split one any part may be given.

    Raises ModelFileError, one line with the path: a broken, incomplete or foreign file, or one that holds no model
    (a projector, an adapter, a vocabulary).
    """
    from fitcalc.catalog import load_ggml

    ggml = load_ggml()
    headers = read_parts(path, ggml)
    first = headers[0]
    try:
        _check_is_model(first.metadata, sum(len(header.tensors) for header in headers))
        return _model(headers, keys.metadata_of(first.metadata), ggml)
    except ModelFileError as error:
        raise ModelFileError(f"{first.path}: {error}", hint=error.hint) from error


def _check_is_model(values: dict[str, Value], tensors: int) -> None:
    kind = values.get("general.type")
    if kind == "mmproj" or values.get("general.architecture") == "clip":
        hint = "size the language model; '-o mmproj=true' on its catalogue name adds the projector"
        raise ModelFileError("a projector (mmproj): only the vision or audio part of a model", hint=hint)
    if kind == "adapter" or "adapter.type" in values:
        raise ModelFileError("a LoRA adapter, not a model", hint="give the GGUF of the model that it is for")
    if kind == "imatrix":
        raise ModelFileError("an importance matrix, not a model", hint="it is an input of llama-quantize")
    if not tensors:
        raise ModelFileError("holds no tensors", hint="a vocabulary alone, or the first part without the others")


def _model(headers: Sequence[Header], metadata: Metadata, ggml: GgmlTable) -> ModelSpec:
    known = ggml.named.get(metadata.architecture)
    traits = known or GgufArchitecture(metadata.architecture, model_type=metadata.architecture)
    blocks = _blocks(metadata)
    layers = blocks - min(keys.integer(metadata, "nextn_predict_layers", 0), blocks - 1)
    hidden = keys.integer(metadata, "embedding_length")
    heads = heads_of(metadata, blocks, hidden)
    read = read_names((entry for header in headers for entry in header.tensors), ggml, blocks)
    _check_widths(read, hidden)
    dense_widths = keys.per_layer(metadata, "feed_forward_length", blocks, 0)
    tensors = inventory(
        read,
        main_layers=layers,
        experts_used=keys.integer(metadata, "expert_used_count", 0),
        gate_up_rows=2 * max(dense_widths),
        tied=traits.output_copy,
    )
    caches = caches_of(metadata, traits, read, heads, layers)
    if known is not None:
        _check_keys(read, caches)
    spec = _spec(metadata, traits, tensors, caches, heads, hidden, layers)
    return _with_unknowns(_identified(spec, headers, metadata, ggml), known)


def _blocks(metadata: Metadata) -> int:
    blocks = keys.integer(metadata, "block_count")
    if not 0 < blocks <= _MOST_LAYERS:
        raise ModelFileError(f"{metadata.architecture}.block_count is {blocks:,}", hint="llama.cpp takes 1 to 512")
    return blocks


def _check_widths(read: list[Read], hidden: int) -> None:
    embedding = next((one for one in read if one.leaf == "token_embd"), None)
    if embedding is None:
        hint = "a part of a model: a draft head, or a piece that was cut out?"
        raise ModelFileError("has no token_embd.weight", hint=hint)
    if embedding.dimensions[0] != hidden:
        said = f"embedding_length is {hidden:,}, but rows of token_embd.weight have {embedding.dimensions[0]:,}"
        raise ModelFileError(said, hint="the file was made wrongly")


def _check_keys(read: list[Read], caches: Sequence[CacheLayer]) -> None:
    """The cache that the metadata states is the one that the tensors fill; llama.cpp refuses the file otherwise."""
    stated = {layer: cache.kv_heads * cache.key_dim for cache in caches for layer in cache.layers if cache.kv_heads}
    for one in read:
        if one.leaf == "attn_k" and one.ending == ".weight" and one.stack == "blk" and one.layer in stated:
            rows = stated[one.layer]
            if one.dimensions[-1] != rows:
                said = f"blk.{one.layer}.attn_k.weight has {one.dimensions[-1]:,} rows, heads and lengths make {rows:,}"
                raise ModelFileError(said, hint="the file was made wrongly")


def _spec(
    metadata: Metadata,
    traits: GgufArchitecture,
    tensors: tuple[Tensor, ...],
    caches: tuple[CacheLayer, ...],
    heads: Heads,
    hidden: int,
    layers: int,
) -> ModelSpec:
    latent = any(cache.kind == "mla" for cache in caches)
    most_heads = max(heads.query, default=0)
    kv_heads = most_heads if latent else max(heads.kv, default=0)
    encodes = any(tensor.name.startswith("enc.") for tensor in tensors)
    decodes = any(tensor.name.startswith(("blk.", "dec.blk.")) for tensor in tensors)
    looks_both_ways = metadata.values.get(f"{metadata.architecture}.attention.causal") is False
    return ModelSpec(
        id="",
        name="",
        family=metadata.architecture,
        model_type=traits.model_type,
        kind="encoder" if looks_both_ways or not decodes else "encoder-decoder" if encodes else "decoder",
        tensors=tensors,
        cache_layers=caches,
        layers=layers,
        hidden=hidden,
        heads=most_heads,
        kv_heads=kv_heads,
        head_dim=keys.integer(metadata, "attention.key_length_mla", heads.key_length) if latent else heads.key_length,
        intermediate=_width(tensors, "mlp"),
        vocab=next(tensor.shape[0] for tensor in tensors if tensor.role == "embedding"),
        max_context_tokens=keys.integer(metadata, "context_length", 0) or None,
        attention=_label(caches, tensors, most_heads, kv_heads),
        tied_embeddings=traits.output_copy or not any(tensor.role == "lm_head" for tensor in tensors),
        gated_mlp=any(tensor.role in _GATES for tensor in tensors),
        dtype="fp16",
        experts=keys.integer(metadata, "expert_count", 0),
        experts_per_token=keys.integer(metadata, "expert_used_count", 0),
        moe_intermediate=_width(tensors, "expert"),
        shared_intermediate=_width(tensors, "shared"),
        rope=_rope(metadata, tensors, heads),
    )


def _width(tensors: Sequence[Tensor], kind: str) -> int:
    rows = {"up": 1, "gate_up": 2}
    return max(
        (t.shape[0] // share for name, share in rows.items() for t in tensors
         if t.role == f"{kind}_{name}" and len(t.shape) == 2),
        default=0,
    )  # fmt: skip


def _label(caches: Sequence[CacheLayer], tensors: Sequence[Tensor], heads: int, kv_heads: int) -> str:
    kinds = {cache.kind for cache in caches}
    if not caches:
        return "encoder(mha)"
    base = "mla" if "mla" in kinds else attention_label(heads, kv_heads)
    base += "+dsa" if any(cache.index_elems for cache in caches) else ""
    base += "+sliding" if kinds & {"sliding", "chunked"} else ""
    if "recurrent" not in kinds:
        return base
    roles = {tensor.role for tensor in tensors}
    kept = "linear" if "linear_in" in roles else "ssm" if "ssm_a" in roles else "conv" if "ssm_conv" in roles else ""
    return f"hybrid({base}+{kept})" if len(kinds) > 1 else kept if kept == "ssm" else "linear-rnn"


def _rope(metadata: Metadata, tensors: Sequence[Tensor], heads: Heads) -> Rope | None:
    positions = keys.integer(metadata, "context_length", 0)
    rotary_dim = keys.integer(metadata, "rope.dimension_count", heads.key_length)
    if not positions or not rotary_dim:
        return None
    names = {tensor.name for tensor in tensors}
    scaling = keys.word(metadata, "rope.scaling.type")
    if "rope_freqs.weight" in names:
        scaling = "llama3"
    elif "rope_factors_long.weight" in names:
        scaling = "longrope"
    return Rope(
        rotary_dim=rotary_dim,
        positions=positions,
        scaling="" if scaling == "none" else scaling,
        factor=keys.number(metadata, "rope.scaling.factor", 1.0) or 1.0,
        original_positions=keys.integer(metadata, "rope.scaling.original_context_length", 0),
        sectioned=keys.has(metadata, "rope.dimension_sections"),
    )


def _identified(spec: ModelSpec, headers: Sequence[Header], metadata: Metadata, ggml: GgmlTable) -> ModelSpec:
    """The model with name, place, size and quantization of its files."""
    path = headers[0].path
    return replace(
        spec,
        id=stem_of(path),
        name=stem_of(path),
        source=path,
        file_bytes=sum(header.file_bytes for header in headers),
        container="gguf",
        quant=CheckpointQuant(scheme=_scheme_id(metadata, ggml, spec.tensors), source="general.file_type"),
    )


def _scheme_id(metadata: Metadata, ggml: GgmlTable, tensors: Sequence[Tensor]) -> str:
    """The quantization a file names; where it names none, the type that most of its elements have."""
    stated = metadata.values.get("general.file_type")
    if isinstance(stated, int) and not isinstance(stated, bool) and not stated & _GUESSED:
        found = ggml.file_types.get(stated)
        if found:
            return found
    elems: dict[str, int] = {}
    for tensor in tensors:
        name = tensor.stored.id if tensor.stored else ""
        elems[name] = elems.get(name, 0) + tensor.elems
    most = max(elems, key=lambda name: elems[name])
    return {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}.get(most, f"{most.lower()}-mix")


def _with_unknowns(spec: ModelSpec, known: GgufArchitecture | None) -> ModelSpec:
    """An architecture whose caches are not known: between none and K and V of every query head for every token."""
    if known is not None and not known.cache_unknown:
        return spec
    said = f"what layers of the architecture {spec.family!r} keep: between nothing and K and V of every head and token"
    widest = max((cache.key_dim for cache in spec.cache_layers), default=0)
    most = CacheLayer("full", tuple(range(spec.layers)), spec.heads, widest, widest)
    return replace(spec, cache_layers=(most,), unknowns=(said,), at_least=replace(spec, cache_layers=()))
