"""What `aetheria compare` prints: a page of text, or JSON."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from aetheria.cli.table import print_table
from aetheria.tools.compare.causes import conclude, rank_causes
from aetheria.tools.compare.comparison import Comparison
from aetheria.tools.compare.computing import Computed
from aetheria.tools.compare.history import History
from aetheria.tools.compare.operations import OperationDifference
from aetheria.tools.compare.sentences import counted
from aetheria.tools.compare.states import LeafDifference

_TITLE, _CELL, _WIDTH = 10, 30, 110  # characters of a title, of a cell of the table, and of a line


def print_page(comparison: Comparison) -> None:
    """Prints the page."""
    for run in (comparison.a, comparison.b):
        print(f"{run.name:{_TITLE}} {run.path}: {run.state}")
    rows = [
        [
            each.group,
            *map(_cell, (each.path, each.a, each.b)),
            str(each.since),
            "yes" if each.may_change_bits else "no",
        ]
        for each in comparison.recorded
    ]
    if rows:
        headers = ("recorded", "", "A", "B", "after step", "may change bits")
        print_table(headers, rows, right=("after step",))
    else:
        print(f"{'recorded':{_TITLE}} nothing differs")
    for title, text in _lines(comparison):
        indent = " " * (_TITLE + 1)
        print(
            textwrap.fill(
                text, _WIDTH, initial_indent=f"{title:{_TITLE}} ", subsequent_indent=indent
            )
        )


def as_json(comparison: Comparison) -> dict[str, object]:
    """What `--json` prints."""
    metrics, snapshots, computed = comparison.metrics, comparison.snapshots, comparison.computed
    return {
        "equal": comparison.equal,
        "conclusion": conclude(comparison),
        "causes": [{"group": c.group, "text": c.text} for c in rank_causes(comparison)],
        "last_equal_step": comparison.last_equal,
        "parting_step": comparison.parting,
        "runs": {run.name: _run(run) for run in (comparison.a, comparison.b)},
        "recorded": [asdict(each) for each in comparison.recorded],
        "metrics": {
            "num_equal": len(metrics.equal),
            "last_equal_step": metrics.last_equal,
            "parting": metrics.parting and asdict(metrics.parting),
            "missing": metrics.missing,
            "other_cadence": metrics.other_cadence,
            "last_steps": metrics.last,
        },
        "snapshots": {
            "equal": {step: str(info.path) for step, info in snapshots.equal.items()},
            "parting": snapshots.parting
            and {"step": snapshots.parting[0], **asdict(snapshots.parting[1])},
            "missing": snapshots.missing,
            "damaged": snapshots.damaged,
        },
        "final_parameters": comparison.final
        and {"step": comparison.final[0], "equal": comparison.final[1]},
        "examples": comparison.examples and asdict(comparison.examples),
        "computed": computed and _computed_json(computed),
        "not_computed": comparison.not_computed,
    }


def _run(run: History) -> Mapping[str, object]:
    info = run.info
    return {
        "folder": str(run.path),
        "status": info.status,
        "step": info.step,
        "problems": run.problems,
        "records_from_steps": [stretch.first_step for stretch in run.stretches],
    }


def _computed_json(computed: Computed) -> dict[str, object]:
    found = asdict(computed)
    if computed.operation is not None:
        found["operation"]["operation"] = {
            name: value
            for name, value in computed.operation.operation._asdict().items()
            if name != "digest"
        }
    for each in found["again"].values():
        unlike = each["unlike"]
        each["unlike"] = unlike and {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in unlike._asdict().items()
        }
    return found


def _lines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """A line for each thing that was found: its title, and a text."""
    yield "metrics", _metrics(comparison)
    yield "snapshots", _snapshots(comparison)
    for line in comparison.snapshots.damaged:
        yield "", line
    for run in (comparison.a, comparison.b):
        for problem in run.problems:
            yield "", f"{run.name}: {problem}"
    if comparison.final is not None:
        step, same = comparison.final
        yield "parameters", f"{'equal' if same else 'not equal'} at the end, after step {step}"
    if comparison.not_computed:
        yield "computed", f"nothing: {comparison.not_computed}"
    if comparison.computed is not None:
        yield from _computed(comparison.computed)
    yield "so", conclude(comparison)


def _metrics(comparison: Comparison) -> str:
    metrics = comparison.metrics
    if metrics.missing:
        return f"none in {' and none in '.join(metrics.missing)}"
    cadence = "; lines of training are means over other steps" if metrics.other_cadence else ""
    equal = "no line is equal"
    if metrics.equal:
        equal = f"{counted(len(metrics.equal), 'line')} equal up to step {metrics.last_equal}"
    parting = metrics.parting
    if parting is None:
        a, b = metrics.last
        ends = f"; A logged up to step {a} and B up to step {b}" if a != b else ""
        return equal + ends + cadence
    name, *others = parting.names
    also = f", and {', '.join(others)}" if others else ""
    return (
        f"{equal}; they part at step {parting.step}: {parting.split}/{name} is "
        f"{parting.a[name]} in A and {parting.b[name]} in B{also}{cadence}"
    )


def _snapshots(comparison: Comparison) -> str:
    found = comparison.snapshots
    if found.missing:
        return f"none in {' and none in '.join(found.missing)}"
    parts = []
    if found.equal:
        parts.append(f"{len(found.equal)} equal, leaf by leaf, up to step {found.last_equal}")
    if found.parting is not None:
        step, difference = found.parting
        parts.append(f"at step {step}, {_leaf(difference)}")
    return "; ".join(parts) or "none of a common step"


def _leaf(found: LeafDifference) -> str:
    return (
        f"{found.num_differ} of {found.num_leaves} leaves differ, the first {found.leaf}: "
        f"{found.how}"
    )


def _computed(found: Computed) -> Iterator[tuple[str, str]]:
    where = f"from {found.start}"
    if found.initial is not None:
        yield "computed", f"{where}: {_leaf(found.initial)}"
    else:
        steps = f"step {found.first_step}"
        if found.last_step != found.first_step:
            steps += f" to {found.last_step}"
        if found.step is None:
            said = "the same bits under both records"
        else:
            assert found.state is not None
            said = f"under both records, step {found.step} is the first to differ: "
            said += _leaf(found.state)
        yield "computed", f"{steps} here, {where}: {said}"
    for note in found.notes:
        yield "", note
    if found.batch is not None:
        yield "batch", _batch(found)
    if found.operation is not None:
        yield "operation", _operation(found.operation)
    elif found.compared_operations:
        yield (
            "operation",
            "each gives the same bits if it is computed alone: the compiled steps add in another "
            "order",
        )
    elif found.step is not None and found.batch is None:
        yield "operation", "not compared: the global batch is cut into slices of other sizes"
    yield from _again(found)


def _batch(found: Computed) -> str:
    batch = found.batch
    assert batch is not None
    hows = {
        "size": "has another number of examples",
        "order": "has other examples",
        "values": "has other values",
    }
    numbers = f" in examples {', '.join(map(str, batch.examples))}" if batch.examples else ""
    return f"that of step {batch.step} {hows[batch.how]}{numbers}"


def _operation(found: OperationDifference) -> str:
    operation = found.operation
    name = f"{operation.name} in A and {found.other} in B" if found.other else operation.name
    if found.part == "update":
        place = "the update by the optimizer"
    else:
        layer = operation.layer or "no layer"
        turn = "" if operation.turn is None else f", layer {operation.turn} (from 0) of a loop"
        way = "backward" if operation.backward else "forward"
        place = f"{layer}{turn}, {way} pass of micro-batch {(found.micro_batch or 0) + 1}"
    source = f", {operation.source}" if operation.source else ""
    leaf = f"; the first leaf that it changes is {found.leaf}" if found.leaf else ""
    return f"{name} is the first to differ: {place}{source}{leaf}"


def _again(found: Computed) -> Iterator[tuple[str, str]]:
    for name, each in found.again.items():
        if each.unlike is not None:
            unlike = each.unlike
            yield (
                "again",
                f"not what {name} logged: at step {unlike.step}, {unlike.name} {unlike.logged}, "
                f"computed {unlike.computed}",
            )
        elif each.num_lines:
            lines = counted(each.num_lines, "line")
            yield "again", f"{lines} that {name} logged, bit for bit"
        if each.state is not None:
            whether = "is" if each.state else "is not"
            yield "", f"the state of step {found.last_step} {whether} that of {name}'s snapshot"


def _cell(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"
