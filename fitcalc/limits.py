"""'auto': the largest context, or the largest number of requests, whose verdict is still `fits`."""

from __future__ import annotations

from fitcalc import verdict as judge
from fitcalc.engines.base import most_requests
from fitcalc.frozen import replace
from fitcalc.plan import Request
from fitcalc.verdict import Case


def largest_that_fits(request: Request, case: Case) -> Request:
    """The request with the number that was left open; unchanged where not even one token or request fits.

    Only `fits` counts (the high end of the estimate is within the card), so that what is bought on this answer starts.
    """
    if request.auto == "context":
        ceiling = case.model.max_context_tokens or judge.CONTEXT_CEILING_TOKENS
        tokens = judge.largest(lambda count: judge.verdict_of(case, count, request.concurrency) == "fits", ceiling)
        return replace(request, context_tokens=tokens) if tokens else request
    ceiling = most_requests(case.profile) or judge.CONCURRENCY_CEILING
    requests = judge.largest(lambda count: judge.verdict_of(case, request.context_tokens, count) == "fits", ceiling)
    return replace(request, concurrency=requests) if requests else request
