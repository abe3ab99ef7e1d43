"""Builders of the tensors that decoder families share: linears, norms, attention, MLP, mixture of experts, MLA.

Each returns a list of Tensor for a set of layers. `prefix` is the checkpoint's module path with `{layer}` in it.
Names are the checkpoint's own, so that an inventory can be held against a safetensors header.
"""

from __future__ import annotations

from collections.abc import Iterable

from fitcalc.spec.model import CacheLayer, Part, Split, Tensor

Layers = tuple[int, ...]


def linear(
    name: str,
    role: str,
    out_width: int,
    in_width: int,
    layers: Layers = (),
    *,
    split: Split = "columns",
    bias: bool = False,
    copies: int = 1,
    active: int = 1,
    part: Part = "text",
    kv_heads: int = 0,
    kv_rows: int = 0,
    dtype: str = "",
) -> list[Tensor]:
    """A linear layer `name` (+ '.weight', '.bias'). The bias follows the output rows; of a row split it is whole."""
    weight = Tensor(
        f"{name}.weight", role, (out_width, in_width), layers, copies, active, split, part, kv_heads, kv_rows, dtype,
        is_linear=True,
    )  # fmt: skip
    if not bias:
        return [weight]
    bias_split: Split = "replicated" if split in ("rows", "replicated") else split
    return [
        weight,
        Tensor(
            f"{name}.bias", "bias", (out_width,), layers, copies, active, bias_split, part, kv_heads, kv_rows, dtype
        ),
    ]


def vector(name: str, role: str, width: int, layers: Layers = (), *, part: Part = "text", dtype: str = "") -> Tensor:
    """A one-dimensional parameter, whole on every rank."""
    return Tensor(name, role, (width,), layers, part=part, dtype=dtype)


def norm(name: str, width: int, layers: Layers = (), *, bias: bool = False, part: Part = "text") -> list[Tensor]:
    """RMSNorm (weight) or LayerNorm (weight and bias)."""
    tensors = [vector(f"{name}.weight", "norm", width, layers, part=part)]
    return [*tensors, vector(f"{name}.bias", "norm", width, layers, part=part)] if bias else tensors


def embedding(
    name: str, rows: int, width: int, *, role: str = "embedding", split: Split = "vocab", part: Part = "text"
) -> Tensor:
    """An embedding table; only the token embedding is divided by tensor parallelism."""
    return Tensor(f"{name}.weight", role, (rows, width), split=split, part=part)


def lm_head(vocab: int, hidden: int, *, tied: bool, bias: bool = False, name: str = "lm_head") -> list[Tensor]:
    """The output projection; when it is the embedding, its bias alone."""
    projection = linear(name, "lm_head", vocab, hidden, split="vocab", bias=bias)
    return projection[1:] if tied else projection


def attention(
    prefix: str,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    layers: Layers,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: tuple[int, int] = (0, 0),
    value_dim: int = 0,
    gated_query: bool = False,
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    norm_names: tuple[str, str] = ("q_norm", "k_norm"),
    part: Part = "text",
) -> list[Tensor]:
    """Separate Q, K, V and output projections. `qk_norm` holds the widths of the query and key norms (0: none)."""
    q_name, k_name, v_name, o_name = names
    v_dim = value_dim or head_dim
    q_width, k_width, v_width = heads * head_dim, kv_heads * head_dim, kv_heads * v_dim
    q_rows = q_width * (2 if gated_query else 1)
    q = linear(f"{prefix}.{q_name}", "attn_q", q_rows, hidden, layers, split="heads", bias=qkv_bias, part=part)
    kv = {"split": "heads", "bias": qkv_bias, "part": part, "kv_heads": kv_heads}
    k = linear(f"{prefix}.{k_name}", "attn_k", k_width, hidden, layers, kv_rows=k_width, **kv)  # type: ignore[arg-type]
    v = linear(f"{prefix}.{v_name}", "attn_v", v_width, hidden, layers, kv_rows=v_width, **kv)  # type: ignore[arg-type]
    o = linear(f"{prefix}.{o_name}", "attn_o", hidden, heads * v_dim, layers, split="rows", bias=out_bias, part=part)
    widths = zip(norm_names, qk_norm, strict=True)
    return [*q, *k, *v, *o, *(t for name, w in widths if w for t in norm(f"{prefix}.{name}", w, layers, part=part))]


def fused_attention(
    prefix: str,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    layers: Layers,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    names: tuple[str, str] = ("qkv_proj", "o_proj"),
    part: Part = "text",
) -> list[Tensor]:
    """One matrix for Q, K and V (Falcon, MPT, BLOOM, GPT-2, StarCoder, Phi-3)."""
    q_width, kv_width = heads * head_dim, 2 * kv_heads * head_dim
    qkv = linear(
        f"{prefix}.{names[0]}", "attn_qkv", q_width + kv_width, hidden, layers, split="heads", bias=qkv_bias,
        kv_heads=kv_heads, kv_rows=kv_width, part=part,
    )  # fmt: skip
    out = linear(f"{prefix}.{names[1]}", "attn_o", hidden, q_width, layers, split="rows", bias=out_bias, part=part)
    return [*qkv, *out]


