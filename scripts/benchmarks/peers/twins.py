"""The works' networks, optimizer and data in PyTorch, for the trainers that run on it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.report import Stopwatch, write_speed


class Mlp(nn.Sequential):
    """One hidden layer: [batch, input_dim] -> [batch, num_classes]."""

    def __init__(self, size: dict[str, Any]):
        hidden = size["hidden_dim"]
        super().__init__(
            nn.Linear(size["input_dim"], hidden), nn.ReLU(), nn.Linear(hidden, size["num_classes"])
        )


class Cnn(nn.Sequential):
    """Convolutions with pooling, then two dense layers: [batch, 1, 28, 28] -> [batch, classes]."""

    def __init__(self, size: dict[str, Any]):
        layers: list[nn.Module] = []
        channels, side = 1, 28
        for wider in size["conv_dims"]:
            layers += [nn.Conv2d(channels, wider, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
            channels, side = wider, side // 2
        hidden = size["hidden_dim"]
        super().__init__(
            *layers,
            nn.Flatten(),
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(size["dropout"]),
            nn.Linear(hidden, size["num_classes"]),
        )


class Block(nn.Module):
    """Causal attention and two dense layers, each with a norm before it."""

    def __init__(self, size: dict[str, Any]):
        super().__init__()
        width, wide = size["width"], size["mlp_ratio"] * size["width"]
        self.num_heads = size["num_heads"]
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, wide), nn.GELU(approximate="tanh"), nn.Linear(wide, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, self.num_heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class Gpt(nn.Module):
    """Blocks between an embedding and its transpose: [batch, length] -> [batch, vocab, length]."""

    def __init__(self, size: dict[str, Any]):
        super().__init__()
        self.tokens = nn.Embedding(size["vocab_size"], size["width"])
        self.positions = nn.Embedding(size["max_length"], size["width"])
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size["num_layers"])))
        self.norm = nn.LayerNorm(size["width"])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.norm(self.blocks(self.tokens(tokens) + positions))
        return F.linear(x, self.tokens.weight).transpose(1, 2)


NETWORKS = {"mlp": Mlp, "cnn": Cnn, "lm": Gpt}


def make_network(spec: dict[str, Any]) -> nn.Module:
    """The network of a work, as PyTorch initializes it."""
    torch.manual_seed(0)
    if spec["work"] == "mlp" and spec["device"] == "cpu":
        # Steps so short gain nothing from more threads, and wait for each other on a busy machine:
        # 1,565 steps/s with one, 41 with two.
        torch.set_num_threads(1)
    return NETWORKS[spec["work"]](spec["model"])


def make_loader(spec: dict[str, Any]) -> DataLoader:
    """The training examples, shuffled, in whole batches; images with the channel first."""
    with np.load(spec["data"]) as columns:
        inputs, labels = columns["inputs"], columns["labels"].astype(np.int64)
    if spec["work"] == "cnn":
        inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    examples = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))
    batch_size = spec["config"]["batch_size"]
    return DataLoader(examples, batch_size=batch_size, shuffle=True, drop_last=True)


def make_optimizer(
    spec: dict[str, Any], network: nn.Module, *, fused: bool | None = None
) -> tuple[Any, Any]:
    """AdamW, its warm-up and cosine by steps; of a GPT, matrices alone decay."""
    size, parameters = spec["model"], list(network.parameters())
    plain = [p for p in parameters if spec["work"] == "lm" and p.ndim < 2]
    decay_mask = [p for p in parameters if all(p is not q for q in plain)]
    groups = [
        {"params": decay_mask, "weight_decay": size["weight_decay"]},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=size["learning_rate"], fused=fused)
    total = spec["warmup"] + spec["num_steps"]
    rise = max(1, total // 10)

    def factor(step: int) -> float:
        if step < rise:
            return step / rise
        return 0.5 * (1 + float(np.cos(np.pi * min(1.0, (step - rise) / (total - rise)))))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def write_loop(
    spec: dict[str, Any],
    watch: Stopwatch,
    network: nn.Module,
    loss: torch.Tensor | None,
    packages: Sequence[str],
) -> None:
    """Ends the measurement of a loop when the device is done, and writes it."""
    wait(spec["device"])
    watch.stop()
    assert loss is not None, "at least one step"
    write_speed(
        spec,
        num_steps=spec["num_steps"],
        times=watch.times,
        num_params=sum(p.numel() for p in network.parameters()),
        loss=float(loss),
        packages=packages,
    )


def wait(device: str) -> None:
    """Waits for the device."""
    if device == "gpu":
        torch.cuda.synchronize()
