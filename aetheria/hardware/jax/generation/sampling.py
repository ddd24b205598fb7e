"""Draws the next token from logits: greedy, or sampled at a temperature, from the most probable.

A draw is a function of the logits, the seed of the row and the number of the token alone, so a row
has the same tokens beside any other rows.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aetheria.errors import AetheriaError, shown

# Each is compiled by itself: to rank all tokens takes longer than to draw one.
Kind: TypeAlias = Literal["greedy", "sampled", "ranked"]
# Of NumPy on the host, of JAX while it is traced.
Number: TypeAlias = Any
_MAX_TOP_K = 2**31 - 1


class Thresholds(NamedTuple):
    """What a draw depends on beside logits and seed; traced, so that no value compiles anew.

    Attributes:
        temperature: f32 [], above 0; logits are divided by it.
        top_k: i32 [], the number of tokens that are kept, the most probable ones.
        top_p: f32 [], the share of the probability that the kept tokens have at least.
    """

    temperature: Number
    top_k: Number
    top_p: Number


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0: the most probable token, of two equal ones the lower.
        top_k: draw from so many tokens, the most probable ones; None: from all.
        top_p: draw from the fewest tokens that together have this probability, after `top_k`; None:
            from all.

    Raises:
        AetheriaError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or not 0 <= self.temperature <= 1e4:
            _refuse("temperature", "a number from 0 to 10000", self.temperature, "0 is greedy")
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            _refuse("top_k", "a whole number of 1 or more", self.top_k, "None keeps all tokens")
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            _refuse("top_p", "a number above 0, at most 1", self.top_p, "None keeps all tokens")

    @property
    def kind(self) -> Kind:
        """Which program draws."""
        if self.temperature < 1e-6:  # the logits of a smaller one overflow
            return "greedy"
        return "sampled" if self.top_k is None and self.top_p is None else "ranked"

    @property
    def thresholds(self) -> Thresholds:
        """The values, for the device."""
        return Thresholds(
            np.float32(self.temperature),
            np.int32(min(self.top_k or _MAX_TOP_K, _MAX_TOP_K)),
            np.float32(1 if self.top_p is None else self.top_p),
        )


def draw(
    kind: Kind,
    logits: Array,
    seeds: Array,
    number: Array,
    thresholds: Thresholds,
) -> Array:
    """Draws a token for each row.

    Args:
        kind: which tokens take part.
        logits: of the next token, f32 [rows, vocab_size].
        seeds: u32 [rows].
        number: i32 [], how many tokens were drawn before.
        thresholds: the values of `Sampling`.

    Returns:
        i32 [rows].

    Source: the Gumbel-max trick (Maddison et al., "A* Sampling", arXiv:1411.0030); top_p: Holtzman
    et al., "The Curious Case of Neural Text Degeneration" (arXiv:1904.09751), 3.1.
    """
    if kind == "greedy":
        return logits.argmax(-1).astype(jnp.int32)
    one = _draw_ranked if kind == "ranked" else _draw_any
    return jax.vmap(one, in_axes=(0, 0, None, None))(logits, seeds, number, thresholds)


def _draw_any(logits: Array, seed: Array, number: Array, thresholds: Thresholds) -> Array:
    noise = _noise(logits, seed, number)
    return (logits / thresholds.temperature + noise).argmax(-1).astype(jnp.int32)


def _draw_ranked(logits: Array, seed: Array, number: Array, thresholds: Thresholds) -> Array:
    # Stable, so that of two equal tokens the lower is kept; the noise goes with the token, so that
    # thresholds that keep all tokens draw what no thresholds draw.
    order = jnp.argsort(-logits, stable=True)
    ranked = logits[order] / thresholds.temperature
    within = jnp.arange(len(ranked)) < thresholds.top_k
    shares = jax.nn.softmax(jnp.where(within, ranked, -jnp.inf))
    before = jnp.cumsum(shares) - shares
    kept = within & (before < thresholds.top_p)
    noisy = jnp.where(kept, ranked + _noise(logits, seed, number)[order], -jnp.inf)
    return order[noisy.argmax()].astype(jnp.int32)


def _noise(logits: Array, seed: Array, number: Array) -> Array:
    # The generator is named: a setting of jax must not change what a seed draws.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), number)
    return jax.random.gumbel(key, logits.shape, logits.dtype)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.floating) and not isinstance(value, bool)


def _refuse(name: str, expected: str, got: object, advice: str) -> None:
    raise AetheriaError(f"{name}: expected {expected}, got {shown(got)}; {advice}")
