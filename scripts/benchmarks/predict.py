"""What a `Predictor` costs beside the compiled function alone, in alternating bouts of a process.

By hand is `jax.jit` of the model's `predict` with Aetheria's compiler options, whose answer is made
a NumPy array: what a program without Aetheria would do. Such an array is read-only, as are the
answers of a `Predictor` with `copy=False`; by default a `Predictor` copies them.
"""

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aetheria.cli.train import TrainCommand
from aetheria.hardware.jax.compiler import jit_for
from aetheria.inference import Predictor
from aetheria.model.by_name import make_model
from benchmarks.aetheria_run import make_config
from benchmarks.report import read_spec, write

Call = Callable[[np.ndarray], np.ndarray]
BATCH = 256
_NUM_CALLS = 300  # of one row, in a bout, by all threads together
_NUM_BATCHES = 10  # of 256 rows


class Bench:
    """A model trained for a few steps, and the ways to predict with it."""

    def __init__(self, spec: Mapping[str, Any]):
        folder = Path(spec["folder"])
        file = folder / "bench.json"
        short = {"num_steps": 0, "snapshot_every": 10, **spec}
        file.write_text(json.dumps(make_config(short)))
        command = TrainCommand(config_file=file, workdir=folder / "run", stop_at_step=2)
        command.execute()
        predictor = Predictor(checkpoint_path=folder / "run")
        model = make_model(spec["config"]["model_name"], spec["model"], None)
        weights = predictor._loaded.weights
        jitted = jit_for(jax.default_backend())(
            lambda inputs, params, state: model.predict(params, state, inputs)
        )
        by_hand = lambda rows: np.asarray(jitted(rows, weights.params, weights.model_state))
        lending = Predictor(checkpoint_path=folder / "run", copy=False)
        # Of the same memory, so that none finds the caches colder than the others.
        lending._loaded = lending._loaded._replace(weights=weights)
        self.ways: dict[str, Call] = {
            "ours": predictor.predict,
            "by hand": by_hand,
            "ours, no copy": lending.predict,
        }
        with np.load(spec["data"]) as columns:
            self.inputs = columns["inputs"][:BATCH]
        for call in self.ways.values():
            for rows in (self.inputs[:1], self.inputs):
                call(rows)

    def round(self) -> dict[str, dict[str, Any]]:
        """Way -> rows a second in batches, and seconds of each call of one row, by threads; each
        round begins with another way.
        """
        figures: dict[str, dict[str, Any]] = {}
        for name, call in self.ways.items():
            figures[name] = {
                "rows_per_second": self._rate(call),
                "latencies": {str(n): self._latencies(call, n) for n in (1, 8)},
            }
        first = next(iter(self.ways))
        self.ways[first] = self.ways.pop(first)  # comes last in the next round
        return figures

    def _rate(self, call: Call) -> float:
        started_at = time.perf_counter()
        for _ in range(_NUM_BATCHES):
            call(self.inputs)
        return _NUM_BATCHES * BATCH / (time.perf_counter() - started_at)

    def _latencies(self, call: Call, num_threads: int) -> list[float]:
        row = self.inputs[:1]

        def work(_: int) -> list[float]:
            seconds = []
            for _ in range(_NUM_CALLS // num_threads):
                started_at = time.perf_counter()
                call(row)
                seconds.append(time.perf_counter() - started_at)
            return seconds

        with ThreadPoolExecutor(num_threads) as pool:
            return [each for some in pool.map(work, range(num_threads)) for each in some]


def main() -> None:
    """Measures; the first round warms up and does not count."""
    spec = read_spec()
    bench = Bench(spec)
    bench.round()
    write(spec, {"rounds": [bench.round() for _ in range(spec["num_rounds"])]})


if __name__ == "__main__":
    main()
