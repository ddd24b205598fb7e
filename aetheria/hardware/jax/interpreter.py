"""Evaluates a computation one operation at a time, so that a tool can look at every value.

Every value carries a note, of a kind that the tool chooses; the tool says how an operation turns
the notes of its operands into those of its results. Knows no model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from aetheria.hardware.jax.places import ClosedJaxpr, Frame, JaxprEqn, inside, layer_of
from aetheria.hardware.layout.leaves import leaf_paths, named_leaves

Note = TypeVar("Note")
Tree: TypeAlias = Any  # a pytree of arrays
Array: TypeAlias = jax.Array | np.ndarray
Noted: TypeAlias = "tuple[Array, Note]"

# Operations that only call another computation; these are evaluated inside. Other operations that
# contain a computation, such as `reduce_window`, are evaluated as one operation.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call")
_CALLS += ("custom_vjp_call", "custom_vjp_call_jaxpr")
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_RESHAPING = ("convert_element_type", "reshape", "transpose", "broadcast_in_dim", "squeeze")


class Interpreter(Generic[Note]):
    """Template Method: evaluates jaxprs; a subclass defines the notes.

    Attributes:
        num_operations: the number of operations so far.
    """

    def __init__(self) -> None:
        self.num_operations = 0
        # id of an array -> the array, which keeps the id from being reused, and its path.
        self._parameters: dict[int, tuple[Array, str]] = {}

    def evaluate(
        self,
        function: Callable[..., Tree],
        arguments: Mapping[str, Tree],
        note: Callable[[str, Array], Note],
    ) -> tuple[Tree, dict[str, Note]]:
        """Evaluates `function(**arguments)`.

        Args:
            function: takes trees of arrays and returns a tree of arrays.
            arguments: name -> tree; the paths of leaves begin with these names.
            note: makes the note of a leaf of the arguments, given its path and the leaf.

        Returns:
            The outputs, and the note of each output leaf by its path.
        """
        named = named_leaves(dict(arguments))
        values, treedef = jax.tree.flatten(dict(arguments))
        by_position = lambda *leaves: function(**jax.tree.unflatten(treedef, leaves))
        closed, shape = jax.make_jaxpr(by_position, return_shape=True)(*values)
        # The module of a parameter: its path without the argument's name and the parameter's name.
        self._parameters = {
            id(value): (value, "/".join(path.split("/")[1:-1]))
            for path, value in named.items()
            if path.count("/") > 1
        }
        notes = [note(path, value) for path, value in named.items()]
        outputs, found = self.run(closed, values, notes, Frame())
        tree = jax.tree.unflatten(jax.tree.structure(shape), outputs)
        return tree, dict(zip(leaf_paths(tree), found, strict=True))

    def note_of_constant(self, value: Array) -> Note:
        """The note of a value that is written in the computation."""
        raise NotImplementedError

    def note_of_row(self, value: Array, note: Note) -> Note:
        """The note of one row of a column that a loop reads.

        Args:
            value: the row.
            note: that of the column.
        """
        raise NotImplementedError

    def note_of_column(self, notes: Sequence[Note]) -> Note:
        """The note of the column that a loop makes of rows."""
        raise NotImplementedError

    def notes_of_results(
        self,
        eqn: JaxprEqn,
        operands: Sequence["Noted[Note]"],
        results: Sequence[Array],
        frame: Frame,
    ) -> Sequence[Note]:
        """The notes of the results of an operation that was just evaluated."""
        raise NotImplementedError

    def run(
        self,
        closed: ClosedJaxpr,
        arguments: Sequence[Array],
        notes: Sequence[Note],
        frame: Frame,
    ) -> tuple[list[Array], list[Note]]:
        """The outputs of a closed jaxpr and their notes."""
        values: dict[core.Var, Noted[Note]] = {}

        def read(var: core.Var | core.Literal) -> "Noted[Note]":
            if isinstance(var, core.Literal):
                return var.val, self.note_of_constant(var.val)
            return values[var]

        constants = [(value, self.note_of_constant(value)) for value in closed.consts]
        values.update(zip(closed.jaxpr.constvars, constants, strict=True))
        given = zip(arguments, notes, strict=True)
        values.update(zip(closed.jaxpr.invars, given, strict=True))
        for eqn in closed.jaxpr.eqns:
            operands = [read(var) for var in eqn.invars]
            results = self._apply(eqn, operands, frame)
            values.update(zip(eqn.outvars, results, strict=True))
        outputs = [read(var) for var in closed.jaxpr.outvars]
        return [value for value, _ in outputs], [note for _, note in outputs]

    def _apply(
        self, eqn: JaxprEqn, operands: Sequence["Noted[Note]"], frame: Frame
    ) -> list["Noted[Note]"]:
        arguments, notes = [value for value, _ in operands], [note for _, note in operands]
        inner = inside(eqn, frame)
        name = eqn.primitive.name
        if name == "scan":
            return self._scan(eqn, arguments, notes, inner)
        if name == "cond":
            branch = _closed(eqn.params["branches"][int(arguments[0])])
            return list(zip(*self.run(branch, arguments[1:], notes[1:], inner), strict=True))
        if name in _CALLS:
            called = _called(eqn)
            return list(zip(*self.run(called, arguments, notes, inner), strict=True))
        self.num_operations += 1
        with eqn.ctx.manager:
            out = eqn.primitive.bind(*arguments, **eqn.primitive.get_bind_params(eqn.params))
        results = list(out) if eqn.primitive.multiple_results else [out]
        inner = self._named_by_parameter(name, arguments, results, inner)
        found = self.notes_of_results(eqn, operands, results, inner)
        return list(zip(results, found, strict=True))

    def _scan(
        self, eqn: JaxprEqn, arguments: Sequence[Array], notes: Sequence[Note], frame: Frame
    ) -> list["Noted[Note]"]:
        """Evaluates the iterations of a loop one by one."""
        body, length = _closed(eqn.params["jaxpr"]), eqn.params["length"]
        # Operands are constants, carry and columns; results are carry and columns. A column has one
        # dim more outside the loop than inside (jax 0.10 and 0.12 count columns differently).
        differ = lambda outer, inner: sum(
            a.aval.shape != b.aval.shape for a, b in zip(outer, inner, strict=True)
        )
        first_xs = len(arguments) - differ(eqn.invars, body.jaxpr.invars)
        num_carry = len(eqn.outvars) - differ(eqn.outvars, body.jaxpr.outvars)
        num_consts = first_xs - num_carry
        consts, const_notes = arguments[:num_consts], notes[:num_consts]
        carry, carry_notes = list(arguments[num_consts:first_xs]), list(notes[num_consts:first_xs])
        turns = range(length)[::-1] if eqn.params["reverse"] else range(length)
        stacked: dict[int, list[Noted[Note]]] = {}
        for turn in turns:
            xs = [column[turn] for column in arguments[first_xs:]]
            xs_notes = [
                self.note_of_row(value, note)
                for value, note in zip(xs, notes[first_xs:], strict=True)
            ]
            outs, out_notes = self.run(
                body,
                [*consts, *carry, *xs],
                [*const_notes, *carry_notes, *xs_notes],
                Frame(frame.stack, turn, frame.source),
            )
            carry, carry_notes = outs[:num_carry], out_notes[:num_carry]
            stacked[turn] = list(zip(outs[num_carry:], out_notes[num_carry:], strict=True))
        columns = zip(*(stacked[turn] for turn in range(length)), strict=True)
        ys = [
            (jnp.stack([value for value, _ in rows]), self.note_of_column([n for _, n in rows]))
            for rows in columns
        ]
        return [*zip(carry, carry_notes, strict=True), *ys]

    def _named_by_parameter(
        self, name: str, arguments: Sequence[Array], results: Sequence[Array], frame: Frame
    ) -> Frame:
        """The frame of an operation; where modules have no names, named by the parameter in use."""
        known = [self._parameters[id(a)] for a in arguments if id(a) in self._parameters]
        if not known:
            return frame
        path = known[0][1]
        if name in _RESHAPING:  # still the same parameter
            self._parameters[id(results[0])] = (results[0], path)
        return frame if layer_of(frame.stack) else Frame(path, frame.turn, frame.source)


def _called(eqn: JaxprEqn) -> ClosedJaxpr:
    """The closed jaxpr that an operation calls."""
    return _closed(next(eqn.params[name] for name in _CALLED if name in eqn.params))


def _closed(jaxpr: ClosedJaxpr | core.Jaxpr) -> ClosedJaxpr:
    if hasattr(jaxpr, "consts"):  # always since jax 0.12
        return cast(ClosedJaxpr, jaxpr)
    return ClosedJaxpr(cast(core.Jaxpr, jaxpr), ())
