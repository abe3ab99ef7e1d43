"""A family's description (families/*.toml) and a config -> ModelSpec.

A description lists tensors as 'role: out, in' over the config's keys, the layers that hold them, and the parts that
are models of their own. What a layer caches follows from the rows of its K and V projections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fitcalc.architectures.common import dtype_of, max_context_of, rope_of, rotary_dim_of
from fitcalc.architectures.config import DEFAULT_NOTE, Config, mapping
from fitcalc.architectures.described_cache import attention_name, cache_of, with_kv_rows
from fitcalc.architectures.families import class_defaults, family
from fitcalc.architectures.scope import Scope
from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec, Part, Split, Tensor

_SPLITS: Mapping[str, Split] = {
    **dict.fromkeys(("embedding", "lm_head"), "vocab"),
    **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_qkv", "cross_q", "cross_k", "cross_v"), "heads"),
    **dict.fromkeys(("attn_o", "cross_o", "mlp_down", "shared_down", "ssm_x", "ssm_out"), "rows"),
    **dict.fromkeys(("expert_gate", "expert_up", "expert_gate_up", "expert_down"), "experts"),
    **dict.fromkeys(
        ("mla_q_b", "mla_kv_b", "mlp_gate", "mlp_up", "mlp_gate_up", "shared_gate", "shared_up", "shared_gate_up",
         "ssm_in", "ssm_conv", "ssm_dt", "ssm_a", "ssm_d"), "columns"),
}  # fmt: skip
_NO_LINEARS = ("embedding", "position_embedding", "token_type_embedding", "bias", "router_bias", "norm", "vector",
               "conv", "ssm_conv", "ssm_a", "ssm_d")  # fmt: skip
_TO_HIDDEN = ("attn_o", "mlp_down", "shared_down", "expert_down", "ssm_out")
_OF_HIDDEN = ("attn_q", "attn_k", "attn_v", "attn_qkv", "mlp_gate", "mlp_up", "mlp_gate_up", "expert_gate", "expert_up",
              "expert_gate_up", "shared_gate", "shared_up", "shared_gate_up")  # fmt: skip
_ACTIVE_KEYS = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k",
                "experts_per_token", "num_experts_per_topk", "moe_k", "num_selected_experts", "top_k")  # fmt: skip
_SIZES = re.compile(r"hidden_size|d_model|layers|vocab|heads|intermediate|ffn|n_embd|experts")
_MOST_NAMED = 6
_TEXT_PATHS = ("text_config", "llm_config", "language_config", "decoder", "decoder_config", "text_encoder")
_LARGEST_ELEMS = 2**48
_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of classes that hold their own output projection."""


def build(config: Config) -> ModelSpec:
    """A model whose model_type has a description; ModelFileError for keys of the wrong kind, named."""
    description = family(str(config.get("model_type") or ""))
    config = _with_parts(config, description.get("absent", {}))
    scope = Scope(config, description)
    _check_fixed(description.get("fixed", {}), scope)
    tensors = [tensor for group in description.get("tensors", ()) for tensor in _group(group, scope)]
    parts = {at: _part(config, at, said) for at, said in description.get("parts", {}).items()}
    text = next((spec for spec in parts.values() if spec is not None and spec.kind != "encoder"), None)
    tensors = [*tensors, *(tensor for spec in parts.values() if spec is not None for tensor in spec.tensors)]
    tensors = _turned(tensors)
    spec = _own_spec(config, description, scope, tensors) if text is None else _joined(config, text, tensors)
    missing = [f"{said.split()[0]} ({said.split()[1]}) is not known: its tensors are not counted"
               for at, said in description.get("parts", {}).items() if parts[at] is None]  # fmt: skip
    others = [word for part in parts.values() if part is not None and part is not text for word in part.unknowns]
    return replace(spec, unknowns=(*spec.unknowns, *others, *missing), notes=(*spec.notes, *_filled_note(scope)))


def _check_fixed(fixed: Mapping[str, Any], scope: Scope) -> None:
    """Keys whose other values give the family tensors that its description does not hold."""
    for key, known in fixed.items():
        if scope.value(key) != known:
            hint = f"described is {key} = {known}; its safetensors files would tell its weights exactly"
            raise UnsupportedModelError(f"config: {key} is {scope.value(key)!r:.40}", hint=hint)


