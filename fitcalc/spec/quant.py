"""Quantization nouns: a storage format, a scheme (which tensors get which format), a checkpoint's own scheme.

Also what becomes of profiles/quants/*.toml and profiles/ggml.toml, and what a group size suffix means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from fitcalc.errors import ProfileError, RequestError
from fitcalc.frozen import dataclass, field, replace

SchemeKind = Literal["float", "linear", "gguf", "mlx", "file"]
"""float: every tensor in one type; linear: linears in one format, the rest 16 bit; gguf: llama.cpp's recipe;
mlx: linears and embeddings in one format; file: each tensor as the file that was read stores it (Tensor.stored)."""


@dataclass(frozen=True, slots=True)
class Format:
    """How the elements of one matrix of `rows` × `cols` (out × in) are stored. Every size is an integer.

    Bytes = blocks + group data + per-row + per-column + per-tile + per-tensor data; see formulas.weights.
    """

    id: str
    block_elems: int
    block_bytes: int
    group_elems: int = 0
    """Columns that share one scale (0: none)."""
    group_bits: int = 0
    """Bits of scale and zero point per row and group."""
    row_bytes: int = 0
    column_bytes: int = 0
    tile_rows: int = 0
    tile_cols: int = 0
    tile_bytes: int = 0
    tensor_bytes: int = 0
    flat: bool = False
    """Blocks run over the flattened tensor instead of along each row."""


PLAIN_TYPES: dict[str, Format] = {
    "fp32": Format("fp32", 1, 4),
    "fp16": Format("fp16", 1, 2),
    "bf16": Format("bf16", 1, 2),
    "int64": Format("int64", 1, 8),
}
"""The types of tensors that are not quantized, by the names ModelSpec.dtype and Tensor.dtype use."""


@dataclass(frozen=True, slots=True)
class GgufArchitecture:
    """What llama.cpp's converter makes of a family, as far as it changes sizes."""

    name: str
    """general.architecture in the file; some recipe rules ask for it."""
    output_copy: bool = False
    """A tied model still gets an output matrix of its own."""
    splits_qkv: bool = False
    """A fused Q, K, V matrix of the checkpoint becomes three."""
    keeps_mtp: bool = False
    """The file carries the multi-token-prediction layers (they are not loaded)."""
    layerwise_kv_heads: bool = False
    """KV heads are listed per layer, so that the recipe sees those of the first layer."""
    checked: bool = False
    """Sizes were held against real files; otherwise the layout follows from the tensors' roles."""
    model_type: str = ""
    """The first model_type that becomes this architecture; its own name where none is known."""
    window_period: int = 0
    """Every nth layer keeps all tokens and the others a window, where a file names one and no pattern; 0: llama.cpp
    uses no window here, 1: the file lists the layers."""
    window_first_full: bool = False
    """Of a period the first layer is the one that keeps all tokens, not the last."""
    chunk_tokens: int = 0
    """The windows are chunks of this size, whatever the file names."""
    cached_layers: int = 0
    """Layers with a cache of their own, from the first, where the file does not say; 0: all."""
    cache_unknown: bool = False
    """The header of a file does not tell what its layers keep."""


