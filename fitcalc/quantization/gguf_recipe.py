"""llama.cpp's recipe: which ggml type `llama-quantize` gives to a tensor, by file type, family and place in the model.

Rules of ggml-org/llama.cpp 0c1e570 (2026), restated; `legacy` switches to those of 2024-02 to 2026-02, where a fused
QKV matrix had rules of its own. Held against the quantizer's own dry run, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fitcalc.frozen import dataclass
from fitcalc.spec.quant import Format

Category = Literal[
    "output", "embedding", "value", "qkv", "kv_b", "key", "query", "attention_output", "down", "gate_up", "other"
]
"""What the recipe tells apart: value and key-value projections, down projections, gate and up, the rest."""

_LOW_BITS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
_IQ3_BASED = ("IQ2_S", "IQ2_M")
_EIGHT_EXPERTS = 8
_SHARED_HEADS = 4
"""Query heads per KV head from which the value projection counts as small."""

_SEVENTY_B_LAYERS = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}

_EMBEDDING = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"), "q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "iq3_s"),
    **dict.fromkeys(("TQ1_0", "TQ2_0"), "q4_K"),
}
_VALUE_SHARED = {
    **dict.fromkeys(("Q2_K", "Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ3_S"), "q4_K"),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), "q5_K"),
}
_VALUE = {"Q2_K": "q3_K", "IQ3_M": "q4_K", "Q3_K_L": "q5_K"}
_FUSED_LEGACY = {"Q3_K_M": "q4_K", "Q3_K_L": "q4_K", "IQ3_M": "q4_K", "Q4_K_M": "q5_K", "Q5_K_M": "q6_K"}
_KEY_QUERY = {"IQ3_XS": "iq3_xxs", "IQ3_XXS": "iq2_s"}
_OUT = {"Q2_K": "q3_K", "IQ3_XXS": "iq3_s", "Q3_K_M": "q4_K", "Q3_K_L": "q5_K", "IQ3_M": "q4_K"}
_OUT_EIGHT_EXPERTS = (
    "Q2_K", "IQ3_XS", "IQ3_XXS", "IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M",
)  # fmt: skip
_FALLBACK = {
    "q4_K": "q5_0",
    "q5_K": "q5_1",
    "q6_K": "q8_0",
    **dict.fromkeys(("q2_K", "q3_K", "tq1_0", "tq2_0"), "q4_0"),
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
}
_FALLBACK_LEGACY = {**_FALLBACK, "q2_K": "iq4_nl", "q3_K": "iq4_nl"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the rules ask for besides the tensor: file type, its default type, and the model's shape."""

    file_type: str
    """Q4_K_M, IQ3_XS … or F16, BF16, F32."""
    default: str
    arch: str
    layers: int
    heads_per_kv_head: int
    experts: int
    values: int
    """Tensors of the value kind in the file."""
    tied: bool
    """The file has no output matrix: the token embedding takes its place."""
    types: Mapping[str, Format]
    head_type: str = ""
    imatrix: bool = False
    legacy: bool = False


