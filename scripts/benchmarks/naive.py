"""The loop of the textbooks: Flax's own layers, a `TrainState`, and `jax.jit` without options."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from benchmarks import loop
from benchmarks.report import read_spec


class Mlp(nn.Module):
    """One hidden layer."""

    size: Any
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(self.size["hidden_dim"], dtype=self.dtype)(x))
        return nn.Dense(self.size["num_classes"], dtype=self.dtype)(x)


class Cnn(nn.Module):
    """Convolutions with pooling, then two dense layers."""

    size: Any
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        for channels in self.size["conv_dims"]:
            x = nn.relu(nn.Conv(channels, (5, 5), dtype=self.dtype)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(self.size["hidden_dim"], dtype=self.dtype)(x))
        x = nn.Dropout(self.size["dropout"], deterministic=not train)(x)
        return nn.Dense(self.size["num_classes"], dtype=self.dtype)(x)


class Block(nn.Module):
    """Causal attention and two dense layers, each with a norm before it."""

    size: Any
    dtype: Any

    @nn.compact
    def __call__(self, x, mask):
        width = x.shape[-1]
        attention = nn.MultiHeadDotProductAttention(self.size["num_heads"], dtype=self.dtype)
        x = x + attention(nn.LayerNorm(dtype=self.dtype)(x), mask=mask)
        y = nn.Dense(self.size["mlp_ratio"] * width, dtype=self.dtype)(
            nn.LayerNorm(dtype=self.dtype)(x)
        )
        return x + nn.Dense(width, dtype=self.dtype)(nn.gelu(y))


class Gpt(nn.Module):
    """Blocks in a Python loop; the embedding is also the head."""

    size: Any
    dtype: Any

    @nn.compact
    def __call__(self, tokens, train):
        size = self.size
        embed = nn.Embed(size["vocab_size"], size["width"], dtype=self.dtype)
        positions = nn.Embed(size["max_length"], size["width"], dtype=self.dtype)
        x = embed(tokens) + positions(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        for _ in range(size["num_layers"]):
            x = Block(size, self.dtype)(x, mask)
        return embed.attend(nn.LayerNorm(dtype=self.dtype)(x))


NETWORKS = {"mlp": Mlp, "cnn": Cnn, "lm": Gpt}


def make_optimizer(work: str, size: dict[str, Any], num_steps: int) -> Any:
    """AdamW under a warm-up and a cosine, the gradient clipped; of a GPT, matrices alone decay."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, size["learning_rate"], max(1, num_steps // 10), num_steps
    )
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    decay_mask = matrices if work == "lm" else None
    return optax.chain(
        optax.clip_by_global_norm(size["max_grad_norm"]),
        optax.adamw(schedule, weight_decay=size["weight_decay"], mask=decay_mask),
    )


@jax.jit
def train_step(state: TrainState, inputs: Any, labels: Any, number: Any) -> Any:
    """One step, on the whole batch at once."""

    def mean_loss(params: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0), number)
        logits = state.apply_fn({"params": params}, inputs, train=True, rngs={"dropout": key})
        logits = logits.astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    return state.apply_gradients(grads=grads), loss


def main() -> None:
    """Measures."""
    spec = read_spec()
    size = spec["model"]
    dtype = jnp.bfloat16 if spec["config"]["mixed_precision"] else jnp.float32
    network = NETWORKS[spec["work"]](size, dtype)
    inputs, _ = next(loop.batches(spec["data"], 1))
    params = network.init(jax.random.key(0), inputs, train=False)["params"]
    optimizer = make_optimizer(spec["work"], size, spec["warmup"] + spec["num_steps"])
    state = TrainState.create(apply_fn=network.apply, params=params, tx=optimizer)
    loop.measure(spec, train_step, state, params)


if __name__ == "__main__":
    main()
