"""A tensor's name -> its place in the model: template, layer, expert, role, component, and how it is divided.

The words are those that checkpoints of all families use; a name without a known word is 'other' and whole on each rank.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from fitcalc.spec.model import Part, Split

_LAYER_WORDS = (
    "layers", "layer", "h", "blocks", "block", "decoder_layers", "transformer_blocks", "encoder_layers", "resblocks",
    "single_transformer_blocks", "mtp_layers",
)  # fmt: skip
_EXPERT_WORDS = ("experts", "expert", "local_experts", "norms")
_MOST_DIGITS = 6
_EXPERTS = ("experts", "local_experts")
_SHARED = ("shared_expert", "shared_experts", "shared_mlp")
_PARTS: tuple[tuple[Part, tuple[str, ...]], ...] = (
    ("projector", ("projector", "merger", "connector", "aligner", "mm_", "embed_vision", "embed_audio", "adapter")),
    ("vision", ("vision", "visual", "image", "vit", "patch_embed", "img")),
    ("audio", ("audio", "speech", "whisper", "sound")),
    ("mtp", ("mtp", "nextn", "eh_proj", "enorm", "hnorm", "shared_head")),
)
"""Component -> words of which a part of the name holds one; the first that matches."""

_LEAVES: dict[str, tuple[str, Split]] = {
    **dict.fromkeys(("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "embeddings", "shared"),
                    ("embedding", "vocab")),
    **dict.fromkeys(("wpe", "embed_positions", "position_embeddings"), ("position_embedding", "replicated")),
    "token_type_embeddings": ("token_type_embedding", "replicated"),
    **dict.fromkeys(("lm_head", "embed_out"), ("lm_head", "vocab")),
    **dict.fromkeys(("q_proj", "wq", "query", "q", "q_lin"), ("attn_q", "heads")),
    **dict.fromkeys(("k_proj", "wk", "key", "k", "k_lin"), ("attn_k", "heads")),
    **dict.fromkeys(("v_proj", "wv", "value", "v", "v_lin"), ("attn_v", "heads")),
    **dict.fromkeys(("qkv_proj", "c_attn", "query_key_value", "Wqkv", "W_pack", "wqkv", "qkv"), ("attn_qkv", "heads")),
    **dict.fromkeys(("o_proj", "wo", "o", "out_lin"), ("attn_o", "rows")),
    "q_a_proj": ("mla_q_a", "replicated"),
    "q_b_proj": ("mla_q_b", "columns"),
    **dict.fromkeys(("kv_a_proj_with_mqa", "kv_a_proj"), ("mla_kv_a", "replicated")),
    "kv_b_proj": ("mla_kv_b", "columns"),
    **dict.fromkeys(("gate_proj", "w1"), ("mlp_gate", "columns")),
    **dict.fromkeys(("up_proj", "w3", "fc1", "c_fc", "dense_h_to_4h", "fc_in", "lin1", "wi"), ("mlp_up", "columns")),
    **dict.fromkeys(("gate_up_proj", "fused_gate_up", "gate_and_up_proj"), ("mlp_gate_up", "columns")),
    **dict.fromkeys(("down_proj", "w2", "fc2", "dense_4h_to_h", "fc_out", "lin2"), ("mlp_down", "rows")),
    **dict.fromkeys(("gate", "router"), ("router", "replicated")),
    "e_score_correction_bias": ("router_bias", "replicated"),
    **dict.fromkeys(("in_proj",), ("ssm_in", "columns")),
    "conv1d": ("ssm_conv", "columns"),
    "x_proj": ("ssm_x", "rows"),
    "dt_proj": ("ssm_dt", "columns"),
    "A_log": ("ssm_a", "columns"),
    "D": ("ssm_d", "columns"),
}  # fmt: skip
"""Last word of a module's name -> role and split; words with two meanings are told apart by `_by_block`."""