def _with_parts(config: Config, absent: Mapping[str, Mapping[str, Any]]) -> Config:
    """The config with what the class puts in place of a nested config that is not there (`merge`: or only in part)."""
    filled = dict(config)
    for key, usual in absent.items():
        sizes = {name: value for name, value in usual.items() if name != "merge"}
        if config.get(key) is None:
            filled[key] = sizes
        elif usual.get("merge"):
            filled[key] = {**sizes, **mapping(config, key)}
    return filled


def _filled_note(scope: Scope) -> tuple[str, ...]:
    """The sizes that the config leaves out and the class fills in, in words."""
    sizes = [f"{key} = {value}" for key, value in scope.filled.items() if _SIZES.search(key) and type(value) is int]
    if not sizes:
        return ()
    more = f" and {len(sizes) - _MOST_NAMED} more" if len(sizes) > _MOST_NAMED else ""
    return (f"{DEFAULT_NOTE} {', '.join(sizes[:_MOST_NAMED])}{more}",)


# --- tensors ----------------------------------------------------------------------------------------------------------


def _group(group: Mapping[str, Any], scope: Scope) -> Iterable[Tensor]:
    """The tensors that the same layers hold."""
    if "layers" not in group:
        if scope.holds(group.get("if", "")):
            yield from _tensors(group, (), scope)
        return
    if not scope.holds(group.get("if", "")):
        return
    where = group.get("where", "")
    layers = tuple(layer for layer in range(scope.count(group["layers"])) if scope.holds(where, layer))
    if layers:
        yield from _tensors(group, layers, scope)


def _tensors(group: Mapping[str, Any], layers: tuple[int, ...], scope: Scope) -> Iterable[Tensor]:
    part: Part = group.get("part", "text")
    for name, said in group["shapes"].items():
        role, _, dims = said.partition(":")
        shape = tuple(scope.whole(text, layers[0] if layers else 0) for text in dims.split(",") if text.strip())
        yield _tensor(group.get("at", "") + name, role, shape, layers, part, scope)


def _tensor(
    name: str, role: str, shape: tuple[int, ...], layers: tuple[int, ...], part: Part, scope: Scope
) -> Tensor:  # fmt: skip
    copies = 1
    stacked_bias = "experts" in name.split(".") and role == "bias" and len(shape) == 2
    if stacked_bias or (role.startswith("expert") and len(shape) == 3):
        copies, shape = shape[0], shape[1:]
    tensor = Tensor(
        name, role, shape, layers, copies, min(_active(scope), copies) if copies > 1 else copies,
        _SPLITS.get(role, "replicated"), part,
        dtype="fp32" if role == "router_bias" else "",
        is_linear=len(shape) == 2 and role not in _NO_LINEARS,
    )  # fmt: skip
    if tensor.elems > _LARGEST_ELEMS:
        raise ModelFileError(f"config: {name} would have {tensor.elems:,} elements", hint="a size in it is too large")
    return tensor


def _active(scope: Scope) -> int:
    """Experts that a token uses; all of them where the family has no key for it."""
    for key in (*_ACTIVE_KEYS, *(f"text_config.{key}" for key in _ACTIVE_KEYS)):
        try:
            value = scope.value(key)
        except ModelFileError:
            continue
        if type(value) is int and value > 0:
            return value
    return 2**31


