"""What a quantization costs in quality: the expected rise of perplexity with its range, per scheme and model.

The figures are data (profiles/quality): one line over bits per weight for each generation of models, a factor for each
way of quantizing, and losses of cache types. What was not measured has no estimate, and says so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml
from fitcalc.formulas import quality as formulas
from fitcalc.frozen import dataclass
from fitcalc.quantization import Stored, assign, is_own, split_group
from fitcalc.quantization.stored import stored_bytes
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.report import Estimate, Quality, QualityBasis, QualityLevel

LEVELS: tuple[QualityLevel, ...] = ("lossless", "high", "medium", "low")
"""Best first."""
_SIXTEEN_BITS = 16
_OUTSIDE = ("embedding", "lm_head")
_LARGEST_ERROR = 2.0
"""Beyond this nothing is left of a model, whatever the exact loss."""
_MIX = "-mix"
_MIXED_FAMILY = "k-quants"


@dataclass(frozen=True, slots=True)
class _Loss:
    """Ln of the ratio of perplexities: low, expected, high; and what it rests on."""

    low: float
    expected: float
    high: float
    basis: QualityBasis = "exact"
    source: str = ""
    note: str = ""
    generation: str = ""


def quality_of(model: ModelSpec, scheme: Scheme, kv_dtype: str = "", *, imatrix: bool = False) -> Quality:
    """The expected rise of the model's perplexity under a quantization and a cache type, against 16 bit.

    `perplexity_rise` is None where no such thing was measured; `note` then says what. `imatrix`: the GGUF file is made
    with an importance matrix (the i-quants always are).
    """
    bits, share = bits_of(model, scheme, imatrix=imatrix)
    weights = _weight_loss(model, scheme, bits, share, imatrix=imatrix)
    cache = _cache_loss(kv_dtype) if model.cache_layers else _Loss(0, 0, 0)
    missing = [loss for loss in (weights, cache) if isinstance(loss, str)]
    shown = round(bits, 4) if bits else None
    if isinstance(weights, str) or isinstance(cache, str):
        return Quality(None, None, "unknown", shown, "", "", "; ".join(missing))
    both = (weights, cache)
    found = Estimate(
        *(formulas.rise(ln_ratio=sum(getattr(loss, end) for loss in both)) for end in ("expected", "low", "high"))
    )
    return Quality(
        perplexity_rise=found,
        level=level_of(found.estimate),
        basis=weights.basis if cache.basis == "exact" else cache.basis if weights.basis == "exact" else "derived",
        bits_per_weight=shown,
        generation=weights.generation,
        source="; ".join(loss.source for loss in both if loss.source),
        note="; ".join(loss.note for loss in both if loss.note),
    )


def level_of(rise: float) -> QualityLevel:
    """lossless, high, medium or low: the best level whose limit (profiles/quality) the expected rise keeps."""
    limits: Mapping[str, float] = _weights()["levels"]
    return next((level for level in LEVELS[:-1] if rise <= limits[level]), LEVELS[-1])


def keeps_level(quality: Quality, asked: QualityLevel) -> bool:
    """Is the expected quality at least the one asked for? Never where it is not known."""
    return quality.level is not None and LEVELS.index(quality.level) <= LEVELS.index(asked)


def bits_of(model: ModelSpec, scheme: Scheme, *, imatrix: bool = False) -> tuple[float, float]:
    """(bits per weight of the quantized matrices in the layers as stored on disk, their share of all such matrices).

    (0, 0) where none is below 16 bit. Embeddings, output, norms and encoders of images do not count.
    """
    inside = [entry for entry in _stored(model, scheme, imatrix=imatrix) if _counts(entry)]
    small = [entry for entry in inside if _bits(entry) < _SIXTEEN_BITS]
    elems, all_elems = _elems(small), _elems(inside)
    if not elems or not all_elems:
        return 0.0, 0.0
    return 8 * sum(stored_bytes(entry, file=True) for entry in small) / elems, elems / all_elems


def _stored(model: ModelSpec, scheme: Scheme, *, imatrix: bool) -> tuple[Stored, ...]:
    return () if scheme.kind == "float" else assign(model, scheme, imatrix=imatrix)


def _counts(entry: Stored) -> bool:
    tensor = entry.tensor
    return tensor.is_linear and bool(tensor.layers) and tensor.part == "text" and tensor.role not in _OUTSIDE


def _bits(entry: Stored) -> float:
    return 8 * stored_bytes(entry, file=True) / (_elems([entry]) or 1)


def _elems(entries: Iterable[Stored]) -> int:
    return sum(math.prod(entry.tensor.shape) * entry.tensor.copies * entry.repeats for entry in entries)


def _weight_loss(model: ModelSpec, scheme: Scheme, bits: float, share: float, *, imatrix: bool) -> _Loss | str:
    """The loss of the weights; a word on why it is not known."""
    content = _weights()
    if scheme.id in content["fixed"]:
        low, expected, high = content["fixed"][scheme.id]
        return _Loss(low, expected, high, source=content["noise_source"])
    if _is_published_in(model, scheme, content["published_in"]):
        return _Loss(0, 0, 0, note=f"{model.name} is published in {scheme.name}: that is the reference")
    reason = content["unknown"].get(scheme.id) or _unmeasured(model)
    if reason:
        return str(reason)
    found = _family_of(scheme, content["families"])
    if found is None or not bits:
        return f"the loss of {scheme.name} was not measured"
    generation = _generation_of(model, content["generations"])
    factor = found["factor"] * (found.get("imatrix_factor", 1.0) if imatrix or scheme.needs_imatrix else 1.0)
    error = formulas.weight_error(
        share=share,
        factor=factor,
        intercept=generation["intercept"],
        slope_per_bit=content["slope_per_bit"],
        bits=bits,
    )
    spread = math.exp(math.hypot(math.log(generation["spread"]), math.log(found.get("spread", 1.0))))
    expected = formulas.log_ratio(error=min(error, _LARGEST_ERROR), saturation=content["saturation"])
    notes = [found.get("note", ""), generation.get("note", "")]
    return _Loss(
        expected / spread,
        expected,
        expected * spread + content["noise"],
        basis=found.get("basis", "derived"),
        source=found.get("source", content["source"]),
        note="; ".join(note for note in notes if note),
        generation=generation["name"],
    )


def _unmeasured(model: ModelSpec) -> str:
    return "" if model.kind == "decoder" else "losses of encoders were not measured"


def _is_published_in(model: ModelSpec, scheme: Scheme, families: Mapping[str, list[str]]) -> bool:
    own = model.quant is not None and (scheme.kind in ("file", "gguf") or is_own(scheme, model.quant))
    return own and model.model_type in families.get(scheme.id, ())


def _family_of(scheme: Scheme, families: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The way of quantizing that a scheme belongs to: by its id, without a group size or a file's mark of a mix."""
    base = split_group(scheme.id)[0]
    if scheme.kind == "file" and base.endswith(_MIX):
        base = base.removesuffix(_MIX)
    found = next((family for family in families.values() if base in family["schemes"]), None)
    return found or (families[_MIXED_FAMILY] if scheme.kind == "file" else None)


def _generation_of(model: ModelSpec, generations: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first generation whose model types, vocabulary and size the model has; the last has no conditions."""
    params = model.params_total or model.published_params or 0
    for generation in generations:
        least, most = generation.get("vocab", (0, model.vocab))
        if model.model_type in generation.get("model_types", (model.model_type,)) and (
            least <= model.vocab <= most and params >= generation.get("params_from", 0)
        ):
            return generation
    raise AssertionError("the last generation takes every model")


def _cache_loss(kv_dtype: str) -> _Loss | str:
    content, name = _cache(), kv_dtype.lower()
    if name in content["exact"]["names"]:
        return _Loss(0, 0, 0)
    found = next((row for row in content["types"] if name in row["names"]), None)
    if found is None:
        return f"the loss of a cache in {kv_dtype} was not measured"
    low, expected, high = found["loss"]
    return _Loss(low, expected, high, basis="derived", source=found["source"])


@lru_cache(maxsize=1)
def _weights() -> dict[str, Any]:
    return read_toml(os.path.join(packaged_folder(), "quality", "weights.toml"))


@lru_cache(maxsize=1)
def _cache() -> dict[str, Any]:
    return read_toml(os.path.join(packaged_folder(), "quality", "cache.toml"))
