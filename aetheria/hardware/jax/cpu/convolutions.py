"""Convolutions in the form that XLA's library on a CPU takes, wherever in a program they stand.

The library needs operands laid out as [batch, space…, feature] and [space…, in, out]. XLA's CPU
backend brings other layouts, such as a gradient's, into that form in the outermost computation
alone. In the body of a loop or a branch they are computed one number at a time: a step of SimpleCNN
over four micro-batches took 881 ms instead of 46 (jax 0.10.2 and 0.12.0.1).

Source: jax-ml/jax issue 12868.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from aetheria.hardware.jax.rewriting import Equation, Rules


def _library_form(eqn: Equation) -> Callable[..., jax.Array]:
    return functools.partial(_convolve, **eqn.params)


LIBRARY_CONVOLUTIONS: Rules = {lax.conv_general_dilated_p: _library_form}


def _convolve(
    lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: lax.ConvDimensionNumbers, **params: Any
) -> jax.Array:
    """Convolves between transposes; XLA drops those that change nothing."""
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
    """Turns places of (batch, feature, space…) into a permutation to [batch, space…, feature]."""
    batch, feature, *space = spec
    return (batch, *space, feature)