def mla(
    prefix: str,
    hidden: int,
    heads: int,
    layers: Layers,
    *,
    q_lora: int,
    kv_lora: int,
    nope_dim: int,
    rope_dim: int,
    value_dim: int,
    bias: bool = False,
) -> list[Tensor]:
    """Multi-head latent attention (DeepSeek-V2 and later); `q_lora` 0 means a plain query projection."""
    q_width = heads * (nope_dim + rope_dim)
    if q_lora:
        query = [
            *linear(f"{prefix}.q_a_proj", "mla_q_a", q_lora, hidden, layers, split="replicated", bias=bias),
            *norm(f"{prefix}.q_a_layernorm", q_lora, layers),
            *linear(f"{prefix}.q_b_proj", "mla_q_b", q_width, q_lora, layers),
        ]
    else:
        query = linear(f"{prefix}.q_proj", "attn_q", q_width, hidden, layers)
    kv_width = heads * (nope_dim + value_dim)
    return [
        *query,
        *linear(
            f"{prefix}.kv_a_proj_with_mqa",
            "mla_kv_a",
            kv_lora + rope_dim,
            hidden,
            layers,
            split="replicated",
            bias=bias,
        ),
        *norm(f"{prefix}.kv_a_layernorm", kv_lora, layers),
        *linear(f"{prefix}.kv_b_proj", "mla_kv_b", kv_width, kv_lora, layers),
        *linear(f"{prefix}.o_proj", "attn_o", hidden, heads * value_dim, layers, split="rows", bias=bias),
    ]


def gated_mlp(
    prefix: str,
    hidden: int,
    width: int,
    layers: Layers,
    *,
    bias: bool = False,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    roles: tuple[str, str, str] = ("mlp_gate", "mlp_up", "mlp_down"),
    part: Part = "text",
) -> list[Tensor]:
    """Gate, up and down projections (SwiGLU, GeGLU)."""
    gate, up, down = names
    return [
        *linear(f"{prefix}.{gate}", roles[0], width, hidden, layers, bias=bias, part=part),
        *linear(f"{prefix}.{up}", roles[1], width, hidden, layers, bias=bias, part=part),
        *linear(f"{prefix}.{down}", roles[2], hidden, width, layers, split="rows", bias=bias, part=part),
    ]


def plain_mlp(
    prefix: str,
    hidden: int,
    width: int,
    layers: Layers,
    *,
    bias: bool = True,
    names: tuple[str, str] = ("fc1", "fc2"),
    part: Part = "text",
) -> list[Tensor]:
    """Two matrices around an activation (GPT-2, Falcon, Phi)."""
    return [
        *linear(f"{prefix}.{names[0]}", "mlp_up", width, hidden, layers, bias=bias, part=part),
        *linear(f"{prefix}.{names[1]}", "mlp_down", hidden, width, layers, split="rows", bias=bias, part=part),
    ]


def fused_gated_mlp(
    prefix: str,
    hidden: int,
    width: int,
    layers: Layers,
    *,
    bias: bool = False,
    names: tuple[str, str] = ("gate_up_proj", "down_proj"),
    part: Part = "text",
) -> list[Tensor]:
    """Gate and up in one matrix of 2 x width rows (Phi-3, GLM-4)."""
    return [
        *linear(f"{prefix}.{names[0]}", "mlp_gate_up", 2 * width, hidden, layers, bias=bias, part=part),
        *linear(f"{prefix}.{names[1]}", "mlp_down", hidden, width, layers, split="rows", bias=bias, part=part),
    ]


def experts(
    prefix: str,
    hidden: int,
    width: int,
    count: int,
    used: int,
    layers: Layers,
    *,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    gated: bool = True,
    bias: bool = False,
) -> list[Tensor]:
    """Routed experts: one tensor per projection with `count` copies, of which one token uses `used`."""
    gate, up, down = (f"{prefix}.{{expert}}.{name}" for name in names)
    shared = {"split": "experts", "bias": bias, "copies": count, "active": used}
    up_side = [*linear(up, "expert_up", width, hidden, layers, **shared)]  # type: ignore[arg-type]
    if gated:
        up_side = [*linear(gate, "expert_gate", width, hidden, layers, **shared), *up_side]  # type: ignore[arg-type]
    return [*up_side, *linear(down, "expert_down", hidden, width, layers, **shared)]  # type: ignore[arg-type]


def router(name: str, hidden: int, count: int, layers: Layers, *, bias: bool = False) -> list[Tensor]:
    """The gate that scores experts; whole on every rank, kept in 16 or 32 bit by every exporter."""
    return linear(name, "router", count, hidden, layers, split="replicated", bias=bias)


def full_cache(layers: Iterable[int], kv_heads: int, key_dim: int, value_dim: int = 0) -> list[CacheLayer]:
    """Layers that keep K and V of every token."""
    owned = tuple(layers)
    return [CacheLayer("full", owned, kv_heads, key_dim, value_dim or key_dim)] if owned else []


def window_cache(
    layers: Iterable[int], kv_heads: int, key_dim: int, window_tokens: int, *, chunked: bool = False, value_dim: int = 0
) -> list[CacheLayer]:
    """Layers that keep K and V of the last `window_tokens` (or of one chunk)."""
    owned = tuple(layers)
    kind = "chunked" if chunked else "sliding"
    return [CacheLayer(kind, owned, kv_heads, key_dim, value_dim or key_dim, window_tokens)] if owned else []  # type: ignore[arg-type]


def attention_label(heads: int, kv_heads: int) -> str:
    """mha, mqa or gqa."""
    return "mha" if kv_heads == heads else "mqa" if kv_heads == 1 else "gqa"
