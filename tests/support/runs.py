"""The config that most tests train, and what is left of a run that ended."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aetheria.observe.loggers.records import RATES

TESTS = Path(__file__).resolve().parent.parent
REPOSITORY = TESTS.parent


DIGITS = {
    "model_name": "SimpleMLP",
    "model_params": {"input_dim": 64, "hidden_dim": 16, "num_classes": 10, "dropout": 0.1},
    "data_name": "digits",
    "epochs": 2,
    "batch_size": 64,
    "learning_rate": 0.003,
    "strategy": "cpu",
    "loggers": ["jsonl"],
}


def without_rate(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metric lines but for speed and use, the values that no two runs share."""
    return [{k: v for k, v in line.items() if k not in RATES} for line in metrics]


@dataclass(frozen=True)
class Finished:
    """A run that ended: its exit code and its folder."""

    exit_code: int
    run_dir: Path

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "summary.json").read_text())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
