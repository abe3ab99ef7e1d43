"""python -m fitcalc, and the console script."""

from __future__ import annotations

import gc
import sys

_COLLECT_AFTER_OBJECTS = 200_000
"""A start makes many lasting objects and few cycles: at the usual 700 the collector takes 5 % of a plain run."""


def main() -> None:
    """Run the command line and exit with its code."""
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
    from fitcalc.cli import run

    code = run(sys.argv[1:])
    # Nothing is left to be freed by hand: the interpreter would look through all objects on its way out.
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
