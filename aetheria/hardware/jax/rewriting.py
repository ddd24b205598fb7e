"""Replaces operations of a function of arrays by other forms, wherever they stand in its program:
in loops, branches and calls. Which operations, and by what, the caller says.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import jax
from jax.extend import core

from aetheria.hardware.layout.trees import Tree

AnyJaxpr: TypeAlias = Any  # core.Jaxpr | core.ClosedJaxpr, one class of two names from jax 0.12 on
Equation: TypeAlias = Any  # core.JaxprEqn, whose variables' avals say too little to type checkers
# From an equation of a jaxpr to a function of its operands that takes its place; None: it stays.
Rule: TypeAlias = Callable[[Equation], Callable[..., Tree] | None]
Rules: TypeAlias = Mapping[core.Primitive, Rule]
# Makes a context that is entered while a function is traced.
Around: TypeAlias = Callable[[], AbstractContextManager[None]]

# Type checkers do not see the second name there.
_JAXPRS = (core.Jaxpr, core.ClosedJaxpr)  # pyright: ignore[reportPrivateImportUsage]


def rewrite(
    function: Callable[..., Tree], rules: Rules, around: Around = contextlib.nullcontext
) -> Callable[..., Tree]:
    """Makes the same function of arrays, with its operations replaced by the rules.

    Args:
        function: is traced anew at each call.
        rules: primitive -> rule.
        around: makes a context that is entered for the trace.
    """

    @functools.wraps(function)
    def rewritten(*args: Tree) -> Tree:
        with around():
            jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*args)
        results = core.jaxpr_as_fun(_rewrite(jaxpr, rules))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return rewritten


def _rewrite(jaxpr: AnyJaxpr, rules: Rules) -> AnyJaxpr:
    """Applies the rules to a jaxpr, closed or not."""
    if not _concerns(rules, jaxpr):
        return jaxpr
    plain = getattr(jaxpr, "jaxpr", jaxpr)
    if plain is not jaxpr:
        return jaxpr.replace(jaxpr=_rewrite(plain, rules))
    eqns = [new for eqn in jaxpr.eqns for new in _rewrite_equation(eqn, rules)]
    return jaxpr.replace(eqns=eqns)


def _concerns(rules: Rules, jaxpr: AnyJaxpr) -> bool:
    return any(
        _replacement(eqn, rules) is not None
        or any(_concerns(rules, inner) for inner in core.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


def _replacement(eqn: Equation, rules: Rules) -> Callable[..., Tree] | None:
    rule = rules.get(eqn.primitive)
    return None if rule is None else rule(eqn)


def _rewrite_equation(eqn: Equation, rules: Rules) -> list[Equation]:
    replacement = _replacement(eqn, rules)
    if replacement is None:
        params = {name: _rewrite_param(value, rules) for name, value in eqn.params.items()}
        return [eqn.replace(params=params)]
    operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    inner: AnyJaxpr = jax.make_jaxpr(replacement)(*operands)
    inner = getattr(inner, "jaxpr", inner)
    outer = dict(zip([*inner.invars, *inner.outvars], [*eqn.invars, *eqn.outvars], strict=True))
    return [
        each.replace(
            invars=[v if isinstance(v, core.Literal) else outer.get(v, v) for v in each.invars],
            outvars=[outer.get(v, v) for v in each.outvars],
            source_info=eqn.source_info,
            ctx=eqn.ctx,
        )
        for each in inner.eqns
    ]


def _rewrite_param(value: object, rules: Rules) -> object:
    """Rewrites the jaxpr of a loop or a call, or those of a branch; anything else stays."""
    if isinstance(value, _JAXPRS):
        return _rewrite(value, rules)
    if type(value) is tuple and any(isinstance(v, _JAXPRS) for v in value):
        return tuple(_rewrite_param(v, rules) for v in value)
    return value
