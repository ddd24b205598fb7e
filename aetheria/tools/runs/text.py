"""How `aetheria runs` prints a run."""

import math
import time
from collections.abc import Sequence

from aetheria.snapshots.sizes import size_text
from aetheria.training.run_info import RunInfo

HEADERS = ("run", "status", "step", "best", "age", "size", "note")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def row(run: RunInfo) -> Sequence[str]:
    """One line of the list, in the order of `HEADERS`."""
    problem = f"({run.problem})" if run.problem else ""
    return (
        printable(str(run.path)),
        printable(run.status),
        "" if run.step is None else str(run.step),
        "" if run.best is None else f"{printable(run.monitor)} {run.best:.4g}",
        "" if run.started_at is None else age(time.time() - run.started_at),
        size_text(run.size_bytes),
        printable(" ".join(part for part in (run.note, problem) if part)),
    )


def as_json(run: RunInfo) -> dict[str, object]:
    """One line of `--json`."""
    return {
        "path": str(run.path),
        "status": run.status,
        "step": run.step,
        "monitor": run.monitor,
        "best": run.best if run.best is not None and math.isfinite(run.best) else None,
        "started_at": run.started_at,
        "updated_at": run.updated_at,
        "size_bytes": run.size_bytes,
        "note": run.note,
        "problem": run.problem,
    }


def printable(text: str) -> str:
    """A text without what a terminal would obey.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def age(seconds: float) -> str:
    """A duration in its largest unit.

    >>> age(3_725.0), age(-1.0)
    ('1 h', '0 s')
    """
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"