def more_bits(index: int, count: int) -> bool:
    """Tensors that get more bits: the first and last eighth, and every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def tensor_type(recipe: Recipe, category: Category, cols: int, index: int, layer: int, *, stacked: bool) -> str:
    """The ggml type of one quantizable matrix.

    `cols` is its row length, `index` its place among the tensors of its kind (value, down), `layer` its layer;
    `stacked` marks the three-dimensional tensors that hold all experts.
    """
    if recipe.file_type in ("F32", "F16", "BF16"):
        return recipe.default
    chosen = _wanted(recipe, category, cols, index, layer, stacked)
    return _fitting(recipe, chosen, cols)


def _wanted(recipe: Recipe, category: Category, cols: int, index: int, layer: int, stacked: bool) -> str:
    if category == "output" or (category == "embedding" and recipe.tied):
        return recipe.head_type or _head(recipe, cols)
    if recipe.file_type == "MXFP4_MOE":
        return "mxfp4" if stacked else "q8_0"
    if category == "embedding":
        return recipe.head_type or _EMBEDDING.get(recipe.file_type, recipe.default)
    if category in ("qkv", "kv_b"):
        if recipe.legacy:
            return _FUSED_LEGACY.get(recipe.file_type, recipe.default) if category == "qkv" else recipe.default
        category = "value"
    if recipe.file_type in _LOW_BITS:
        return _low_bits(recipe, category, index)
    if category == "value":
        return _value(recipe, index)
    if category in ("key", "query"):
        return _key_query(recipe, category)
    if category == "down":
        return _down(recipe, layer if recipe.experts > 1 else index)
    if category == "attention_output":
        return _attention_output(recipe)
    if category == "gate_up" and recipe.file_type == "IQ3_XS":
        middle = recipe.layers // 8 <= layer < 7 * recipe.layers // 8
        return "iq3_xxs" if middle else recipe.default
    return recipe.default


def _fitting(recipe: Recipe, chosen: str, cols: int) -> str:
    """The type itself, or the one that takes its place where the row length is no multiple of its block."""
    if cols % recipe.types[chosen].block_elems == 0:
        return chosen
    other = (_FALLBACK_LEGACY if recipe.legacy else _FALLBACK).get(chosen, chosen)
    return other if cols % recipe.types[other].block_elems == 0 else "f16"


def _head(recipe: Recipe, cols: int) -> str:
    if recipe.file_type == "MXFP4_MOE" or recipe.arch == "falcon":
        return "q8_0"
    if recipe.default == "q8_0" or cols % recipe.types[recipe.default].block_elems:
        return "q8_0"
    return "q5_K" if recipe.file_type in (*_LOW_BITS, "IQ3_XXS") else "q6_K"


def _low_bits(recipe: Recipe, category: Category, index: int) -> str:
    raised = "iq3_s" if recipe.file_type in _IQ3_BASED else "q2_K"
    eight = recipe.experts == _EIGHT_EXPERTS
    if category == "value":
        wide = recipe.heads_per_kv_head >= _SHARED_HEADS or recipe.experts >= _SHARED_HEADS
        return "q4_K" if wide else raised
    if category == "key" and eight:
        return "q4_K"
    if category == "down" and index < recipe.layers // 8:
        return raised
    if category == "attention_output":
        if eight:
            return "q5_K"
        if recipe.file_type in ("IQ1_S", "IQ1_M"):
            return "iq2_xxs"
        return "iq3_s" if recipe.file_type in _IQ3_BASED else recipe.default
    return recipe.default


def _value(recipe: Recipe, index: int) -> str:
    if recipe.experts == _EIGHT_EXPERTS:
        return "q8_0"
    kind, chosen = recipe.file_type, recipe.default
    if recipe.heads_per_kv_head >= _SHARED_HEADS and kind in _VALUE_SHARED:
        chosen = _VALUE_SHARED[kind]
    elif kind == "IQ3_XXS":
        chosen = "iq3_xxs" if recipe.imatrix else "iq3_s"
    elif kind == "Q3_K_M":
        chosen = "q5_K" if index < 2 else "q4_K"
    elif kind in ("Q4_K_M", "Q5_K_M") and more_bits(index, recipe.values):
        chosen = "q6_K"
    elif kind == "Q4_K_S" and index < 4:
        chosen = "q5_K"
    else:
        chosen = _VALUE.get(kind, chosen)
    # In the 70B models eight query heads share a value head, so that a better one costs next to nothing.
    seventy = recipe.heads_per_kv_head > 1 and _SEVENTY_B_LAYERS.get(recipe.arch) == recipe.layers
    return "q5_K" if seventy and chosen in ("q3_K", "q4_K") else chosen


def _key_query(recipe: Recipe, category: Category) -> str:
    if category == "key" and recipe.experts == _EIGHT_EXPERTS:
        return "q8_0"
    return _KEY_QUERY.get(recipe.file_type, recipe.default)


def _down(recipe: Recipe, index: int) -> str:
    kind, falcon = recipe.file_type, recipe.arch == "falcon"
    early, more = index < recipe.layers // 8, more_bits(index, recipe.layers)
    first = index < recipe.layers // 16
    eight = recipe.experts == _EIGHT_EXPERTS
    if kind == "Q4_K_M" and falcon:
        return "q6_K" if first else "q5_K" if more else "q4_K"
    rules = {
        "Q2_K": "q3_K",
        "Q2_K_S": "q4_K" if early else "",
        "IQ3_XXS": "" if recipe.imatrix else "q4_K" if early else "q3_K",
        "Q3_K_M": "q5_K" if first else "q4_K" if more or not falcon else "q3_K",
        "IQ3_M": "q4_K" if early or (eight and more) else "",
        "Q3_K_L": "q4_K" if falcon else "q5_K",
        "Q4_K_M": "q6_K" if more else "",
        "IQ4_NL": "q5_K" if early and not recipe.imatrix else "",
        "IQ4_XS": "q5_K" if early and not recipe.imatrix else "",
        "Q5_K_M": "q6_K" if more else "",
        "Q4_K_S": "q5_K" if early and not falcon else "",
        "Q4_0": "q4_1" if early and recipe.imatrix else "",
        "Q5_0": "q5_1" if early and recipe.imatrix else "",
    }
    return rules.get(kind) or recipe.default


def _attention_output(recipe: Recipe) -> str:
    if recipe.arch == "falcon":
        return "q4_K" if recipe.file_type == "Q3_K_L" else recipe.default
    if recipe.experts == _EIGHT_EXPERTS:
        return "q5_K" if recipe.file_type in _OUT_EIGHT_EXPERTS else recipe.default
    return _OUT.get(recipe.file_type, recipe.default)
