"""What every module of an engine has: the functions by which plans are prepared and counted."""

from __future__ import annotations

from typing import Any, Protocol

from fitcalc.engines.base import DeviceLedger, Pool
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload


class Engine(Protocol):
    """A module of fitcalc.engines. `Any` stands for the module's own frozen Prepared.

    Some have more: `deciding`, the ledgers without those on which no answer depends; `placed`, where layers lie
    elsewhere from point to point (see llama_cpp); `grows`, whether nothing shrinks as contexts or requests grow.
    """

    def refusal(
        self, model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
    ) -> str | None:
        """Why this engine cannot run the combination, beyond what its profile says; None when it can."""

    def prepare(
        self, model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
    ) -> Any:
        """Everything that is independent of context and concurrency."""

    def ledgers(self, prepared: Any, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
        """The terms of every device, ranks in order."""

    def kv_cache_bytes(self, prepared: Any, context_tokens: Any, concurrency: Any) -> Any:
        """One logical copy of the cache as the engine allocates it."""

    def pool(self, prepared: Any, context_tokens: Any, concurrency: Any) -> Pool | None:
        """The cache that is left when all else is paid; None for engines that do not fill the device."""

    def command(self, prepared: Any, context_tokens: int, concurrency: int) -> str:
        """The command that starts the engine as the ledger assumes it."""

    def notes(self, prepared: Any) -> tuple[str, ...]:
        """What a reader has to know beside the numbers."""
