"""Where in a computation a number first is not finite: evaluates it one operation at a time.

jax can stop at the first NaN (`jax_debug_nans`, checkify), but not say where an infinity came from,
in which layer that is, or that a masked infinity did no harm. So every value here carries a mark:
where what is not finite in it was born. An operation whose result holds a NaN passes on the mark of
an operand with a NaN, and is itself the birthplace if there is none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from aetheria.hardware.layout.leaves import leaf_paths, named_leaves
from aetheria.tools.nan.places import Frame, inside, layer_of

# Operations that only call another computation: looked into. Others that hold one, such as
# `reduce_window`, apply it in ways of their own, and are taken as a whole.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call")
_CALLS += ("custom_vjp_call", "custom_vjp_call_jaxpr")
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_RESHAPING = ("convert_element_type", "reshape", "transpose", "broadcast_in_dim", "squeeze")


@dataclass(eq=False)
class Origin:
    """Where a value first was not finite.

    Attributes:
        operation: jax's name of it; None: it came in with the argument `argument`.
        argument: path of an argument of the computation.
        layer: the module the operation belongs to; of an argument, the first that uses it. Where
            modules give no names (Flax NNX), the path of the parameter in use.
        backward: whether that is the backward pass.
        source: `file:line` of the user's code.
        turn: which turn of a loop over layers, from 0; None: no loop.
        kind: `nan` or `inf`.
        because: the origin of an infinity that the operation made a NaN of.
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
    """What is known of a value that is not finite.

    Attributes:
        origin: where it was born; None: a constant, such as the infinity a mask is made of.
        is_nan: whether there is a NaN in it, not only infinities.
        made_at: the number of the operation that made this value.
    """

    origin: Origin | None
    is_nan: bool
    made_at: int


@dataclass
class Tracer:
    """Evaluates jaxprs and marks what is not finite.

    Attributes:
        num_operations: how many there were so far.
        parameters: id of an array -> the array, which keeps the id its own, and its path.
    """

    num_operations: int = 0
    parameters: dict[int, tuple[Any, str]] = field(default_factory=dict)

    def run(
        self, closed: Any, arguments: Sequence[Any], marks: Sequence[Mark | None], frame: Frame
    ) -> tuple[list[Any], list[Mark | None]]:
        """The outputs of a closed jaxpr and their marks."""
        values: dict[Any, tuple[Any, Mark | None]] = {}

        def read(var: Any) -> tuple[Any, Mark | None]:
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

    def _apply(
        self, eqn: Any, operands: Sequence[tuple[Any, Mark | None]], frame: Frame
    ) -> list[tuple[Any, Mark | None]]:
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
        self, eqn: Any, arguments: Sequence[Any], marks: Sequence[Mark | None], frame: Frame
    ) -> list[tuple[Any, Mark | None]]:
        """Takes the turns of a loop one by one."""
        body, length = _closed(eqn.params["jaxpr"]), eqn.params["length"]
        # Operands are constants, carry and columns; results are carry and columns. A column is what
        # has a dim more outside than inside (jax 0.10 and 0.12 count them in different ways).
        differ = lambda outer, inner: sum(
            a.aval.shape != b.aval.shape for a, b in zip(outer, inner, strict=True)
        )
        first_xs = len(arguments) - differ(eqn.invars, body.jaxpr.invars)
        num_carry = len(eqn.outvars) - differ(eqn.outvars, body.jaxpr.outvars)
        num_consts = first_xs - num_carry
        consts, const_marks = arguments[:num_consts], marks[:num_consts]
        carry, carry_marks = list(arguments[num_consts:first_xs]), list(marks[num_consts:first_xs])
        turns = range(length)[::-1] if eqn.params["reverse"] else range(length)
        stacked: dict[int, list[tuple[Any, Mark | None]]] = {}
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
        self, name: str, arguments: Sequence[Any], outs: Sequence[Any], frame: Frame
    ) -> Frame:
        known = [self.parameters[id(a)] for a in arguments if id(a) in self.parameters]
        if not known:
            return frame
        path = known[0][1]
        if name in _RESHAPING:  # the same parameter still
            self.parameters[id(outs[0])] = (outs[0], path)
        return frame if layer_of(frame.stack) else Frame(path, frame.turn, frame.source)

    def _constant(self, value: Any) -> Mark | None:
        bad = badness(value)
        return Mark(None, bad == "nan", self.num_operations) if bad else None

    def _mark(
        self, value: Any, eqn: Any, marks: Sequence[Mark | None], frame: Frame
    ) -> Mark | None:
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

    def _note_layer(self, marks: Sequence[Mark | None], frame: Frame) -> None:
        """Remembers the first layer that meets a bad argument."""
        for mark in marks:
            origin = mark.origin if mark else None
            if origin and origin.argument and not origin.layer and frame.stack:
                origin.layer, origin.source = layer_of(frame.stack), frame.source
                origin.turn = frame.turn


def trace_origins(
    function: Callable[..., Any], arguments: Mapping[str, Any]
) -> tuple[Any, dict[str, Mark]]:
    """Evaluates `function(**arguments)` one operation at a time.

    Args:
        function: of trees of arrays; returns a tree of arrays.
        arguments: by name, as the paths of bad ones will begin.

    Returns:
        The outputs, and the marks of those leaves that are not finite, by path.
    """
    named = named_leaves(dict(arguments))
    values, treedef = jax.tree.flatten(dict(arguments))
    by_position = lambda *leaves: function(**jax.tree.unflatten(treedef, leaves))
    closed, shape = jax.make_jaxpr(by_position, return_shape=True)(*values)
    marks = [
        Mark(Origin(kind=bad, argument=path), bad == "nan", 0) if (bad := badness(value)) else None
        for path, value in named.items()
    ]
    # The module a parameter belongs to: its path without the argument's name and its own.
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
    """Where a chain of origins begins."""
    while origin.because is not None:
        origin = origin.because
    return origin


def badness(value: Any) -> str:
    """What is not finite in an array or a number: `nan`, else `inf`, else nothing."""
    dtype = value.dtype if hasattr(value, "dtype") else np.result_type(value)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return ""
    if bool(jnp.isfinite(value).all()):
        return ""
    return "nan" if bool(jnp.isnan(value).any()) else "inf"


def _called(eqn: Any) -> Any:
    """The computation that an operation calls, closed."""
    return _closed(next(eqn.params[name] for name in _CALLED if name in eqn.params))


def _closed(jaxpr: Any) -> Any:
    if hasattr(jaxpr, "consts"):  # always, from jax 0.12 on
        return jaxpr
    return core.ClosedJaxpr(jaxpr, ())  # pyright: ignore[reportPrivateImportUsage]


def _first(marks: Sequence[Mark | None]) -> Mark | None:
    return next((mark for mark in marks if mark is not None), None)
