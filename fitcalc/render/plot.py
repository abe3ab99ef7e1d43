"""A curve as a picture: PNG or SVG, with the optional package matplotlib."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from fitcalc.errors import RequestError
from fitcalc.render.curve_text import COLUMNS, Value, axis_value
from fitcalc.spec.curve import Curve

_PANELS = (("total", "each"), ("first",), ("token",))
"""Which figures stand together: rates, time to first token, time per token."""
_INCHES = (12.0, 4.2)
_DOTS_PER_INCH = 120


def require_plot(path: str) -> None:
    """Refuse, before any work, a file that is no picture or a Python without matplotlib."""
    if os.path.splitext(path)[1].lower() not in (".png", ".svg"):
        raise RequestError(f"{path!r} is neither a .png nor a .svg", hint="give --plot curve.png or --plot curve.svg")
    try:
        import_module("matplotlib")
    except ImportError as error:
        hint = "pip install 'fitcalc[plot]'; without --plot the curve is sketched in the terminal"
        raise RequestError("a plot needs the package matplotlib", hint=hint) from error


def save_plot(curve: Curve, path: str) -> None:
    """Write the curve to a .png or .svg file; the same curve gives the same bytes."""
    require_plot(path)
    matplotlib, figures = import_module("matplotlib"), import_module("matplotlib.figure")
    # A drawing of its own, without windows; ids and dates would differ between runs.
    with matplotlib.rc_context({"svg.hashsalt": "fitcalc", "font.size": 9}):
        drawing = figures.Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
        for axes, names in zip(drawing.subplots(1, len(_PANELS)), _PANELS, strict=True):
            _draw(axes, curve, names)
        asked = curve.inputs
        drawing.suptitle(
            f"{asked['model_name']}, {asked['quant_name']}, {asked['engine_name']}, {asked['devices_name']}"
        )
        is_vector = path.lower().endswith(".svg")
        try:
            drawing.savefig(path, metadata={"Date": None} if is_vector else {"Software": None})
        except OSError as error:
            raise RequestError(f"cannot write {path!r}: {error.strerror or error}", hint="give another path") from error


def _draw(axes: Any, curve: Curve, names: tuple[str, ...]) -> None:
    """One panel: a line per figure, its range shaded, a limit dashed."""
    ticker = import_module("matplotlib.ticker")
    places = [axis_value(curve, point) for point in curve.points]
    for name in names:
        title, value, factor = COLUMNS[name]
        estimates = [value(point).estimate * factor for point in curve.points]
        (line,) = axes.plot(places, estimates, marker="o", markersize=3, label=title)
        axes.fill_between(places, _ends(curve, value, "low", factor), _ends(curve, value, "high", factor), alpha=0.2,
                          color=line.get_color())  # fmt: skip
    limit = curve.inputs.get({"first": "max_ttft_s", "token": "max_tpot_s"}.get(names[0], ""))
    if limit:
        axes.axhline(limit * COLUMNS[names[0]][2], linestyle="--", linewidth=1, color="black", label="limit")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{place:,}" for place in places], rotation=45)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.set_xlabel("requests at once" if curve.over == "concurrency" else "tokens of context")
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:,.4g}"))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def _ends(curve: Curve, value: Value, end: str, factor: float) -> list[float]:
    return [getattr(value(point), end) * factor for point in curve.points]
