"""`aetheria debug nan`: why a window's loss, gradient, update or model state was not finite."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aetheria.engine.interfaces import LOSS_OR_GRADIENT, UPDATE_OR_STATE
from aetheria.errors import ExitCode

if TYPE_CHECKING:
    from aetheria.snapshots.dumps import Dump, DumpRecord
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


@dataclass(frozen=True, kw_only=True)
class DebugNanCommand:
    """Command: replays a dump that a non-finite window left, and says where it went wrong.

    Attributes:
        dump: a folder in a run's `dumps/`.
        project: the project folder, where the model is looked for; None: the current folder. The
            folders around the dump are data, and no project.
        model: a registered name or `pkg.mod:Name`; None: the dump's own, a registered one.
        traceback: print the whole traceback of an error, not the user's own frames alone.
    """

    dump: Path
    project: str | Path | None = None
    model: str | None = None
    traceback: bool = False

    def execute(self) -> int:
        """Replays, prints, and returns the exit code: 0 if the cause was found, 1 if everything is
        finite here.

        Raises:
            AetheriaError: this is no dump, it is damaged, or its model cannot be made.
        """
        from aetheria.snapshots.dumps import read_dump

        dump = read_dump(self.dump)
        finding = self._find(dump)
        for name, text in _describe(finding, dump):
            print(f"{name:10} {text}")
        return int(ExitCode.FAILED if finding is None else ExitCode.OK)

    def _find(self, dump: "Dump") -> "Finding | None":
        from aetheria.build import is_elastic
        from aetheria.build.provenance import model_params, recorded_model
        from aetheria.config import make_config
        from aetheria.model.by_name import remake_model
        from aetheria.plugins.bounded import build_described
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.nan.replay import Replay

        record = dump.record
        config = make_config(record.run.config, str(self.dump))
        said = recorded_model(record.run)._replace(
            name=self.model or config.model_name, params=model_params(config)
        )
        project = find_project(None, self.project)
        model = remake_model(said, str(self.dump), project, self.model).model
        build = lambda: Replay(
            model,
            mixed_precision=config.mixed_precision,
            carries_state=not is_elastic(config),  # lanes all begin with the same
            arrays=dump.arrays,
            global_batch=dump.global_batch,
            step=record.step,
            total_steps=record.total_steps or 1,
        )
        return build_described(build, str(self.dump), len(dump.arrays)).find()


def _describe(finding: "Finding | None", dump: "Dump") -> Iterator[tuple[str, str]]:
    record = dump.record
    num_micro, size = dump.global_batch["mask"].shape
    yield "window", f"step {record.step}, {num_micro} micro-batch(es) of {size} examples"
    if finding is None:
        yield (
            "finite",
            f"{_WHAT[record.what]} finite when computed again: the data "
            "and the model are not the cause; look at the machine (memory, driver) that computed "
            "them",
        )
        return
    numbers = f"loss (summed) {finding.loss:g}, gradient norm {finding.grad_norm:g}"
    if finding.kind in ("update", "new value"):
        yield "where", f"the optimizer: {numbers}; what the update writes is not finite"
    elif finding.micro_batch is None:
        yield "sum", f"every micro-batch is finite, all together are not: {numbers}"
    else:
        yield "where", f"micro-batch {finding.micro_batch + 1} of {num_micro}: {numbers}"
    if finding.origin is not None:
        yield from _describe_origin(finding.origin)
    if finding.parameter is not None:
        largest = finding.kind == "gradient" and finding.micro_batch is None
        text = "its gradient is the largest" if largest else _LEAF[finding.kind]
        yield _leaf_name(finding.parameter), f"{finding.parameter}: {text}"
    if finding.kind == "value":
        yield "example", "none is to blame: the number was not finite before the window"
    elif finding.micro_batch is not None:
        yield "example", _example(finding, record, size)


def _leaf_name(path: str) -> str:
    """What the tree is called in which a leaf is."""
    names = {"params": "parameter", "model_state": "state", "opt_state": "optimizer"}
    return names[path.split("/")[0]]


def _describe_origin(origin: "Origin") -> Iterator[tuple[str, str]]:
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
        yield "then", f"{later.operation} makes {_WORDS[later.kind]} of it: {_place(later)}"


def _place(origin: "Origin") -> str:
    layer = origin.layer or "outside of any module"
    turn = "" if origin.turn is None else f", layer {origin.turn} (from 0) of a loop"
    source = f", {origin.source}" if origin.source else ""
    return f"{layer}{turn}, {'backward' if origin.backward else 'forward'} pass{source}"


def _example(finding: "Finding", record: "DumpRecord", size: int) -> str:
    assert finding.micro_batch is not None
    if finding.row is None:
        return "no single one: alone, each of the micro-batch is finite"
    place = finding.micro_batch * size + finding.row
    number = record.indices[place]
    return f"row {finding.row} (from 0) of the micro-batch: number {number} of the training split"
