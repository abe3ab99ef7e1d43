"""Parameter counts of dense decoders against the closed forms of their papers and classes, for any shape.

The forms are text in the letters of the papers: h hidden, f MLP width, L layers, V vocabulary, n positions, d head
dimension, q and k the widths of all query and all key heads.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc.architectures import from_config

Sizes = dict[str, int]

LAYER = "(h*q + 2*h*k + q*h + 3*h*f + 2*h)"
"""Q, K, V and output, a gated MLP, two norms."""

FORMS = {
    "llama": f"2*V*h + L*{LAYER} + h",
    "phi3": f"2*V*h + L*{LAYER} + h",
    "qwen2": f"2*V*h + L*({LAYER} + q + 2*k) + h",
    "qwen3": f"2*V*h + L*({LAYER} + 2*d) + h",
    "qwen": f"2*V*h + L*({LAYER} + 3*q) + h",
    "internlm": f"2*V*h + L*({LAYER} + 3*q + h) + h",
    "gemma2": f"V*h + L*({LAYER} + 2*h) + h",
    "gemma3_text": f"V*h + L*({LAYER} + 2*h + 2*d) + h",
    "olmo2": f"2*V*h + L*({LAYER} + q + k) + h",
    "cohere": f"V*h + L*({LAYER} - h) + h",
    "starcoder2": "V*h + L*(2*h*q + 2*h*k + q + 2*k + h + 2*h*f + f + h + 4*h) + 2*h",
    "phi": "2*V*h + V + L*(4*h*h + 4*h + 2*h*f + f + h + 2*h) + 2*h",
    "gpt2": "V*h + n*h + L*(12*h*h + 13*h) + 2*h",
    "gptj": "2*V*h + V + L*(12*h*h + 5*h + 2*h) + 2*h",
    "gpt_bigcode": "V*h + n*h + L*(h*(h + 2*d) + h + 2*d + h*h + h + 8*h*h + 5*h + 4*h) + 2*h",
    "gpt_neox": "2*V*h + L*(12*h*h + 13*h) + 2*h",
    "bloom": "V*h + 2*h + L*(12*h*h + 13*h) + 2*h",
    "mpt": "V*h + L*(12*h*h + 2*h) + h",
    "opt": "V*h + (2 + n)*h + L*(12*h*h + 13*h) + 2*h",
    "falcon": "V*h + L*(h*(h + 2*d) + h*h + 8*h*h + 2*h) + 2*h",
}
MULTI_HEAD = ("internlm", "phi", "qwen")
"""Forms that are written for as many K and V heads as heads."""


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    """Shapes whose heads fill the hidden width; `kv` divides `heads`."""
    kv_heads, group, head_dim = draw(st.integers(1, 4)), draw(st.integers(1, 4)), 2 * draw(st.integers(1, 8))
    width, layers = draw(st.integers(1, 99)), draw(st.integers(1, 5))
    heads = kv_heads * group
    return {
        "h": heads * head_dim, "heads": heads, "kv": kv_heads, "d": head_dim, "f": width, "L": layers,
        "V": draw(st.integers(1, 200)), "n": draw(st.integers(1, 64)),
    }  # fmt: skip


def config_of(model_type: str, s: Sizes) -> dict[str, Any]:
    """The sizes in the keys that the family writes."""
    h, layers, heads, vocab, positions = s["h"], s["L"], s["heads"], s["V"], s["n"]
    kv_heads = heads if model_type in MULTI_HEAD else s["kv"]
    standard = {"hidden_size": h, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab}
    gpt = {"n_embd": h, "n_layer": layers, "n_head": heads, "vocab_size": vocab, "n_positions": positions}
    own: dict[str, dict[str, Any]] = {
        "gpt2": gpt,
        "gptj": gpt,
        "gpt_bigcode": gpt,
        "gpt_neox": {**standard, "intermediate_size": 4 * h},
        "bloom": {"hidden_size": h, "n_layer": layers, "n_head": heads, "vocab_size": vocab},
        "falcon": {"hidden_size": h, "n_layer": layers, "n_head": heads, "vocab_size": vocab},
        "mpt": {"d_model": h, "n_layers": layers, "n_heads": heads, "vocab_size": vocab},
        "opt": {**standard, "ffn_dim": 4 * h, "max_position_embeddings": positions},
        "qwen": {**standard, "intermediate_size": 2 * s["f"]},
    }
    gated = {**standard, "num_key_value_heads": kv_heads, "head_dim": s["d"], "intermediate_size": s["f"]}
    return {"model_type": model_type, **own.get(model_type, gated)}


@pytest.mark.parametrize("model_type", FORMS)
@settings(max_examples=25, deadline=None)
@given(s=sizes())
def test_counts_follow_the_closed_form(model_type: str, s: Sizes) -> None:
    kv_heads = s["heads"] if model_type in MULTI_HEAD else s["kv"]
    letters = {**s, "q": s["heads"] * s["d"], "k": kv_heads * s["d"]}
    expected = eval(FORMS[model_type], {"__builtins__": {}}, letters)
    spec = from_config(config_of(model_type, s))
    assert (spec.params_total, spec.params_active) == (expected, expected)
