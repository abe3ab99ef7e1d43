"""Other plans: what makes a request fit that does not, smallest change first, and what stands beside one that fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fitcalc import catalog, ledger
from fitcalc import verdict as judge
from fitcalc.catalog import QuantRow
from fitcalc.choice import (
    LEAST_USEFUL_CONTEXT_TOKENS,
    Looked,
    alternative,
    first_fit,
    fits_as_asked,
    look_at,
    offload_words,
    with_offload,
)
from fitcalc.engines.base import kv_block
from fitcalc.frozen import replace
from fitcalc.machine import machine_label, with_cards
from fitcalc.plan import Request, candidates, case_for, preference, smaller_rows, weights_of
from fitcalc.spec.hardware import Device
from fitcalc.spec.quant import Scheme
from fitcalc.spec.report import Alternative
from fitcalc.units import format_asked, format_gib
from fitcalc.verdict import Case

_CARD_COUNTS = (2, 4, 8)
_NODE_COUNTS = (1, 2, 4)
"""More nodes than this are not offered."""
_LEAST_BYTES_PER_PARAM = 0.4
"""No quantization of 3 bits and more is smaller: a model above that needs no closer look."""


def neighbours(
    request: Request, case: Case, looked: tuple[Looked, ...], nearest: Looked | None
) -> Iterator[Alternative]:
    """Beside a plan that fits: the next better quality with what it needs, the next fewer bits with what they give."""
    if nearest is not None and nearest.verdict != "fits" and request.machine.gpus:
        yield from more_cards(request, nearest.case.scheme)
    fewer = [row for row in candidates(request) if row.bits < case.scheme.bits and row.kind in case.profile.quant_kinds]
    smaller = next((entry for row in fewer if (entry := _seen(request, row, looked))), None)
    if smaller is not None and smaller.verdict == "fits" and smaller.row.weights_bytes < weights_of(case):
        gain = f"{format_gib(smaller.row.weights_bytes, 1)} of weights"
        tokens, now = smaller.row.max_context_tokens or 0, judge.max_context_tokens(case, request.concurrency)
        if tokens > now:
            gain += f", {tokens:,} tokens"
        elif (requests := judge.max_concurrency(smaller.case, request.context_tokens)) > 1:
            gain += f", up to {format_asked(request.context_tokens, requests, request.picture_px)}"
        yield alternative(request, smaller.case, (f"{smaller.case.scheme.name}: {gain}",))


def better(request: Request, case: Case, looked: tuple[Looked, ...]) -> Looked | None:
    """The GGUF type just above the plan's own; else the best quantization of the next higher number of bits."""
    above = [row for row in candidates(request) if preference(row) < preference(case.scheme)]
    if case.scheme.kind == "gguf":
        above.reverse()
    else:
        above = [row for row in above if row.bits > case.scheme.bits]
        above.sort(key=lambda row: (row.bits, -row.quality_rank))
    return next((entry for row in above if (entry := _seen(request, row, looked))), None)


def _seen(request: Request, row: QuantRow, looked: tuple[Looked, ...]) -> Looked | None:
    known = next((entry for entry in looked if entry.case.scheme.id == row.id), None)
    return known or look_at(request, row)


def changes(request: Request, case: Case) -> Iterator[Alternative]:
    """What makes a request fit, smallest change first: context, requests, KV type, quantization, cards, model."""
    if case.model.is_unbounded:
        return
    if case.model.makes_images:
        from fitcalc.image_changes import image_changes

        yield from image_changes(request, case)
    else:
        yield from _token_changes(request, case)
    yield from other_quant(request, case)
    if request.machine.gpus:
        yield from more_cards(request, case.scheme)
        yield from other_device(request, case)
    if not case.model.makes_images:
        yield from smaller_model(request)


def _token_changes(request: Request, case: Case) -> Iterator[Alternative]:
    yield from less_context(request, case)
    yield from smaller_cache(request, case)
    yield from rest_in_ram(request, case)


def less_context(request: Request, case: Case) -> Iterator[Alternative]:
    """A shorter context, or fewer requests at once."""
    ceiling = min(request.context_tokens, case.model.max_context_tokens or request.context_tokens)
    tokens = judge.largest(lambda count: judge.verdict_of(case, count, request.concurrency) == "fits", ceiling)
    tokens -= tokens % 256
    if tokens >= LEAST_USEFUL_CONTEXT_TOKENS:
        text = f"context {tokens:,} instead of {request.context_tokens:,}"
        yield alternative(replace(request, context_tokens=tokens), case, (text,))
    requests = judge.largest(
        lambda count: judge.verdict_of(case, request.context_tokens, count) == "fits", request.concurrency
    )
    if 0 < requests < request.concurrency:
        text = f"{requests:,} request{'s' if requests > 1 else ''} at once instead of {request.concurrency:,}"
        yield alternative(replace(request, concurrency=requests), case, (text,))


