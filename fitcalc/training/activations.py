"""What the blocks of a model keep for the backward pass: bytes per token of every layer, from its tensors' shapes.

Per token and block of a Llama-shaped model in 16 bit (h hidden, f MLP, kv the width of K, a heads) this comes to
20 h + 4 kv + 8 f + 4 a + 8 when all is trained and to 12 h + 4 kv + 6 f + 4 a + 8 when the weights are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from fitcalc.frozen import dataclass
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.training import Settings

_ATTENTION_IN = {"attn_q", "attn_k", "attn_v", "attn_qkv", "mla_q_a", "mla_kv_a", "attn_gate", "indexer"}
_MLP_IN = {
    "mlp_gate", "mlp_up", "mlp_gate_up", "router", "shared_gate", "shared_up", "shared_gate_up", "shared_router",
    "expert_gate", "expert_up", "expert_gate_up",
}  # fmt: skip
_MIXER_IN = {"linear_in", "ssm_in", "ssm_x", "ssm_dt"}
_GATES = {"mlp_gate", "shared_gate", "expert_gate"}
_UPS = {"mlp_up", "shared_up", "expert_up"}
_FUSED_UPS = {"mlp_gate_up", "shared_gate_up", "expert_gate_up"}
_DOWNS = {"mlp_down", "shared_down", "expert_down"}
_MIXER_OUT = {"linear_out", "ssm_out"}
GROUPS = {
    **dict.fromkeys(_ATTENTION_IN, "attention"),
    **dict.fromkeys(_MLP_IN, "mlp"),
    **dict.fromkeys(_MIXER_IN, "mixer"),
}
"""Linears that read the same normalised input; the others have an input of their own."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes per token that one layer, or several together, keep."""

    norms: int = 0
    attention: int = 0
    scores: int = 0
    """Per token and token of the sequence."""
    mlp: int = 0
    adapters: int = 0
    unseen: int = 0
    """Of these, what the first layer does not keep when its input needs no gradient."""
    moving: int = 0
    """Gradients that are alive beside it while the layer is gone through backwards: three of the MLP's width and two
    of the hidden one."""

    @property
    def total(self) -> int:
        """All but what grows with the length."""
        return self.norms + self.attention + self.mlp + self.adapters


def summed(layers: Iterable[Kept]) -> Kept:
    """Several layers together."""
    rows = list(layers)
    return Kept(*(sum(getattr(row, name) for row in rows) for name in Kept.__match_args__))


def text_layers(model: ModelSpec) -> list[list[Tensor]]:
    """The tensors of each layer of the language model."""
    rows: list[list[Tensor]] = [[] for _ in range(model.layers)]
    for tensor in model.tensors:
        if tensor.part == "text" and not tensor.is_buffer:
            for layer in tensor.layers:
                rows[layer].append(tensor)
    return rows


def kept_by_layer(
    model: ModelSpec, settings: Settings, wrapped: frozenset[str], first_trained: int, *, quantized: bool
) -> list[Kept]:
    """What each layer keeps. `wrapped`: names of the tensors with adapters; layers before `first_trained` keep nothing
    (freeze). Layers of the same tensors are computed once."""
    rows = text_layers(model)
    result: list[Kept] = []
    for names, group in groupby(rows, key=lambda row: tuple(tensor.name for tensor in row)):
        count, row = len(list(group)), rows[len(result)]
        result += [_layer(model, settings, row, wrapped, quantized=quantized)] * (count if names else 1)
        if not names:
            result += [Kept()] * (count - 1)
    return [Kept() if index < first_trained else kept for index, kept in enumerate(result)]


