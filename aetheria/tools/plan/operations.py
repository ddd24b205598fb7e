"""Counts the floating-point operations of a traced function, loops included."""

import math
from typing import NamedTuple, cast

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxprs_in_params


class Operations(NamedTuple):
    """Operations of matrix products and convolutions.

    Attributes:
        flops: the number of operations; a multiplication and an addition are two.
        unknown_loops: loops of unknown length with operations inside, whose bodies count once.
    """

    flops: int
    unknown_loops: int


def count_operations(jaxpr: ClosedJaxpr | Jaxpr) -> Operations:
    """Counts the operations of a jaxpr on all devices together.

    The body of a scan counts as often as it runs; of a conditional the most expensive branch
    counts; what is computed twice to save memory (`jax.checkpoint`) counts twice. XLA's own
    `cost_analysis` does not do this: it counts the body of every loop once.

    >>> import jax, jax.numpy as jnp
    >>> def layers(x, kernels):
    ...     return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]
    >>> count_operations(jax.make_jaxpr(layers)(jnp.ones((8, 4)), jnp.ones((3, 4, 4))))
    Operations(flops=768, unknown_loops=0)
    """
    flops = unknown = 0
    for eqn in jaxpr.eqns:
        inner = [count_operations(each) for each in jaxprs_in_params(eqn.params)]
        match eqn.primitive.name:
            case "dot_general":
                flops += _dot(eqn)
            case "conv_general_dilated":
                flops += _convolution(eqn)
            case "cond" if inner:
                inner = [max(inner)]
            case "scan":
                flops += (eqn.params["length"] - 1) * sum(each.flops for each in inner)
            case "while":
                unknown += any(each.flops for each in inner)
        flops += sum(each.flops for each in inner)
        unknown += sum(each.unknown_loops for each in inner)
    return Operations(flops, unknown)


def _dot(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = _shape(eqn.invars[0])
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(shape[dim] for dim in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    """Every output needs one product with each weight of its channel, at the borders too."""
    kernel = _shape(eqn.invars[1])
    channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(kernel) // channels


def _shape(var: Var | Literal) -> tuple[int, ...]:
    return cast(jax.ShapeDtypeStruct, var.aval).shape
