"""profiles/training/: optimizers, trainers, overheads. Read once; packaged only."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml, stems
from fitcalc.errors import UnknownNameError
from fitcalc.spec.training import Loss, Optimizer, Trainer

_TRAINERS = ("trl", "axolotl", "torchtune")


def _folder(*parts: str) -> str:
    return os.path.join(packaged_folder(), "training", *parts)


@lru_cache(maxsize=1)
def overheads() -> dict[str, Any]:
    """What a process takes beside its tensors, spreads and shares (overheads.toml)."""
    return read_toml(_folder("overheads.toml"))


@lru_cache(maxsize=1)
def optimizers() -> dict[str, Optimizer]:
    """Every optimizer by id."""
    return {name: _optimizer(name, form) for name, form in read_toml(_folder("optimizers.toml")).items()}


def _optimizer(name: str, form: dict[str, Any]) -> Optimizer:
    moment = tuple(form["bytes"]) if "bytes" in form else None
    return Optimizer(
        id=name,
        name=form["name"],
        states=form["states"],
        moment=moment,
        factored=form.get("factored", False),
        paged=form.get("paged", False),
        others=form.get("others", ""),
        names=tuple((trainer, form[trainer]) for trainer in _TRAINERS if trainer in form),
        aliases=tuple(form.get("aliases", ())),
        source=form["source"],
    )


@lru_cache(maxsize=1)
def trainers() -> dict[str, Trainer]:
    """Every trainer by id."""
    folder = _folder("trainers")
    return {name: _trainer(name, read_toml(os.path.join(folder, f"{name}.toml"))) for name in sorted(stems(folder))}


def _trainer(name: str, form: dict[str, Any]) -> Trainer:
    plain = {key: value for key, value in form.items() if key not in ("losses", "sources", "aliases")}
    losses = tuple((loss, Loss(**table)) for loss, table in form["losses"].items())
    return Trainer(id=name, losses=losses, aliases=tuple(form.get("aliases", ())), **plain)


def load_optimizer(name: str) -> Optimizer:
    """The optimizer of an id or of a trainer's own name. Raises UnknownNameError."""
    found: Optimizer = _named("optimizer", name, optimizers())
    return found


def load_trainer(name: str) -> Trainer:
    """The trainer of an id or alias. Raises UnknownNameError."""
    found: Trainer = _named("trainer", name, trainers())
    return found


def _named(kind: str, name: str, known: dict[str, Any]) -> Any:
    wanted = name.strip().lower().replace("_", "-")
    for key, entry in known.items():
        if wanted == key or wanted in (alias.lower().replace("_", "-") for alias in entry.aliases):
            return entry
    raise UnknownNameError(kind, name, hint=f"there are {', '.join(known)}")
