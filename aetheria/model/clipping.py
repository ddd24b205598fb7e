"""Clipping of gradients by their global norm."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def clip(max_grad_norm: float, then: optax.GradientTransformation) -> optax.GradientTransformation:
    """Clips gradients to the global norm `max_grad_norm` before `then`; 0 turns clipping off."""
    if not max_grad_norm:
        return then
    return optax.chain(clip_by_known_norm(max_grad_norm), then)


def clip_by_known_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Clips as `optax.clip_by_global_norm` does, by a norm that the caller has computed already.

    `update` takes the extra argument `grad_norm`, f32 []; without it, it computes the norm.

    Source: Pascanu et al., "On the difficulty of training recurrent neural networks"
    (arXiv:1211.5063).

    >>> import jax.numpy as jnp
    >>> clipping = clip_by_known_norm(1.0)
    >>> updates, _ = clipping.update({"w": jnp.array([3.0, 4.0])}, clipping.init(None))
    >>> updates["w"]
    Array([0.6, 0.8], dtype=float32)
    """

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        grad_norm: Float[Array, ""] | None = None,
        **other_values: object,
    ) -> tuple[optax.Updates, optax.OptState]:
        norm = optax.tree.norm(updates) if grad_norm is None else grad_norm
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
