"""Every model × five devices × every quantization through the Python API: verdicts, refusals by reason, total time.

    python benchmarks/speed/grid.py [models-to-take]

Cells that no engine runs are refusals (bad input), those that cannot be decided are `unknown`; anything else that is
raised is a defect and is printed.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections import Counter

import fitcalc
from fitcalc import catalog
from fitcalc.errors import FitcalcError, UnsupportedModelError

DEVICES: tuple[dict[str, str], ...] = (
    {"gpu": "rtx-3060"},
    {"gpu": "rtx-4090"},
    {"gpu": "a10"},
    {"gpu": "a100-80"},
    {"cpu": "raspberry-pi-5-8gb"},
)


def cell(model: fitcalc.ModelSpec, device: dict[str, str], quant: str) -> tuple[str, str]:
    """(verdict, reason) of one point; the verdict of a refusal is 'refused', of a defect 'traceback'."""
    try:
        report = fitcalc.fit(model, quant=quant, **device)  # type: ignore[arg-type]
    except UnsupportedModelError as error:
        return "unknown", str(error)
    except FitcalcError as error:
        return "refused", str(error)
    except Exception as error:
        traceback.print_exc()
        return "traceback", f"{type(error).__name__}: {error}"
    reason = "; ".join(model.unknowns) if report.verdict == "unknown" else ""
    return report.verdict, reason


def kind_of(reason: str, model: fitcalc.ModelSpec) -> str:
    """A reason without the names in it, so that like ones are counted together."""
    return re.sub(r"\s+", " ", reason.replace(model.name, "MODEL").replace(model.id, "MODEL"))[:110]


def main() -> None:
    """Print the counts, each kind of unknown with its reason, and the time."""
    names = catalog.ids("models")
    taken = names[: int(sys.argv[1])] if len(sys.argv) > 1 else names
    quants = catalog.ids("quants")
    verdicts: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    defects: Counter[str] = Counter()
    started = time.process_time()
    for name in taken:
        model = fitcalc.load_model(name)
        for device in DEVICES:
            for quant in quants:
                verdict, reason = cell(model, device, quant)
                verdicts[verdict] += 1
                if verdict == "unknown":
                    unknown[kind_of(reason, model)] += 1
                if verdict == "traceback":
                    defects[f"{name} {device} {quant}: {reason}"] += 1
    seconds = time.process_time() - started
    cells = sum(verdicts.values())
    print(f"{len(taken)} models x {len(DEVICES)} devices x {len(quants)} quantizations = {cells:,} cells")
    print(f"{seconds:,.0f} s of CPU time, {seconds / cells * 1000:.2f} ms a cell\n")
    for verdict, count in verdicts.most_common():
        print(f"{count:>8,}  {count / cells:6.1%}  {verdict}")
    print("\nunknown, by reason")
    for reason, count in unknown.most_common():
        print(f"{count:>8,}  {count / cells:6.2%}  {reason}")
    for defect, _ in defects.most_common(20):
        print(f"DEFECT {defect}")
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    main()
