"""Models as one would write and train them in PyTorch alone; nothing of this project is imported.

    python plain_pytorch.py KIND FOLDER

writes `weights.pt`, and `examples.npz` with inputs as this project's data has them, and outputs.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(1, 4, 5, padding=2, bias=False), nn.Conv2d(4, 6, 5, padding=2, bias=False)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(6)])
        self.hidden = nn.Linear(6 * 3 * 2, 8, bias=False)
        self.hidden_norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(norm(conv(x)).relu(), 2)
        return self.head(self.hidden_norm(self.hidden(torch.flatten(x, 1))).relu())


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width)}
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        q, k, v = self.attention["qkv"](self.attention_norm(x)).chunk(3, dim=-1)
        heads = lambda a: a.unflatten(-1, (2, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True)
        x = x + self.attention["out"](attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(5, 8)
        self.blocks = nn.ModuleList([Block(8), Block(8)])
        self.norm = nn.LayerNorm(8)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T


def main(kind, folder):
    torch.manual_seed(0)
    model = {"mlp": Mlp, "cnn": Cnn, "lm": Gpt}[kind]()
    inputs = {
        "mlp": torch.randn(40, 6),
        "cnn": torch.randn(40, 1, 12, 8),
        "lm": torch.randint(0, 11, (40, 5)),
    }[kind]
    labels = torch.randint(0, 3, (40, 5) if kind == "lm" else (40,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        outputs = model(inputs)
        F.cross_entropy(outputs.flatten(0, -2), labels.flatten()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    torch.save(model.state_dict(), folder / "weights.pt")
    as_data = inputs.permute(0, 2, 3, 1) if kind == "cnn" else inputs
    np.savez(folder / "examples.npz", inputs=as_data.numpy(), outputs=outputs.numpy())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
