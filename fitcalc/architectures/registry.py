"""model_type -> 'module:function' of fitcalc.architectures (function defaults to build)."""

BUILDERS: dict[str, str] = {
    "llama": "llama",
}
