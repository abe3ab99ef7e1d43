"""What makes a picture fit that does not, smallest sacrifice first, and how large pictures and batches could get."""

from __future__ import annotations

from collections.abc import Iterator

from fitcalc import verdict as judge
from fitcalc.choice import alternative, fits_as_asked
from fitcalc.frozen import replace
from fitcalc.plan import Request, case_for
from fitcalc.spec.report import Alternative
from fitcalc.units import format_gib
from fitcalc.verdict import Case

_STEP_PX = 64
_LEAST_SIDE_PX = 256


def image_changes(request: Request, case: Case) -> Iterator[Alternative]:
    """Fewer pictures at once, other settings of the engine, a smaller picture."""
    count = judge.largest(lambda n: _fits(case, request, n), request.concurrency)
    if 0 < count < request.concurrency:
        said = f"{count:,} picture{'' if count == 1 else 's'} at once instead of {request.concurrency:,}"
        yield alternative(replace(request, concurrency=count), case, (said,))
    yield from _lighter(request, case)
    side = largest_side(request, case)
    if side >= _LEAST_SIDE_PX:
        yield alternative(_at(request, side), _moved(case, side), (f"pictures of {side:,} × {side:,} pixels",))


def _fits(case: Case, request: Request, count: int) -> bool:
    return judge.verdict_of(case, request.context_tokens, count) == "fits"


def _lighter(request: Request, case: Case) -> Iterator[Alternative]:
    """The first two settings of the engine that make it fit."""
    shown = 0
    for options, words in getattr(case.engine, "LIGHTER", ()):
        if options.keys() & request.options.keys():
            continue
        other = case_for(replace(request, options={**request.options, **options}, engine=case.profile), case.scheme)
        if isinstance(other, str) or not fits_as_asked(request, other):
            continue
        host = next((entry for entry in other.ledgers(request.context_tokens, request.concurrency) if entry.rank), None)
        ram = f", takes {format_gib(sum(term.high_bytes for term in host.terms), 1)} of RAM" if host else ""
        yield alternative(request, other, (words + ram,))
        shown += 1
        if shown == 2:
            return


def _at(request: Request, side: int) -> Request:
    return replace(request, media=replace(request.media, picture_px=(side, side)))


def _moved(case: Case, side: int) -> Case:
    """The same plan for a picture of another size."""
    media = replace(case.workload.media, picture_px=(side, side))
    return judge.case_of(case.model, case.scheme, case.profile, case.machine, replace(case.workload, media=media))


def largest_side(request: Request, case: Case, *, verdicts: tuple[str, ...] = ("fits",)) -> int:
    """Side of the largest square picture, in steps of 64 pixels, with one of the verdicts; 0 for none."""

    def holds(steps: int) -> bool:
        found = judge.verdict_of(_moved(case, steps * _STEP_PX), request.context_tokens, request.concurrency)
        return found in verdicts

    return judge.largest(holds, case.profile.constants["largest_side"] // _STEP_PX) * _STEP_PX