def smaller_cache(request: Request, case: Case) -> Iterator[Alternative]:
    """The same plan with a smaller KV type that the engine has."""
    types = case.profile.kv_types
    now = kv_block(case.profile, case.workload.kv_dtype)
    smaller = [name for name, (elems, size) in types.items() if size * now[0] < now[1] * elems]
    for name in sorted(smaller, key=lambda kind: types[kind][1] / types[kind][0], reverse=True):
        other = case_for(replace(request, kv_dtype=name, engine=case.profile), case.scheme)
        if not isinstance(other, str) and fits_as_asked(request, other):
            yield alternative(request, other, (f"KV cache in {name}",))
            return


def rest_in_ram(request: Request, case: Case) -> Iterator[Alternative]:
    """The same plan with a part of it in RAM, where RAM was not given (a machine with known RAM is judged with it)."""
    moved = with_offload(request, case) if request.machine.ram_bytes is None else None
    if moved is not None:
        host = moved.ledgers(request.context_tokens, request.concurrency)[-1]
        need = format_gib(ledger.high_bytes(host.terms), 1)
        yield alternative(request, moved, (f"{offload_words(moved, request)}: takes {need} of RAM (give --ram)",))


def other_quant(request: Request, case: Case) -> Iterator[Alternative]:
    """The best quantization below the one asked for that fits."""
    hit = first_fit(request, smaller_rows(request, case.scheme))
    if hit is not None:
        saved = weights_of(case) - weights_of(hit)
        engine = "" if hit.profile.id == case.profile.id else f" with {hit.profile.name}"
        yield alternative(request, hit, (f"{hit.scheme.name}{engine}: {format_gib(saved)} less weights",))


def more_cards(request: Request, scheme: Scheme) -> Iterator[Alternative]:
    """The same scheme on more of the same card."""
    card, have = request.machine.gpus[0], len(request.machine.gpus)
    nodes = (card.node_cards * count for count in _NODE_COUNTS) if card.node_cards else ()
    counts = sorted({count for count in (*_CARD_COUNTS, *nodes) if have < count <= _most_cards(card)})
    yield from _first_on(request, scheme, [(card, count) for count in counts])


def other_device(request: Request, case: Case) -> Iterator[Alternative]:
    """The smallest single card of the same class and maker that takes the plan as asked."""
    least_bytes = 0.8 * weights_of(case)
    cards = map(catalog.load_device, catalog.larger_devices(request.machine.gpus[0]))
    large = (card for card in cards if (card.usable_bytes or 0) > least_bytes)
    yield from _first_on(request, case.scheme, ((card, 1) for card in large))


def _first_on(request: Request, scheme: Scheme, choices: Iterable[tuple[Device, int]]) -> Iterator[Alternative]:
    for card, count in choices:
        machine = with_cards(request.machine, card, count)
        moved = _divided_anew(replace(request, machine=machine))
        found = case_for(moved, scheme)
        if not isinstance(found, str) and fits_as_asked(moved, found):
            yield alternative(moved, found, (f"{scheme.name} on {machine_label(machine)}",))
            return


def _most_cards(card: Device) -> int:
    return card.node_cards * _NODE_COUNTS[-1] if card.node_cards else _CARD_COUNTS[-1]


def _divided_anew(request: Request) -> Request:
    """Other cards are divided as is natural there."""
    return replace(request, tensor_parallel=None, pipeline_parallel=None, data_parallel=None, expert_parallel=None)


def smaller_model(request: Request) -> Iterator[Alternative]:
    """A smaller model, related ones first, that fits on this machine."""
    machine = request.machine
    devices = machine.gpus or ((machine.cpu,) if machine.cpu else ())
    room = sum(device.usable_bytes or 0 for device in devices)
    for model_id in catalog.smaller_models(request.model):
        smaller = replace(request, model=catalog.load_model(model_id), options={})
        if smaller.model.params_total * _LEAST_BYTES_PER_PARAM > room or smaller.model.unknowns:
            continue
        hit = first_fit(smaller, candidates(smaller))
        if hit is not None:
            yield alternative(smaller, hit, (f"{smaller.model.name} in {hit.scheme.name}",))
            return
