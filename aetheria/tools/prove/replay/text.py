"""The printed form of a proof by replay: a table with a verdict, and JSON."""

from dataclasses import asdict
from typing import Any

from aetheria.cli.table import print_table
from aetheria.tools.prove.replay.proof import Verdict
from aetheria.tools.prove.replay.replayed import Replayed

_MAX_DIFFERENCES = 5  # of an interval, on a terminal


def print_verdict(verdict: Verdict) -> None:
    """Prints a row for each interval, what differs, and the verdict as the last line."""
    headers = ("steps", "to", "leaves", "metric lines", "examples", "their digest", "")
    same = "same bits" if verdict.tolerance is None else f"within {verdict.tolerance:g}"
    print_table(headers, [_row(row, same) for row in verdict.rows], right=headers[2:5])
    for difference in verdict.differences:
        print(difference)
    for row in verdict.rows:
        for difference in row.differences[:_MAX_DIFFERENCES]:
            print(f"{row.interval.name}: {difference}")
        if (more := len(row.differences) - _MAX_DIFFERENCES) > 0:
            print(f"{row.interval.name}: and {more} more differences (--json lists all)")
    print(_last_line(verdict, same))


def as_json(verdict: Verdict) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "run": str(verdict.run_dir),
        "same": verdict.holds,
        "first_difference": None if verdict.first is None else asdict(verdict.first),
        "tolerance": verdict.tolerance,
        "devices": verdict.devices,
        "num_intervals": verdict.num_intervals,
        "drawn_with_seed": None if verdict.choice.sample is None else verdict.choice.seed,
        "notes": verdict.notes,
        "differences": [asdict(each) for each in verdict.differences],
        "intervals": [_row_as_json(row) for row in verdict.rows],
    }


def _row_as_json(row: Replayed) -> dict[str, Any]:
    interval = row.interval
    return {
        "from_step": interval.start_step,
        "to_step": interval.end_step,
        "from_snapshot": None if interval.start is None else interval.start.name,
        "to_snapshot": interval.end.name,
        "num_leaves": row.num_leaves,
        "num_metric_lines": row.num_lines,
        "num_examples": row.num_examples,
        "examples_sha256": row.examples_sha256,
        "seconds": round(row.seconds, 3),
        "same": not row.differences,
        "differences": [asdict(each) for each in row.differences],
    }


def _row(row: Replayed, same: str) -> list[str]:
    counts = (row.num_leaves, row.num_lines, row.num_examples)
    return [
        row.interval.name,
        row.interval.end.name,
        *map(str, counts),
        row.examples_sha256[:12],
        "differs" if row.differences else same,
    ]


def _last_line(verdict: Verdict, same: str) -> str:
    steps = sum(row.interval.end_step - row.interval.start_step for row in verdict.rows)
    what = f"{len(verdict.rows)} of {verdict.num_intervals} intervals, {steps} steps"
    if verdict.choice.sample is not None:
        what += f", drawn with seed {verdict.choice.seed}"
    on = f" on {' and '.join(verdict.devices)}" if verdict.devices else ""
    if verdict.first is None:
        return f"replay: {what}{on}: {'the ' if same == 'same bits' else ''}{same}"
    return f"replay: {what}{on}: not the same: {verdict.first}"