@dataclass(frozen=True, slots=True)
class GgmlTable:
    """llama.cpp's storage types and the families its converter knows (profiles/ggml.toml)."""

    types: Mapping[str, Format]
    type_ids: Mapping[int, str]
    """Number in a GGUF header -> type name."""
    architectures: Mapping[str, GgufArchitecture]
    """model_type of a config.json -> what becomes of it."""
    named: Mapping[str, GgufArchitecture] = field(default_factory=dict)
    """general.architecture of a GGUF file -> what llama.cpp makes of it."""
    file_types: Mapping[int, str] = field(default_factory=dict)
    """general.file_type of a GGUF file -> quantization id."""
    token_bytes: tuple[tuple[int, int], ...] = ()
    """(vocabulary up to, bytes of header per token), smallest first: an estimate of what a tokenizer takes."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantization as people name it."""

    id: str
    name: str
    kind: SchemeKind
    weight: Format
    """Format of the quantized weights; the default type of a GGUF recipe."""
    bits: int
    """Nominal bits of a weight, for ranking and labels only."""
    quality_rank: int
    """Higher is better; from measured loss, see the profile's source."""
    engines: tuple[str, ...]
    method: str = ""
    """The exporter's word: gptq, awq, fp8, compressed-tensors, bitsandbytes …"""
    loaded: Format | None = None
    """As the engine keeps it after load, where that differs from the file (GPTQ under Marlin)."""
    kept_roles: tuple[str, ...] = ()
    """Roles that stay in the model's own type although they are linears."""
    kept_parts: tuple[str, ...] = ()
    """Components (vision tower …) that stay in the model's own type."""
    only_roles: tuple[str, ...] = ()
    """The only roles that are quantized; empty: every linear that is not kept."""
    also_roles: tuple[str, ...] = ()
    """Roles that are quantized although they are no linears (embeddings under MLX)."""
    beside: Mapping[str, Format] = field(default_factory=dict)
    """Formats that a checkpoint of this scheme may use for single modules, by quantization id."""
    recipe: str = ""
    """GGUF file type (Q4_K_M …)."""
    head_type: str = ""
    """GGUF type forced on token embedding and output ('' follows the recipe)."""
    ggml: GgmlTable | None = None
    """Types and families of llama.cpp, for the kinds gguf and float."""
    min_compute_capability: str = ""
    native_compute_capability: str = ""
    """Below this the weights are dequantized in the kernel: memory as usual, speed as 16 bit."""
    needs_imatrix: bool = False
    variant: bool = False
    """Exists by explicit request only; never chosen on its own."""
    ignored: tuple[str, ...] = ()
    """Module patterns that stay in the model's own type: those every exporter leaves, and a checkpoint's own."""
    family_ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """model_type -> module patterns that the makers' own exports leave alone, where that is known."""
    family_overrides: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """model_type -> (module pattern, quantization id) of modules that exports of a family hold in another format."""
    targets: tuple[str, ...] = ()
    """Module patterns of one checkpoint that are quantized; empty: every linear that is not kept or ignored."""
    overrides: tuple[tuple[str, str], ...] = ()
    """(module pattern, quantization id) of one checkpoint's modules in another format; the id is a key of `beside`."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointQuant:
    """The scheme a checkpoint is stored in, as read from its quantization_config."""

    scheme: str
    """Quantization id, group size suffix included."""
    group_size: int = 0
    """Columns per scale; 0: the scheme's own, -1: one scale per row."""
    bits: int = 0
    symmetric: bool = True
    desc_act: bool = False
    block: tuple[int, int] = (0, 0)
    ignored: tuple[str, ...] = ()
    """Module patterns that stay in the model's own type; `*` matches anything."""
    targets: tuple[str, ...] = ()
    """Module patterns that are quantized; empty: every linear."""
    overrides: tuple[tuple[str, str], ...] = ()
    """(module pattern, quantization id) of modules stored in another format."""
    lm_head: bool = False
    """The output projection is quantized too."""
    source: str = ""


_TUPLES = ("engines", "kept_roles", "kept_parts", "only_roles", "also_roles", "ignored")
_BUILT = ("weight", "type", "loaded", "beside", "aliases", "ambiguous", "family_ignored", "family_overrides")
"""Keys of a profile that are no field of Scheme, or become one in another shape."""


def scheme_from_form(form: Mapping[str, Any], scheme_id: str, ggml: GgmlTable | None = None) -> Scheme:
    """The Scheme of a quant profile's content; `ggml` is needed for a GGUF recipe and kept for a float type.

    Raises ProfileError for a format that is missing or unknown.
    """
    weight = form.get("weight")
    if weight is not None:
        stored = Format(scheme_id, **weight)
    elif ggml is not None and form.get("type") in ggml.types:
        stored = ggml.types[form["type"]]
    else:
        hint = "give a [weight] table, or type = one of the types in profiles/ggml.toml"
        raise ProfileError(f"quants/{scheme_id}.toml: no format of the weights", hint=hint)
    loaded = form.get("loaded")
    own = {key: value for key, value in form.items() if key not in _BUILT}
    values: dict[str, Any] = {key: tuple(value) if key in _TUPLES else value for key, value in own.items()}
    return Scheme(
        id=scheme_id,
        weight=stored,
        loaded=Format(scheme_id, **loaded) if loaded is not None else None,
        beside={key: Format(key, **table) for key, table in form.get("beside", {}).items()},
        family_ignored={key: tuple(patterns) for key, patterns in form.get("family_ignored", {}).items()},
        family_overrides={key: tuple(table.items()) for key, table in form.get("family_overrides", {}).items()},
        ggml=ggml if form.get("kind") in ("gguf", "float") else None,
        **values,
    )


