"""One server of a plan: the seconds that its steps and prompts take, read from the plan's speeds.

A server is one data parallel rank; what `fit` calls a plan has one or more of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from fitcalc.fleets.lengths import Lengths
from fitcalc.frozen import dataclass
from fitcalc.speeds.figures import Figures, Ready, figures
from fitcalc.speeds.steps import prompt_parts


@dataclass(frozen=True, slots=True)
class Server:
    """Seconds of an engine that batches continuously, for requests of given lengths."""

    step_s: tuple[float, ...]
    """Of a decode step with 0, 1, 2 … requests."""
    alone_s: float
    """Of a prompt on an idle engine."""
    prompt_s: float
    """That a prompt takes from the engine while other requests run."""
    arrival_s: float
    """Outside the engine, on the way to the first token."""
    prompt_tokens: float
    output_tokens: float
    pass_tokens: float
    """Prompt tokens that one step takes in at most."""

    @property
    def most_requests(self) -> int:
        """Requests that run at once at most."""
        return len(self.step_s) - 1


def counts(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 … below `most`, and `most` itself."""
    power = 1
    while power < most:
        yield power
        if power > 1 and power * 3 // 2 < most:
            yield power * 3 // 2
        power *= 2
    yield most


def server_of(ready: Ready, context_tokens: int, most_requests: int, lengths: Lengths) -> Server:
    """The server of a plan that runs up to `most_requests` at once (over all its ranks)."""
    ranks = int(ready.plan.replicas)
    most = max(most_requests // ranks, 1)
    parameters = ready.steps[0].found.parameters
    output = lengths.output_tokens
    # Steps see the context of the running requests: the prompt that, with half an answer, has it.
    seen = max(lengths.running_tokens - output / 2, 1)

    def at(requests: int, prompt: float) -> Figures:
        return figures(ready, context_tokens, requests * ranks, prompt, output)

    typical = at(1, lengths.prompt_tokens)
    alone = lengths.prompt_tokens / typical.prefill_tokens_per_s
    mixed_s = _shared_s(ready, seen, at(1, seen)) * parameters.mixed_share / output
    points = list(counts(most))
    known = [float(at(count, seen).token_s - (count - 1) * mixed_s) for count in points]
    # In a closed loop a prompt costs the others time twice: within their answers and ahead of their first tokens.
    share = parameters.mixed_share + parameters.queue_share / 2
    return Server(
        step_s=(0.0, *_between(points, known)),
        alone_s=float(alone),
        prompt_s=float(_shared_s(ready, lengths.prompt_tokens, typical) * share),
        arrival_s=max(float(typical.first_s - alone - typical.token_s), 0.0),
        prompt_tokens=lengths.prompt_tokens,
        output_tokens=output,
        pass_tokens=float(parameters.pass_tokens),
    )


def _shared_s(ready: Ready, prompt_tokens: float, alone: Figures) -> float:
    """Seconds of a prompt among others, which share its passes where the engine does so."""
    if not ready.served:
        return float(prompt_tokens / alone.prefill_tokens_per_s)
    step, division = ready.steps[0], ready.plan.division
    p = step.found.parameters
    parts = prompt_parts(step.place.work, step.rates, p, division, prompt_tokens, 0, prompt_tokens / p.pass_tokens)
    return float(parts.total_s / division.stages)


def _between(points: list[int], values: list[float]) -> Iterator[float]:
    """The value at 1, 2, 3 … up to the last point, on straight lines between points; never falling."""
    highest = 0.0
    for count in range(1, points[-1] + 1):
        place = bisect_left(points, count)
        if points[place] == count:
            value = values[place]
        else:
            before, after = points[place - 1], points[place]
            value = values[place - 1] + (values[place] - values[place - 1]) * (count - before) / (after - before)
        highest = max(highest, value)
        yield highest
