"""Keras 3 on its JAX backend: `fit` on arrays, with its progress bar and its own choice of jit."""

import math

import keras
import numpy as np
from keras import layers, ops

from benchmarks.report import Stopwatch, read_spec, write_speed


def make_mlp(size):
    return keras.Sequential(
        [
            layers.Input((size["input_dim"],)),
            layers.Dense(size["hidden_dim"], activation="relu"),
            layers.Dense(size["num_classes"], dtype="float32"),
        ]
    )


def make_cnn(size):
    convs = []
    for channels in size["conv_dims"]:
        convs += [
            layers.Conv2D(channels, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
        ]
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            *convs,
            layers.Flatten(),
            layers.Dense(size["hidden_dim"], activation="relu"),
            layers.Dropout(size["dropout"]),
            layers.Dense(size["num_classes"], dtype="float32"),
        ]
    )


class Block(layers.Layer):
    """Causal attention and two dense layers, each with a norm before it."""

    def __init__(self, size):
        super().__init__()
        width, heads = size["width"], size["num_heads"]
        self.norm1 = layers.LayerNormalization(epsilon=1e-5)
        self.norm2 = layers.LayerNormalization(epsilon=1e-5)
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.wide = layers.Dense(size["mlp_ratio"] * width)
        self.narrow = layers.Dense(width)

    def build(self, shape):
        self.norm1.build(shape)
        self.norm2.build(shape)
        self.attention.build(shape, shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], self.wide.units))

    def call(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, use_causal_mask=True)
        return x + self.narrow(ops.gelu(self.wide(self.norm2(x)), approximate=True))


class Gpt(keras.Model):
    """Blocks between an embedding and its transpose."""

    def __init__(self, size):
        super().__init__()
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.tokens = layers.Embedding(size["vocab_size"], size["width"], normal)
        self.positions = layers.Embedding(size["max_length"], size["width"], normal)
        self.blocks = [Block(size) for _ in range(size["num_layers"])]
        self.norm = layers.LayerNormalization(epsilon=1e-5)

    def call(self, tokens):
        x = self.tokens(tokens) + self.positions(ops.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        table = ops.cast(self.tokens.embeddings, x.dtype)
        logits = ops.matmul(self.norm(x), ops.transpose(table))
        return ops.cast(logits, "float32")


NETWORKS = {"mlp": make_mlp, "cnn": make_cnn, "lm": Gpt}


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rises over a tenth of the steps, then falls by a cosine."""

    def __init__(self, peak, total):
        self.peak, self.total = peak, total

    def __call__(self, step):
        rise = max(1, self.total // 10)
        step = ops.cast(step, "float32")
        part = ops.clip((step - rise) / (self.total - rise), 0, 1)
        cosine = 0.5 * (1 + ops.cos(np.pi * part))
        return self.peak * ops.where(step < rise, step / rise, cosine)


def make_optimizer(spec, total):
    """AdamW; of a GPT, matrices alone decay."""
    size = spec["model"]
    optimizer = keras.optimizers.AdamW(
        WarmupCosine(size["learning_rate"], total),
        weight_decay=size["weight_decay"],
        epsilon=1e-8,
        global_clipnorm=size["max_grad_norm"],
    )
    if spec["work"] == "lm":
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def main():
    """Measures the second call of `fit`; the first one, of a few steps, compiles."""
    spec, watch = read_spec(), Stopwatch()
    keras.utils.set_random_seed(0)
    if spec["config"]["mixed_precision"]:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    batch_size = spec["config"]["batch_size"]
    with np.load(spec["data"]) as columns:
        inputs, labels = columns["inputs"], columns["labels"]
    per_epoch = min(len(inputs) // batch_size, spec["num_steps"])
    epochs = math.ceil(spec["num_steps"] / per_epoch)
    model = NETWORKS[spec["work"]](spec["model"])
    model.compile(
        optimizer=make_optimizer(spec, spec["warmup"] + epochs * per_epoch),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    warm, whole = spec["warmup"] * batch_size, per_epoch * batch_size
    model.fit(inputs[:warm], labels[:warm], batch_size=batch_size)
    watch.start()
    history = model.fit(inputs[:whole], labels[:whole], batch_size=batch_size, epochs=epochs)
    watch.stop()
    write_speed(
        spec,
        num_steps=epochs * per_epoch,
        times=watch.times,
        num_params=model.count_params(),
        loss=history.history["loss"][-1],
        packages=("keras", "jax"),
    )


if __name__ == "__main__":
    main()
