"""Transformer in PyTorch."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from aetheria.pytorch import (
    Rule,
    TorchTwin,
    dense,
    embedding,
    example_weights,
    layer_norm,
    register_counterpart,
    weighted,
)

from .transformer import Transformer


class Attention(nn.Module):
    """Causal self-attention: [batch, length, width] -> the same."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.num_heads = model.num_heads
        self.qkv = nn.Linear(model.width, 3 * model.width)
        self.out = nn.Linear(model.width, model.width)

    def forward(self, x):
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.num_heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(x.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Adds the output of each branch to x."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.attention_norm = nn.LayerNorm(model.width, eps=1e-5)
        self.attention = Attention(model)
        self.mlp_norm = nn.LayerNorm(model.width, eps=1e-5)
        self.mlp = nn.Sequential(
            nn.Linear(model.width, model.mlp_ratio * model.width),
            nn.GELU(approximate="tanh"),  # Flax's default
            nn.Linear(model.mlp_ratio * model.width, model.width),
        )
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, x):
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Network(nn.Module):
    """[batch, length] -> [batch, length, vocab_size]."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.remat = model.remat != "none"
        self.tokens = nn.Embedding(model.vocab_size, model.width)
        self.positions = nn.Embedding(model.max_length, model.width)
        self.dropout = nn.Dropout(model.dropout)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.num_layers))
        self.norm = nn.LayerNorm(model.width, eps=1e-5)
        if not model.tied_embeddings:
            self.head = nn.Linear(model.width, model.vocab_size, bias=False)
        self.tied = model.tied_embeddings

    def forward(self, tokens):
        positions = self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.dropout(self.tokens(tokens) + positions)
        for block in self.blocks:
            x = self._run(block, x)
        x = self.norm(x)
        return F.linear(x, self.tokens.weight) if self.tied else self.head(x)

    def _run(self, block, x):
        if not (self.remat and torch.is_grad_enabled()):
            return block(x)
        from torch.utils.checkpoint import checkpoint

        return checkpoint(block, x, use_reentrant=False)


@dataclass(frozen=True)
class Twin(TorchTwin):
    """The counterpart of a Transformer, with the tensors `tokens`, `positions`, `blocks.<i>` and
    `norm`, and `head` where the embedding is not tied.
    """

    model: Transformer

    def network(self):
        return Network(self.model)

    def rules(self):
        model, layers = self.model, self.model.num_layers
        width, block = model.width, "blocks.{layer}"
        layered = lambda name, leaf, **turn: Rule(
            leaf=f"params/blocks/{leaf}", name=f"{block}.{name}", layers=layers, **turn
        )
        return [
            *embedding("tokens", "tokens"),
            *embedding("positions", "positions"),
            *layer_norm(f"{block}.attention_norm", "blocks/attention_norm", layers=layers),
            # The leaf is [width, 3, width]; the tensor stacks the three as rows.
            layered("attention.qkv.weight", "attention/qkv/kernel", view=(width, -1), dims=(1, 0)),
            layered("attention.qkv.bias", "attention/qkv/bias"),
            *dense(f"{block}.attention.out", "blocks/attention/out", layers=layers),
            *layer_norm(f"{block}.mlp_norm", "blocks/mlp_norm", layers=layers),
            *dense(f"{block}.mlp.0", "blocks/mlp/in", layers=layers),
            *dense(f"{block}.mlp.2", "blocks/mlp/out", layers=layers),
            *layer_norm("norm", "norm"),
            *([] if model.tied_embeddings else dense("head", "head", bias=False)),
        ]

    def loss(self, outputs, batch):
        labels = batch["labels"].long()
        loss = F.cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none")
        return weighted(loss.view(labels.shape), example_weights(batch))

    def metrics(self, outputs, batch):
        return {"accuracy": weighted(outputs.argmax(-1) == batch["labels"], example_weights(batch))}


def _infer_inputs(model, shapes):
    return (model.max_length,), "int32"


@register_counterpart(Transformer, infer_inputs=_infer_inputs)
def make_counterpart(model, example_batch):
    """Makes the counterpart of a Transformer."""
    return Twin(model)
