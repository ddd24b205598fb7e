"""Counts the floating-point operations of a traced function, loops included."""

import math
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxprs_in_params

_REPEATED = "rematted_computation"  # how JAX marks what `jax.checkpoint` computes again


class Operations(NamedTuple):
    """Operations of a computation.

    Attributes:
        flops: those of matrix products and convolutions; a multiplication and an addition are two.
        unknown_loops: loops of unknown length with products inside, whose bodies count once.
        elements: what everything else writes, in elements of arrays.
        repeated_flops: those of `flops` that are computed a second time to save memory.
    """

    flops: int
    unknown_loops: int
    elements: int
    repeated_flops: int = 0

    def utilization(self, per_second: float, peak_flops: float) -> float | None:
        """The share of the peak that so many computations a second take, what is repeated left
        out; None: a loop is of unknown length.

        Source: Chowdhery et al., PaLM, 2022, arXiv:2204.02311, appendix B (model FLOPs
        utilization).
        """
        if self.unknown_loops:
            return None
        return (self.flops - self.repeated_flops) * per_second / peak_flops


def count_operations(jaxpr: ClosedJaxpr | Jaxpr) -> Operations:
    """Counts the operations of a jaxpr on all devices together.

    The body of a scan counts as often as it runs; of a conditional the most expensive branch
    counts; what is computed twice to save memory (`jax.checkpoint`) counts twice. XLA's own
    `cost_analysis` does not do this: it counts the body of every loop once.

    >>> import jax, jax.numpy as jnp
    >>> def layers(x, kernels):
    ...     return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]
    >>> count_operations(jax.make_jaxpr(layers)(jnp.ones((8, 4)), jnp.ones((3, 4, 4)))).flops
    768
    """
    total = Operations(0, 0, 0)
    for eqn in jaxpr.eqns:
        inner = [count_operations(each) for each in jaxprs_in_params(eqn.params)]
        times = 1
        match eqn.primitive.name:
            case "dot_general":
                own = Operations(_dot(eqn), 0, 0)
            case "conv_general_dilated":
                own = Operations(_convolution(eqn), 0, 0)
            case "cond" if inner:
                own, inner = Operations(0, 0, 0), [max(inner)]
            case "scan":
                own, times = Operations(0, 0, 0), eqn.params["length"]
            case "while":
                own = Operations(0, any(each.flops for each in inner), 0)
            case _ if inner:
                own = Operations(0, 0, 0)
            case _:
                own = Operations(0, 0, sum(math.prod(_shape(out)) for out in eqn.outvars))
        repeated = own.flops if _REPEATED in str(eqn.source_info.name_stack) else 0
        total = Operations(
            total.flops + own.flops + times * sum(each.flops for each in inner),
            total.unknown_loops + own.unknown_loops + sum(each.unknown_loops for each in inner),
            total.elements + own.elements + times * sum(each.elements for each in inner),
            total.repeated_flops + repeated + times * sum(each.repeated_flops for each in inner),
        )
    return total


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
    return getattr(var.aval, "shape", ())  # a token has none
