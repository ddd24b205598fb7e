"""Compares two runs: what is recorded, what they logged, their snapshots, and the steps after the
last common state, computed again under both records. Writes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aetheria.engine.interfaces import Snapshot
from aetheria.engine.record import RunRecord
from aetheria.errors import AetheriaError
from aetheria.tools.compare.building import Chosen, Side, build_side, other_than_here, prepare
from aetheria.tools.compare.computing import Computed, Start, compute
from aetheria.tools.compare.examples import DifferingExamples, find_examples
from aetheria.tools.compare.history import History, read_history
from aetheria.tools.compare.metric_lines import (
    Key,
    Line,
    MetricComparison,
    compare_metrics,
    read_metric_lines,
)
from aetheria.tools.compare.recorded import DATA_KEYS, Difference, compare_records
from aetheria.tools.compare.states import SnapshotComparison, compare_snapshots, read_sound

# Groups of differences that are applied when steps are computed again.
APPLIED = ("seed", "config", "devices")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        a: the first.
        b: the second.
        last_equal: the last step that is known to be equal; 0: none is.
        parting: the first step that is known to differ; None: none is.
        recorded: what their records say differently of that step, or else of the last common one.
        metrics: their metric lines.
        snapshots: their snapshots.
        final: the step of both summaries and whether their parameters are equal there; None: they
            are of different steps, or say nothing.
        examples: differing examples, by the fingerprints; None: these do not differ.
        computed: the steps computed again; None: they were not.
        not_computed: why not; empty: they were, or are equal.
    """

    a: History
    b: History
    last_equal: int
    parting: int | None
    recorded: Sequence[Difference]
    metrics: MetricComparison
    snapshots: SnapshotComparison
    final: tuple[int, bool] | None
    examples: DifferingExamples | None = None
    computed: Computed | None = None
    not_computed: str = ""

    @property
    def steps(self) -> tuple[int, int]:
        """The last step of each run."""
        return _last_step(self.a, self.metrics.last[0]), _last_step(self.b, self.metrics.last[1])

    @property
    def same_length(self) -> bool:
        """Whether both ended at the same step."""
        return self.steps[0] == self.steps[1]

    @property
    def equal(self) -> bool:
        """Whether all that can be compared is equal, and the length too."""
        return self.parting is None and self.same_length


def compare_runs(a: Path, b: Path, chosen: Chosen, *, quick: bool = False) -> Comparison:
    """Compares two run folders.

    Args:
        a: the first.
        b: the second.
        chosen: what the user names in place of what the folders say.
        quick: compute nothing.

    Raises:
        AetheriaError: a folder is no run, both are one, or nothing of what they computed can be
            compared.
    """
    if a.exists() and b.exists() and a.samefile(b):
        raise AetheriaError(f"compare: expected two runs, got {a} twice; name another")
    one, other = read_history("A", a), read_history("B", b)
    not_computed = "" if not quick else "--quick"
    if not quick:
        not_computed = _prepare(one, other)
    lines = [read_metric_lines(run.path) for run in (one, other)]
    metrics = compare_metrics(*lines)
    snapshots = compare_snapshots(one, other)
    final = _compare_final(one, other)
    last_equal, parting = _window(metrics, snapshots, final)
    if parting is None and last_equal == 0:
        raise AetheriaError(_nothing(one, other, metrics, snapshots))
    steps = [_last_step(run, last) for run, last in zip((one, other), metrics.last, strict=True)]
    at = max(0, min(steps) if parting is None else parting - 1)
    recorded = compare_records(one, other, at)
    comparison = Comparison(
        a=one,
        b=other,
        last_equal=last_equal,
        parting=parting,
        recorded=recorded,
        metrics=metrics,
        snapshots=snapshots,
        final=final,
    )
    return comparison if parting is None else _explain(comparison, lines, chosen, not_computed)


def _explain(
    comparison: Comparison,
    lines: Sequence[Mapping[Key, Line]],
    chosen: Chosen,
    not_computed: str,
) -> Comparison:
    """Adds the examples that differ, and what computing the steps again shows, unless there is a
    reason not to.
    """
    assert comparison.parting is not None
    a, b = (run.record_after(comparison.parting - 1) for run in (comparison.a, comparison.b))
    examples = find_examples(a, b, comparison.last_equal, comparison.parting)
    comparison = replace(comparison, examples=examples, not_computed=not_computed)
    if not_computed:
        return comparison
    try:
        return replace(comparison, computed=_compute(comparison, lines, chosen))
    except AetheriaError as error:
        return replace(comparison, not_computed=str(error))
    except Exception as error:  # a model that fails here leaves the rest of the page as it is
        first = (str(error).splitlines() or [""])[0]
        return replace(comparison, not_computed=f"{type(error).__name__}: {first}")


