"""The first operation at which two training steps differ: both are evaluated one operation at a
time, and what each operation gives is compared by its digest.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.hardware.jax.gradient import make_micro_gradient, step_key
from aetheria.hardware.jax.interpreter import Array, Interpreter, Tree
from aetheria.hardware.jax.places import Frame, JaxprEqn, layer_of, library_source
from aetheria.hardware.jax.update import make_update
from aetheria.hardware.layout.counters import STEP
from aetheria.hardware.layout.leaves import import_leaves, leaf_paths, named_leaves
from aetheria.hardware.layout.signature import ProgramSignature
from aetheria.hardware.layout.state import TrainState
from aetheria.hardware.layout.trees import Columns, Leaves
from aetheria.model.model import Model
from aetheria.model.precision import Precision
from aetheria.model.step_number import at_step

_DIGEST_BYTES = 16


class Operation(NamedTuple):
    """One operation that was evaluated.

    Attributes:
        name: its name in jax.
        layer: the module that it is in; empty: none.
        backward: whether it is in the backward pass.
        source: `file:line` of the user's code, or else of the library that wrote it.
        turn: the iteration of a loop over layers, from 0; None: no loop.
        digest: of what it gave.
    """

    name: str
    layer: str
    backward: bool
    source: str
    turn: int | None
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class OperationDifference:
    """Where two steps first differ.

    Attributes:
        part: `gradient` or `update`.
        micro_batch: of the gradient: the micro-batch, or lane, from 0.
        operation: of A.
        other: the name of B's operation, if it is another one; else empty.
        leaf: the leaf that differs first among what this part gives; empty: none does.
    """

    part: Literal["gradient", "update"]
    micro_batch: int | None
    operation: Operation
    other: str
    leaf: str


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """What a step is computed from.

    Attributes:
        model: the model.
        signature: its optimizer, and the shapes of the state.
        precision: the precision policy.
        max_consecutive_skips: the guard's.
        carries_state: whether each micro-batch starts from the model state of the previous one.
    """

    model: Model
    signature: ProgramSignature
    precision: Precision
    max_consecutive_skips: int
    carries_state: bool


class _Recorded(NamedTuple):
    """A part of a step: its operations, its outputs, and by path of an output the number of the
    operation that made it.
    """

    operations: Sequence[Operation]
    outputs: Tree
    made_at: Mapping[str, int]


class _Recorder(Interpreter[int]):
    """Notes the number of the operation that made a value, and keeps a digest of each value."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def note_of_constant(self, value: Array) -> int:
        return 0

    def note_of_row(self, value: Array, note: int) -> int:
        return note

    def note_of_column(self, notes: Sequence[int]) -> int:
        return max(notes, default=0)

    def notes_of_results(
        self,
        eqn: JaxprEqn,
        operands: Sequence[tuple[Array, int]],
        results: Sequence[Array],
        frame: Frame,
    ) -> list[int]:
        self.operations.append(
            Operation(
                name=eqn.primitive.name,
                layer=layer_of(frame.stack),
                backward="transpose" in frame.stack,
                source=frame.source or library_source(eqn),
                turn=frame.turn,
                digest=_digest(results),
            )
        )
        return [self.num_operations] * len(results)


def first_operation(
    a: tuple[StepParts, Leaves, Columns], b: tuple[StepParts, Leaves, Columns]
) -> OperationDifference | None:
    """Finds the first operation of the next step at which two runs differ; None: each operation,
    computed alone, gives both the same bits.

    Args:
        a: the step of A, the state before it, and its global batch [num_slices, slice_size, ...].
        b: those of B.
    """
    steps = zip(_evaluate(*a), _evaluate(*b), strict=False)
    for (part, micro_batch, mine), (_, _, others) in steps:
        found = _first(mine, others)
        if found is not None:
            operation, other = found
            return OperationDifference(
                part=part,
                micro_batch=micro_batch,
                operation=operation,
                other=other,
                leaf=_first_leaf(mine, others),
            )
    return None


def _evaluate(
    step: StepParts, arrays: Leaves, batch: Columns
) -> Iterator[tuple[Literal["gradient", "update"], int | None, _Recorded]]:
    """The parts of a step, each evaluated when it is asked for: the gradient of each micro-batch in
    turn, then the update.
    """
    abstract = step.signature.state
    state = import_leaves([jnp.asarray(arrays[path]) for path in leaf_paths(abstract)], abstract)
    assert isinstance(state, TrainState)
    number = state.counters[STEP]
    key = step_key(state.base_key, number)
    gradient = make_micro_gradient(step.model, step.precision)

    def gradient_at_step(params: Tree, model_state: Tree, batch: Tree, rng: jax.Array) -> Tree:
        with at_step(number):
            grads, sums, new = gradient(params, model_state, batch, rng, state.loss_scale)
        return {"params": grads, "sums": sums, "model_state": new}

    model_state, total = state.model_state, None
    for index in range(len(batch["mask"])):
        micro = {name: column[index] for name, column in batch.items()}
        arguments = {
            "params": state.params,
            "model_state": model_state,
            "batch": micro,
            "rng": jax.random.fold_in(key, index),
        }
        recorded = _record(gradient_at_step, arguments)
        yield "gradient", index, recorded
        out = recorded.outputs
        part = (out["params"], out["sums"])
        total = part if total is None else jax.tree.map(jnp.add, total, part)
        if step.carries_state:
            model_state = out["model_state"]
    assert total is not None, "a global batch has a micro-batch"
    update = make_update(step.signature.optimizer, step.max_consecutive_skips)

    def new_state(state: TrainState, grads: Tree, sums: Tree, model_state: Tree) -> Tree:
        return update(state, grads, sums, model_state)[0]._asdict()

    given = {"state": state, "grads": total[0], "sums": total[1], "model_state": model_state}
    yield "update", None, _record(new_state, given)


def _record(function: Callable[..., Tree], arguments: Mapping[str, Tree]) -> _Recorded:
    recorder = _Recorder()
    outputs, made_at = recorder.evaluate(function, arguments, lambda path, value: 0)
    return _Recorded(recorder.operations, outputs, made_at)


def _first(a: _Recorded, b: _Recorded) -> tuple[Operation, str] | None:
    """A's first operation that is another one in B, or gives something else there, and the name of
    B's if it is another one.
    """
    for mine, others in zip(a.operations, b.operations, strict=False):
        if mine.name != others.name:
            return mine, others.name
        if mine.digest != others.digest:
            return mine, ""
    if len(a.operations) > len(b.operations):
        return a.operations[len(b.operations)], "none"
    if len(b.operations) > len(a.operations):
        return b.operations[len(a.operations)], "none in A"
    return None


def _first_leaf(a: _Recorded, b: _Recorded) -> str:
    """The output that differs and was made first."""
    mine, others = named_leaves(a.outputs), named_leaves(b.outputs)
    differing = [
        path for path in mine if path in others and _digest([mine[path]]) != _digest([others[path]])
    ]
    return min(differing, key=lambda path: a.made_at[path], default="")


def _digest(values: Sequence[Array]) -> bytes:
    total = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for value in values:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.ascontiguousarray(np.asarray(value))
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.digest()
