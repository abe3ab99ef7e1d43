"""From a checkpoint's inventory to the tensors of a GGUF file: names, fusions and splits, and what is left in 32 bit.

The mapping goes by role, with the traits of the family (profiles/ggml.toml) where the converter does more than rename.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitcalc.errors import UnsupportedModelError
from fitcalc.frozen import dataclass, replace
from fitcalc.quantization.gguf_recipe import Category, Recipe, tensor_type
from fitcalc.quantization.stored import Stored
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import Format, GgufArchitecture, Scheme

_NAMES: dict[str, tuple[str, Category]] = {
    "embedding": ("token_embd", "embedding"),
    "per_layer_embedding": ("per_layer_token_embd", "embedding"),
    "lm_head": ("output", "output"),
    "attn_q": ("attn_q", "query"),
    "attn_k": ("attn_k", "key"),
    "attn_v": ("attn_v", "value"),
    "attn_qkv": ("attn_qkv", "qkv"),
    "attn_o": ("attn_output", "attention_output"),
    "cross_q": ("cross_attn_q", "query"),
    "cross_k": ("cross_attn_k", "key"),
    "cross_v": ("cross_attn_v", "value"),
    "mla_q_a": ("attn_q_a", "other"),
    "mla_q_b": ("attn_q_b", "other"),
    "mla_kv_a": ("attn_kv_a_mqa", "other"),
    "mlp_gate": ("ffn_gate", "gate_up"),
    "mlp_up": ("ffn_up", "gate_up"),
    "mlp_gate_up": ("ffn_up", "gate_up"),
    "mlp_down": ("ffn_down", "down"),
    "expert_gate": ("ffn_gate_exps", "gate_up"),
    "expert_up": ("ffn_up_exps", "gate_up"),
    "expert_down": ("ffn_down_exps", "down"),
    "shared_gate": ("ffn_gate_shexp", "gate_up"),
    "shared_up": ("ffn_up_shexp", "gate_up"),
    "shared_gate_up": ("ffn_up_shexp", "gate_up"),
    "shared_down": ("ffn_down_shexp", "down"),
}
"""Role -> name in the file and what the recipe calls it; any other matrix is 'other'."""

_BY_LEAF: dict[str, tuple[str, Category]] = {
    "q_proj": ("attn_q", "query"),
    "k_proj": ("attn_k", "key"),
    "v_proj": ("attn_v", "value"),
    "o_proj": ("attn_output", "attention_output"),
    "qkv_proj": ("attn_qkv", "qkv"),
    "in_proj_qkv": ("attn_qkv", "qkv"),
    "in_proj_z": ("attn_gate", "other"),
}
"""Projections of linear-attention layers, by the last word of the checkpoint's name."""

_FULL_PRECISION = (
    "norm", "bias", "vector", "router", "router_bias", "shared_router", "position_embedding", "token_type_embedding",
    "ssm_conv", "ssm_a", "ssm_d", "conv",
)  # fmt: skip
"""Roles that the converter stores in 32 bit and the quantizer leaves alone."""

_LEFT_ALONE = ("altup", "laurel", "per_layer_model_proj")
"""Names of small matrices that keep the 16-bit type of the source file."""

_PARTS = ("text", "encoder", "other")
_LONG_ROPE = ("longrope", "su")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of the file: its kind for the recipe, or the type it has whatever the recipe says."""

    tensor: Tensor
    category: Category
    fixed: str = ""


def gguf_architecture(model: ModelSpec, scheme: Scheme) -> GgufArchitecture:
    """What llama.cpp's converter makes of the model; UnsupportedModelError where it does not know the family."""
    known = scheme.ggml.architectures if scheme.ggml else {}
    if model.model_type not in known:
        hint = "choose a safetensors format, such as fp16, awq or fp8"
        raise UnsupportedModelError(f"llama.cpp's converter does not know {model.model_type or model.id!r}", hint=hint)
    return known[model.model_type]


