"""Writes GGUF files for the tests: headers with sparse data behind them, of a catalogue model or by hand."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from fitcalc import catalog
from fitcalc.frozen import dataclass
from fitcalc.quantization.gguf_tensors import assign_gguf, gguf_architecture
from fitcalc.spec.model import ModelSpec

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_LETTERS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
TABLE = catalog.load_ggml()
TYPE_NUMBERS = {name: number for number, name in TABLE.type_ids.items()}
Pair = tuple[int, Any]
"""(value type, value); an array is (ARRAY, (element type, values))."""


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value_bytes(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return string(value)
    if kind == ARRAY:
        element, values = value
        return struct.pack("<IQ", element, len(values)) + b"".join(value_bytes(element, each) for each in values)
    return struct.pack(f"<{_LETTERS[kind]}", value)


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor of a file to be written: dimensions with the row length first, ggml type by name or number."""

    name: str
    dimensions: tuple[int, ...]
    type: str | int = "f32"
    offset: int | None = None

    @property
    def number(self) -> int:
        return self.type if isinstance(self.type, int) else TYPE_NUMBERS[self.type]

    @property
    def bytes(self) -> int:
        kind = TABLE.types.get(TABLE.type_ids.get(self.number, ""))
        if kind is None:
            return 0
        size = self.dimensions[0] // kind.block_elems * kind.block_bytes if self.dimensions else 0
        for rows in self.dimensions[1:]:
            size *= rows
        return size


