"""The ledgers of a llama.cpp plan: cards and the host beside them, a GPU that shares the host's memory, a processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fitcalc.engines import llama_cpp_terms as terms
from fitcalc.engines.base import DeviceLedger
from fitcalc.engines.llama_cpp_layout import Share
from fitcalc.engines.llama_cpp_plan import Prepared, shape_at
from fitcalc.engines.llama_cpp_settings import Shape
from fitcalc.formulas.mmproj import vision_buffer_bytes
from fitcalc.frozen import replace
from fitcalc.ledger import Input, Term
from fitcalc.quantization import mmproj
from fitcalc.quantization.mmproj import has_towers
from fitcalc.spec.hardware import Device
from fitcalc.spec.report import LayerShare
from fitcalc.units import format_gib


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of every card in rank order and of the host, or of the one device whose memory is shared."""
    shape = shape_at(prepared, context_tokens, concurrency)
    return *_devices(prepared, shape), *([_host(prepared, shape)] if _has_host(prepared) else [])


def deciding(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The same without a host that carries overhead alone."""
    shape = shape_at(prepared, context_tokens, concurrency)
    with_host = _has_host(prepared) and _host_decides(prepared)
    return *_devices(prepared, shape), *([_host(prepared, shape)] if with_host else [])


def on_cards(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of every card alone."""
    return _devices(prepared, shape_at(prepared, context_tokens, concurrency))


def _devices(prepared: Prepared, shape: Shape) -> tuple[DeviceLedger, ...]:
    if not prepared.machine.gpus:
        return (_processor(prepared, shape),)
    if prepared.is_shared_memory:
        return (_shared(prepared, shape),)
    return tuple(_cards(prepared, shape))


def _cards(prepared: Prepared, shape: Shape) -> Iterator[DeviceLedger]:
    """Every card; of those alike that hold alike the terms are made once."""
    first, found = _first(prepared), dict[tuple[Any, ...], DeviceLedger]()
    for device, share in zip(prepared.machine.gpus, prepared.cards, strict=True):
        key = (device.id, device.usable_bytes, share.rank == first, replace(share, rank=0))
        if key not in found:
            found[key] = _card(prepared, shape, device, share)
        yield replace(found[key], rank=share.rank)


def _has_host(prepared: Prepared) -> bool:
    """The host's memory is another than the device's."""
    return bool(prepared.machine.gpus) and not prepared.is_shared_memory


def _host_decides(prepared: Prepared) -> bool:
    return prepared.uses_host or prepared.machine.ram_bytes is not None


def _copies(prepared: Prepared) -> int:
    """Copies of the graph's inputs: execution is pipelined where all layers and caches are on several cards."""
    busy = sum(1 for share in prepared.cards if share.layers or share.has_output)
    pipelined = busy > 1 and not prepared.uses_host
    return int(prepared.profile.constants["pipeline_copies"]) if pipelined else 1


def _first(prepared: Prepared) -> int:
    """The card where the graph begins, and where the host's part is fetched to."""
    return next((share.rank for share in prepared.cards if share.layers or share.has_output), 0)


def _place(prepared: Prepared, share: Share) -> terms.Place:
    first = _first(prepared)
    fetches = prepared.uses_host and prepared.settings.offloads_batches and share.rank == first
    vendor = prepared.machine.gpus[share.rank].vendor
    return terms.Place(
        copies=_copies(prepared),
        is_first=share.rank == first,
        host=prepared.host if fetches else None,
        converts_cache=vendor in prepared.profile.constants["row_step"],
    )


def _compute(prepared: Prepared, shape: Shape, share: Share) -> Term:
    place = _place(prepared, share)
    kind = "offload" if prepared.uses_host else "cards" if place.copies > 1 else "card"
    return terms.compute(share, prepared.graph, prepared.settings, shape, prepared.profile.constants, place, kind)


def _card(prepared: Prepared, shape: Shape, device: Device, share: Share) -> DeviceLedger:
    parts: list[Term] = []
    if share.weights_bytes or share.layers:
        parts = [terms.weights(share, _held(prepared, share)), *terms.cache(share, shape, prepared.settings)]
    first = _first(prepared)
    if parts and not share.layers and not share.has_output and share.rank != first:
        # Rows of matrices alone: no graph runs here.
        parts += list(terms.context(device, prepared.profile.constants))
    elif parts or share.rank == first:
        place = _place(prepared, share)
        parts += [_compute(prepared, shape, share), *terms.context(device, prepared.profile.constants)]
        parts += list(terms.pools(prepared.graph, prepared.settings, shape, place)) if share.layers else []
        parts += list(_towers(prepared, on_card=True)) if share.rank == first else []
    parts += list(terms.others(prepared.machine.gpu_used_bytes))
    capacity, usable = device.memory_bytes, device.usable_bytes
    return DeviceLedger(device.id, device.name, share.rank, capacity, usable, tuple(parts), layers=_layer_share(share))


def _layer_share(*shares: Share) -> LayerShare:
    """The layers that the shares of one device hold."""
    experts = [share.expert_layers for share in shares if share.expert_layers is not None]
    return LayerShare(
        repeating=sum(share.layers for share in shares),
        experts=sum(experts) if experts else None,
        output=any(share.has_output for share in shares),
    )


def _held(prepared: Prepared, share: Share) -> str:
    """What of the model is here, in words."""
    if prepared.rules.row_shares and share.weights_bytes:
        whole = f"{share.layers} layers' caches, " if share.layers else ""
        return f"{whole}its rows of every matrix"
    words = [f"{share.layers} layers"] if share.layers else []
    tied = not any(entry.tensor.role == "lm_head" for entry in prepared.stored)
    if share.has_output:
        words.append("a copy of the tied embedding" if tied else "the output matrix")
    return " and ".join(words)


def _host(prepared: Prepared, shape: Shape) -> DeviceLedger:
    settings, constants = prepared.settings, prepared.profile.constants
    parts = (
        terms.weights(prepared.host, _mapped_note(prepared)),
        *terms.cache(prepared.host, shape, settings),
        terms.host_compute(
            prepared.graph,
            settings,
            shape,
            constants,
            _copies(prepared),
            holds_cache=prepared.host.largest_cell_bytes > 0,
        ),
        terms.output(prepared.graph, shape),
        *_towers(prepared, on_card=False),
    )
    ram, cpu = prepared.machine.ram_bytes, prepared.machine.cpu
    name = cpu.name if cpu else "Host memory"
    capacity = cpu.memory_bytes if cpu and ram is not None else ram
    decides, layers = _host_decides(prepared), _layer_share(prepared.host)
    return DeviceLedger("host", name, len(prepared.cards), capacity, ram, parts, decides, layers)


def _processor(prepared: Prepared, shape: Shape) -> DeviceLedger:
    """A machine without cards: everything in RAM."""
    cpu, settings, constants = prepared.machine.cpu, prepared.settings, prepared.profile.constants
    place = terms.Place(embeds=True)
    parts = (
        terms.weights(prepared.host, _mapped_note(prepared)),
        *terms.cache(prepared.host, shape, settings),
        terms.compute(prepared.host, prepared.graph, settings, shape, constants, place, "cpu"),
        terms.output(prepared.graph, shape),
        *_towers(prepared, on_card=True),
        *_towers(prepared, on_card=False),
    )
    ram = prepared.machine.ram_bytes if cpu is None or cpu.usable_bytes is None else cpu.usable_bytes
    identity = (cpu.id, cpu.name) if cpu else ("host", "Host memory")
    capacity = cpu.memory_bytes if cpu else ram
    return DeviceLedger(*identity, 0, capacity, ram, parts, layers=_layer_share(prepared.host))


def _shared(prepared: Prepared, shape: Shape) -> DeviceLedger:
    """A GPU that shares the system's memory: the host's part stands beside its own; mapped weights count once."""
    device, card, host = prepared.machine.gpus[0], prepared.cards[0], prepared.host
    settings, constants = prepared.settings, prepared.profile.constants
    parts = (
        terms.weights(_joined(card, host), _mapped_note(prepared)),
        *terms.cache(_joined(card, host), shape, settings),
        _compute(prepared, shape, card),
        *terms.context(device, constants),
        replace(
            terms.host_compute(prepared.graph, settings, shape, constants, 1, holds_cache=False),
            note="the host's: token ids, embeddings, inputs",
        ),
        terms.output(prepared.graph, shape),
        *_towers(prepared, on_card=True),
        *_towers(prepared, on_card=False),
        *terms.others(prepared.machine.gpu_used_bytes),
    )
    layers = _layer_share(card, host)
    return DeviceLedger(device.id, device.name, 0, device.memory_bytes, device.usable_bytes, parts, layers=layers)


def _joined(card: Share, host: Share) -> Share:
    """Weights and caches of both sides in one."""
    summed = ("weights_bytes", "head_bytes", "cell_bytes", "window_cell_bytes", "padding_bytes")
    sums = {name: getattr(card, name) + getattr(host, name) for name in (*summed, "conv_elems", "state_elems")}
    return replace(card, **sums)


def tower_bytes(prepared: Prepared) -> int:
    """Vision or audio towers and their compute buffer, where they are loaded on the cards; else 0."""
    return sum(term.bytes for term in _towers(prepared, on_card=True))


def _tower_buffer(prepared: Prepared) -> tuple[int, int, int, str]:
    """(bytes, low, high, source) of a tower's compute buffer: as given, else of the largest image that is usual.

    Images of a fixed size have as many patches as the position table has rows; others get at least the usual number.
    """
    given, constants = prepared.settings.tower_buffer_bytes, prepared.profile.constants
    if given:
        return given, given, given, "option mmproj_buffer_bytes"
    widths, heads = mmproj.tower_widths(prepared.model), constants["tower_heads"]
    if not widths:
        size = int(constants["tower_buffer"])
        return size, 0, 2 * size, prepared.profile.sources.get("tower_buffer", "")
    scores = 0 if prepared.settings.flash else heads
    usual = widths | {"patches": max(widths["patches"], constants["tower_patches"])}
    size = vision_buffer_bytes(score_heads=scores, **usual)
    low = vision_buffer_bytes(score_heads=0, **(widths if widths["patches"] else usual))
    return size, low * 95 // 100, size * 110 // 100, vision_buffer_bytes.text


def _towers(prepared: Prepared, *, on_card: bool) -> Iterator[Term]:
    """Vision or audio towers of a separate mmproj file, loaded on request; mmproj_offload says where."""
    model, settings = prepared.model, prepared.settings
    if has_towers(model) and settings.towers and on_card == settings.towers_on_card and prepared.scheme.ggml:
        size = mmproj.mmproj_bytes(model, prepared.scheme.ggml)
        buffer, low, high, source = _tower_buffer(prepared)
        inputs = (Input("tensor_bytes", size, "the mmproj file in F16"), Input("buffer_bytes", buffer, source))
        note = "the mmproj file in F16 and its compute buffer"
        yield Term(
            "vision", size + buffer, size + low, size + high, "estimated", "tensor_bytes + buffer_bytes", inputs, note
        )


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """K and V over all devices, as they are allocated."""
    shape = shape_at(prepared, context_tokens, concurrency)
    every = (*prepared.cards, prepared.host)
    return sum(
        term.bytes
        for share in every
        for term in terms.cache(share, shape, prepared.settings)
        if term.name == "kv_cache"
    )


def repacked_bytes(prepared: Prepared) -> int:
    """Bytes that the processor keeps a second time in the order its kernels read."""
    cpu, share = prepared.machine.cpu, prepared.host
    if not prepared.settings.repacked or prepared.cards:
        return 0
    constants = prepared.profile.constants
    words = f"{cpu.arch} {cpu.isa}".lower() if cpu is not None else ""
    is_arm = any(word in words for word in constants["arm_words"])
    names = constants["repacked_types"]["arm" if is_arm else "x86"]
    return sum(size for name, size in share.formats if name in names)


def _mapped_note(prepared: Prepared) -> str:
    where = "mapped from the file" if prepared.settings.mapped else "read from the file"
    repacked = repacked_bytes(prepared)
    if repacked and prepared.settings.mapped:
        return f"mapped; of {format_gib(repacked)} a second copy is repacked; the system can drop the originals"
    held = [f"{prepared.host.layers} layers"] if prepared.cards and prepared.host.layers else []
    if prepared.cards and prepared.rules.cpu_expert_layers:
        held.append(f"experts of {min(prepared.rules.cpu_expert_layers, prepared.model.layers)} layers")
    return ", ".join([*held, where])
