"""What a language model may define to generate text without reading all tokens again for each one.
Knows arrays, no device.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from aetheria.model.model import ModelState, Params, Tree


@runtime_checkable
class Decoder(Protocol):
    """A language model that keeps keys and values of the tokens it has read: a key-value cache.

    Both methods are optional hooks of a `Model`. A model without them generates too, through
    `predict`, at the cost of a whole forward pass for each token.
    """

    def empty_cache(self, params: Params, batch_size: int, length: int) -> Tree:
        """Makes the cache of `batch_size` rows that have read nothing.

        Args:
            params: the parameters, in the dtype that the network computes in.
            batch_size: the number of rows.
            length: the number of tokens that a row may have, prompt included.

        Returns:
            A pytree of arrays [batch, ...].
        """
        ...

    def decode(
        self,
        params: Params,
        model_state: ModelState,
        tokens: Int[Array, "batch num_new"],
        start: Int[Array, " batch"],
        cache: Tree,
    ) -> tuple[Float[Array, "batch num_new vocab_size"], Tree]:
        """Computes the logits of tokens that follow those in the cache.

        They are the logits that `predict` computes for these positions of the whole row, up to
        rounding. What the cache holds from `start` on is not valid, and is overwritten.

        Args:
            params: as in `empty_cache`.
            model_state: the model state.
            tokens: the next tokens of each row.
            start: how many tokens of each row the cache holds; the position of its first new token.
            cache: the keys and values of the tokens before.

        Returns:
            The logits of each new token, and the cache with the new tokens in it.
        """
        ...


class KeyValues(NamedTuple):
    """The cache of several layers of attention.

    Attributes:
        keys: of the tokens read so far; what stands at later positions is not valid.
        values: likewise.
    """

    keys: Shaped[Array, "batch layers num_heads length size"]
    values: Shaped[Array, "batch layers num_heads length size"]

    @classmethod
    def empty(
        cls,
        batch_size: int,
        num_layers: int,
        num_heads: int,
        length: int,
        size: int,
        dtype: DTypeLike,
    ) -> "KeyValues":
        """Makes the cache of rows without tokens."""
        zeros = jnp.zeros((batch_size, num_layers, num_heads, length, size), dtype)
        return cls(zeros, zeros)

    def attend(
        self,
        q: Float[Array, "batch num_new num_heads size"],
        k: Float[Array, "batch num_new num_heads size"],
        v: Float[Array, "batch num_new num_heads size"],
        layer: jax.Array | int,
        start: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch num_new num_heads size"], "KeyValues"]:
        """Stores the keys and values of new tokens, and attends from each of these to itself and to
        the tokens before: `causal_attention`, for the last positions of a row.

        Args:
            q: queries.
            k: keys.
            v: values.
            layer: the number of the layer, which may be traced.
            start: the position of the first new token of each row.

        Returns:
            The attended values, and the cache with the new tokens.
        """
        q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
        keys, values = (
            _store(old, new, layer, start) for old, new in zip(self, (k, v), strict=True)
        )
        own = lambda stored: jax.lax.dynamic_index_in_dim(stored, layer, 1, keepdims=False)
        wide = jnp.promote_types(q.dtype, jnp.float32)
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, own(keys), preferred_element_type=wide)
        positions = start[:, None] + jnp.arange(q.shape[2])
        seen = jnp.arange(keys.shape[3]) <= positions[:, None, :, None]
        scores = jnp.where(seen, scores * q.shape[3] ** -0.5, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        attended = jnp.einsum("bhqk,bhkd->bqhd", weights, own(values))
        return attended, KeyValues(keys, values)


def _store(
    stored: jax.Array, new: jax.Array, layer: jax.Array | int, start: jax.Array
) -> jax.Array:
    """Writes [batch, num_heads, num_new, size] into a layer, at another position of each row."""
    write = lambda row, new, start: jax.lax.dynamic_update_slice(
        row, new[None], (layer, 0, start, 0)
    )
    return jax.vmap(write)(stored, new.astype(stored.dtype), start)
