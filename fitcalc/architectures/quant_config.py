"""config.json's quantization_config -> CheckpointQuant: the scheme a checkpoint is stored in, and its exceptions.

Every exporter has its own words for the same few facts: bits, group size, symmetry, which modules are left alone.
A method or layout that is not known comes back as a sentence, so that the model's sizes become unknown, not wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fitcalc.architectures.config import Config
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.quant import CheckpointQuant, is_harmless

_KEYS = ("quantization_config", "compression_config")
_NESTED = ("text_config", "llm_config", "language_config")
_USUAL_GROUP = 128
_UNQUANTIZED_BITS = 16
_LARGEST_TILE = 65536
_MOST_WILDCARDS = 1000
_NO_NUMBER = -2
_CLASS_NAME = re.compile(r"[A-Z]\w*")

Section = Mapping[str, Any]
Weights = tuple[str, int, bool]
"""Quantization id without suffix, group size (0: none, -1: one scale per row), symmetric."""


def checkpoint_quant(config: Config) -> tuple[CheckpointQuant | None, str]:
    """What the config says of its own quantization, and what could not be understood of it ('' if all was).

    (None, '') for a checkpoint that is not quantized. Raises ModelFileError when the section is not an object.
    """
    section = _section(config)
    if not section:
        return None, ""
    method = str(section.get("quant_method") or _method_of(section)).lower()
    read = _READERS.get(method)
    if section.get("kv_cache_scheme") and not section.get("config_groups"):
        return None, ""  # only the cache is quantized, when the engine runs
    quant = read(section) if read and not _is_sparse(section) else None
    if quant is None or quant.group_size < -1:
        stated = f"{method}, {_bits_text(section)}" if read else method or "no quant_method"
        return None, f"the checkpoint is quantized in a way that is not modelled ({stated:.60})"
    patterns = (*quant.ignored, *quant.targets, *(pattern for pattern, _ in quant.overrides))
    wild = [pattern for pattern in patterns if pattern.startswith("re:") or "*" in pattern]
    if len(wild) > _MOST_WILDCARDS or not all(is_harmless(pattern) for pattern in wild):
        return None, "the checkpoint's quantization names modules in a way that cannot be read"
    if str(config.get("expert_dtype", "")) == "fp4" and quant.scheme == "fp8-block":
        quant = replace(quant, overrides=(*quant.overrides, ("ffn.experts", "mxfp4")))
    return replace(quant, source="quantization_config"), ""


def _section(config: Config) -> Section:
    places = [config, *(config[key] for key in _NESTED if isinstance(config.get(key), Mapping))]
    for place in places:
        for key in _KEYS:
            value = place.get(key)
            if value is None:
                continue
            if not isinstance(value, Mapping):
                raise ModelFileError(f"config: {key} is {value!r:.40}", hint=f"{key} has to be an object")
            nested = value.get("quantization")
            return {**value, **nested} if isinstance(nested, Mapping) else value
    mlx = config.get("quantization")
    return mlx if isinstance(mlx, Mapping) else {}


def _method_of(section: Section) -> str:
    """Sections without quant_method: modelopt writes quant_algo, MLX only bits and group_size."""
    if "quant_algo" in section:
        return "modelopt"
    return "mlx" if "bits" in section and "group_size" in section else ""


def _is_sparse(section: Section) -> bool:
    """Whether pruned elements are left out of the file: its size then depends on their number."""
    sparsity = section.get("sparsity_config")
    layout = sparsity.get("format") if isinstance(sparsity, Mapping) else None
    return section.get("format") == "marlin-24" or layout not in (None, "dense")


def _bits_text(section: Section) -> str:
    return f"{section.get('bits', section.get('quant_algo', '?'))} bit"


def _integer(section: Section, key: str, default: int) -> int:
    """A number; what is none ("4", true) becomes one that no method knows, never the default."""
    value = section.get(key)
    if value is None:
        return default
    return value if isinstance(value, int) and not isinstance(value, bool) else _NO_NUMBER


def _names(section: Section, *keys: str) -> tuple[str, ...]:
    """Module patterns under the first key that holds a list or a text."""
    for key in keys:
        value = section.get(key)
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, list | tuple):
            return tuple(item for item in value if isinstance(item, str))
    return ()


def _id(weights: Weights) -> str:
    """The quantization id with its group size where that is not the usual one."""
    base, group, _ = weights
    return f"{base}-g{group}" if group > 0 and group != _USUAL_GROUP else base


def _quant(weights: Weights, bits: int = 0, **more: Any) -> CheckpointQuant:
    return CheckpointQuant(_id(weights), weights[1], bits, weights[2], **more)


# --- one reader per method --------------------------------------------------------------------------------------------

_GPTQ_IDS = {2: "gptq-2bit", 3: "gptq-3bit", 4: "gptq", 8: "gptq-8bit"}


def _gptq(section: Section) -> CheckpointQuant | None:
    bits, group = _integer(section, "bits", 4), _integer(section, "group_size", _USUAL_GROUP)
    if bits not in _GPTQ_IDS:
        return None
    ignored = list(_names(section, "modules_to_not_convert", "ignored_layers"))
    overrides: list[tuple[str, str]] = []
    dynamic = section.get("dynamic")
    for rule, change in dynamic.items() if isinstance(dynamic, Mapping) else ():
        pattern = "re:" + str(rule).removeprefix("+:").removeprefix("-:")
        if str(rule).startswith("-:"):
            ignored.append(pattern)
        elif isinstance(change, Mapping):
            other = (_GPTQ_IDS.get(_integer(change, "bits", bits), ""), _integer(change, "group_size", group), True)
            if not other[0]:
                return None
            overrides.append((pattern, _id(other)))
    return _quant(
        (_GPTQ_IDS[bits], group, section.get("sym") is not False),
        bits,
        desc_act=section.get("desc_act") is True,
        ignored=tuple(ignored),
        overrides=tuple(overrides),
        targets=_flat_names(section.get("modules_in_block_to_quantize")),
        lm_head=section.get("lm_head") is True,
    )


def _flat_names(listed: Any) -> tuple[str, ...]:
    """Names in a list, or in lists inside it."""
    if not isinstance(listed, list):
        return ()
    groups = [entry if isinstance(entry, list) else [entry] for entry in listed]
    return tuple(name for group in groups for name in group if isinstance(name, str))


def _awq(section: Section) -> CheckpointQuant | None:
    bits = _integer(section, "bits", _integer(section, "w_bit", 4))
    group = _integer(section, "group_size", _integer(section, "q_group_size", _USUAL_GROUP))
    ignored = _names(section, "modules_to_not_convert")
    return _quant(("awq", group, True), bits, ignored=ignored) if bits == 4 else None


def _fp8(section: Section) -> CheckpointQuant | None:
    stated = section.get("weight_block_size")
    ignored, block = _names(section, "modules_to_not_convert", "ignored_layers"), _sides(stated)
    if all(block):
        return _quant(("fp8-block", 0, True), 8, block=block, ignored=ignored)
    return None if stated else _quant(("fp8-tensor", 0, True), 8, ignored=ignored)


def _fp8_rows(section: Section) -> CheckpointQuant | None:
    return _quant(("fp8", 0, True), 8, ignored=_names(section, "modules_to_not_convert", "ignored_layers"))


def _bitsandbytes(section: Section) -> CheckpointQuant | None:
    ignored = _names(section, "llm_int8_skip_modules")
    if section.get("load_in_8bit") or section.get("_load_in_8bit"):
        return _quant(("bnb-int8", 0, True), 8, ignored=ignored)
    double = section.get("bnb_4bit_use_double_quant") is True
    return _quant(("bnb-nf4-dq" if double else "bnb-nf4", 0, True), 4, ignored=ignored)


def _mxfp4(section: Section) -> CheckpointQuant | None:
    return _quant(("mxfp4", 0, True), 4, ignored=_names(section, "modules_to_not_convert"))


def _mlx(section: Section) -> CheckpointQuant | None:
    bits, group = _integer(section, "bits", 4), _integer(section, "group_size", 64)
    if bits not in (3, 4, 5, 6, 8) or section.get("mode", "affine") != "affine":
        return None
    ignored = tuple(name for name, value in section.items() if value is False)
    changes = {name: value for name, value in section.items() if isinstance(value, Mapping) and "bits" in value}
    overrides = tuple(
        (name, _mlx_id(_integer(change, "bits", bits), _integer(change, "group_size", group)))
        for name, change in changes.items()
    )
    return CheckpointQuant(_mlx_id(bits, group), group, bits, ignored=ignored, overrides=overrides)


def _mlx_id(bits: int, group: int) -> str:
    return f"mlx-{bits}bit" if group == 64 else f"mlx-{bits}bit-g{group}"


def _auto_round(section: Section) -> CheckpointQuant | None:
    kind, packing = str(section.get("data_type", "int")), str(section.get("packing_format", ""))
    bits = _integer(section, "bits", 4)
    integers = "awq" if "awq" in packing else _GPTQ_IDS.get(bits, "")
    base = {"mx": "mxfp4", "nv": "nvfp4", "in": integers}.get(kind[:2], "")
    if not base or (base in ("mxfp4", "nvfp4", "awq") and bits != 4):
        return None
    group = _integer(section, "group_size", _USUAL_GROUP) if base not in ("mxfp4", "nvfp4") else 0
    extra = section.get("extra_config")
    changes = {str(name): change for name, change in extra.items()} if isinstance(extra, Mapping) else {}
    ignored, overrides = list(_names(section, "modules_to_not_convert")), []
    for name, change in changes.items():
        other = _integer(change, "bits", bits) if isinstance(change, Mapping) else bits
        if other >= _UNQUANTIZED_BITS:
            ignored.append(name)
        elif other != bits:
            if other not in _GPTQ_IDS or not base.startswith("gptq"):
                return None
            overrides.append((name, _id((_GPTQ_IDS[other], _integer(change, "group_size", group), True))))
    symmetric = section.get("sym") is not False
    return _quant((base, group, symmetric), bits, ignored=tuple(ignored), overrides=tuple(overrides))


# --- schemes made of groups -------------------------------------------------------------------------------------------


def _group_weights(weights: Any, activations: Any, *, unpacked: bool = False) -> Weights | None:
    """The layout of one config group of compressed-tensors or modelopt; `unpacked`: a byte for each element."""
    if not isinstance(weights, Mapping):
        return None
    bits, kind = _integer(weights, "num_bits", 0), str(weights.get("type", ""))
    strategy, group = str(weights.get("strategy") or ""), _integer(weights, "group_size", 0)
    symmetric = weights.get("symmetric") is not False
    if kind == "float" and bits == 8:
        return {"channel": "fp8", "block": "fp8-block"}.get(strategy, "fp8-tensor"), 0, True
    if kind == "float" and bits == 4:
        return ("mxfp4" if group == 32 else "nvfp4", 0, True) if group in (16, 32) else None
    if kind == "int" and bits == 8 and isinstance(activations, Mapping):
        return "int8", 0, True
    if kind == "int" and unpacked and bits < 8:
        return None
    if kind == "int" and bits in (4, 8):
        return ("w4a16" if bits == 4 else "w8a16"), group if strategy != "channel" and group > 0 else -1, symmetric
    return None


def _grouped(section: Section, ignored: tuple[str, ...]) -> CheckpointQuant | None:
    """The group that names classes of layers, or else has the fewest bits, is the scheme; others are exceptions."""
    groups: list[tuple[Weights, int, tuple[str, ...]]] = []
    listed = section.get("config_groups")
    for group in listed.values() if isinstance(listed, Mapping) else ():
        if not isinstance(group, Mapping):
            return None
        unpacked = (group.get("format") or section.get("format")) == "int-quantized"
        weights = _group_weights(group.get("weights"), group.get("input_activations"), unpacked=unpacked)
        if weights is None:
            return None
        bits = _integer(group["weights"], "num_bits", 0)
        targets = tuple(name for name in _names(group, "targets") if not _CLASS_NAME.fullmatch(name))
        groups.append((weights, bits, targets))
    if not groups:
        return None
    groups.sort(key=lambda entry: (bool(entry[2]), entry[1]))
    (main, bits, targets), others = groups[0], groups[1:]
    overrides = tuple((target, _id(weights)) for weights, _, names in others for target in names)
    block = _block(section)
    return _quant(main, bits, block=block, ignored=ignored, targets=targets, overrides=overrides)


def _block(section: Section) -> tuple[int, int]:
    for group in section["config_groups"].values():
        sides = _sides(group["weights"].get("block_structure"))
        if all(sides):
            return sides
    return 0, 0


def _sides(value: Any) -> tuple[int, int]:
    """Rows and columns of a tile; (0, 0) for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return 0, 0
    if any(isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= _LARGEST_TILE for side in value):
        return 0, 0
    return value[0], value[1]


