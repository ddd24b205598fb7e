"""Optimizer pieces a model composes in its `optimizer` hook."""

import optax


def warmup_cosine(
    learning_rate: float, total_steps: int, *, warmup_fraction: float = 0.1
) -> optax.Schedule:
    """Rises linearly to `learning_rate` over the warm-up, then falls by a cosine to zero.

    Source: Loshchilov & Hutter, "SGDR" (arXiv:1608.03983), one cycle.
    """
    warmup_steps = max(1, int(total_steps * warmup_fraction))
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, max(total_steps, warmup_steps + 1)
    )


def clip(max_grad_norm: float, then: optax.GradientTransformation) -> optax.GradientTransformation:
    """Clips by the global norm before `then`; `max_grad_norm` 0 clips nothing."""
    if not max_grad_norm:
        return then
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), then)