def _turned(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Matrices as (out, in): those that the class keeps the other way round are turned by the hidden width."""
    hidden = next((t.shape[1] for t in tensors if t.role == "embedding" and t.part == "text" and len(t.shape) == 2), 0)
    found = []
    for tensor in tensors:
        side = 0 if tensor.role in _TO_HIDDEN else 1 if tensor.role in _OF_HIDDEN else None
        turned = (
            side is not None and len(tensor.shape) == 2 and tensor.part == "text"
            and tensor.shape[side] != hidden and tensor.shape[1 - side] == hidden
        )  # fmt: skip
        found.append(replace(tensor, shape=tensor.shape[::-1]) if turned else tensor)
    return found


# --- models -----------------------------------------------------------------------------------------------------------


def _own_spec(
    config: Config, description: Mapping[str, Any], scope: Scope, tensors: list[Tensor]
) -> ModelSpec:  # fmt: skip
    """The ModelSpec of a family that holds its text model itself."""
    text = [tensor for tensor in tensors if tensor.part == "text"]
    kind = description.get("kind", "decoder")
    tensors = with_kv_rows(tensors, description, scope)
    cache, unknown = cache_of(tensors, scope, description.get("cache", "")) if kind != "encoder" else ((), ())
    heads = scope.whole(description["heads"]) if "heads" in description else 0
    kv_heads = scope.whole(description["kv_heads"]) if "kv_heads" in description else heads
    table = next((t for t in tensors if t.role == "embedding" and len(t.shape) == 2), None)
    full = {**description.get("defaults", {}), **config}
    head_dim = next((layer.key_dim for layer in cache if layer.key_dim), 0)
    return ModelSpec(
        **_named(config),
        kind=kind,
        tensors=tuple(tensors),
        cache_layers=cache,
        layers=1 + max((max(t.layers) for t in text or tensors if t.layers), default=-1),
        hidden=table.shape[1] if table is not None else 0,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=_width(text, ("mlp_up", "mlp_gate", "mlp_gate_up")),
        vocab=table.shape[0] if table is not None else 0,
        max_context_tokens=max_context_of(full) or max_context_of(mapping(full, "text_config")),
        attention=attention_name(kind, cache, heads, kv_heads),
        tied_embeddings=kind != "encoder" and not any(t.role == "lm_head" and len(t.shape) == 2 for t in tensors),
        gated_mlp=any(t.role in ("mlp_gate", "mlp_gate_up", "expert_gate_up", "expert_gate") for t in text),
        dtype=dtype_of(config),
        experts=max((t.copies for t in text if t.role.startswith("expert")), default=0),
        experts_per_token=max((t.active for t in text if t.role.startswith("expert")), default=0),
        moe_intermediate=_width(text, ("expert_up", "expert_gate", "expert_gate_up")),
        shared_intermediate=_width(text, ("shared_up", "shared_gate", "shared_gate_up")),
        rope=rope_of(full, rotary_dim_of(full, head_dim)) if description.get("rotary") and head_dim else None,
        unknowns=unknown,
    )


def _named(config: Config) -> dict[str, Any]:
    return dict.fromkeys(("id", "name", "family", "model_type"), str(config.get("model_type", "")))


def _width(tensors: Iterable[Tensor], roles: tuple[str, ...]) -> int:
    return max((t.shape[0] // (2 if "gate_up" in t.role else 1) for t in tensors if t.role in roles), default=0)


def _joined(config: Config, text: ModelSpec, tensors: list[Tensor]) -> ModelSpec:
    """The text part's model with everything else beside it, under the outer model_type."""
    return replace(
        text,
        **_named(config),
        tensors=tuple(tensors),
        tied_embeddings=not any(t.role == "lm_head" and len(t.shape) == 2 for t in tensors),
        dtype=dtype_of(config) if config.get("torch_dtype") or config.get("dtype") else text.dtype,
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _part(config: Config, at: str, said: str) -> ModelSpec | None:
    """A part as a model with the names it has inside the whole; None for a model_type that nobody describes."""
    from fitcalc.architectures import from_config

    path, usual, made_by = said.split()
    nested: Config = config
    for step in path.split("."):
        nested = mapping(nested, step)
    kind = str(nested.get("model_type") or usual)
    described = bool(family(kind).get("tensors"))
    try:
        spec = from_config({**({} if described else class_defaults(kind)), **nested, "model_type": kind})
    except UnsupportedModelError:
        return None
    has_head = made_by.endswith(_WITH_HEAD) or family(kind).get("made_by", "").endswith(f".{made_by}")
    tensors = [
        replace(tensor, name=f"{at}.{_inside(tensor.name, has_head)}", part=_part_of(path, tensor.part, spec))
        for tensor in spec.tensors
        if has_head or not _is_head(tensor)
    ]
    return replace(spec, tensors=tuple(tensors))


def _inside(name: str, whole: bool) -> str:
    return name if whole else name.removeprefix("model.").removeprefix("transformer.")


def _is_head(tensor: Tensor) -> bool:
    return tensor.role == "lm_head" or (
        tensor.role == "bias" and tensor.name.rpartition(".")[0] in ("lm_head", "output")
    )


def _part_of(path: str, part: Part, spec: ModelSpec) -> Part:
    """A nested model's tensors belong to what it is in the whole."""
    last = path.rsplit(".", 1)[-1]
    if last in _TEXT_PATHS or spec.kind != "encoder" or part not in ("text", "encoder"):
        return part
    if any(word in last for word in ("vision", "image", "visual", "backbone")):
        return "vision"
    return "audio" if any(word in last for word in ("audio", "speech", "sound", "encoder")) else "projector"
