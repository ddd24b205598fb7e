"""Replaces operations of a function of arrays by other forms, wherever in its program they stand:
in loops, branches and calls. Which operations, and by what, others say.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
from jax.extend import core

# From an equation of a jaxpr to a function of its operands that takes its place; None: it stays.
Rule: TypeAlias = Callable[[Any], Callable[..., Any] | None]
Rules: TypeAlias = Mapping[Any, Rule]  # by primitive

# One class of two names from jax 0.12 on, where type checkers do not see the second.
_JAXPRS = (core.Jaxpr, core.ClosedJaxpr)  # pyright: ignore[reportPrivateImportUsage]


def rewrite(function: Callable[..., Any], rules: Rules) -> Callable[..., Any]:
    """The same function of arrays, with the operations that the rules replace replaced."""

    @functools.wraps(function)
    def rewritten(*args: Any) -> Any:
        jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*args)
        results = core.jaxpr_as_fun(_rewrite(jaxpr, rules))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return rewritten


def _rewrite(jaxpr: Any, rules: Rules) -> Any:
    """A jaxpr, closed or not, by the rules."""
    if not _concerns(rules, jaxpr):
        return jaxpr
    plain = getattr(jaxpr, "jaxpr", jaxpr)
    if plain is not jaxpr:
        return jaxpr.replace(jaxpr=_rewrite(plain, rules))
    eqns = [new for eqn in jaxpr.eqns for new in _rewrite_equation(eqn, rules)]
    return jaxpr.replace(eqns=eqns)


def _concerns(rules: Rules, jaxpr: Any) -> bool:
    return any(
        _replacement(eqn, rules) is not None
        or any(_concerns(rules, inner) for inner in core.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


def _replacement(eqn: Any, rules: Rules) -> Callable[..., Any] | None:
    rule = rules.get(eqn.primitive)
    return None if rule is None else rule(eqn)


def _rewrite_equation(eqn: Any, rules: Rules) -> list[Any]:
    replacement = _replacement(eqn, rules)
    if replacement is None:
        params = {name: _rewrite_param(value, rules) for name, value in eqn.params.items()}
        return [eqn.replace(params=params)]
    operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    inner = jax.make_jaxpr(replacement)(*operands)
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


def _rewrite_param(value: Any, rules: Rules) -> Any:
    """Jaxprs of a loop or a call, a branch's among several; everything else as it is."""
    if isinstance(value, _JAXPRS):
        return _rewrite(value, rules)
    if type(value) is tuple and any(isinstance(v, _JAXPRS) for v in value):
        return tuple(_rewrite_param(v, rules) for v in value)
    return value
