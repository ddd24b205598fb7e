"""How many floating-point operations a traced function takes, loops included."""

import math
from typing import Any, NamedTuple

from jax.extend.core import jaxprs_in_params


class Operations(NamedTuple):
    """Operations of matrix products and convolutions.

    Attributes:
        flops: a multiplication and an addition are two.
        unknown_loops: loops of unknown length with operations inside, whose bodies count once.
    """

    flops: int
    unknown_loops: int


def count_operations(jaxpr: Any) -> Operations:
    """Counts what a jaxpr takes over all devices.

    A scan's body counts as many times as it runs; of a conditional's branches the dearest counts;
    what is computed twice to save memory (`jax.checkpoint`) counts twice. XLA's own
    `cost_analysis` is no help here: it counts the body of every loop once.

    >>> import jax, jax.numpy as jnp
    >>> def layers(x, kernels):
    ...     return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]
    >>> count_operations(jax.make_jaxpr(layers)(jnp.ones((8, 4)), jnp.ones((3, 4, 4))))
    Operations(flops=768, unknown_loops=0)
    """
    flops = unknown = 0
    for eqn in jaxpr.jaxpr.eqns if hasattr(jaxpr, "jaxpr") else jaxpr.eqns:
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


def _dot(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(shape[dim] for dim in contracted)


def _convolution(eqn: Any) -> int:
    """Every output takes one product with each weight of its channel, at borders too."""
    kernel = eqn.invars[1].aval.shape
    channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * eqn.outvars[0].aval.size * math.prod(kernel) // channels
