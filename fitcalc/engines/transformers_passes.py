"""Passes of encoders in Transformers: of text encoders, of the encoders of encoder-decoders, of images and of sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fitcalc.formulas import media, runtime
from fitcalc.ledger import Input, Term, computed
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.workload import Media
from fitcalc.units import most


def encoder_pass(model: ModelSpec, profile: EngineProfile, elem_bytes: int, tokens: Any, requests: Any) -> Term:
    """The peak of a batch through a bidirectional encoder; `tokens` are those of a request, or the fixed window that
    an encoder-decoder hears. An answer is generated from its outputs afterwards, one token at a time."""
    window = next((layer.window_tokens for layer in model.cache_layers if layer.kind == "cross"), 0)
    known = profile.constants["encoder_states"]
    states = known.get(model.model_type) or known["gated" if model.gated_mlp else "plain"]
    seen, scores = window or tokens, states.get("scores", False)
    mlp_states = states["mlp"] if model.gated_mlp else states.get("plain_mlp", states["mlp"])
    own = computed(
        "activations", media.encoder_bytes, "estimated", requests=requests, elem_bytes=elem_bytes, tokens=seen,
        mlp_states=mlp_states, width=model.intermediate, block_states=states["block"], hidden=model.hidden,
        input_elems=_spectra(model) if window else 0, mask_bytes=0 if window or scores else 1, sources=profile.sources,
    )  # fmt: skip
    if not scores:
        return own
    scored = computed(
        "activations", media.scored_bytes, "estimated", requests=requests, elem_bytes=elem_bytes, tokens=seen,
        heads=model.heads, head_dim=model.head_dim, hidden=model.hidden, sources=profile.sources,
    )  # fmt: skip
    larger = runtime.larger(one_bytes=own.bytes, other_bytes=scored.bytes)
    text = f"most({own.formula}, {scored.formula})"
    inputs = {item.name: item for item in (*own.inputs, *scored.inputs)}
    return Term("activations", larger, larger, larger, "estimated", text, tuple(inputs.values()))


def _spectra(model: ModelSpec) -> int:
    """Elements of the two spectra that become one position of an encoder of sound; 0 for encoders of text."""
    fronts = [t.shape[1] for t in model.tensors if t.part == "encoder" and t.role == "conv" and len(t.shape) == 3]
    return 2 * fronts[0] if fronts else 0


def media_term(
    model: ModelSpec, profile: EngineProfile, asked: Media, elem_bytes: int, text_bytes: Any, requests: Any
) -> Iterator[Term]:
    """What the encoders of images and sound add to the text model's peak; nothing where a request holds neither."""
    if model.kind == "encoder-decoder" and not asked.positions:
        return
    seen = {"vision": asked.positions, "audio": asked.sound_positions}
    passes = [_pass(model, profile, part, count, elem_bytes, requests) for part, count in seen.items() if count]
    if not passes:
        return
    largest = max(passes, key=lambda size: size if isinstance(size, int) else 0)
    outputs = asked.tokens * requests * model.hidden * elem_bytes
    size = media.added_bytes(outputs_bytes=outputs, pass_bytes=largest, text_bytes=text_bytes)
    over = profile.constants["encoder_over_permille"]
    low, high = most(outputs, size - largest * over // 1000), size + largest * over // 1000
    inputs = (Input("outputs_bytes", outputs), Input("pass_bytes", largest), Input("text_bytes", text_bytes))
    note = "encoder of images and sound, as far as it exceeds the text model's peak"
    yield Term("vision", size, low, high, "estimated", media.added_bytes.text, inputs, note)


def _pass(model: ModelSpec, profile: EngineProfile, part: str, positions: int, elem_bytes: int, requests: Any) -> Any:
    """The peak of one encoder: its widest MLP, and the outputs of all layers where the class asks for them."""
    hidden, width, layers = tower_shape([tensor for tensor in model.tensors if tensor.part == part])
    states: Mapping[str, int] = profile.constants["encoder_states"]["tower"]
    kept = layers if part == "vision" and model.model_type in profile.constants["keeps_hidden_states"] else 0
    return media.encoder_bytes(
        requests=requests, elem_bytes=elem_bytes, tokens=positions, mlp_states=states["mlp"], width=width,
        block_states=states["block"] + kept, hidden=hidden, input_elems=0, mask_bytes=0,
    )  # fmt: skip


def tower_shape(tower: list[Tensor]) -> tuple[int, int, int]:
    """(hidden width, MLP width, layers) of a tower; the MLP's width is its largest matrix in the layers where no role
    names it."""
    inside = [t for t in tower if t.layers and t.is_linear and len(t.shape) == 2]
    named = [t.shape[0] for t in inside if t.role in ("mlp_up", "mlp_gate")]
    attended = [t.shape[-1] for t in inside if t.role.startswith("attn_")]
    hidden = attended[0] if attended else min((min(t.shape) for t in inside), default=0)
    width = max(named, default=max((max(t.shape) for t in inside), default=0))
    return hidden, width, max((len(t.layers) for t in inside), default=0)


def batch_note(model: ModelSpec) -> str:
    """What the figure is the peak of."""
    one = "Transformers runs one batch at a time; the figure is its peak"
    if model.kind == "encoder":
        return f"{one}, every text of it filled up to the context"
    if model.kind == "encoder-decoder":
        heard = any(layer.kind == "cross" and layer.window_tokens for layer in model.cache_layers)
        seen = "one window of sound per request" if heard else "the whole context as prompt and as answer"
        return f"{one}, with {seen}; beam search (-o num_beams=5) multiplies the cache"
    return f"{one}, with the whole context as prompt"
