"""How fast a run trained, read from its `metrics.jsonl`. Knows no command line."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from aetheria.observe.loggers.records import RATES


def typical_speed(run_dir: Path) -> Mapping[str, float]:
    """The median over the logging intervals of each figure, and of the peak memory the largest;
    empty without a `metrics.jsonl`.
    """
    file = run_dir / "metrics.jsonl"
    found: dict[str, list[float]] = {}
    if not file.is_file():
        return {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a kill left this line half written
        for name in RATES:
            value = record.get(name) if isinstance(record, dict) else None
            if isinstance(value, int | float):
                found.setdefault(name, []).append(value)
    return {
        name: max(found[name]) if name.startswith("peak") else statistics.median(found[name])
        for name in RATES
        if name in found
    }
