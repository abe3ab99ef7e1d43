"""The report as text, one screen: the verdict first, a bar per device, the terms, the limits, what to run."""

from __future__ import annotations

from collections.abc import Iterator

from fitcalc.ledger import Term
from fitcalc.render.command import wrap_command
from fitcalc.render.loss import quality_words
from fitcalc.render.pool import pool_text, rank_words
from fitcalc.render.style import Style, plain
from fitcalc.render.wrapping import shorten, wrap
from fitcalc.spec.report import DeviceReport, Estimate, FitReport
from fitcalc.units import GIB, KIB, MIB, format_asked, format_gib, format_params

_VERDICTS = {
    "fits": ("FITS", "green"),
    "tight": ("TIGHT", "yellow"),
    "does_not_fit": ("DOES NOT FIT", "red"),
    "unknown": ("UNDECIDED", "yellow"),
}
_ABOUT = {
    "kv_cache": "keys and values of the tokens kept",
    "state": "recurrent state, the same at any context",
    "activations": "peak of a forward pass and the sampler",
    "compute_buffer": "work space of one micro-batch",
    "cuda_context": "the driver's own, per process",
    "cuda_graphs": "recorded decode steps",
    "runtime": "libraries and communication buffers",
    "reserve": "what the engine leaves untouched",
    "vision": "peak of the image encoder",
    "desktop": "held by others (--gpu-used)",
}
_LABEL = 12
_CHOICE_COLUMNS = (
    ("weights", "total", "context", "speed"), ("weights", "context", "speed"), ("weights", "speed"), ("weights",), (),
)  # fmt: skip
_CHOICE_COLUMNS_WITHOUT = (("weights", "total"), ("weights",), ())


