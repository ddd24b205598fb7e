"""Forms of layers: values and gradients are those of the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.long import covering_rows

from aetheria.model.layers import causal_attention


def make_qkv(length, size, dtype=jnp.float32):
    rng = np.random.default_rng(length)
    return [jnp.asarray(rng.normal(size=(2, length, 3, size)), dtype) for _ in range(3)]


def plain_attention(q, k, v, is_causal=True):
    return jax.nn.dot_product_attention(q, k, v, is_causal=is_causal)


def weigh(attention):
    """A sum whose gradient differs from place to place."""
    weights = lambda shape: jnp.sin(jnp.arange(np.prod(shape))).reshape(shape)
    return lambda *qkv: (attention(*qkv) * weights(qkv[0].shape)).sum()


SIZES = {"1-4": (1, 4), "7-5": (7, 5), "33-8": (33, 8), "128-32": (128, 32)}


@pytest.mark.parametrize(("length", "size"), covering_rows(SIZES, default=["1-4", "33-8"]))
def test_attention_gives_the_values_and_gradients_of_the_plain_form(length, size):
    qkv = make_qkv(length, size)
    both = lambda f: (jax.jit(f)(*qkv), jax.jit(jax.grad(weigh(f), (0, 1, 2)))(*qkv))
    close = lambda have, want: np.testing.assert_allclose(
        have, want, rtol=1e-5, atol=1e-5 * np.abs(want).max()
    )
    jax.tree.map(close, both(causal_attention), both(plain_attention))
    if length > 1:  # The control: what comes later would change the values.
        everything = plain_attention(*qkv, is_causal=False)
        assert not np.allclose(causal_attention(*qkv), everything, rtol=1e-2)


def test_attention_keeps_a_lower_precision():
    qkv = make_qkv(9, 4, jnp.bfloat16)
    have, want = (jax.jit(f)(*qkv) for f in (causal_attention, plain_attention))
    assert have.dtype == want.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(have), np.float32(want), rtol=0.02, atol=0.01)


def test_scores_are_summed_up_in_float32():
    q, k, v = make_qkv(9, 4, jnp.bfloat16)
    jaxpr = str(jax.make_jaxpr(causal_attention)(q, k, v))
    assert "exp" in jaxpr and "bf16[2,3,9,9] = exp" not in jaxpr