def gguf_tensors(model: ModelSpec, traits: GgufArchitecture, *, mtp: bool = False) -> tuple[GgufTensor, ...]:
    """The tensors of the text model's GGUF file. Vision and audio towers go to a file of their own (mmproj)."""
    parts = (*_PARTS, "mtp") if mtp and traits.keeps_mtp else _PARTS
    found = [
        mapped
        for tensor in model.tensors
        if tensor.part in parts and (not tensor.is_buffer or tensor.role == "router_bias")
        for mapped in _mapped(tensor, model, traits)
    ]
    if traits.output_copy and not any(entry.category == "output" for entry in found):
        source = next(entry.tensor for entry in found if entry.category == "embedding")
        found.append(GgufTensor(replace(source, name="output.weight", role="lm_head"), "output"))
    return (*found, *_rope_factors(model))


def _mapped(tensor: Tensor, model: ModelSpec, traits: GgufArchitecture) -> Iterator[GgufTensor]:
    if tensor.dtype.startswith("int"):
        yield GgufTensor(tensor, "other", "i32")
    elif tensor.role in _FULL_PRECISION or len(tensor.shape) == 1:
        yield GgufTensor(tensor, "other", "f32")
    elif any(word in tensor.name for word in _LEFT_ALONE):
        yield GgufTensor(tensor, "other", "f16")
    elif tensor.role == "mla_kv_b":
        yield from _absorbed(tensor, model)
    elif tensor.role == "attn_qkv" and traits.splits_qkv:
        yield from _split_qkv(tensor)
    elif tensor.role == "expert_gate_up":
        yield from _split_gate_up(tensor)
    elif tensor.name.endswith("in_proj_qkvz.weight"):
        yield from _split_qkvz(tensor, model)
    else:
        leaf = tensor.name.removesuffix(".weight").rpartition(".")[2]
        by_leaf = _BY_LEAF if tensor.role in ("linear_in", "linear_out") else {}
        name, category = _NAMES.get(tensor.role) or by_leaf.get(leaf) or (leaf, "other")
        yield GgufTensor(_renamed(tensor, name), category)


def _renamed(tensor: Tensor, name: str, shape: tuple[int, ...] = (), copies: int = 0) -> Tensor:
    block = "enc.blk" if tensor.part == "encoder" else "blk"
    full = f"{block}.{{layer}}.{name}.weight" if tensor.layers else f"{name}.weight"
    return replace(tensor, name=full, shape=shape or tensor.shape, copies=copies or tensor.copies)


def _split_qkv(tensor: Tensor) -> Iterator[GgufTensor]:
    rows, cols = tensor.shape
    kv_rows = tensor.kv_rows // 2
    yield GgufTensor(_renamed(tensor, "attn_q", (rows - 2 * kv_rows, cols)), "query")
    yield GgufTensor(_renamed(tensor, "attn_k", (kv_rows, cols)), "key")
    yield GgufTensor(_renamed(tensor, "attn_v", (kv_rows, cols)), "value")


