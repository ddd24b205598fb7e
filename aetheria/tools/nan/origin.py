"""Finds the operation that first produces a non-finite value: evaluates one operation at a time.

jax can stop at the first NaN (`jax_debug_nans`, checkify), but it cannot report where an infinity
came from, in which layer that is, or that a masked infinity did no harm. So every non-finite value
here carries a mark with its origin. An operation whose result contains a NaN passes on the mark of
an operand with a NaN; if no operand has a NaN, the operation itself is the origin.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np

from aetheria.hardware.jax.interpreter import Array, Interpreter, Tree
from aetheria.hardware.jax.places import Frame, JaxprEqn, layer_of

Marked: TypeAlias = "tuple[Array, Mark | None]"


@dataclass(eq=False)
class Origin:
    """The operation or the argument that a non-finite value comes from.

    Attributes:
        kind: `nan` or `inf`.
        operation: the operation's name in jax; None: the value is part of the argument `argument`.
        argument: the path of an argument of the computation.
        layer: the module of the operation; for an argument, the first module that uses it. If
            modules have no names (Flax NNX), the path of the parameter in use.
        backward: whether the operation is in the backward pass.
        source: `file:line` of the user's code.
        turn: the iteration of a loop over layers, from 0; None: no loop.
        because: the origin of an infinity that the operation turned into a NaN.
    """

    kind: str
    operation: str | None = None
    argument: str | None = None
    layer: str = ""
    backward: bool = False
    source: str = ""
    turn: int | None = None
    because: "Origin | None" = None


@dataclass(frozen=True)
class Mark:
    """What is known about a value that is not finite.

    Attributes:
        origin: where it comes from; None: a constant, such as the infinity in an attention mask.
        is_nan: whether it contains a NaN, not only infinities.
        made_at: the number of the operation that produced this value.
    """

    origin: Origin | None
    is_nan: bool
    made_at: int


Marks: TypeAlias = Sequence[Mark | None]


class Tracer(Interpreter["Mark | None"]):
    """Evaluates a computation and marks non-finite values."""

    def note_of_constant(self, value: Array) -> Mark | None:
        """Marks an infinity such as that of an attention mask."""
        bad = badness(value)
        return Mark(None, bad == "nan", self.num_operations) if bad else None

    def note_of_row(self, value: Array, note: Mark | None) -> Mark | None:
        """The mark of the column, if this row is not finite."""
        return note if note is not None and badness(value) else None

    def note_of_column(self, notes: Marks) -> Mark | None:
        """The first mark of the rows."""
        return next((mark for mark in notes if mark is not None), None)

    def notes_of_results(
        self,
        eqn: JaxprEqn,
        operands: Sequence[Marked],
        results: Sequence[Array],
        frame: Frame,
    ) -> Marks:
        """Passes on the mark of an operand, or makes a new one."""
        marks = [mark for _, mark in operands]
        self._note_layer(marks, frame)
        return [self._mark(value, eqn, marks, frame) for value in results]

    def _mark(self, value: Array, eqn: JaxprEqn, marks: Marks, frame: Frame) -> Mark | None:
        bad = badness(value)
        if not bad:
            return None
        is_nan = bad == "nan"
        known = [mark for mark in marks if mark is not None]
        heirs = [mark for mark in known if mark.is_nan] if is_nan else known
        if heirs:
            from_computation = [mark for mark in heirs if mark.origin is not None]
            return Mark((from_computation or heirs)[0].origin, is_nan, self.num_operations)
        because = next((mark.origin for mark in known if mark.origin is not None), None)
        origin = Origin(
            kind=bad,
            operation=eqn.primitive.name,
            layer=layer_of(frame.stack),
            backward="transpose" in frame.stack,
            source=frame.source,
            turn=frame.turn,
            because=because,
        )
        return Mark(origin, is_nan, self.num_operations)

    def _note_layer(self, marks: Marks, frame: Frame) -> None:
        """Records the first layer that uses a non-finite argument."""
        for mark in marks:
            origin = mark.origin if mark else None
            if origin and origin.argument and not origin.layer and frame.stack:
                origin.layer, origin.source = layer_of(frame.stack), frame.source
                origin.turn = frame.turn


def trace_origins(
    function: Callable[..., Tree], arguments: Mapping[str, Tree]
) -> tuple[Tree, dict[str, Mark]]:
    """Evaluates `function(**arguments)` one operation at a time.

    Args:
        function: takes trees of arrays and returns a tree of arrays.
        arguments: name -> tree; the paths of non-finite leaves begin with these names.

    Returns:
        The outputs, and the marks of the output leaves that are not finite, by path.
    """

    def note(path: str, value: Array) -> Mark | None:
        bad = badness(value)
        return Mark(Origin(kind=bad, argument=path), bad == "nan", 0) if bad else None

    tree, marks = Tracer().evaluate(function, arguments, note)
    return tree, {path: mark for path, mark in marks.items() if mark is not None}


def first_of(origin: Origin) -> Origin:
    """The first origin in a chain."""
    while origin.because is not None:
        origin = origin.because
    return origin


def badness(value: Array) -> str:
    """The worst value in an array or a number: `nan`, else `inf`, else an empty text."""
    dtype = value.dtype if hasattr(value, "dtype") else np.result_type(value)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return ""
    if bool(jnp.isfinite(value).all()):
        return ""
    return "nan" if bool(jnp.isnan(value).any()) else "inf"
