"""Convolutions as XLA's library on a CPU takes them, wherever in a program they stand.

The library wants operands laid out as [batch, space…, feature] and [space…, in, out]. XLA's CPU
backend brings others, such as a gradient's, into that form in the outermost computation alone. In
the body of a loop or a branch they are computed a number at a time: a step of SimpleCNN over four
micro-batches took 881 ms instead of 46 (jax 0.10.2; 0.12.0.1 alike; jax-ml/jax issue 12868).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend import core

# One class of two names from jax 0.12 on, where type checkers do not see the second.
_JAXPRS = (core.Jaxpr, core.ClosedJaxpr)  # pyright: ignore[reportPrivateImportUsage]


def with_library_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, its convolutions rewritten; to be compiled for a CPU."""

    @functools.wraps(function)
    def rewritten(*args: Any) -> Any:
        jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*args)
        results = core.jaxpr_as_fun(_rewrite(jaxpr))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return rewritten


def _rewrite(jaxpr: Any) -> Any:
    """A jaxpr, closed or not, whose convolutions all have the library's form."""
    if not _convolves(jaxpr):
        return jaxpr
    plain = getattr(jaxpr, "jaxpr", jaxpr)
    if plain is not jaxpr:
        return jaxpr.replace(jaxpr=_rewrite(plain))
    return jaxpr.replace(eqns=[new for eqn in jaxpr.eqns for new in _rewrite_equation(eqn)])


def _convolves(jaxpr: Any) -> bool:
    return any(
        eqn.primitive is lax.conv_general_dilated_p
        or any(map(_convolves, core.jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )


def _rewrite_equation(eqn: Any) -> list[Any]:
    if eqn.primitive is not lax.conv_general_dilated_p:
        return [eqn.replace(params={name: _rewrite_param(v) for name, v in eqn.params.items()})]
    operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    inner = jax.make_jaxpr(functools.partial(_convolve, **eqn.params))(*operands)
    inner = getattr(inner, "jaxpr", inner)
    outer = dict(zip([*inner.invars, *inner.outvars], [*eqn.invars, *eqn.outvars], strict=True))
    return [
        each.replace(
            invars=[outer.get(v, v) for v in each.invars],
            outvars=[outer.get(v, v) for v in each.outvars],
            source_info=eqn.source_info,
            ctx=eqn.ctx,
        )
        for each in inner.eqns
    ]


def _rewrite_param(value: Any) -> Any:
    """Jaxprs of a loop or a call, a branch's among several; everything else as it is."""
    if isinstance(value, _JAXPRS):
        return _rewrite(value)
    if type(value) is tuple and any(isinstance(v, _JAXPRS) for v in value):
        return tuple(map(_rewrite_param, value))
    return value


def _convolve(lhs: Any, rhs: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """One convolution between transpositions; XLA drops those that change nothing."""
    place = dimension_numbers
    to_lhs, to_out = _features_last(place.lhs_spec), _features_last(place.out_spec)
    to_rhs = (*place.rhs_spec[2:], place.rhs_spec[1], place.rhs_spec[0])
    num_dims = lhs.ndim
    batch, last, space = 0, num_dims - 1, range(1, num_dims - 1)
    sides = (batch, last, *space)
    library = lax.ConvDimensionNumbers(sides, (last, last - 1, *range(num_dims - 2)), sides)
    out = lax.conv_general_dilated_p.bind(
        lax.transpose(lhs, to_lhs), lax.transpose(rhs, to_rhs), dimension_numbers=library, **params
    )
    return lax.transpose(out, sorted(range(num_dims), key=to_out.__getitem__))


def _features_last(spec: Sequence[int]) -> tuple[int, ...]:
    """From the places of (batch, feature, space…) to a permutation to [batch, space…, feature]."""
    batch, feature, *space = spec
    return (batch, *space, feature)