def ggml_from_form(form: Mapping[str, Any]) -> GgmlTable:
    """The GgmlTable of profiles/ggml.toml's content."""
    types = {name: Format(name, elems, size) for name, (_, elems, size) in form["types"].items()}
    named: dict[str, GgufArchitecture] = {}
    architectures: dict[str, GgufArchitecture] = {}
    for name, table in form["architectures"].items():
        traits = {key: value for key, value in table.items() if key != "model_types"}
        model_types = table["model_types"]
        named[name] = GgufArchitecture(name, model_type=next(iter(model_types), name), **traits)
        architectures |= dict.fromkeys(model_types, named[name])
    return GgmlTable(
        types=types,
        type_ids={number: name for name, (number, _, _) in form["types"].items()},
        architectures=architectures,
        named=named,
        file_types={number: scheme for scheme, number in form["file_types"].items()},
        token_bytes=tuple((upper, size) for upper, size in form["token_bytes"]),
        source=form["source"],
    )


_LONGEST_EXPRESSION = 400
_MOST_REPEATS = 3
_REPEATED_GROUP = r"\)\s*[*+{]"
_REPEAT = r"(?<!\\)[*+{]"


def is_harmless(pattern: str) -> bool:
    """Can a module pattern be matched in a time that no file can stretch? Plain paths always; a wildcard or a regular
    expression ('re:…') when it is short, valid, repeats no group and has few repeats.
    """
    expression = pattern.removeprefix("re:")
    if expression == pattern and "*" not in pattern:
        return True
    if len(expression) > _LONGEST_EXPRESSION or len(re.findall(_REPEAT, expression)) > _MOST_REPEATS:
        return False
    if expression == pattern:
        return True
    if re.search(_REPEATED_GROUP, expression):
        return False
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def split_group(name: str) -> tuple[str, int]:
    """('gptq', 32) from 'gptq-g32'; ('gptq', 0) where no group size is given."""
    base, _, group = name.rpartition("-g")
    return (base, int(group)) if base and group.isascii() and group.isdecimal() else (name, 0)


def with_group(scheme: Scheme, group_elems: int) -> Scheme:
    """The scheme with another group size: scales per `group_elems` columns, or per row when -1.

    Raises RequestError where the scheme has no groups or the size makes no sense.
    """
    if not scheme.weight.group_elems or scheme.weight.flat:
        raise RequestError(f"{scheme.id} has no group size", hint="gptq, awq, w4a16, int4 and the mlx types have one")
    if group_elems != -1 and not 8 <= group_elems <= 65536:
        raise RequestError(f"group size {group_elems} makes no sense", hint="use 32, 64 or 128, such as gptq-g32")
    if group_elems in (0, scheme.weight.group_elems):
        return scheme
    said = "scales per row" if group_elems == -1 else f"group {group_elems}"
    return replace(
        scheme,
        id=scheme.id if group_elems == -1 else f"{scheme.id}-g{group_elems}",
        name=re.sub(r"group \d+", said, scheme.name),
        weight=_regrouped(scheme.weight, group_elems),
        loaded=_regrouped(scheme.loaded, group_elems) if scheme.loaded else None,
        variant=True,
    )


def _regrouped(stored: Format, group_elems: int) -> Format:
    if group_elems == -1:
        per_row = -(-stored.group_bits // 8)
        return replace(stored, group_elems=0, group_bits=0, row_bytes=stored.row_bytes + per_row)
    return replace(stored, group_elems=group_elems)