def _layer(
    model: ModelSpec, settings: Settings, row: Sequence[Tensor], wrapped: frozenset[str], *, quantized: bool
) -> Kept:
    trained = settings.method in ("full", "freeze")
    by_role: dict[str, Tensor] = {}
    for tensor in row:
        by_role.setdefault(tensor.role, tensor)
    norms = sum(_norm(tensor, model, settings, by_role, trained=trained) for tensor in row if _is_norm(tensor))
    attention, scores = _attention(model, settings, by_role)
    attention += sum(_mixer(tensor, settings) for tensor in row)
    mlp = sum(_mlp(tensor, settings) for tensor in row)
    inputs = _inputs(row, settings, wrapped, trained=trained, quantized=quantized)
    adapters, drops = _adapters(row, settings, wrapped)
    unseen = 0
    if not trained and not settings.checkpointing:
        first = next((tensor for tensor in row if _is_norm(tensor)), None)
        unseen = drops + (_norm(first, model, settings, by_role, trained=False) if first else 0)
    wide = max((tensor.shape[0] * tensor.active for tensor in row if tensor.role in _UPS), default=0)
    half = max((tensor.shape[0] * tensor.active // 2 for tensor in row if tensor.role in _FUSED_UPS), default=0)
    moving = settings.compute_bytes * (3 * max(wide, half) + 2 * model.hidden)
    return Kept(norms, attention, scores, mlp + inputs, adapters, unseen, moving)


def _is_norm(tensor: Tensor) -> bool:
    return tensor.role == "norm" and len(tensor.shape) == 1 and not tensor.name.endswith("bias")


def _norm(tensor: Tensor, model: ModelSpec, settings: Settings, by_role: dict[str, Tensor], *, trained: bool) -> int:
    """RMS norms keep a float32 copy of their input and a float32 per row, and when trained the normalised input; a
    compiled block and a layer norm (with a bias) keep the input itself. Under autocast the residual stream and what the
    norms return are float32 and are cast for the products: 10 bytes more per element of a block's hidden state."""
    width, rows = _norm_width(tensor, model, by_role), 1
    if tensor.shape[0] < width:
        rows = width // tensor.shape[0]
    wide = 5 * width if settings.precision == "mixed" else 0
    if settings.compiled or any(other.name == tensor.name.replace("weight", "bias") for other in model.tensors):
        return settings.compute_bytes * width + 8 * rows + wide
    return 4 * width + 4 * rows + wide + (settings.compute_bytes * width if trained else 0)


def _norm_width(tensor: Tensor, model: ModelSpec, by_role: dict[str, Tensor]) -> int:
    """The width of what is normalised: per-head norms have the shape of one head."""
    size = tensor.shape[0]
    if size in (model.hidden,) or ("attn_o" not in by_role and "linear_out" not in by_role):
        return size
    if "attn_o" not in by_role:
        return by_role["linear_out"].shape[-1]
    if size < model.hidden and "k_" in tensor.name and "attn_k" in by_role:
        return max(size, by_role["attn_k"].shape[0])
    if size < model.hidden and "q_" in tensor.name:
        return max(size, by_role["attn_o"].shape[-1])
    return size


def expands_kv(settings: Settings) -> bool:
    """K and V are repeated to all heads: eager attention, an explicit mask, or a trainer that always does."""
    masked = settings.padded and settings.attention == "sdpa"
    return settings.attention == "eager" or masked or settings.trainer.expands_kv


def _attention(model: ModelSpec, settings: Settings, by_role: dict[str, Tensor]) -> tuple[int, int]:
    """(bytes per token, bytes per token and token of the sequence): q, k, v after their rotation, the output, and the
    kernel's log-sum or the scores."""
    if "attn_o" not in by_role:
        return 0, 0
    size, out = settings.compute_bytes, by_role["attn_o"].shape[-1]
    width = size * (out + _query_key_value(settings, by_role, out))
    if settings.attention == "eager":
        return width, model.heads * (6 if size == 2 else 4)
    if settings.trainer.unfused_mqa and model.kv_heads == 1:
        return width, model.heads * size
    mask = size if settings.padded and settings.attention == "sdpa" else 0
    return width + 4 * model.heads, mask


def _query_key_value(settings: Settings, by_role: dict[str, Tensor], out: int) -> int:
    """Elements of q, k and v per token; a v that is a view keeps the whole output of a fused projection."""
    if "mla_kv_b" in by_role:
        query = by_role.get("mla_q_b") or by_role.get("attn_q")
        return 2 * (query.shape[0] if query else out) + by_role["mla_kv_b"].shape[0]
    fused = by_role.get("attn_qkv")
    rows = (
        fused.shape[0]
        if fused
        else sum(by_role[role].shape[0] for role in ("attn_q", "attn_k", "attn_v") if role in by_role)
    )
    gated = 0
    if fused is None and "attn_q" in by_role and by_role["attn_q"].shape[0] > out:
        gated, rows = 2 * (by_role["attn_q"].shape[0] - out), rows - (by_role["attn_q"].shape[0] - out)
    pair = max(rows - out, 0)
    if expands_kv(settings) and pair < 2 * out:
        return 3 * out + gated
    if fused or settings.trainer.fuses_qkv:
        return out + pair // 2 + rows + gated
    return out + pair + gated


def _mixer(tensor: Tensor, settings: Settings) -> int:
    """Linear attention and state space layers: their projections' outputs, twice (before and after convolution or
    gate), and what enters the last one. No kernel was measured: an estimate."""
    if tensor.role in _MIXER_IN:
        return 2 * settings.compute_bytes * tensor.shape[0]
    return 2 * settings.compute_bytes * tensor.shape[-1] if tensor.role in _MIXER_OUT else 0


def _mlp(tensor: Tensor, settings: Settings) -> int:
    """The gate and its activation, the other half, and for experts what is gathered and scattered for each of them."""
    size, rows, width = settings.compute_bytes, tensor.shape[0], 0
    if tensor.role in _GATES:
        width = rows if settings.compiled else 2 * rows
    elif tensor.role in _UPS:
        width = rows
    elif tensor.role in _FUSED_UPS:
        width = rows if settings.compiled else rows + rows // 2
    moved = 2 * tensor.shape[0] if tensor.role == "expert_down" else 0
    return size * (width + moved) * tensor.active


def _inputs(
    row: Sequence[Tensor], settings: Settings, wrapped: frozenset[str], *, trained: bool, quantized: bool
) -> int:
    """Inputs of linears that nothing else keeps: one per group, and the product that enters the last of an MLP.

    A trained linear needs its input, so does an adapter of the same type that drops nothing.
    """
    size, shared = settings.compute_bytes, settings.trainer.adapter_bytes == settings.compute_bytes
    same = shared and not settings.dropout
    old = quantized and settings.trainer.keeps_quantized_inputs
    needed = [
        tensor
        for tensor in row
        if len(tensor.shape) > 1 and (trained or old or (same and tensor.name in wrapped)) and tensor.role != "attn_o"
    ]
    groups = {GROUPS[tensor.role]: tensor.shape[-1] for tensor in needed if tensor.role in GROUPS}
    downs = sum(tensor.shape[-1] * tensor.active for tensor in needed if tensor.role in _DOWNS)
    return size * (sum(groups.values()) + downs)


def _adapters(row: Sequence[Tensor], settings: Settings, wrapped: frozenset[str]) -> tuple[int, int]:
    """(bytes per token of all adapters, of these the masks that a first layer does not keep).

    An adapter keeps its own copy of its input where that has another type or loses a share, the mask of the drop (a
    byte per element), and its low-rank product. DoRA also keeps both results before they are scaled.
    """
    own, trainer = settings.trainer.adapter_bytes, settings.trainer
    parts = [tensor for tensor in row if tensor.role in ("attn_q", "attn_k", "attn_v")]
    padded = trainer.fuses_qkv and not all(tensor.name in wrapped for tensor in parts)
    copies = settings.dropout or own != settings.compute_bytes
    seen: set[str] = set()
    total = masks = 0
    for tensor in row:
        if tensor.name not in wrapped:
            continue
        group = GROUPS.get(tensor.role, tensor.name)
        once = trainer.fuses_qkv and group == "attention"
        width = tensor.shape[-1] * tensor.active
        if not (once and group in seen):
            total += own * width if copies else 0
            total += width if settings.dropout else 0
            masks += width if settings.dropout and group == "attention" else 0
        seen.add(group)
        total += own * settings.rank * tensor.active
        total += own * tensor.shape[0] if once and padded else 0
        total += 2 * own * tensor.shape[0] if settings.method == "dora" else 0
    return total, masks


def head_bytes(model: ModelSpec, settings: Settings) -> int:
    """Per token, beside the logits: the last norm's float32 copy, and when trained its output and the head's input."""
    size = settings.compute_bytes
    first = size if settings.compiled else 4
    more = 2 * size if settings.method == "full" else 0
    return (first + more) * model.hidden + 12


def rotary_bytes(model: ModelSpec, settings: Settings) -> int:
    """Per position: the cosines and sines that the rotations keep, once for a batch."""
    if settings.checkpointing or model.rope is None:
        return 0
    return 2 * settings.compute_bytes * model.rope.rotary_dim
