"""How long training on a number of tokens takes, and what it costs: operations over a share of the card's rate."""

from __future__ import annotations

from fitcalc.formulas.training import flop_per_token
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import Estimate
from fitcalc.spec.training import Duration
from fitcalc.training.activations import text_layers
from fitcalc.training.plan import Plan
from fitcalc.training.profiles import overheads

_SECONDS_PER_HOUR = 3600


def matmul_params(model: ModelSpec) -> int:
    """Parameters that one token is multiplied with: active linears of the language model and the head."""
    own = sum(t.active_elems for t in model.tensors if t.is_linear and t.part == "text")
    return own + (model.vocab * model.hidden if model.tied_embeddings else 0)


def operations_per_token(plan: Plan) -> int:
    """Operations of a whole step per token: forward, gradients of inputs, of weights where they are trained, and the
    forward pass again where blocks are computed again."""
    settings, model = plan.settings, plan.model
    trained = plan.states.trainable / max(plan.states.weights_elems, 1)
    passes = 2 + trained if settings.method in ("lora", "qlora", "dora") else 3.0
    if settings.method == "freeze":
        passes = 1 + 2 * (model.layers - plan.states.first_trained) / max(model.layers, 1)
    passes += settings.checkpointing
    width = sum(next((t.shape[-1] for t in row if t.role == "attn_o"), 0) for row in text_layers(model))
    text = flop_per_token(
        passes=passes, matmul_params=matmul_params(model), attention_width=width, length=settings.length
    )
    return int(text)


def duration_of(plan: Plan, tokens: int, price_per_hour: float | None) -> Duration:
    """Time and cost of `tokens` tokens on all cards together; `price_per_hour` [USD] is of one card, by default that
    of the cheapest machines on record."""
    each = operations_per_token(plan)
    rate, missing = _rate(plan)
    if rate is None:
        return Duration(tokens, None, None, None, "", each, f"not known: {missing}")
    share = overheads()["utilization"]
    low, middle, high = (rate * share[key] / each for key in ("low", "estimate", "high"))
    seconds = Estimate(tokens / middle, tokens / high, tokens / low)
    hourly, price = _price(plan, price_per_hour)
    cost = None
    if hourly is not None:
        per_second = hourly / _SECONDS_PER_HOUR
        cost = Estimate(seconds.estimate * per_second, seconds.low * per_second, seconds.high * per_second)
    note = f"{share['low']:.0%} to {share['high']:.0%} of the dense rate is reached; {share['source']}"
    return Duration(tokens, seconds, Estimate(middle, low, high), cost, price, each, note)


def _price(plan: Plan, price_per_hour: float | None) -> tuple[float | None, str]:
    """USD per hour of all cards, and where it is from."""
    from fitcalc.prices import hourly_price

    cards = plan.machine.gpus
    if price_per_hour is not None:
        return price_per_hour * len(cards), f"{len(cards)} × ${price_per_hour:g} per hour, as given"
    found = hourly_price(cards[0].id, len(cards)) if len({card.id for card in cards}) == 1 else None
    if found is None:
        return None, "no price of these cards is on record: --price-per-hour gives one"
    return found.usd_per_h, f"${found.usd_per_h:,.2f} per hour, {found.label}"


def _rate(plan: Plan) -> tuple[float | None, str]:
    """Operations per second of all cards; None with the reason where one is not known."""
    total = 0.0
    for card in plan.machine.gpus:
        own = card.bf16_flop_per_s or card.fp16_flop_per_s
        if plan.settings.precision == "fp32":
            own = card.fp32_flop_per_s
        elif plan.settings.precision == "fp16":
            own = card.fp16_flop_per_s or own
        if own is None:
            return None, f"the rate of {card.name} is not known"
        total += own
    return total, ""