def _prepare(a: History, b: History) -> str:
    """Sets what must be set before arrays are read; returns why nothing can be computed."""
    try:
        prepare([stretch.record for run in (a, b) for stretch in run.stretches])
    except AetheriaError as error:
        return str(error)
    return ""


def _compute(
    comparison: Comparison, lines: Sequence[Mapping[Key, Line]], chosen: Chosen
) -> Computed:
    assert comparison.parting is not None
    at = comparison.parting - 1
    start = _choose_start(comparison)
    runs = (comparison.a, comparison.b)
    records = [run.record_after(at) for run in runs]
    a = _side(runs[0], records[0], chosen)
    differs = any(_is_applied(each) for each in comparison.recorded)
    if differs:
        b = _side(runs[1], records[1], chosen)
    else:
        b = replace(a, notes=list(other_than_here(records[1])))
    # A run whose record changed in between did not compute these steps so.
    known = [
        each if run.record_after(start.step) == record else {}
        for run, record, each in zip(runs, records, lines, strict=True)
    ]
    parted = comparison.snapshots.parting
    states = comparison.snapshots.parted if parted and parted[0] == comparison.parting else ()
    return compute(a, b, start, comparison.parting, logged=known, states=states)


def _side(run: History, record: RunRecord, chosen: Chosen) -> Side:
    try:
        return build_side(record, run.path, chosen)
    except AetheriaError as error:
        raise AetheriaError(f"{run.name}: {error}") from error


def _is_applied(difference: Difference) -> bool:
    """Whether computing again takes a difference into account, and it may matter."""
    if difference.path.split(".")[0] in DATA_KEYS:
        return True
    return difference.may_change_bits and difference.group in APPLIED


def _choose_start(comparison: Comparison) -> Start:
    """The newest snapshot before the parting, of a step up to which both are known to be equal."""
    assert comparison.parting is not None
    places = {
        step: ("both", info)
        for step, info in comparison.snapshots.equal.items()
        if step < comparison.parting
    }
    most = _last_same_state(comparison)
    for run in (comparison.a, comparison.b):
        for info in run.snapshots:
            if info.step is not None and info.step <= most:
                alone = f"{run.name}, up to which both logged the same"
                places.setdefault(info.step, (alone, info))
    for step in sorted(places, reverse=True):
        of, info = places[step]
        if (snapshot := read_sound(of, info, [])) is not None:
            return _start(snapshot, of)
    return Start(where="initialization")


def _last_same_state(comparison: Comparison) -> int:
    """The last step before the parting whose state is the same, by the metric lines."""
    a, b, metrics = comparison.a, comparison.b, comparison.metrics
    same, last = metrics.same_state, metrics.last_equal or 0
    if 0 < last == same + 1:  # the same step from the same state gives the same
        differences = compare_records(a, b, same)
        same = same if any(each.may_change_bits for each in differences) else last
    return min(same, (comparison.parting or 0) - 1)


def _start(snapshot: Snapshot, of: str) -> Start:
    record = snapshot.record
    return Start(
        where=f"{snapshot.path.name} of {of}",
        step=record.progress.step,
        examples_seen=record.progress.examples_seen,
        arrays=snapshot.arrays,
        interval=record.engine.interval,
    )


def _compare_final(a: History, b: History) -> tuple[int, bool] | None:
    """Compares the digests of the parameters in both summaries."""
    digests, steps = [], []
    for run in (a, b):
        digests.append(run.info.summary.get("params_sha256"))
        steps.append(run.info.summary.get("steps"))
    if steps[0] != steps[1] or not isinstance(steps[0], int) or None in digests:
        return None
    return steps[0], digests[0] == digests[1]


def _window(
    metrics: MetricComparison, snapshots: SnapshotComparison, final: tuple[int, bool] | None
) -> tuple[int, int | None]:
    """The last step that is known to be equal, or 0, and the first that is known to differ."""
    differ = [] if metrics.parting is None else [metrics.parting.step]
    differ += [] if snapshots.parting is None else [snapshots.parting[0]]
    equal = [*metrics.equal, *snapshots.equal]
    if final is not None:
        (equal if final[1] else differ).append(final[0])
    parting = min(differ, default=None)
    return max((s for s in equal if parting is None or s < parting), default=0), parting


def _nothing(
    a: History, b: History, metrics: MetricComparison, snapshots: SnapshotComparison
) -> str:
    lacks = []
    for run in (a, b):
        names = {"metric lines": metrics.missing, "snapshots": snapshots.missing}
        absent = [what for what, missing in names.items() if run.name in missing]
        if absent:
            lacks.append(f"no {' and no '.join(absent)} in {run.path}")
    got = "; ".join([*lacks, *snapshots.damaged]) or "none that both have at one step"
    return (
        "compare: expected metric lines or snapshots of a common step, got "
        f"{got}; train with the logger jsonl, or with snapshots"
    )


def _last_step(run: History, logged: int) -> int:
    return max(run.info.step or 0, logged)