@dataclass(frozen=True, slots=True)
class Gguf:
    """A file to be written; the fields that a test wants wrong can be given by hand."""

    metadata: Mapping[str, Pair] = field(default_factory=dict)
    tensors: tuple[FileTensor, ...] = ()
    version: int = 3
    magic: bytes = b"GGUF"
    tensor_count: int | None = None
    key_count: int | None = None
    alignment: int = 32
    extra: bytes = b""
    """Key-value pairs as raw bytes, counted by key_count."""

    def header(self) -> bytes:
        keys = len(self.metadata) if self.key_count is None else self.key_count
        count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        parts = [self.magic, struct.pack("<IQQ", self.version, count, keys)]
        parts += [
            string(key) + struct.pack("<I", kind) + value_bytes(kind, v) for key, (kind, v) in self.metadata.items()
        ]
        parts.append(self.extra)
        offset = 0
        for tensor in self.tensors:
            rank = len(tensor.dimensions)
            place = offset if tensor.offset is None else tensor.offset
            parts.append(
                string(tensor.name) + struct.pack(f"<I{rank}QIQ", rank, *tensor.dimensions, tensor.number, place)
            )
            offset = min(-(-(offset + tensor.bytes) // self.alignment) * self.alignment, 2**63)
        return b"".join(parts)

    def data_bytes(self) -> int:
        offset = end = 0
        for tensor in self.tensors:
            end = offset + tensor.bytes
            offset = -(-end // self.alignment) * self.alignment
        return end

    def write(self, path: str | os.PathLike[str], *, missing: int = 0) -> str:
        """The file, its data sparse zeros; `missing` bytes are left out at its end."""
        header = self.header()
        start = -(-len(header) // self.alignment) * self.alignment
        with open(path, "wb") as file:
            file.write(header)
            if self.tensors:
                file.truncate(min(start + self.data_bytes() - missing, 2**40))
        return os.fspath(path)


_LEAVES = {
    "in_proj": "ssm_in", "out_proj": "ssm_out", "x_proj": "ssm_x", "dt_proj": "ssm_dt", "o": "cross_attn_o",
    "in_proj_ba": "ssm_ba", "in_proj_a": "ssm_alpha", "in_proj_b": "ssm_beta", "b_proj": "ssm_beta",
    "f_a_proj": "ssm_f_a", "f_b_proj": "ssm_f_b", "g_a_proj": "ssm_g_a", "g_b_proj": "ssm_g_b", "g_proj": "attn_gate",
    "wq_b": "indexer.attn_q_b", "wk": "indexer.attn_k", "weights_proj": "indexer.proj",
    "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj",
    "routed_expert_down_proj": "ffn_latent_down", "routed_expert_up_proj": "ffn_latent_up",
    "correction_coefs": "altup_correct_coef", "prediction_coefs": "altup_predict_coef",
    "modality_router": "altup_router", "linear_left": "laurel_l", "linear_right": "laurel_r",
    "altup_projections": "altup_proj", "altup_unembed_projections": "altup_unembd_proj",
    "per_layer_model_projection": "per_layer_model_proj", "output_gate": "attn_gate",
    "index_q_proj": "index_q_proj", "index_k_proj": "index_k_proj",
    "fc1_latent_proj": "ffn_latent_down", "fc2_latent_proj": "ffn_latent_up",
}  # fmt: skip
"""Checkpoint's word -> llama.cpp's, of matrices whose roles have no name in the recipe."""
_BY_ROLE = {
    "router": "ffn_gate_inp.weight", "shared_router": "ffn_gate_inp_shexp.weight", "router_bias": "exp_probs_b.bias",
    "position_embedding": "position_embd.weight", "token_type_embedding": "token_types.weight", "ssm_a": "ssm_a",
    "ssm_d": "ssm_d",
}  # fmt: skip
_CONVOLUTIONS = {
    "q_conv1d": "ssm_conv1d_q",
    "k_conv1d": "ssm_conv1d_k",
    "v_conv1d": "ssm_conv1d_v",
    "conv": "shortconv.conv",
}
_PROJECTIONS = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "qkv_proj": "attn_qkv",
    "query_key_value": "attn_qkv", "c_attn": "attn_qkv", "Wqkv": "attn_qkv",
}  # fmt: skip


def true_name(name: str, role: str, architecture: str, taken: set[str]) -> str:
    """llama.cpp's name of a tensor of fitcalc's GGUF inventory; of norms and vectors one that ends as theirs do."""
    block = "blk.{layer}." if "{layer}" in name else ""
    if name.startswith("rope_"):
        return name
    if role in _BY_ROLE:
        return block + _BY_ROLE[role]
    parts = name.removesuffix(".weight").removesuffix(".bias").replace(".{expert}", "").split(".")
    leaf = parts[-1]
    if role in ("ssm_conv", "conv"):
        return f"{block}{_CONVOLUTIONS.get(leaf, 'ssm_conv1d')}.weight"
    if role == "bias":
        known = f"{block}{_PROJECTIONS.get(leaf, 'ssm_conv1d' if leaf == 'conv1d' else leaf)[:30]}.bias"
        experts = {"gate_up_proj_bias": "ffn_gate_up_exps", "down_proj_bias": "ffn_down_exps"}
        return f"{block}{experts[leaf]}.bias" if leaf in experts else _free(known, taken)
    if leaf == "A_log":
        return f"{block}ssm_a"
    if leaf == "dt_bias":
        return f"{block}ssm_dt.bias"
    if role == "norm" and name.endswith("self_attn.norm.weight"):
        return f"{block}attn_norm_2.weight"
    if role == "norm":
        ending = ".bias" if name.endswith(".bias") else ".weight"
        return _free(
            f"{block}{leaf.lower().replace('layernorm', 'norm')[:30].removesuffix('norm').rstrip('_')}_norm{ending}",
            taken,
        )
    if role == "vector":
        return _free(f"{block}{leaf[:40]}", taken)
    if leaf in _LEAVES and not name.startswith(("token_embd", "output")):
        short = _LEAVES[leaf]
        if architecture.startswith("lfm2") and short in ("ssm_in", "ssm_out"):
            short = {"ssm_in": "shortconv.in_proj", "ssm_out": "shortconv.out_proj"}[short]
        return f"{block}{short}.weight"
    return name


def _free(name: str, taken: set[str]) -> str:
    stem, dot, ending = name.rpartition(".")
    number, found = 2, name
    while found in taken:
        found = (
            f"{stem}_{number}{dot}{ending}".replace("_norm_", "_b_norm_")
            if ending != "weight"
            else re.sub(r"(_norm)?$", rf"_{number}\1", stem, count=1) + ".weight"
        )
        number += 1
    return found


def tensors_like(model: ModelSpec, quant: str, *, imatrix: bool = False) -> tuple[FileTensor, ...]:
    """The tensors that llama.cpp's converter and quantizer would write for a model of the catalogue."""
    scheme = catalog.load_scheme(quant)
    architecture = gguf_architecture(model, scheme).name
    names: dict[str, str] = {}
    taken: set[str] = set()
    found: list[FileTensor] = []
    for entry in assign_gguf(model, scheme, imatrix=imatrix, mtp=True):
        tensor = entry.tensor
        if tensor.name not in names:
            names[tensor.name] = true_name(tensor.name, tensor.role, architecture, taken)
            taken.add(names[tensor.name])
        dimensions = tuple(reversed(tensor.shape)) + ((tensor.copies,) if tensor.copies > 1 else ())
        for layer in entry.layers or (0,):
            name = names[tensor.name].replace("{layer}", str(layer))
            found.append(FileTensor(name, dimensions, entry.format.id))
    return tuple(found)


def metadata_like(model: ModelSpec, quant: str) -> dict[str, Pair]:
    """The key-value pairs that llama.cpp's converter would write, as far as a reader needs them."""
    scheme = catalog.load_scheme(quant)
    name = gguf_architecture(model, scheme).name
    prediction = len({layer for tensor in model.tensors if tensor.part == "mtp" for layer in tensor.layers})
    kept = prediction if gguf_architecture(model, scheme).keeps_mtp else 0
    blocks = model.layers + kept
    file_type = next(number for number, quant_id in TABLE.file_types.items() if quant_id == scheme.id)
    pairs: dict[str, Pair] = {
        "general.architecture": (STRING, name),
        "general.name": (STRING, model.name),
        "general.file_type": (U32, file_type),
        f"{name}.block_count": (U32, blocks),
        f"{name}.context_length": (U32, model.max_context_tokens or 2**20),
        f"{name}.embedding_length": (U32, model.hidden),
        f"{name}.vocab_size": (U32, model.vocab),
        f"{name}.feed_forward_length": (U32, model.intermediate or model.moe_intermediate),
    }
    if kept:
        pairs[f"{name}.nextn_predict_layers"] = (U32, kept)
    if model.heads:
        pairs[f"{name}.attention.head_count"] = (U32, model.heads)
    if model.experts:
        pairs[f"{name}.expert_count"] = (U32, model.experts)
        pairs[f"{name}.expert_used_count"] = (U32, model.experts_per_token)
        pairs[f"{name}.expert_feed_forward_length"] = (U32, model.moe_intermediate)
    if model.kind == "encoder":
        return pairs | {f"{name}.attention.causal": (BOOL, 0)}
    return pairs | _cache_pairs(model, name, blocks)


def _cache_pairs(model: ModelSpec, name: str, blocks: int) -> dict[str, Pair]:
    kv = [0] * blocks
    windowed = [0] * blocks
    pairs: dict[str, Pair] = {}
    for cache in model.cache_layers:
        if cache.kind == "mla":
            for layer in cache.layers:
                kv[layer] = 1
            pairs[f"{name}.attention.key_length"] = (U32, cache.latent_elems)
            pairs[f"{name}.attention.key_length_mla"] = (U32, model.head_dim)
        elif cache.kind == "recurrent":
            pairs |= _state_pairs(model, name)
        else:
            suffix = "_swa" if cache.kind == "sliding" and name == "gemma4" else ""
            pairs[f"{name}.attention.key_length{suffix}"] = (U32, cache.key_dim)
            pairs[f"{name}.attention.value_length{suffix}"] = (U32, cache.value_dim)
            for layer in cache.layers:
                kv[layer] = cache.kv_heads
                windowed[layer] = int(cache.kind == "sliding")
            if cache.kind == "sliding":
                pairs[f"{name}.attention.sliding_window"] = (U32, cache.window_tokens)
    owned = {layer for cache in model.cache_layers for layer in cache.layers}
    shared = model.layers - max(owned, default=-1) - 1 if name in ("gemma3n", "gemma4") else 0
    if shared:
        pairs[f"{name}.attention.shared_kv_layers"] = (U32, shared)
        kv = [count or max(kv) for count in kv]
    if TABLE.named[name].window_period == 1:
        pairs[f"{name}.attention.sliding_window_pattern"] = (ARRAY, (BOOL, windowed))
    if len(set(kv[: model.layers])) == 1:
        pairs[f"{name}.attention.head_count_kv"] = (U32, kv[0])
    elif any(kv):
        pairs[f"{name}.attention.head_count_kv"] = (ARRAY, (U32, kv))
    return pairs


def _state_pairs(model: ModelSpec, name: str) -> dict[str, Pair]:
    cache = next(cache for cache in model.cache_layers if cache.kind == "recurrent")
    if not cache.conv_channels:
        return {f"{name}.attention.key_length": (U32, model.head_dim)}
    if name.startswith("lfm2"):
        return {f"{name}.shortconv.l_cache": (U32, cache.conv_kernel)}
    pairs: dict[str, Pair] = {f"{name}.ssm.conv_kernel": (U32, cache.conv_kernel)}
    if name.startswith("kimi"):
        head = 3 * cache.state_elems // cache.conv_channels
        return pairs | {f"{name}.kda.head_dim": (U32, head)}
    inner = next(t.shape[1] for t in model.tensors if t.role in ("ssm_out", "linear_out"))
    size = cache.state_elems // inner
    pairs |= {f"{name}.ssm.inner_size": (U32, inner), f"{name}.ssm.state_size": (U32, size)}
    if cache.conv_channels > inner:
        pairs[f"{name}.ssm.group_count"] = (U32, (cache.conv_channels - inner) // (2 * size))
    return pairs


def vocabulary(tokens: int, *, merges: int | None = None) -> dict[str, Pair]:
    """The arrays of a tokenizer: tokens, types and merges."""
    words = [f"t{number:x}" for number in range(tokens)]
    pairs: dict[str, Pair] = {
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, words)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [1] * tokens)),
    }
    wanted = tokens if merges is None else merges
    return pairs | {"tokenizer.ggml.merges": (ARRAY, (STRING, [f"{w} {w}" for w in words[:wanted]]))}


def gguf_like(model_id: str, quant: str = "q4_k_m", **more: Pair) -> Gguf:
    """A file as llama.cpp would make it of a catalogue model; `more` are further key-value pairs."""
    model = catalog.load_model(model_id)
    return Gguf({**metadata_like(model, quant), **more}, tensors_like(model, quant))


def small(**more: Pair) -> Gguf:
    """A Llama of two layers, by hand; `more` replaces or adds pairs under llama.cpp's names with __ for dots."""
    pairs: dict[str, Pair] = {
        "general.architecture": (STRING, "llama"),
        "general.file_type": (U32, 15),
        "llama.block_count": (U32, 2),
        "llama.context_length": (U32, 4096),
        "llama.embedding_length": (U32, 512),
        "llama.feed_forward_length": (U32, 1024),
        "llama.attention.head_count": (U32, 8),
        "llama.attention.head_count_kv": (U32, 2),
    }
    pairs |= {key.replace("__", "."): pair for key, pair in more.items()}
    return Gguf(pairs, small_tensors())


def small_tensors(layers: Iterable[int] = (0, 1)) -> tuple[FileTensor, ...]:
    blocks = [
        FileTensor(f"blk.{layer}.{name}.weight", dimensions, kind)
        for layer in layers
        for name, dimensions, kind in (
            ("attn_norm", (512,), "f32"), ("attn_q", (512, 512), "q4_K"), ("attn_k", (512, 128), "q4_K"),
            ("attn_v", (512, 128), "q6_K"), ("attn_output", (512, 512), "q4_K"), ("ffn_norm", (512,), "f32"),
            ("ffn_gate", (512, 1024), "q4_K"), ("ffn_up", (512, 1024), "q4_K"), ("ffn_down", (1024, 512), "q6_K"),
        )
    ]  # fmt: skip
    ends = (("token_embd", (512, 32000), "q4_K"), ("output", (512, 32000), "q6_K"))
    outside = [FileTensor(f"{name}.weight", dimensions, kind) for name, dimensions, kind in ends]
    return (*outside, FileTensor("output_norm.weight", (512,)), *blocks)


def split(whole: Gguf, counts: Sequence[int], folder: Path, stem: str = "model") -> list[str]:
    """The parts of a split file, as llama-gguf-split writes them: metadata in the first only."""
    paths, begin, total = [], 0, len(counts)
    for number, count in enumerate(counts):
        pairs: dict[str, Pair] = {
            "split.no": (U16, number),
            "split.count": (U16, total),
            "split.tensors.count": (I32, len(whole.tensors)),
        }
        own = {**whole.metadata, **pairs} if number == 0 else pairs
        part = Gguf(own, whole.tensors[begin : begin + count])
        paths.append(part.write(folder / f"{stem}-{number + 1:05}-of-{total:05}.gguf"))
        begin += count
    return paths
