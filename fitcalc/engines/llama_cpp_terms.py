"""The ledger terms of a llama.cpp run: weights, caches and buffers of a card, of the host, or of a processor alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fitcalc.engines.base import context_note
from fitcalc.engines.llama_cpp_graph import Graph
from fitcalc.engines.llama_cpp_layout import Share
from fitcalc.engines.llama_cpp_settings import Settings, Shape
from fitcalc.formulas import ggml
from fitcalc.frozen import dataclass, replace
from fitcalc.ledger import Input, Term, computed, fixed
from fitcalc.spec.hardware import Device

_HALF_BYTES = 2
_SINGLE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Place:
    """A device's part in the graph."""

    copies: int = 1
    """Copies of the graph's inputs (pipelined execution over several cards keeps 4)."""
    is_first: bool = True
    embeds: bool = False
    """Token embeddings are looked up here: everything runs on the host's processor."""
    host: Share | None = None
    """The host's share, where a card has to fetch weights and cache from it."""
    converts_cache: bool = False
    """A card whose kernels want quantized K and V as 16-bit copies."""


def weights(share: Share, note: str = "") -> Term:
    """Tensors on one device."""
    repeating = share.weights_bytes - share.head_bytes
    return computed(
        "weights", ggml.weights_bytes, "exact", note=note, tensor_bytes=repeating, head_bytes=share.head_bytes
    )


def cache(share: Share, shape: Shape, settings: Settings) -> Iterator[Term]:
    """KV cache and recurrent state on one device, as far as it holds any."""
    if share.cell_bytes or share.window_cell_bytes:
        yield computed(
            "kv_cache",
            ggml.cache_bytes,
            "exact",
            note=f"K {settings.type_k}, V {settings.type_v}",
            streams=shape.streams,
            cells=shape.cells,
            cell_bytes=share.cell_bytes,
            window_cells=shape.window_cells,
            window_cell_bytes=share.window_cell_bytes,
            padding_bytes=share.padding_bytes,
        )
    if share.conv_elems or share.state_elems:
        yield computed(
            "state",
            ggml.state_bytes,
            "exact",
            sequences=shape.sequences,
            conv_elems=share.conv_elems,
            state_elems=share.state_elems,
        )


def inputs_bytes(graph: Graph, settings: Settings, shape: Shape, rules: dict[str, Any], copies: int) -> Any:
    """Inputs of the graph on one backend."""
    words = 1
    if graph.caches:
        per_cache = 4 if settings.flash else 2 + 2 * graph.value_width
        words += graph.caches * (per_cache if rules["value_indices"] else 0)
    return ggml.input_bytes(
        copies=copies,
        ubatch=shape.tokens,
        mask_bytes=_HALF_BYTES if settings.flash else _SINGLE_BYTES,
        mask_cells=shape.cells + shape.window_cells,
        index_width=words,
    )


