"""A decoder-only language model: pre-norm, causal, learned positions, layers stacked by a scan."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from aetheria import AdamW, Classes, Classifier, register_model, split_batch
from aetheria.errors import AetheriaError
from aetheria.model.decoding import KeyValues
from aetheria.model.layers import causal_attention

# Matched by name, since a stack of vectors has the rank of a matrix. Biases and the scales of norms
# do not decay.
_MATRICES = "(kernel|embedding)$"
_UNROLLED_LAYERS = 4  # more layers take too long to compile


def _residual_init(num_layers: int) -> nn.initializers.Initializer:
    """Keeps the variance of the sum over all residual branches at that of one.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), 2.3.
    """
    return nn.initializers.variance_scaling(0.5 / num_layers, "fan_in", "truncated_normal")


class _Past(NamedTuple):
    """What a row has read before: `cache` holds the keys and values of `start` [batch] tokens."""

    cache: KeyValues
    start: jax.Array


class _Attention(nn.Module):
    """Causal self-attention, over the tokens in x alone or also over those read before."""

    model: "Transformer"

    @nn.compact
    def __call__(self, x, past, layer):
        batch, length, width = x.shape
        heads = (batch, length, self.model.num_heads, -1)
        # [width, 3, width], not [width, 3 * width]: a shard of the last dim has whole heads.
        qkv = nn.DenseGeneral((3, width), name="qkv")(x.reshape(-1, width))
        q, k, v = (qkv[:, i].reshape(heads) for i in range(3))
        if past is None:
            x = causal_attention(q, k, v)
        else:
            x, cache = past.cache.attend(q, k, v, layer, past.start)
            past = past._replace(cache=cache)
        x = x.reshape(-1, width)
        kernel_init = _residual_init(self.model.num_layers)
        x = nn.Dense(width, kernel_init=kernel_init, name="out")(x)
        return x.reshape(batch, length, width), past


class _Mlp(nn.Module):
    """Two dense layers around a GELU."""

    model: "Transformer"

    @nn.compact
    def __call__(self, x):
        shape, width = x.shape, x.shape[-1]
        x = nn.gelu(nn.Dense(self.model.mlp_ratio * width, name="in")(x.reshape(-1, width)))
        kernel_init = _residual_init(self.model.num_layers)
        return nn.Dense(width, kernel_init=kernel_init, name="out")(x).reshape(shape)


class _Block(nn.Module):
    """One layer: adds the output of each branch to x [batch, length, width], and its keys and
    values to what was read before, if anything was.

    Dense layers see [batch * length, width], which takes 9 % less time for a step on a CPU.
    """

    model: "Transformer"
    train: bool

    @nn.compact
    def __call__(self, carry, layer):
        x, past = carry
        dropout = nn.Dropout(self.model.dropout, deterministic=not self.train)
        norm = partial(nn.LayerNorm, epsilon=1e-5)
        attend, feed = _Attention(self.model, name="attention"), _Mlp(self.model, name="mlp")
        attended, past = attend(norm(name="attention_norm")(x), past, layer)
        x = split_batch(x + dropout(attended))
        x = split_batch(x + dropout(feed(norm(name="mlp_norm")(x))))
        return (x, past), None


class _Layers(nn.Module):
    model: "Transformer"

    @nn.compact
    def __call__(self, inputs, train, past=None):
        """Returns the logits of `inputs`; with a past, also the cache that holds these too."""
        model = self.model
        embed = partial(nn.Embed, features=model.width, embedding_init=nn.initializers.normal(0.02))
        tokens = embed(model.vocab_size, name="tokens")
        positions = embed(model.max_length, name="positions")
        embedded, places = tokens(inputs), jnp.arange(inputs.shape[1])
        if past is not None:
            places = past.start[:, None] + places
        x = split_batch(embedded + positions(places))
        x = nn.Dropout(model.dropout, deterministic=not train)(x)
        layers = None if past is None else jnp.arange(model.num_layers)
        (x, past), _ = _stacked(model, train)((x, past), layers)
        x = split_batch(nn.LayerNorm(epsilon=1e-5, name="norm")(x))
        # The softmax needs float32 logits, even if the products are computed in a narrower dtype.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        widely = partial(jax.lax.dot_general, preferred_element_type=wide)
        x = x.reshape(-1, model.width)
        if model.tied_embeddings:
            contract = (((1,), (1,)), ((), ()))
            logits = widely(x, tokens.embedding.astype(x.dtype), contract)
        else:
            head = nn.Dense(model.vocab_size, False, dot_general=widely, name="head")
            logits = head(x)
        logits = logits.reshape(*inputs.shape, model.vocab_size)
        return logits if past is None else (logits, past.cache)


def _stacked(model: "Transformer", train: bool) -> nn.Module:
    """Stacks the blocks by a scan over one block, so that many layers compile as fast as one.

    Parameters lead with [num_layers]. `remat` decides what is stored for the backward pass:
    everything (`none`), the products with weights (`dots`), or only the input of each block
    (`full`).

    A few layers are unrolled: without a loop, the stored activations are not copied into one array
    of all layers, and a step takes a fifth less time on a CPU.
    """
    block = _Block
    if model.remat != "none":
        policies = jax.checkpoint_policies
        policy = policies.dots_with_no_batch_dims_saveable if model.remat == "dots" else None
        block = nn.remat(block, policy=policy, prevent_cse=False)  # only needed outside a scan
    unrolled = model.remat == "none" and model.num_layers <= _UNROLLED_LAYERS
    scan = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=model.num_layers,
        unroll=model.num_layers if unrolled else 1,
    )
    return scan(model, train, name="blocks")


@register_model("Transformer")
@dataclass(frozen=True)
class Transformer(Classifier):
    """Predicts each next token. Inputs i32 [batch, length]; labels i32 [batch, length], the inputs
    one token later. `length` is at most `max_length`.

    Outputs f32 [batch, length, vocab_size] logits. The loss is the cross entropy, summed over
    tokens. Weight decay applies to matrices alone.

    Source: the layout of GPT-2 (Radford et al., 2019).
    """

    stacked_params: ClassVar[tuple[str, ...]] = ("blocks",)

    vocab_size: int = 256
    num_layers: int = 4
    width: int = 128
    num_heads: int = 4
    max_length: int = 128
    mlp_ratio: int = 4
    dropout: float = 0.0
    tied_embeddings: bool = True
    remat: Literal["none", "full", "dots"] = "none"
    weight_decay: float = field(default=0.1, kw_only=True)

    def __post_init__(self):
        for name in ("vocab_size", "num_layers", "width", "num_heads", "max_length", "mlp_ratio"):
            if (size := getattr(self, name)) < 1:
                raise AetheriaError(
                    f"model_params.{name}: expected a number above 0, got {size}; change it"
                )
        if self.width % self.num_heads:
            raise AetheriaError(
                f"model_params.num_heads: expected a divisor of width ({self.width}), "
                f"got {self.num_heads}; change one of them"
            )

    def network(self):
        return _Layers(self)

    def init(self, rng, example_batch):
        inputs = example_batch["inputs"]
        if inputs.ndim != 2 or not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise AetheriaError(
                f"data_name: expected inputs of whole numbers [batch, length], got {inputs.dtype}"
                f"{list(inputs.shape)}; a language model needs a dataset of tokens"
            )
        if inputs.shape[1] > self.max_length:
            raise AetheriaError(
                f"model_params.max_length: expected at least {inputs.shape[1]}, the length of the "
                f"data's inputs, got {self.max_length}; use max_length={inputs.shape[1]}"
            )
        return super().init(rng, example_batch)

    def empty_cache(self, params, batch_size, length):
        size, dtype = self.width // self.num_heads, jax.tree.leaves(params)[0].dtype
        return KeyValues.empty(batch_size, self.num_layers, self.num_heads, length, size, dtype)

    def decode(self, params, model_state, tokens, start, cache):
        variables = {"params": params, **model_state}
        return self.network().apply(variables, tokens, False, _Past(cache, start))

    def class_columns(self):
        tokens = Classes(self.vocab_size, shape=None)
        return {"inputs": tokens, "labels": tokens}

    def partition_rules(self):
        head = [] if self.tied_embeddings else [("head/kernel", PartitionSpec("fsdp", "tensor"))]
        return [
            ("attention/qkv/kernel", PartitionSpec(None, "fsdp", None, "tensor")),
            ("attention/qkv/bias", PartitionSpec(None, None, "tensor")),
            ("mlp/in/kernel", PartitionSpec(None, "fsdp", "tensor")),
            ("mlp/in/bias", PartitionSpec(None, "tensor")),
            ("(attention|mlp)/out/kernel", PartitionSpec(None, "tensor", "fsdp")),
            ("tokens/embedding", PartitionSpec("tensor", "fsdp")),
            ("positions/embedding", PartitionSpec(None, "fsdp")),
            *head,
        ]

    def update_rule(self):
        if self.rule != "adamw":
            return super().update_rule()
        return AdamW(weight_decay=self.weight_decay, b2=0.95, decay_mask=_MATRICES)
