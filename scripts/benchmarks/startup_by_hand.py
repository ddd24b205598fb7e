"""One step by hand, as a script would take it: data from a file, `jax.jit`, the loss printed."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.first_step import mark


class Mlp(nn.Module):
    """`configs/mlp.py`."""

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = nn.relu(nn.Dense(256)(x))
            x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(10)(x)


class Cnn(nn.Module):
    """`configs/cnn.py`."""

    @nn.compact
    def __call__(self, x, train):
        for channels in (32, 64):
            x = nn.relu(nn.Conv(channels, (5, 5))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(256)(x.reshape((x.shape[0], -1))))
        x = nn.Dropout(0.4, deterministic=not train)(x)
        return nn.Dense(10)(x)


def main(work: str, data: str) -> None:
    """Takes one step."""
    network, batch_size, rate = {"mlp": (Mlp(), 64, 3e-3), "cnn": (Cnn(), 128, 2e-3)}[work]
    with np.load(data) as columns:
        order = np.random.default_rng(0).permutation(len(columns["labels"]))[:batch_size]
        inputs, labels = columns["inputs"][order], columns["labels"][order]
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 100, 1000)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    @jax.jit
    def init(key, inputs):
        params = network.init(key, inputs, train=False)["params"]
        return params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state, inputs, labels, number):
        def mean_loss(params):
            key = jax.random.fold_in(jax.random.key(0), number)
            logits = network.apply({"params": params}, inputs, train=True, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    params, opt_state = init(jax.random.key(0), inputs)
    params, opt_state, loss = step(params, opt_state, inputs, labels, jnp.int32(0))
    loss.block_until_ready()
    mark()
    print(float(loss))


if __name__ == "__main__":
    main(*sys.argv[1:])
