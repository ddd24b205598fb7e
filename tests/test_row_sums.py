"""The sums of rows that a GPU computes as products: the same numbers, and only where they fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from aetheria.hardware.jax import compiler
from aetheria.hardware.jax.gpu import row_sums
from aetheria.hardware.jax.gpu.row_sums import ROW_SUMS
from aetheria.hardware.jax.rewriting import rewrite

ROWS, WIDTH = 7, 5
NUMBERS = np.array([[3, 0, 3], [6, 3, 1]])


def gradient_of(look_up, dtype=jnp.float32):
    """Of a table's entries [ROWS, WIDTH], of which some are looked up more than once."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(*NUMBERS.shape, WIDTH)), dtype)
    table = jnp.zeros((ROWS, WIDTH), dtype)
    return jax.grad(lambda t: jnp.sum((look_up(t) * weights).astype(jnp.float32))), table


def operations(function, *args):
    return str(jax.make_jaxpr(rewrite(function, ROW_SUMS))(*args))


LOOK_UPS = {
    "take": lambda t: jnp.take(t, NUMBERS, axis=0),
    "index": lambda t: t[NUMBERS],
    "clip": lambda t: t.at[NUMBERS + 2].get(mode="clip"),
    "out of range": lambda t: t.at[NUMBERS + 2].get(mode="fill", fill_value=0),
    "negative": lambda t: t[NUMBERS - ROWS],
}


@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_rows_are_summed_by_a_product_to_the_same_numbers(look_up, dtype, tolerance):
    gradient, table = gradient_of(look_up, jnp.dtype(dtype))
    text = operations(gradient, table)
    assert "dot_general" in text
    assert "scatter" not in text
    got, expected = rewrite(gradient, ROW_SUMS)(table), gradient(table)
    assert got.dtype == expected.dtype
    got, expected = (np.asarray(a, np.float32) for a in (got, expected))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    assert np.abs(expected).max() > 0.1


OTHERS = {
    "columns": lambda t: t[:, NUMBERS[:, 0] - 2],
    "parts of rows": lambda t: lax.dynamic_slice(t, (1, 1), (2, 3)) + t[NUMBERS[0, :2], 1:4],
    "one number each": lambda t: t[NUMBERS[0], NUMBERS[1] - 2],
    "each once": lambda t: t.at[jnp.arange(3)].get(unique_indices=True),
}


@pytest.mark.parametrize("look_up", OTHERS.values(), ids=OTHERS)
def test_other_sums_stay_as_they_are(look_up):
    gradient = jax.grad(lambda t: jnp.sum(jnp.sin(look_up(t))))
    table = jnp.ones((ROWS, WIDTH))
    assert operations(gradient, table) == str(jax.make_jaxpr(gradient)(table))


def test_a_sum_of_too_many_rows_stays_a_scatter(monkeypatch):
    gradient, table = gradient_of(LOOK_UPS["take"])
    monkeypatch.setattr(row_sums, "_MOST_ROWS", {2: ROWS, 4: ROWS - 1})
    assert "dot_general" not in operations(gradient, table)
    monkeypatch.setattr(row_sums, "_MOST_ROWS", {2: ROWS, 4: ROWS})
    assert "dot_general" in operations(gradient, table)
    monkeypatch.setattr(row_sums, "_MOST_ONES", NUMBERS.size * ROWS - 1)
    assert "dot_general" not in operations(gradient, table)


def test_a_sum_of_narrow_rows_stays_a_scatter():
    count = jax.grad(lambda t: jnp.sum(jnp.sin(t[NUMBERS])))
    assert "dot_general" in operations(count, jnp.zeros(256))
    assert "dot_general" not in operations(count, jnp.zeros(257))
    assert "dot_general" in operations(count, jnp.zeros((257, 2)))


def test_a_gpu_gives_the_same_bits_unless_it_is_left_free():
    assert compiler.compiler_options_for("gpu") == {"xla_gpu_deterministic_ops": "True"}
    gradient, table = gradient_of(LOOK_UPS["take"])
    taken = {}
    for deterministic in (True, False):
        lowered = compiler.jit_for("gpu", deterministic=deterministic)(gradient).lower(table)
        taken[deterministic] = "scatter" in lowered.as_text()
    assert taken == {True: False, False: True}
