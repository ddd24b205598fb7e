"""A digest of arrays, computed where they lie."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Of the finalizer of MurmurHash3 (Appleby, public domain), and the golden ratio (Knuth, The Art of
# Computer Programming, 6.4).
_MIX, _MIX_2, _GOLDEN = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B1
WORDS = 2


def digest(leaves: Sequence[jax.Array]) -> jax.Array:
    """Digests arrays of any real or complex dtype: u32 [2].

    Each word is the sum, modulo 2**32, of a number for every 32 bits, which depends on their place.
    So it does not depend on the order of the additions, nor on the device. Different bits at one
    place have different numbers, so that the change of one element alone is always seen; of other
    changes, one in 2**64 is not.
    """
    total, begin = jnp.zeros(WORDS, jnp.uint32), 0
    for leaf in leaves:
        for words in _words(leaf):
            place = jax.lax.iota(jnp.uint32, words.size) + jnp.uint32((begin + 1) % 2**32)
            begin += words.size
            one = _mixed(words ^ (place * jnp.uint32(_GOLDEN)))
            other = _mixed(one + place)
            total += jnp.stack([jnp.sum(each, dtype=jnp.uint32) for each in (one, other)])
    return total


def _mixed(words: jax.Array) -> jax.Array:
    """Mixes the bits of each word; of different words come different ones."""
    words = (words ^ (words >> 16)) * jnp.uint32(_MIX)
    words = (words ^ (words >> 13)) * jnp.uint32(_MIX_2)
    return words ^ (words >> 16)


def _words(leaf: jax.Array) -> list[jax.Array]:
    """The bits of an array as u32 [n]; two such arrays of a complex one."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return [*_words(leaf.real), *_words(leaf.imag)]
    if leaf.dtype == jnp.bool_:
        return [leaf.astype(jnp.uint32).ravel()]
    number = jnp.dtype(f"uint{8 * min(leaf.dtype.itemsize, 4)}")
    return [jax.lax.bitcast_convert_type(leaf, number).astype(jnp.uint32).ravel()]
