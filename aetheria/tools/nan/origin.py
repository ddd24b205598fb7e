"""Finds the operation that first produces a non-finite value: evaluates one operation at a time.

jax can stop at the first NaN (`jax_debug_nans`, checkify), but it cannot report where an infinity
came from, in which layer that is, or that a masked infinity did no harm. So every non-finite value
here carries a mark with its origin. An operation whose result contains a NaN passes on the mark of
an operand with a NaN; if no operand has a NaN, the operation itself is the origin.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from aetheria.hardware.layout.leaves import leaf_paths, named_leaves
from aetheria.tools.nan.places import ClosedJaxpr, Frame, JaxprEqn, inside, layer_of

Tree: TypeAlias = Any  # a pytree of arrays
Array: TypeAlias = jax.Array | np.ndarray
Marked: TypeAlias = "tuple[Array, Mark | None]"

# Operations that only call another computation; these are evaluated inside. Other operations that
# contain a computation, such as `reduce_window`, are evaluated as one operation.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call")
_CALLS += ("custom_vjp_call", "custom_vjp_call_jaxpr")
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_RESHAPING = ("convert_element_type", "reshape", "transpose", "broadcast_in_dim", "squeeze")


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


@dataclass
class Tracer:
    """Evaluates jaxprs and marks non-finite values.

    Attributes:
        num_operations: the number of operations so far.
        parameters: id of an array -> the array, which keeps the id from being reused, and its path.
    """

    num_operations: int = 0
    parameters: dict[int, tuple[Array, str]] = field(default_factory=dict)

    def run(
        self, closed: ClosedJaxpr, arguments: Sequence[Array], marks: Marks, frame: Frame
    ) -> tuple[list[Array], list[Mark | None]]:
        """The outputs of a closed jaxpr and their marks."""
        values: dict[core.Var, Marked] = {}

        def read(var: core.Var | core.Literal) -> Marked:
            if isinstance(var, core.Literal):
                return var.val, self._constant(var.val)
            return values[var]

        constants = [(value, self._constant(value)) for value in closed.consts]
        values.update(zip(closed.jaxpr.constvars, constants, strict=True))
        given = zip(arguments, marks, strict=True)
        values.update(zip(closed.jaxpr.invars, given, strict=True))
        for eqn in closed.jaxpr.eqns:
            operands = [read(var) for var in eqn.invars]
            results = self._apply(eqn, operands, frame)
            values.update(zip(eqn.outvars, results, strict=True))
        outputs = [read(var) for var in closed.jaxpr.outvars]
        return [value for value, _ in outputs], [mark for _, mark in outputs]

    def _apply(self, eqn: JaxprEqn, operands: Sequence[Marked], frame: Frame) -> list[Marked]:
        arguments, marks = [value for value, _ in operands], [mark for _, mark in operands]
        inner = inside(eqn, frame)
        name = eqn.primitive.name
        if name == "scan":
            return self._scan(eqn, arguments, marks, inner)
        if name == "cond":
            branch = _closed(eqn.params["branches"][int(arguments[0])])
            return list(zip(*self.run(branch, arguments[1:], marks[1:], inner), strict=True))
        if name in _CALLS:
            called = _called(eqn)
            return list(zip(*self.run(called, arguments, marks, inner), strict=True))
        self.num_operations += 1
        with eqn.ctx.manager:
            out = eqn.primitive.bind(*arguments, **eqn.primitive.get_bind_params(eqn.params))
        outs = list(out) if eqn.primitive.multiple_results else [out]
        inner = self._named_by_parameter(name, arguments, outs, inner)
        self._note_layer(marks, inner)
        return [(value, self._mark(value, eqn, marks, inner)) for value in outs]

    def _scan(
        self, eqn: JaxprEqn, arguments: Sequence[Array], marks: Marks, frame: Frame
    ) -> list[Marked]:
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
        consts, const_marks = arguments[:num_consts], marks[:num_consts]
        carry, carry_marks = list(arguments[num_consts:first_xs]), list(marks[num_consts:first_xs])
        turns = range(length)[::-1] if eqn.params["reverse"] else range(length)
        stacked: dict[int, list[Marked]] = {}
        for turn in turns:
            xs = [column[turn] for column in arguments[first_xs:]]
            xs_marks = [
                mark if mark is not None and badness(value) else None
                for value, mark in zip(xs, marks[first_xs:], strict=True)
            ]
            outs, out_marks = self.run(
                body,
                [*consts, *carry, *xs],
                [*const_marks, *carry_marks, *xs_marks],
                Frame(frame.stack, turn, frame.source),
            )
            carry, carry_marks = outs[:num_carry], out_marks[:num_carry]
            stacked[turn] = list(zip(outs[num_carry:], out_marks[num_carry:], strict=True))
        columns = zip(*(stacked[turn] for turn in range(length)), strict=True)
        ys = [(jnp.stack([v for v, _ in c]), _first([m for _, m in c])) for c in columns]
        return [*zip(carry, carry_marks, strict=True), *ys]

    def _named_by_parameter(
        self, name: str, arguments: Sequence[Array], outs: Sequence[Array], frame: Frame
    ) -> Frame:
        known = [self.parameters[id(a)] for a in arguments if id(a) in self.parameters]
        if not known:
            return frame
        path = known[0][1]
        if name in _RESHAPING:  # still the same parameter
            self.parameters[id(outs[0])] = (outs[0], path)
        return frame if layer_of(frame.stack) else Frame(path, frame.turn, frame.source)

    def _constant(self, value: Array) -> Mark | None:
        bad = badness(value)
        return Mark(None, bad == "nan", self.num_operations) if bad else None

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
    named = named_leaves(dict(arguments))
    values, treedef = jax.tree.flatten(dict(arguments))
    by_position = lambda *leaves: function(**jax.tree.unflatten(treedef, leaves))
    closed, shape = jax.make_jaxpr(by_position, return_shape=True)(*values)
    marks = [
        Mark(Origin(kind=bad, argument=path), bad == "nan", 0) if (bad := badness(value)) else None
        for path, value in named.items()
    ]
    # The module of a parameter: its path without the argument's name and the parameter's name.
    parameters = {
        id(value): (value, "/".join(path.split("/")[1:-1]))
        for path, value in named.items()
        if path.count("/") > 1
    }
    outputs, out_marks = Tracer(parameters=parameters).run(closed, values, marks, Frame())
    tree = jax.tree.unflatten(jax.tree.structure(shape), outputs)
    marked = zip(leaf_paths(tree), out_marks, strict=True)
    return tree, {path: mark for path, mark in marked if mark is not None}


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


def _called(eqn: JaxprEqn) -> ClosedJaxpr:
    """The closed jaxpr that an operation calls."""
    return _closed(next(eqn.params[name] for name in _CALLED if name in eqn.params))


def _closed(jaxpr: ClosedJaxpr | core.Jaxpr) -> ClosedJaxpr:
    if hasattr(jaxpr, "consts"):  # always since jax 0.12
        return cast(ClosedJaxpr, jaxpr)
    return ClosedJaxpr(cast(core.Jaxpr, jaxpr), ())


def _first(marks: Marks) -> Mark | None:
    return next((mark for mark in marks if mark is not None), None)