def _compressed_tensors(section: Section) -> CheckpointQuant | None:
    return _grouped(section, _names(section, "ignore"))


_MODELOPT = {"FP8": "fp8-tensor", "NVFP4": "nvfp4", "W4A16_NVFP4": "nvfp4", "FP8_PB_WO": "fp8-block", "MXFP4": "mxfp4",
             "FP8_PER_CHANNEL_PER_TOKEN": "fp8"}  # fmt: skip


def _modelopt(section: Section) -> CheckpointQuant | None:
    ignored = _names(section, "ignore", "exclude_modules")
    if isinstance(section.get("config_groups"), Mapping):
        return _grouped(section, ignored)
    algorithm = str(section.get("quant_algo", "")).upper()
    if algorithm == "MIXED_PRECISION":
        return _modelopt_mixed(section.get("quantized_layers"), ignored)
    if algorithm in _MODELOPT:
        return _quant((_MODELOPT[algorithm], 0, True), ignored=ignored)
    return None


def _modelopt_mixed(listed: Any, ignored: tuple[str, ...]) -> CheckpointQuant | None:
    """Every quantized module by name: the scheme that most of them have, the others as exceptions."""
    found: dict[str, list[str]] = {}
    for name, said in listed.items() if isinstance(listed, Mapping) else ():
        algorithm = str(said.get("quant_algo", "")).upper() if isinstance(said, Mapping) else ""
        found.setdefault(_MODELOPT.get(algorithm, ""), []).append(str(name))
    if not found or "" in found:
        return None
    main = max(found, key=lambda scheme: len(found[scheme]))
    overrides = tuple((name, scheme) for scheme, names in found.items() if scheme != main for name in names)
    return _quant((main, 0, True), ignored=ignored, targets=tuple(found[main]), overrides=overrides)


