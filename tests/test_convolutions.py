"""Convolutions in loops have the form that XLA's library on a CPU takes, and the same values."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.long import covering

from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.cpu.convolutions import LIBRARY_CONVOLUTIONS
from aetheria.hardware.jax.rewriting import rewrite

pytestmark = pytest.mark.uncached

LIBRARY_FORMS = ("b0f_0io->b0f", "b01f_01io->b01f", "b012f_012io->b012f")
CONVOLUTIONS = {
    "NHWC": ((2, 8, 8, 4), (3, 3, 4, 6), ("NHWC", "HWIO", "NHWC"), {}),
    "NCHW": ((2, 4, 8, 8), (6, 4, 3, 3), ("NCHW", "OIHW", "NCHW"), {}),
    "mixed": ((4, 2, 9, 7), (3, 6, 4, 2), ("CNHW", "HOIW", "HNWC"), {}),
    "one dim": ((2, 8, 4), (3, 4, 6), ("NWC", "WIO", "NWC"), {}),
    "three dims": ((2, 4, 5, 6, 4), (2, 2, 2, 4, 6), ("NDHWC", "DHWIO", "NDHWC"), {}),
    "strided": ((2, 9, 9, 4), (3, 3, 4, 6), ("NHWC", "HWIO", "NHWC"), {"window_strides": (2, 3)}),
    "dilated": ((2, 9, 9, 4), (3, 3, 4, 6), ("NHWC", "HWIO", "NHWC"), {"rhs_dilation": (2, 1)}),
    "grouped": ((2, 8, 8, 4), (3, 3, 2, 6), ("NHWC", "HWIO", "NHWC"), {"feature_group_count": 2}),
}


class Case(NamedTuple):
    gradients: object  # a function of `arguments`
    arguments: tuple


def make_case(name):
    lhs_shape, rhs_shape, layout, changes = CONVOLUTIONS[name]
    strides = (1,) * (len(lhs_shape) - 2)
    how = {"window_strides": strides, "padding": "SAME", "dimension_numbers": layout, **changes}
    convolve = functools.partial(lax.conv_general_dilated, **how)
    generator = np.random.default_rng(0)
    draw = lambda *shape: generator.normal(size=shape).astype(np.float32)
    loss = lambda lhs, rhs: jnp.sum(jnp.sin(convolve(lhs, rhs)))

    def gradients(items, rhs):
        def body(total, lhs):
            value, (to_lhs, to_rhs) = jax.value_and_grad(loss, (0, 1))(lhs, rhs)
            return total + to_rhs, (value, to_lhs)

        return lax.scan(body, jnp.zeros_like(rhs), items)

    return Case(gradients, (draw(3, *lhs_shape), draw(*rhs_shape)))


def forms(jit, case):
    text = jit(case.gradients).lower(*case.arguments).compile().as_text()
    lines = [line for line in text.splitlines() if " convolution(" in line]
    return [line.split("dim_labels=")[1].split(",")[0] for line in lines]


USUAL = ["NHWC", "NCHW", "strided"]  # by default; `--long` has all


@pytest.mark.parametrize("name", covering([*CONVOLUTIONS], default=[*USUAL, "grouped"]))
def test_a_gradient_in_a_loop_is_the_same(name):
    case = make_case(name)
    expected = jax.jit(case.gradients)(*case.arguments)
    got = jit_for("cpu")(case.gradients)(*case.arguments)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# XLA writes the gradient of a grouped kernel in another way, in a loop or not.
@pytest.mark.parametrize("name", covering(sorted(set(CONVOLUTIONS) - {"grouped"}), default=USUAL))
def test_each_convolution_in_a_loop_has_the_librarys_form(name):
    case = make_case(name)
    found = forms(jit_for("cpu"), case)
    assert found and set(found) <= set(LIBRARY_FORMS)
    assert not set(forms(jax.jit, case)) <= set(LIBRARY_FORMS), "the control"


def count(jaxpr_text):
    return jaxpr_text.count("conv_general_dilated[")


def test_branches_calls_and_remat_are_looked_into():
    case = make_case("NCHW")
    images, kernel = case.arguments
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )

    @jax.custom_jvp
    def doubled(x):
        return 2 * x

    doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))

    def function(flag, x, k):
        layer = jax.checkpoint(lambda x: jnp.sum(doubled(jax.jit(convolve)(x, k)) ** 2))
        return lax.cond(flag, jax.grad(layer), lambda x: x, x)

    expected = jax.jit(function)(True, images[0], kernel)
    rewritten = rewrite(function, LIBRARY_CONVOLUTIONS)
    got = rewritten(True, images[0], kernel)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    text = str(jax.make_jaxpr(rewritten)(True, images[0], kernel))
    before = str(jax.make_jaxpr(function)(True, images[0], kernel))
    assert count(text) == count(before) > 0
    assert "lhs_spec=(0, 1, 2, 3)" in before and "lhs_spec=(0, 1, 2, 3)" not in text


def test_what_does_not_convolve_stays_as_it_is():
    class Pair(NamedTuple):
        first: object
        second: object

    function = lambda pair, scale: (Pair(pair.second, None), {"sum": pair.first * scale})
    given = Pair(jnp.arange(3.0), jnp.ones(2))
    (swapped, values) = jit_for("cpu")(function)(given, 2.0)
    assert swapped.second is None and np.array_equal(swapped.first, given.second)
    assert values["sum"].tolist() == [0, 2, 4]
    text = lambda f: str(jax.make_jaxpr(f)(given, 2.0))
    assert text(rewrite(function, LIBRARY_CONVOLUTIONS)) == text(function)