def report_text(report: FitReport, style: Style) -> str:
    """The whole report; every line stays within the style's width unless a single word is longer."""
    sections = [
        [_title(report, style)],
        list(_verdict_lines(report, style)),
        *device_sections(report, style),
        list(_limit_lines(report, style)),
        list(_choice_lines(report, style)),
        list(_recommendation_lines(report, style)),
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    return text if style.blocks else plain(text)


def _title(report: FitReport, style: Style) -> str:
    recommended = report.recommendation
    parts = [report.model["name"]]
    if recommended is not None:
        parts += [report.inputs["quant_name"], report.inputs["engine_name"]]
    parts.append(report.inputs["devices_name"])
    lines = wrap(" · ".join(parts), style.width, subsequent_indent="  ")
    return "\n".join(style.paint(line, "bold") for line in lines)


def _verdict_lines(report: FitReport, style: Style) -> Iterator[str]:
    context, requests = report.inputs["context_tokens"], report.inputs["concurrency"]
    most = {"context": "the longest that fits", "concurrency": "the most that fit"}.get(report.inputs.get("auto") or "")
    asked = format_asked(context, requests, report.inputs.get("resolution"))
    if most and report.verdict == "fits":
        asked += f" ({most})"
    yield from verdict_lines(report, asked, style)


def verdict_lines(report: FitReport, asked: str, style: Style) -> Iterator[str]:
    """The verdict, what was asked in words, and the room that is left."""
    word, color = _VERDICTS[report.verdict]
    lead = "  " + style.paint(word, "bold", color) + " " * max(2, _LABEL - len(word))
    body = wrap(f"{asked}{_room(report)}", style.width - max(_LABEL, len(word)) - 4)
    yield lead + body[0]
    yield from (" " * (len(word) + 2 + max(2, _LABEL - len(word))) + line for line in body[1:])


def _room(report: FitReport) -> str:
    tight = tightest(report)
    if tight is None or tight.headroom_bytes is None:
        return ""
    room = format_gib(abs(tight.headroom_bytes), 1)
    if report.verdict == "does_not_fit":
        return f", {room} too much for {tight.name}"
    if report.verdict == "unknown" and tight.headroom_bytes < 0:
        return f", up to {room} too much for {tight.name}"
    more = f"; the high end of the estimate is {format_gib(max(tight.high_bytes - (tight.usable_bytes or 0), 0))} over"
    each = " on each" if len([d for d in report.devices if d.id != "host"]) > 1 else ""
    return f", {room} to spare{each}" + (more if report.verdict == "tight" else "")


def tightest(report: FitReport) -> DeviceReport | None:
    """The device that runs out first; None when no decisive device has a known capacity."""
    known = [device for device in report.devices if device.decisive and device.headroom_bytes is not None]
    return min(known, key=lambda device: device.headroom_bytes or 0, default=None)


def device_sections(report: FitReport, style: Style) -> list[list[str]]:
    """The lines of each device: capacity, bar, terms and total; equal devices once."""
    return [[*_device_lines(group, report, style)] for group in _groups(report)]


def _groups(report: FitReport) -> list[list[DeviceReport]]:
    """Devices with the same ledger are shown once."""
    groups: list[list[DeviceReport]] = []
    for device in report.devices:
        same = next((g for g in groups if g[0].id == device.id and _figures(g[0]) == _figures(device)), None)
        if same is None:
            groups.append([device])
        else:
            same.append(device)
    return groups


def _figures(device: DeviceReport) -> list[tuple[str, int]]:
    return [(term.name, term.bytes) for term in device.terms]


def _device_lines(group: list[DeviceReport], report: FitReport, style: Style) -> Iterator[str]:
    device = group[0]
    name = f"{device.name}, each of {len(group)}" if len(group) > 1 else device.name
    if sum(other.id == device.id for other in report.devices) > len(group):
        name += f" ({rank_words([other.rank for other in group])})"
    usable = device.usable_bytes
    capacity = "size not given" if usable is None else f"{usable / GIB:,.1f} GiB usable"
    if device.capacity_bytes and usable and device.capacity_bytes - usable > GIB // 20:
        capacity += f" of {device.capacity_bytes / GIB:,.1f}"
    *first, last = wrap(name, style.width - 4)
    yield from ("  " + style.paint(line, "bold") for line in first)
    if len(last) + len(capacity) + 4 > style.width:
        yield "  " + style.paint(last, "bold")
        yield "  " + style.paint(capacity, "dim")
    else:
        yield "  " + style.paint(last, "bold") + "  " + style.paint(capacity, "dim")
    if usable and device.decisive and not (device.id == "host" and device.high_bytes * 20 < usable):
        yield "  " + _bar(device, style)
    terms = [term for term in device.terms if term.bytes or term.high_bytes]
    width = max((len(_term_name(term)) for term in terms), default=0)
    for term in terms:
        yield _term_line(term, width, style, _about_term(term, report))
    yield "  " + f"{'total':<{width}}  {format_gib(device.total_bytes):>11}  {_spread_of_total(device)}".rstrip()


def _term_name(term: Term) -> str:
    return term.name.replace("_", " ")


def _term_line(term: Term, width: int, style: Style, about: str) -> str:
    head = f"  {_term_name(term):<{width}}  {format_gib(term.bytes):>11}  {_spread(term):<13} "
    room = style.width - len(head)
    if room < 16 or not about:
        return head.rstrip()
    return head + style.paint(shorten(about, room), "dim")


def _about_term(term: Term, report: FitReport) -> str:
    if term.name == "kv_cache" or (term.name == "weights" and term.basis != "exact"):
        return _about(term, report) or term.note
    return term.note or _about(term, report)


def _about(term: Term, report: FitReport) -> str:
    """What a term is, in a few words and the numbers that make it."""
    if term.name == "weights" and report.model["params_total"]:
        return _about_weights(term, report)
    if term.name == "kv_cache" and report.kv_cache.bytes_per_token:
        return _about_cache(term, report)
    return _ABOUT.get(term.name, "")


def _about_weights(term: Term, report: FitReport) -> str:
    count = report.model["params_total"]
    bits = f"{report.weights_bytes * 8 / count:.2f} bit"
    if _is_part(term.bytes, report.weights_bytes):
        return f"its share of {format_params(count)} at {bits}"
    return f"{format_params(count)} parameters, {bits} each"


def _about_cache(term: Term, report: FitReport) -> str:
    """The product that gives the cache, where this device holds all of it."""
    cache, asked = report.kv_cache, report.inputs
    product = cache.bytes_per_token * asked["context_tokens"] * asked["concurrency"]
    per_token = f"{cache.bytes_per_token / KIB:,.4g} KiB per "
    whole = abs(cache.bytes - product) * 50 < product
    if _is_part(term.bytes, cache.bytes):
        return f"its share of {per_token}{'' if whole else 'further '}token"
    if whole:
        return f"{per_token}token × {asked['context_tokens']:,} × {asked['concurrency']:,}"
    return f"{per_token}further token"


def _is_part(part_bytes: int, whole_bytes: int) -> bool:
    """Clearly less than the whole: more than 2 % below it."""
    return part_bytes * 50 < whole_bytes * 49


def _spread(term: Term) -> str:
    if term.basis == "unknown":
        return f"up to {_interval(0, term.high_bytes, term.bytes).partition('–')[2] or '0'}"
    return _interval(term.low_bytes, term.high_bytes, term.bytes) or term.basis


def _spread_of_total(device: DeviceReport) -> str:
    return _interval(device.low_bytes, device.high_bytes, device.total_bytes)


def _interval(low: int, high: int, estimate: int) -> str:
    """'1.43–2.01', in the unit that `format_gib` gives the estimate; '54–72 MiB' for small ones."""
    if low == high:
        return ""
    if high < GIB // 10 or 0 < estimate < GIB // 10:
        return f"{low / MIB:,.0f}–{high / MIB:,.0f} MiB"
    return f"{low / GIB:,.2f}–{high / GIB:,.2f}"


def _bar(device: DeviceReport, style: Style) -> str:
    """Full blocks for the estimate, shaded for its spread and for what the engine keeps back."""
    usable = device.usable_bytes or 1
    width = max(20, style.width - 4)
    reserve = sum(term.bytes for term in device.terms if term.name == "reserve")
    spread = device.high_bytes - device.total_bytes
    full = min(width, round((device.total_bytes - reserve) / usable * width))
    over = min(width - full, round(spread / usable * width))
    kept = min(width - full - over, round(reserve / usable * width))
    color = "red" if device.total_bytes > usable else "yellow" if device.high_bytes > usable else "green"
    bar = style.paint("█" * full, color) + "▒" * over + "░" * kept
    return bar + " " * (width - full - over - kept) + "▏"


def note_text(note: str, style: Style) -> str:
    """'note: …', its further lines indented."""
    lines = wrap(f"note: {note}", style.width, subsequent_indent=" " * 6)
    return "\n".join(lines) if style.blocks else plain("\n".join(lines))


def _limit_lines(report: FitReport, style: Style) -> Iterator[str]:
    limits = report.limits
    requests, context = report.inputs["concurrency"], report.inputs["context_tokens"]
    parts = []
    if limits.max_context_tokens:
        own = report.model["max_context_tokens"]
        whole = " (the model's own limit)" if own and limits.max_context_tokens >= own else ""
        parts.append(f"{_tokens(limits.max_context_tokens)} for {_requests(requests)}{whole}")
    size = report.inputs.get("resolution")
    if limits.max_resolution_px:
        side = f"{limits.max_resolution_px:,}"
        parts.append(f"{side} × {side} px × {requests:,}")
    if limits.max_concurrency:
        most = limits.max_concurrency
        parts.append(format_asked(context, most, size) if size else f"{_requests(most)} at {_tokens(context)}")
    placed = layer_words(report)
    if placed:
        yield from labelled("layers", placed, style)
    per_token = report.kv_cache.bytes_per_token
    if per_token:
        parts.append(f"{per_token / 1024:,.4g} KiB of cache per token")
    if parts:
        yield from labelled("limits", " · ".join(parts), style)
    if pool := pool_text(report):
        yield from labelled("pool", pool, style)
    rates = [*_rates(report), *([report.speed.note] if report.speed.note else [])]
    if rates:
        yield from labelled("speed", " · ".join(rates), style)
    if loss := quality_words(report.quality):
        yield from labelled("quality", loss, style)


def layer_words(report: FitReport) -> str:
    """'GeForce RTX 4090: 32 of 32 (experts of 25), output · Host memory: experts of 7'; '' where one device has all."""
    words = []
    for device in report.devices:
        share = device.layers
        if share is None or not (share.repeating or share.experts or share.output):
            continue
        parts = []
        experts = f"experts of {share.experts or 'none'}" if share.experts not in (None, share.repeating) else ""
        if share.repeating:
            parts.append(f"{share.repeating} of {report.model['layers']}" + (f" ({experts})" if experts else ""))
        elif experts:
            parts.append(experts)
        parts += ["output"] * share.output
        words.append(f"{device.name}: {', '.join(parts)}")
    return " · ".join(words) if len(words) > 1 else ""


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' if count != 1 else ''}"


def _requests(count: int) -> str:
    return f"{count:,} request{'s' if count != 1 else ''}"


def _rates(report: FitReport) -> Iterator[str]:
    """'31 tok/s (26–36) one request', 'first token 1.9 s (1.3–3.2) at 2,048', and the total where there are several."""
    speed, requests = report.speed, report.inputs["concurrency"]
    if speed.decode_tokens_per_s is not None:
        yield _ranged(speed.decode_tokens_per_s, "tok/s") + (" one request" if requests > 1 else "")
    if speed.total_tokens_per_s is not None and requests > 1:
        yield f"{_ranged(speed.total_tokens_per_s, 'tok/s')} in {requests:,}"
    if speed.time_to_first_token_s is not None:
        yield f"first token {_ranged(speed.time_to_first_token_s, 's')} at {speed.prompt_tokens:,}"


def _ranged(estimate: Estimate, unit: str) -> str:
    return f"{_figure(estimate.estimate)} {unit} ({_figure(estimate.low)}–{_figure(estimate.high)})"


def _figure(value: float) -> str:
    """Two digits, three from 100 on: no estimate is better than that."""
    return f"{value:,.0f}" if value >= 99.5 else f"{float(f'{value:.2g}'):g}"


def labelled(label: str, text: str, style: Style, *, looks: tuple[str, ...] = ()) -> Iterator[str]:
    """A label, and the text behind it with its further lines indented."""
    lines = wrap(text, style.width - _LABEL - 2) or [""]
    yield f"  {style.paint(f'{label:<{_LABEL - 2}}', *looks)}  {lines[0]}"
    yield from (" " * (_LABEL + 2) + line for line in lines[1:])


def _choice_lines(report: FitReport, style: Style) -> Iterator[str]:
    """The table of quantizations; where it is too wide it goes without the total, then without the context."""
    if len(report.choices) < 2:
        return
    name_width = max(len("quantization"), *(len(row.quant) for row in report.choices))
    has_context = any(row.max_context_tokens for row in report.choices)
    for columns in _CHOICE_COLUMNS if has_context else _CHOICE_COLUMNS_WITHOUT:
        head, rows = _choice_table(report, columns, name_width)
        if max(len(figures + word + engine) for figures, word, engine, _ in rows) <= style.width:
            break
    yield style.paint(head, "dim")
    for figures, word, engine, color in rows:
        yield f"{figures}{style.paint(word, color)}{engine}"


def _choice_table(
    report: FitReport, columns: tuple[str, ...], name_width: int
) -> tuple[str, list[tuple[str, str, str, str]]]:
    """The heading, and per row its figures, verdict, engine (where it is another one) and colour."""
    widths = {"weights": 11, "total": 11, "context": 17, "speed": 8}
    titles = {"weights": "weights", "total": _total_title(report), "context": "largest context", "speed": "tok/s"}
    head = "  " + f"{'quantization':<{name_width}}" + "".join(f"{titles[name]:>{widths[name]}}" for name in columns)
    rows = []
    for row in report.choices:
        context = f"{row.max_context_tokens:,}" if row.max_context_tokens else "–"
        cells = {
            "weights": f"{row.weights_bytes / GIB:,.1f} GiB",
            "total": f"{row.total_bytes / GIB:,.1f} GiB",
            "context": context,
            "speed": _figure(row.decode_tokens_per_s.estimate) if row.decode_tokens_per_s else "–",
        }
        mark = "→" if row.quant == report.inputs["quant"] else " "
        figures = f"{mark} {row.quant:<{name_width}}" + "".join(f"{cells[name]:>{widths[name]}}" for name in columns)
        word, color = _VERDICTS[row.verdict]
        engine = "" if row.engine == report.inputs["engine"] else f" ({row.engine})"
        rows.append((figures + "  ", word.lower(), engine, color))
    return head, rows


def _total_title(report: FitReport) -> str:
    """The total is of the device that is tightest: one card of several, the card beside its host, or all there is."""
    cards = [device for device in report.devices if device.id != "host"]
    if len(cards) > 1:
        return "per card"
    has_host = len(report.devices) > len(cards)
    has_driver = any(term.name == "cuda_context" for device in cards for term in device.terms)
    return "on card" if has_host or has_driver else "total"


def _recommendation_lines(report: FitReport, style: Style) -> Iterator[str]:
    found = report.recommendation
    if found is None:
        return
    label = "RECOMMENDED" if report.verdict in ("fits", "tight") else "INSTEAD"
    if report.verdict in ("fits", "tight"):
        yield from labelled(label, found.summary, style, looks=("bold",))
        yield from ("    " + line for line in wrap_command(found.command, style.width - 4))
    for index, reason in enumerate(found.reasons):
        yield from labelled("because" if index == 0 else "", reason, style)
    for index, other in enumerate(found.alternatives):
        word = f" ({_VERDICTS[other.verdict][0].lower()})" if other.verdict in ("tight", "does_not_fit") else ""
        lead = ("or" if report.verdict in ("fits", "tight") else "instead") if index == 0 else ""
        yield from labelled(lead, other.summary + word, style)
    if report.verdict == "does_not_fit" and not found.alternatives:
        yield from labelled("instead", "nothing in the catalogue comes close on this device", style)
