"""How this machine reaches the Hugging Face Hub: endpoint, token and switches, as huggingface_hub knows them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fitcalc.errors import HubError
from fitcalc.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """Where the Hub is and as whom it is asked."""

    endpoint: str
    token: str = ""
    """Sent to the endpoint's own host only."""
    offline: bool = False
    timeout_s: float = 10.0
    """Without a byte; a whole answer may take longer."""
    pause_s: float = 0.5
    """Before what failed in passing is tried again; doubled each time."""

    def __repr__(self) -> str:
        # Without the token: what is printed ends up in logs.
        return f"Access({self.endpoint!r}, offline={self.offline})"


def hub_access() -> Access:
    """The access that huggingface_hub is set up for: HF_ENDPOINT, HF_TOKEN or a login, HF_HUB_OFFLINE."""
    hub = _huggingface_hub()
    constants = hub.constants
    return Access(
        endpoint=str(constants.ENDPOINT).rstrip("/"),
        token=str(hub.get_token() or ""),
        offline=bool(constants.HF_HUB_OFFLINE),
        timeout_s=float(getattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)),
    )


def _huggingface_hub() -> Any:
    try:
        import_module("huggingface_hub.constants")
        return import_module("huggingface_hub")
    except ImportError as error:
        hint = "pip install 'fitcalc[hub]'; a config.json or a downloaded folder needs nothing more"
        raise HubError("reading from the Hugging Face Hub needs the package huggingface_hub", hint=hint) from error
