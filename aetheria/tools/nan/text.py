"""What `aetheria debug nan` prints about a finding."""

from collections.abc import Iterator

from aetheria.engine.interfaces import LOSS_OR_GRADIENT, UPDATE_OR_STATE
from aetheria.snapshots.dumps import DumpRecord
from aetheria.tools.nan.dump import Dump
from aetheria.tools.nan.origin import Origin
from aetheria.tools.nan.replay import Finding

_WORDS = {"nan": "a NaN", "inf": "an infinity"}
_WHAT = {
    LOSS_OR_GRADIENT: "loss and gradient are",
    UPDATE_OR_STATE: "loss, gradient, update and model state are",
}
_LEAF = {
    "value": "its value is not finite",
    "gradient": "its gradient is the first that is not finite",
    "new model state": "its new value is the first that is not finite",
    "update": "its update is the first that is not finite",
    "new value": "its new value is the first that is not finite",
}


def describe(finding: Finding | None, dump: Dump) -> Iterator[tuple[str, str]]:
    """A line for each thing that was found: its title, and a text."""
    record = dump.record
    num_micro, size = dump.global_batch["mask"].shape
    yield "batch", f"step {record.step}, {num_micro} micro-batch(es) of {size} examples"
    if finding is None:
        yield (
            "finite",
            f"{_WHAT[record.what]} finite when computed again: the data "
            "and the model are not the cause; check the machine (memory, driver) that computed "
            "them",
        )
        return
    numbers = f"loss (summed) {finding.loss:g}, gradient norm {finding.grad_norm:g}"
    if finding.kind in ("update", "new value"):
        yield "where", f"the optimizer: {numbers}; the updated values are not finite"
    elif finding.micro_batch is None:
        yield "sum", f"every micro-batch is finite, their sum is not: {numbers}"
    else:
        yield "where", f"micro-batch {finding.micro_batch + 1} of {num_micro}: {numbers}"
    if finding.origin is not None:
        yield from _describe_origin(finding.origin)
    if finding.parameter is not None:
        largest = finding.kind == "gradient" and finding.micro_batch is None
        text = "its gradient is the largest" if largest else _LEAF[finding.kind]
        yield _leaf_name(finding.parameter), f"{finding.parameter}: {text}"
    if finding.kind == "value":
        yield (
            "example",
            "none is the cause: the number was not finite before this global batch",
        )
    elif finding.micro_batch is not None:
        yield "example", _example(finding, record, size)


def _leaf_name(path: str) -> str:
    """The name of the tree that a leaf is in."""
    names = {"params": "parameter", "model_state": "state", "opt_state": "optimizer"}
    return names[path.split("/")[0]]


def _describe_origin(origin: Origin) -> Iterator[tuple[str, str]]:
    chain = [origin]
    while chain[0].because is not None:
        chain.insert(0, chain[0].because)
    first = chain[0]
    if first.argument is None:
        yield "first", f"{first.operation} gives {_WORDS[first.kind]}"
    else:
        what, _, name = first.argument.partition("/")
        kind = "the data, column" if what == "batch" else what
        yield "first", f"{_WORDS[first.kind]} in {kind} {name}"
    yield "layer", _place(first)
    for later in chain[1:]:
        yield "then", f"{later.operation} turns it into {_WORDS[later.kind]}: {_place(later)}"


def _place(origin: Origin) -> str:
    layer = origin.layer or "outside of any module"
    turn = "" if origin.turn is None else f", layer {origin.turn} (from 0) of a loop"
    source = f", {origin.source}" if origin.source else ""
    return f"{layer}{turn}, {'backward' if origin.backward else 'forward'} pass{source}"


def _example(finding: Finding, record: DumpRecord, size: int) -> str:
    assert finding.micro_batch is not None
    if finding.row is None:
        return "no single one: each example of the micro-batch is finite alone"
    place = finding.micro_batch * size + finding.row
    number = record.indices[place]
    return f"row {finding.row} (from 0) of the micro-batch: number {number} of the training split"
