"""The works: what is trained, on what, and how long a measurement is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.build import build_feed, build_model
from aetheria.config.files import load_config

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True, kw_only=True)
class Work:
    """A shipped config, changed or not.

    Attributes:
        title: for the table.
        config_file: in `configs/`.
        overrides: `key=value` texts applied to it.
        num_steps: steps measured unless the command line says otherwise.
        snapshot_every: cadence of Aetheria's snapshots, in steps. One at least is in a measurement,
            and none at its end, where a save would not let the last report be late.
    """

    title: str
    config_file: str
    overrides: tuple[str, ...] = ()
    num_steps: int
    snapshot_every: int


WORKS: Mapping[str, Work] = {
    "mlp": Work(
        title="MLP 64-128-10 on handwritten digits",
        config_file="mlp.py",
        overrides=(
            "model_params.hidden_dim=128",
            "model_params.num_layers=1",
            "model_params.dropout=0.0",
            "batch_size=64",
        ),
        num_steps=20_000,
        snapshot_every=5_000,
    ),
    "cnn": Work(
        title="SimpleCNN on Fashion-MNIST",
        config_file="cnn.py",
        num_steps=500,
        snapshot_every=469,
    ),
    "lm": Work(
        title="Transformer, 4 layers of width 128, on text of length 128",
        config_file="lm.py",
        num_steps=200,
        snapshot_every=170,
    ),
}


def describe(work: Work, device: str, mixed_precision: bool, file: Path) -> dict[str, Any]:
    """Says what to train in JSON values, and writes the training examples to `file` (.npz).

    Returns:
        `config`: Aetheria's; `model`: every hyperparameter, those the config leaves to the model
        too; `data`: the file, with `inputs` and `labels`.

    Raises:
        AetheriaError: the data is not on this machine.
    """
    config = load_config(_CONFIGS / work.config_file, work.overrides)
    config = replace(config, strategy=device, mixed_precision=mixed_precision)
    train = build_feed(config, None, build_model(config, None)).splits.train
    columns = train.read(np.arange(len(train)))
    np.savez(file, inputs=columns["inputs"], labels=columns["labels"])
    model = asdict(build_model(config, None))  # type: ignore[call-overload]
    return {"config": config.to_dict(), "model": model, "data": str(file)}
