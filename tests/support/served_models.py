"""Trained models to be served, of each kind of inputs; each takes a second to train."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from support.runs import DIGITS, Finished

PROJECT = {
    "models/parts.py": """
from dataclasses import dataclass
import jax
import jax.numpy as jnp
from flax import linen as nn
import aetheria


class Network(nn.Module):
    @nn.compact
    def __call__(self, inputs, train):
        joined = jnp.concatenate([inputs["image"], inputs["word"].astype(jnp.float32)], -1)
        return nn.Dense(3)(joined)


@aetheria.register_model("Parts")
@dataclass(frozen=True)
class Parts(aetheria.Classifier):
    num_classes: int = 3

    def network(self):
        return Network()
""",
    "models/slow.py": '''
import time
from dataclasses import dataclass
import jax
import aetheria
from aetheria.models.mlp import SimpleMLP


def wait(seconds):
    time.sleep(float(seconds))
    return seconds


@aetheria.register_model("Slow")
@dataclass(frozen=True, kw_only=True)
class Slow(SimpleMLP):
    """Takes as many seconds for a batch as its first number says, at most five."""

    def predict(self, params, model_state, inputs):
        seconds = inputs[0, 0].clip(0, 5)
        waited = jax.pure_callback(wait, jax.ShapeDtypeStruct((), inputs.dtype), seconds)
        return super().predict(params, model_state, inputs) + 0 * waited
''',
    "data/parts.py": """
import numpy as np
from aetheria import DataSplits, register_data
from aetheria.data.sources import ArraySource


@register_data("parts")
def parts():
    rng = np.random.default_rng(0)
    def split(count):
        image = rng.normal(size=(count, 4)).astype(np.float32)
        word = rng.integers(0, 9, (count, 2)).astype(np.int32)
        labels = (word.sum(1) % 3).astype(np.int32)
        return ArraySource({"inputs": {"image": image, "word": word}, "labels": labels})
    return DataSplits(train=split(64), eval=split(16))
""",
}


def write_project(folder: Path) -> Path:
    """A project folder with the models `Parts`, of two inputs, and `Slow`."""
    for name, text in PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def train_models(train: Callable[..., Finished], folder: Path) -> dict[str, Path]:
    """Trains `digits`, `loans` (a table), `shapes` (pictures) and `parts` (two inputs)."""
    few = {"epochs": 1, "model_params": {}}
    project = write_project(folder / "project")
    configs = {
        "digits": {},
        "loans": {
            "data_name": "csv",
            "data_params": {"file": str(_table(folder / "loans.csv")), "label": "default"},
            "model_params": {"num_classes": 2},
            "epochs": 1,
        },
        "shapes": {
            "data_name": "image_folder",
            "data_params": {"path": str(_pictures(folder / "pictures")), "image_size": 8},
            "model_name": "SimpleCNN",
            "model_params": {"num_classes": 2, "conv_dims": [2], "hidden_dim": 4},
            "epochs": 1,
            "batch_size": 4,
        },
        "parts": {**few, "model_name": "Parts", "data_name": "parts", "project": project},
    }
    runs = {}
    for name, config in configs.items():
        done = train(name, **{**DIGITS, **config})
        assert done.exit_code == 0
        runs[name] = done.run_dir
    return runs


def _table(file: Path) -> Path:
    rng = np.random.default_rng(0)
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["income", "purpose", "default"])
        for _ in range(100):
            income, purpose = round(float(rng.normal(50, 15)), 1), rng.choice(["car", "house"])
            rows.writerow([income, purpose, "yes" if income < 45 else "no"])
    return file


def _pictures(folder: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, shade in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(rng.normal(shade, 20, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
