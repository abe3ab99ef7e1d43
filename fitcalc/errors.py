"""What can go wrong, one class per way a caller may want to tell apart. Imports nothing of fitcalc.

"Does not fit" is an answer, not an error. Every error carries one line of what is wrong and a hint of what to try.
"""

from __future__ import annotations


class FitcalcError(Exception):
    """Base of every error fitcalc raises on purpose; `.hint` says what to try. Exit code 2."""

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UnitError(FitcalcError):
    """A size, rate or count that cannot be read."""

    code = "unit"


class UnknownNameError(FitcalcError):
    """No profile of that kind has this name; `.suggestions` holds the closest ids."""

    code = "unknown_name"

    def __init__(self, kind: str, name: str, suggestions: tuple[str, ...] = (), *, hint: str = "") -> None:
        meant = f"did you mean {', '.join(suggestions)}? " if suggestions else ""
        super().__init__(f"unknown {kind} {name!r}", hint=(meant + hint).rstrip())
        self.kind, self.name, self.suggestions = kind, name, suggestions


class ProfileError(FitcalcError):
    """A profile file that cannot be used: says file, field and reason."""

    code = "profile"


class ModelFileError(FitcalcError):
    """A config.json or weight file that cannot be read: says file, place and reason."""

    code = "model_file"


class HubError(FitcalcError):
    """A repository on the Hugging Face Hub that cannot be reached or read: network, rights, limits."""

    code = "hub"


class UnsupportedModelError(FitcalcError):
    """A model whose tensors or cache cannot be derived from what is given. Exit code 3."""

    code = "unsupported_model"


class RequestError(FitcalcError):
    """An option whose value, or whose combination with others, makes no sense."""

    code = "request"