def _quark(section: Section) -> CheckpointQuant | None:
    whole = section.get("global_quant_config")
    main = _quark_weights(whole)
    if main is None:
        return None
    layers = section.get("layer_quant_config")
    overrides: list[tuple[str, str]] = []
    for name, change in layers.items() if isinstance(layers, Mapping) else ():
        other = _quark_weights(change)
        if other is None:
            return None
        overrides.append((str(name), _id(other)))
    return _quant(main, ignored=_names(section, "exclude"), overrides=tuple(overrides))


def _quark_weights(part: Any) -> Weights | None:
    weight = part.get("weight") if isinstance(part, Mapping) else None
    if not isinstance(weight, Mapping):
        return None
    kind, scheme = str(weight.get("dtype", "")), str(weight.get("qscheme", ""))
    group = _integer(weight, "group_size", 0)
    if kind.startswith("fp8"):
        return {"per_channel": "fp8", "per_tensor": "fp8-tensor"}.get(scheme, "fp8-block"), 0, True
    if kind == "fp4" and group == 32:
        return "mxfp4", 0, True
    if kind == "int8" and scheme == "per_channel":
        return "int8", 0, True
    return None


_READERS: Mapping[str, Callable[[Section], CheckpointQuant | None]] = {
    **dict.fromkeys(("gptq", "gptq_marlin", "gptqmodel"), _gptq),
    **dict.fromkeys(("awq", "awq_marlin"), _awq),
    **dict.fromkeys(("fp8", "finegrained_fp8", "deepseek_v4_fp8"), _fp8),
    "fbgemm_fp8": _fp8_rows,
    **dict.fromkeys(("bitsandbytes", "bnb"), _bitsandbytes),
    **dict.fromkeys(("mxfp4", "gpt_oss_mxfp4"), _mxfp4),
    "compressed-tensors": _compressed_tensors,
    **dict.fromkeys(("modelopt", "modelopt_fp4", "modelopt_mixed"), _modelopt),
    "quark": _quark,
    **dict.fromkeys(("auto-round", "intel/auto-round", "auto_round"), _auto_round),
    "mlx": _mlx,
}