_ATTENTION_WORDS = ("attn", "attention")
_SSM_WORDS = ("mamba", "mixer", "ssm", "linear_attn")
_BUFFERS = ("inv_freq", "position_ids", "masked_bias", "num_batches_tracked", "attention_mask", "rotary_emb")
CROSS_WORDS = ("encoder_attn", "EncDecAttention", "crossattention", "cross_attn", "cross_attention")
_OF_EXPERTS = {"mlp_gate": "expert_gate", "mlp_up": "expert_up", "mlp_gate_up": "expert_gate_up",
               "mlp_down": "expert_down"}  # fmt: skip
_OF_SHARED = {"mlp_gate": "shared_gate", "mlp_up": "shared_up", "mlp_gate_up": "shared_gate_up",
              "mlp_down": "shared_down"}  # fmt: skip
_WRAPPERS = ("model", "language_model", "text_model", "transformer", "backbone")


class Place(NamedTuple):
    """`template` holds {layer} and {expert} where the name has their numbers (None: it has none)."""

    template: str
    layer: int | None
    expert: int | None


class Meaning(NamedTuple):
    """What a template's words say of all its tensors."""

    role: str
    split: Split
    part: Part
    is_buffer: bool


def place_of(name: str, layer_words: Container[str] = (), expert_words: Container[str] = ()) -> Place:
    """The template of a name and the numbers taken out of it: the first behind a word for layers, and for experts.

    The words given are those of a known inventory, beside the usual ones.
    """
    words = name.split(".")
    layer = expert = None
    for position in range(1, len(words)):
        word, before = words[position], words[position - 1]
        if not (word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS):
            continue
        is_layer = before in _LAYER_WORDS or before in layer_words
        if is_layer and layer is None and "{layer}" not in words:
            layer, words[position] = int(word), "{layer}"
        elif expert is None and (before in _EXPERT_WORDS or before in expert_words):
            expert, words[position] = int(word), "{expert}"
    return Place(".".join(words), layer, expert)


def bare(template: str) -> str:
    """The template without wrapping modules, about which exporters and classes disagree."""
    return ".".join(word for word in template.split(".") if word not in _WRAPPERS)


def meaning_of(template: str, dimensions: int) -> Meaning:
    """Role, split, component of the tensors of a template; `dimensions` tells matrices from vectors."""
    words = template.split(".")
    part = _part(template.lower(), words)
    is_buffer = any(word in words for word in _BUFFERS) or words[-1] in ("e_score_correction_bias",)
    leaf = words[-1]
    if leaf in ("weight", "bias") and len(words) > 1:
        leaf = words[-2]
    role, split = _by_block(words, leaf) or _LEAVES.get(leaf, ("other", "replicated"))
    if words[-1] == "bias" or leaf.endswith(("_bias", "_proj_bias")):
        kept: Split = "replicated" if split == "rows" else split
        return Meaning(role if role == "router_bias" else "bias", kept, part, is_buffer)
    if role in _OF_EXPERTS and any(word in words for word in _EXPERTS):
        return Meaning(_OF_EXPERTS[role], "experts", part, is_buffer)
    if role in _OF_SHARED and any(word in words for word in _SHARED):
        role = _OF_SHARED[role]
    if dimensions < 2 and not role.startswith(("ssm", "router")):
        return Meaning("norm" if "norm" in leaf or leaf.startswith("ln") else "vector", "replicated", part, is_buffer)
    return Meaning(role, split, part, is_buffer)


def _part(lowered: str, words: list[str]) -> Part:
    for part, hints in _PARTS:
        if any(hint in lowered for hint in hints):
            return part
    return "encoder" if words[0] == "encoder" or words[:2] == ["model", "encoder"] else "text"


def _by_block(words: list[str], leaf: str) -> tuple[str, Split] | None:
    """Words that mean one thing in attention and another in an MLP or a state-space block."""
    inside = ".".join(words[:-1]).lower()
    if leaf in ("out_proj", "c_proj", "dense"):
        if any(word in inside for word in _SSM_WORDS) and leaf == "out_proj":
            return "ssm_out", "rows"
        return ("attn_o" if any(word in inside for word in _ATTENTION_WORDS) else "mlp_down"), "rows"
    if leaf in ("output", "head") and "{layer}" not in words:
        return "lm_head", "vocab"
    if leaf == "gate" and not any(word in inside for word in ("moe", "mlp", "feed_forward", "ffn")):
        return "other", "replicated"
    return None