def compute(
    share: Share, graph: Graph, settings: Settings, shape: Shape, rules: dict[str, Any], place: Place, kind: str
) -> Term:
    """The compute buffer of one device; `kind` names the spread that records of such runs have."""
    inputs = inputs_bytes(graph, settings, shape, rules, place.copies)
    held = _held_width(graph, place, rules)
    parts = {
        "logits_bytes": _logits(share, graph, shape.tokens, shape.outputs, rules, place, inputs, held),
        "layer_bytes": ggml.layer_bytes(
            inputs_bytes=inputs,
            ubatch=shape.tokens,
            layer_width=graph.mlp_width + (graph.query_width if settings.flash else 0),
            held_width=held,
            copied_bytes=0 if place.host is None else place.host.largest_weight_bytes,
        ),
        "attention_bytes": _attention(graph, settings, shape, inputs, held, place.host),
    }
    term = computed("compute_buffer", ggml.compute_bytes, "estimated", **parts)
    low_percent, high_percent = rules["spread_percent"][kind]
    fewest = term.bytes
    if shape.fewest_outputs is not None:
        logits = _logits(share, graph, shape.tokens, shape.fewest_outputs, rules, place, inputs, held)
        fewest = ggml.compute_bytes(**parts | {"logits_bytes": logits})
    high = term.bytes * high_percent // 100
    if place.host is not None:
        high = high + place.host.largest_weight_bytes
    if place.converts_cache and settings.flash and settings.block_k[0] > 1:
        high = high + shape.streams * shape.cells * _HALF_BYTES * (graph.key_width + graph.value_width)
    # Arrays are not told in words.
    told = isinstance(shape.tokens, int) and isinstance(shape.outputs, int)
    note = f"micro-batch {shape.tokens}, logits of {shape.outputs} tokens" if told else ""
    return replace(term, low_bytes=fewest * low_percent // 100, high_bytes=high, note=note)


def _logits(
    share: Share, graph: Graph, tokens: Any, outputs: Any, rules: dict[str, Any], place: Place, inputs: Any, held: int
) -> Any:
    """The end of a graph with logits of `outputs` tokens, where it is on this device."""
    host = place.host
    fetches_head = host is not None and host.has_output and place.is_first
    ends_here = share.has_output or fetches_head
    # A batch of fewer tokens than this is multiplied on the host.
    is_batch = outputs >= rules["least_offload_batch"]
    kept = 4 * outputs * graph.logits_kept_width + 4 * tokens * held + (inputs if place.copies > 1 else 0)
    return ggml.logits_bytes(
        outputs=outputs if ends_here else 0,
        vocab=graph.vocab,
        hidden=graph.hidden,
        head_bytes=host.fetched_head_bytes * is_batch if host is not None and fetches_head else 0,
        kept_bytes=kept if ends_here else 0,
    )


def _attention(graph: Graph, settings: Settings, shape: Shape, inputs: Any, held: int, host: Share | None) -> Any:
    width = graph.attention_width if not graph.latent else graph.mlp_width
    copied = 0 if host is None else shape.streams * shape.cells * host.largest_cell_bytes
    if settings.flash:
        width = 3 * graph.hidden if host is not None else 0
        copied = copied + (inputs if host is not None and host.largest_cell_bytes else 0)
        for block, elems in ((settings.block_k, graph.key_width), (settings.block_v, graph.value_width)):
            if block == (1, _SINGLE_BYTES):
                # 32-bit K and V are converted to 16 bit for the kernel.
                copied = copied + shape.streams * shape.cells * _HALF_BYTES * elems
                width = max(width, graph.attention_width)
    # Scores of latent attention find room in the query's place while they are no wider than a latent.
    cells = shape.cells * (shape.cells > graph.key_width) if graph.latent else shape.cells
    return ggml.attention_bytes(
        inputs_bytes=inputs,
        ubatch=shape.tokens,
        cells=cells,
        score_heads=0 if settings.flash else graph.heads,
        attention_width=width,
        held_width=held,
        copied_bytes=copied,
    )


def _held_width(graph: Graph, place: Place, rules: dict[str, Any]) -> int:
    """Hidden states that stay alive all through: copies of the embedded tokens, and of what the card before sent."""
    if place.embeds:
        return graph.hidden * int(rules["embedding_copies"])
    if place.copies == 1:
        return 0
    return graph.hidden * place.copies * (1 if place.is_first else 2)


def pools(graph: Graph, settings: Settings, shape: Shape, place: Place) -> Iterator[Term]:
    """What matrix libraries take in use beside the buffers: without flash attention, the scores once more in 16 bit.

    Pools grow with the tokens in the cache and keep what they once had, so that a full cache may find twice this.
    """
    if settings.flash or not place.converts_cache or graph.latent or not graph.caches:
        return
    term = computed(
        "activations",
        ggml.score_copy_bytes,
        "estimated",
        note="scores in 16 bit, taken in use",
        ubatch=shape.tokens,
        cells=shape.cells,
        score_heads=graph.heads,
    )
    yield replace(term, low_bytes=0, high_bytes=2 * term.bytes)


def host_compute(
    graph: Graph, settings: Settings, shape: Shape, rules: dict[str, Any], copies: int, *, holds_cache: bool
) -> Term:
    """The host's compute buffer beside cards; K and V come to it where it holds the cache of some layers."""
    inputs = inputs_bytes(graph, settings, shape, rules, copies)
    fetched = graph.hidden + graph.key_width + graph.value_width if holds_cache else 0
    term = computed(
        "compute_buffer",
        ggml.host_compute_bytes,
        "estimated",
        inputs_bytes=inputs,
        ubatch=shape.tokens,
        copies=copies,
        hidden_width=max((copies + rules["embedding_copies"]) * graph.hidden, fetched),
    )
    low_percent, high_percent = rules["spread_percent"]["host"]
    # Builds until mid 2026 hold the mask here in 32 bit and send it in 16.
    high = term.bytes * high_percent // 100 + (inputs if settings.flash else 0)
    note = "token ids, embeddings, inputs"
    return replace(term, low_bytes=term.bytes * low_percent // 100, high_bytes=high, note=note)


def output(graph: Graph, shape: Shape) -> Term:
    """The host's buffer of logits."""
    return computed(
        "runtime",
        ggml.output_bytes,
        "exact",
        sequences=shape.sequences,
        vocab=graph.vocab,
        note="logits for the caller",
    )


def context(device: Device, rules: dict[str, Any]) -> Iterator[Term]:
    """What the driver takes for the process, on devices where it takes anything."""
    if device.vendor in rules["contextless_vendors"]:
        return
    measured = device.context_bytes
    size = rules["context"]["typical"] if measured is None else measured
    low = rules["context"]["low"] if measured is None else measured
    high = rules["context"]["high"] if measured is None else measured + rules["context_margin"]
    source = rules["context_source"] if measured is None else device.source
    note = "grows with the card" if measured is None else "measured; the high end has a library's workspace beside it"
    note = context_note(device, note)
    inputs = (Input("context_bytes", size, source),)
    yield Term("cuda_context", size, low, high, "estimated", "context_bytes", inputs, note)


def others(used_bytes: int) -> Iterator[Term]:
    """What other programs hold on the card."""
    if used_bytes:
        yield fixed("desktop", used_bytes, "exact", "used_bytes", (Input("used_bytes", used_bytes, "--gpu-used"),))
