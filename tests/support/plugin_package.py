"""A small package with a model, a dataset, a logger and a callback, as others publish them."""

import zipfile
from pathlib import Path

LINEAR = """\
from dataclasses import dataclass

import optax
from flax import linen as nn

from aetheria import LinenModel, register_model, weighted


class Layers(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10)(nn.tanh(nn.Dense(self.width)(x)))


@register_model("NAME")
@dataclass(frozen=True)
class Linear(LinenModel):
    width: int = 8
    learning_rate: float = 0.01

    def network(self):
        return Layers(self.width)

    def score(self, outputs, batch):
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
        return weighted(loss, batch["mask"]), {}

    def optimizer(self, total_steps):
        return optax.sgd(self.learning_rate)
"""
CHATTY_LOGGER = """\
from aetheria import register_logger


@register_logger("chatty")
class Chatty:
    def __init__(self, context, greeting: str = "hello"):
        self._file, self._greeting = context.run_dir / "chatty.txt", greeting

    def notify(self, event):
        with self._file.open("a") as file:
            print(self._greeting, type(event).__name__, file=file)
"""
STOP_CALLBACK = """\
from aetheria import register_callback
from aetheria.events import TrainMetrics


@register_callback("stop_early")
class StopEarly:
    def __init__(self, context, at_step: int):
        self._stop, self._at_step = context.stop, at_step

    def notify(self, event):
        if isinstance(event, TrainMetrics) and event.progress.step >= self._at_step:
            self._stop.request("that is enough")
"""
STRIPES_DATA = """\
import numpy as np

from aetheria import ArraySource, DataSplits, register_data


@register_data("stripes")
def stripes(*, num_examples: int = 40) -> DataSplits:
    labels = np.arange(num_examples) % 10
    columns = {"inputs": np.eye(10)[labels], "labels": labels}
    return DataSplits(train=ArraySource(columns), eval=ArraySource(columns))
"""
ENTRY_POINTS = """\
[aetheria.models]
PackagedModel = aetheria_extra.model:Linear
BrokenModel = aetheria_extra.broken:Nothing
[aetheria.loggers]
packaged_logger = aetheria_extra.logger:Chatty
[aetheria.callbacks]
packaged_callback = aetheria_extra.callback:StopEarly
[aetheria.data]
packaged_data = aetheria_extra.data:stripes
"""


def write_wheel(folder: Path) -> Path:
    """Writes the package as a wheel with entry points of every kind, without a build backend."""
    unregistered = lambda text: text.replace("\n@register", "\n# @register")
    info = "aetheria_extra-1.0.dist-info"
    files = {
        "aetheria_extra/__init__.py": "",
        "aetheria_extra/model.py": unregistered(LINEAR),
        "aetheria_extra/logger.py": unregistered(CHATTY_LOGGER),
        "aetheria_extra/callback.py": unregistered(STOP_CALLBACK),
        "aetheria_extra/data.py": unregistered(STRIPES_DATA),
        "aetheria_extra/broken.py": "import not_installed_anywhere",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: aetheria-extra\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / "aetheria_extra-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel
