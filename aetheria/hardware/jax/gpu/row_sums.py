"""Sums of rows by their number, as the gradient of an embedding, as a product with ones and zeros.

A GPU adds them with atomics, in any order. To give the same bits, XLA sorts all numbers first: a
step of a Transformer of width 1024 and 8,192 tokens took 1.29 times as long as without this demand,
with the product 1.12 times (jax 0.11.2, one H200).
"""

import math
from collections.abc import Callable

import jax
from jax import lax
from jax import numpy as jnp

from aetheria.hardware.jax.rewriting import Equation, Rules
from aetheria.hardware.jax.wide_sums import WIDE_SUMS

# Beyond these numbers of rows the product takes longer than the sort, at a nanosecond a number, by
# the makers' rates of an H100, in bfloat16 and in float32; and for narrow rows by its memory, as
# the ones and zeros have to be written and read.
_MOST_ROWS = {2: 2**17, 4: 2**14}  # bytes of a number -> rows
_MOST_ROWS_OF_ONE = 256  # for each number of a row
_MOST_ONES = 2**29  # elements of the factor of ones and zeros


def _as_product(eqn: Equation) -> Callable[..., jax.Array] | None:
    """The rule of a scatter-add: a product where it adds whole rows, else the sum in float32."""
    return _product(eqn) if _adds_rows(eqn) else WIDE_SUMS[lax.scatter_add_p](eqn)


def _adds_rows(eqn: Equation) -> bool:
    total, numbers, rows = (v.aval for v in eqn.invars)
    how, dims = eqn.params["dimension_numbers"], numbers.ndim - 1
    narrow = rows.dtype in (jnp.bfloat16, jnp.float16)
    return (
        not eqn.params["unique_indices"]
        and (narrow or rows.dtype == jnp.float32)
        and numbers.shape[-1:] == (1,)
        and tuple(how.update_window_dims) == tuple(range(dims, rows.ndim))
        and tuple(how.inserted_window_dims) == tuple(how.scatter_dims_to_operand_dims) == (0,)
        and not how.operand_batching_dims
        and rows.shape[dims:] == total.shape[1:]
        and total.shape[0] <= _MOST_ROWS[2 if narrow else 4]
        and total.shape[0] <= _MOST_ROWS_OF_ONE * math.prod(total.shape[1:])
        and math.prod(numbers.shape) * total.shape[0] <= _MOST_ONES
    )


def _product(eqn: Equation) -> Callable[..., jax.Array]:
    clips = eqn.params["mode"] == lax.GatherScatterMode.CLIP

    def product(total: jax.Array, numbers: jax.Array, rows: jax.Array) -> jax.Array:
        numbers = jnp.clip(numbers, 0, len(total) - 1) if clips else numbers
        # A number out of range has no one, as a scatter leaves its row out.
        ones = numbers.reshape(-1, 1) == jnp.arange(len(total), dtype=numbers.dtype)
        sums = lax.dot_general(
            ones.astype(rows.dtype),
            rows.reshape(len(ones), -1),
            (((0,), (0,)), ((), ())),
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        return (total.astype(jnp.float32) + sums.reshape(total.shape)).astype(total.dtype)

    return product


ROW_SUMS: Rules = {lax.scatter_add_p: _as_product}
