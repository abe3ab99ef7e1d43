"""Described families against the classes they describe, on the meta device: one small config of each, counted.

A family is one file; the file names its class, so that adding one adds its test.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from typing import Any

import pytest

from fitcalc.architectures import from_config
from fitcalc.architectures.families import described_types, family

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

Config = dict[str, Any]

LAYERS = re.compile(r"(^|_)(num_)?(hidden_|encoder_|decoder_|n_)?layers?$|^depth$|^n_layer$|_num_layers$")
FEW = 3


def class_of(model_type: str) -> Any:
    """The class that a description says it was made from; None where this version has it no more."""
    folder, name = str(family(model_type)["made_by"]).split(".")
    try:
        module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    except ImportError:
        return getattr(transformers, name, None)
    return getattr(module, name, None) or getattr(transformers, name, None)


def layer_counts(config: Any, prefix: str = "") -> Config:
    """Every number of layers in a config and the configs inside it, under dotted names."""
    found: Config = {}
    for key, value in vars(config).items():
        if isinstance(value, transformers.PretrainedConfig):
            found |= layer_counts(value, f"{prefix}{key}.")
        elif LAYERS.search(key) and isinstance(value, int) and not isinstance(value, bool) and value > FEW:
            found[prefix + key] = FEW
    return found


def nested(flat: Config) -> Config:
    out: Config = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        place = out
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    return out


def counted(kind: Any, config: Any) -> int:
    with torch.device("meta"):
        model = kind._from_config(config)
    return sum(math.prod(parameter.shape) for parameter in model.parameters())


@pytest.mark.parametrize("model_type", [kind for kind in described_types() if "made_by" in family(kind)])
def test_a_described_family_counts_what_its_class_counts(model_type: str) -> None:
    kind = class_of(model_type)
    if kind is None:
        pytest.skip("not in this version of transformers")
    config_class = dict(transformers.CONFIG_MAPPING).get(model_type, kind.config_class)
    for sizes in (nested(layer_counts(config_class())), {}):
        try:
            config = config_class(**sizes)
            theirs = counted(kind, config)
        except Exception:
            continue  # the class refuses its own defaults at another depth
        spec = from_config({**json.loads(config.to_json_string(use_diff=False)), "model_type": model_type})
        assert spec.params_total == theirs or any("counted" in word for word in spec.unknowns), sizes
        return
    pytest.skip("the class cannot be built from its defaults")
