"""Llama and the families built like it: pre-norm, separate Q K V O, gated MLP, RMSNorm, rotary positions."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder, rope_of
from fitcalc.architectures.config import Config, flag, head_dim_of, integer, integer_or
from fitcalc.spec.model import ModelSpec


def build(config: Config) -> ModelSpec:
    """llama, mistral-like, granite, exaone … (see the registry): hidden, heads, kv heads, gated MLP."""
    hidden, count = integer(config, "hidden_size"), integer(config, "num_hidden_layers")
    heads = integer(config, "num_attention_heads")
    kv_heads = integer_or(config, "num_key_value_heads", heads)
    head_dim = head_dim_of(config, hidden, heads)
    width, vocab = integer(config, "intermediate_size"), integer(config, "vocab_size")
    tied = flag(config, "tie_word_embeddings", False)
    attn_bias, mlp_bias = flag(config, "attention_bias", False), flag(config, "mlp_bias", False)
    layers = tuple(range(count))
    block = "model.layers.{layer}"
    tensors = [
        blocks.embedding("model.embed_tokens", vocab, hidden),
        *blocks.attention(
            f"{block}.self_attn", hidden, heads, kv_heads, head_dim, layers, qkv_bias=attn_bias, out_bias=attn_bias
        ),
        *blocks.gated_mlp(f"{block}.mlp", hidden, width, layers, bias=mlp_bias),
        *blocks.norm(f"{block}.input_layernorm", hidden, layers),
        *blocks.norm(f"{block}.post_attention_layernorm", hidden, layers),
        *blocks.norm("model.norm", hidden),
        *blocks.lm_head(vocab, hidden, tied=tied),
    ]
    return decoder(
        config,
        tensors=tensors,
        cache=blocks.full_cache(layers, kv_heads, head_dim),
        layers=count,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=width,
        vocab=vocab,
        tied=tied,
        attention=blocks.attention_label(heads, kv_heads),
        rope=rope_of(config, head_dim),
    )
