"""Speed and memory of Aetheria against a hand-written JAX loop on the same model, data and batch.

    python scripts/bench.py [--steps 20000] [--pairs 5] [--json]

Each measurement is a process of its own; the two kinds alternate (A B A B …), so that a machine
whose speed drifts serves both alike, and the figure is the median of the pairs' ratios. Compilation
is not counted. Aetheria runs with all it does by default: guard, live progress bar in a terminal,
JSONL, CSV and TensorBoard every 100 steps, and a verified snapshot every 5,000 steps.
"""

import argparse
import json
import os
import pty
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

BATCH_SIZE = 64
MODEL_PARAMS = {"input_dim": 64, "hidden_dim": 128, "num_classes": 10}
DIGITS = {
    "model_name": "SimpleMLP",
    "model_params": MODEL_PARAMS,
    "data_name": "digits",
    "batch_size": BATCH_SIZE,
    "strategy": "cpu",
    "log_every_steps": 100,
    "callbacks": ["bench:Clock"],
}


class Clock:
    """A listener that notes when training metrics arrive; the first note follows compilation."""

    marks: list[tuple[float, int]] = []  # noqa: RUF012 - one run a process

    def __init__(self, context: Any):
        pass

    def notify(self, event: Any) -> None:
        if type(event).__name__ == "StepsCompleted":
            self.marks.append((time.perf_counter(), event.progress.step))


def bare_loop(num_steps: int, folder: Path) -> float:
    """What a researcher would write by hand: asynchronous, no guard, no logging, no snapshot.

    Returns:
        Steps a second.
    """
    import jax
    import numpy as np
    import optax
    from aetheria.models.mlp import SimpleMLP

    from aetheria.data.datasets import digits

    source = digits().train
    data = source.read(np.arange(len(source)))
    inputs, labels = data["inputs"], data["labels"]
    model = SimpleMLP(**MODEL_PARAMS)
    network, optimizer = model.network(), model.optimizer(num_steps)
    params = network.init(jax.random.key(0), inputs[:1], train=False)
    opt_state = optimizer.init(params)
    base_key = jax.random.key(0)

    def step(params, opt_state, inputs, labels, number):
        def mean_loss(params):
            rngs = {"dropout": jax.random.fold_in(base_key, number)}
            logits = network.apply(params, inputs, train=True, rngs=rngs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    jitted = jax.jit(step, donate_argnums=(0, 1))
    order = np.random.default_rng(0)
    number, began = 0, 0.0
    while number < num_steps:
        shuffled = order.permutation(len(inputs))
        for start in range(0, len(inputs) - BATCH_SIZE + 1, BATCH_SIZE):
            rows = shuffled[start : start + BATCH_SIZE]
            params, opt_state, loss = jitted(params, opt_state, inputs[rows], labels[rows], number)
            number += 1
            if number == 100:
                jax.block_until_ready(loss)
                began = time.perf_counter()
    jax.block_until_ready(params)
    return (number - 100) / (time.perf_counter() - began)


def aetheria_run(num_steps: int, folder: Path) -> float:
    """The same work through `aetheria train`'s own path. Returns steps a second."""
    from aetheria.command.train import TrainCommand

    file = folder / "bench.json"
    changes = {
        "epochs": num_steps,
        "max_steps": num_steps,
        "eval_every_steps": num_steps,
        "snapshot": {"every_epochs": 0, "every_steps": 5000},
    }
    file.write_text(json.dumps({**DIGITS, **changes}))
    assert TrainCommand(config_file=file, workdir=folder / "run").execute() == 0
    from bench import Clock as imported  # the registry imported this file under its own name

    (began, first), (ended, last) = imported.marks[0], imported.marks[-1]
    return (last - first) / (ended - began)


KINDS = {"bare": bare_loop, "aetheria": aetheria_run}


def child(kind: str, num_steps: int, result: Path) -> None:
    """Measures in this process and writes the figures to a file."""
    with tempfile.TemporaryDirectory() as folder:
        rate = KINDS[kind](num_steps, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result.write_text(json.dumps({"steps_per_second": rate, "peak_rss_mib": peak / 1024}))


def measure(kind: str, num_steps: int) -> dict[str, float]:
    """Measures in a process whose stdout is a terminal, so that the live bar is at work."""
    here = str(Path(__file__).resolve().parent)
    environment = {**os.environ, "PYTHONPATH": here, "TERM": "xterm", "COLUMNS": "100"}
    leader, follower = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--child", kind, "--steps", str(num_steps)]
        process = subprocess.Popen(
            [*command, "--result", str(result)], stdout=follower, env=environment
        )
        os.close(follower)
        threading.Thread(target=_drain, args=(leader,), daemon=True).start()
        if process.wait() != 0:
            raise SystemExit(f"bench: the {kind} process ended with {process.returncode}")
        return json.loads(result.read_text())


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # the other end is closed
        os.close(terminal)


def compare(num_steps: int, num_pairs: int) -> dict[str, Any]:
    """Alternates the two kinds and reduces the pairs to medians and spreads."""
    pairs = [{kind: measure(kind, num_steps) for kind in KINDS} for _ in range(num_pairs)]
    report: dict[str, Any] = {"steps": num_steps, "pairs": num_pairs}
    for figure in ("steps_per_second", "peak_rss_mib"):
        ratios = [pair["aetheria"][figure] / pair["bare"][figure] for pair in pairs]
        report[figure] = {
            **{kind: statistics.median(pair[kind][figure] for pair in pairs) for kind in KINDS},
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return report


def main() -> None:
    """Parses and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.steps, options.result)
        return
    report = compare(options.steps, options.pairs)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"digits MLP, batch {BATCH_SIZE}, {options.steps} steps, {options.pairs} pairs (medians)")
    for figure in ("steps_per_second", "peak_rss_mib"):
        row = report[figure]
        print(
            f"{figure:17} bare {row['bare']:8.0f}   aetheria {row['aetheria']:8.0f}   "
            f"ratio {row['ratio']:.3f} ({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"
        )


if __name__ == "__main__":
    main()