def _split_gate_up(tensor: Tensor) -> Iterator[GgufTensor]:
    rows, cols = tensor.shape
    for name in ("ffn_gate_exps", "ffn_up_exps"):
        yield GgufTensor(_renamed(tensor, name, (rows // 2, cols)), "gate_up")


def _split_qkvz(tensor: Tensor, model: ModelSpec) -> Iterator[GgufTensor]:
    """Gated delta layers: Q, K and V in one matrix, the gate Z (as wide as the layer's output) in another."""
    z_rows = next(t.shape[1] for t in model.tensors if t.role == "linear_out" and t.layers == tensor.layers)
    rows, cols = tensor.shape
    yield GgufTensor(_renamed(tensor, "attn_qkv", (rows - z_rows, cols)), "qkv")
    yield GgufTensor(_renamed(tensor, "attn_gate", (z_rows, cols)), "other")


def _absorbed(tensor: Tensor, model: ModelSpec) -> Iterator[GgufTensor]:
    """MLA: the up-projections of K (transposed) and V, one matrix per head."""
    rows, latent = tensor.shape
    wide = next(t.shape[1] for t in model.tensors if t.role == "attn_o" and set(t.layers) & set(tensor.layers))
    value_dim = wide // model.heads
    nope_dim = rows // model.heads - value_dim
    yield GgufTensor(_renamed(tensor, "attn_k_b", (latent, nope_dim), model.heads), "other")
    yield GgufTensor(_renamed(tensor, "attn_v_b", (value_dim, latent), model.heads), "other")


def _rope_factors(model: ModelSpec) -> Iterator[GgufTensor]:
    """Frequency factors that llama.cpp reads as tensors: one for Llama 3, a long and a short one for LongRoPE."""
    if model.rope is None:
        return
    names = {"llama3": ("rope_freqs",), **dict.fromkeys(_LONG_ROPE, ("rope_factors_long", "rope_factors_short"))}
    for name in names.get(model.rope.scaling, ()):
        yield GgufTensor(Tensor(f"{name}.weight", "vector", (model.rope.rotary_dim // 2,)), "other", "f32")


def _heads_per_kv_head(model: ModelSpec, traits: GgufArchitecture) -> int:
    if traits.layerwise_kv_heads and not any(t.role in ("attn_k", "attn_qkv") and 0 in t.layers for t in model.tensors):
        return 0
    return model.heads // model.kv_heads if model.kv_heads else 0


def _places(tensors: tuple[GgufTensor, ...], categories: tuple[str, ...]) -> dict[tuple[str, int], int]:
    """(tensor name, layer) -> how many tensors of these kinds the quantizer has seen before it."""
    seen = sorted(
        (layer, entry.tensor.name) for entry in tensors if entry.category in categories for layer in entry.tensor.layers
    )
    return {(name, layer): index for index, (layer, name) in enumerate(seen)}


def assign_gguf(
    model: ModelSpec, scheme: Scheme, *, imatrix: bool = False, legacy: bool = False, mtp: bool = False
) -> tuple[Stored, ...]:
    """The tensors of the model's GGUF file with their types. Raises UnsupportedModelError for unknown families."""
    traits = gguf_architecture(model, scheme)
    # The quantizer counts every tensor of the file, those that are not loaded among them.
    tensors = gguf_tensors(model, traits, mtp=True)
    values, downs = _places(tensors, ("value", "qkv", "kv_b")), _places(tensors, ("down",))
    recipe = replace(_recipe(model, scheme, traits), values=len(values), imatrix=imatrix, legacy=legacy)
    recipe = replace(recipe, tied=not any(entry.category == "output" for entry in tensors))
    entries: list[Stored] = []
    for entry in tensors:
        if entry.tensor.part == "mtp" and not mtp:
            continue
        if entry.fixed:
            entries.append(_stored(entry.tensor, entry.tensor.layers, recipe.types[entry.fixed]))
        else:
            entries += _by_type(entry, recipe, downs if entry.category == "down" else values)
    return tuple(entries)


def _recipe(model: ModelSpec, scheme: Scheme, traits: GgufArchitecture) -> Recipe:
    """The rules' view of the model; what depends on the file's tensors is left at 0."""
    return Recipe(
        file_type=scheme.recipe,
        default=scheme.weight.id if scheme.kind == "gguf" else scheme.recipe.lower(),
        arch=traits.name,
        layers=model.layers,
        heads_per_kv_head=_heads_per_kv_head(model, traits),
        experts=model.experts,
        values=0,
        tied=False,
        types=scheme.ggml.types if scheme.ggml else {},
        head_type=scheme.head_type,
    )


def _by_type(entry: GgufTensor, recipe: Recipe, places: dict[tuple[str, int], int]) -> Iterator[Stored]:
    """One entry per type that the tensor takes over its layers."""
    tensor, layers_of = entry.tensor, dict[str, list[int]]()
    for layer in tensor.layers or (0,):
        index = places.get((tensor.name, layer), 0)
        stacked = tensor.copies > 1
        chosen = tensor_type(recipe, entry.category, tensor.shape[-1], index, layer, stacked=stacked)
        layers_of.setdefault(chosen, []).append(layer)
    for chosen, layers in layers_of.items():
        yield _stored(tensor, tuple(layers) if tensor.layers else (), recipe.types[chosen])


def _stored(tensor: Tensor, layers: tuple[int, ...], kind: Format) -> Stored:
    return Stored(tensor, layers, kind, kind)
