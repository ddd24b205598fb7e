"""Aetheria by its own front door, with all it does by default: guard, live progress bar, JSONL, CSV
and TensorBoard every 100 steps, and verified snapshots.
"""

import json
import os
from pathlib import Path
from typing import Any

from aetheria.cli.train import TrainCommand
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.finding import find_snapshot
from benchmarks.clock import Clock, time_listeners
from benchmarks.report import read_spec, write_speed

CADENCE = 100
# A report is fetched some steps late, so as not to wait for it. The run goes on past the last mark
# for as long, so that the first mark and the last are equally late.
LAG = 20


def make_config(spec: dict[str, Any]) -> dict[str, Any]:
    """The work's config with the bench's cadences."""
    num_steps = CADENCE + spec["num_steps"] + LAG
    cadences = {
        "epochs": num_steps,
        "max_steps": num_steps,
        "log_every_steps": CADENCE,
        "eval_every_steps": num_steps,
        "callbacks": ["benchmarks.clock:Clock"],
    }
    snapshot = {
        **spec["config"]["snapshot"],
        "every_epochs": 0,
        "every_steps": spec["snapshot_every"],
        **spec["changes"].get("snapshot", {}),
    }
    return {**spec["config"], **cadences, **spec["changes"], "snapshot": snapshot}


def count_params(run_dir: Path) -> int:
    """How many numbers of the model its newest snapshot holds."""
    arrays = read_snapshot(find_snapshot(str(run_dir), [])).arrays
    return sum(array.size for path, array in arrays.items() if path.startswith("params/"))


def main() -> None:
    """Measures between the first report and the last that is due before the end."""
    spec = read_spec()
    folder = Path(spec["folder"])
    file = folder / "bench.json"
    file.write_text(json.dumps(make_config(spec)))
    time_listeners()
    assert TrainCommand(config_file=file, workdir=folder / "run").execute() == os.EX_OK
    last = CADENCE + spec["num_steps"]
    (started_at, _, heard), (ended, loss, heard_in_all) = Clock.marks[CADENCE], Clock.marks[last]
    times = ended.since(started_at)
    write_speed(
        spec,
        num_steps=spec["num_steps"],
        times=times,
        num_params=count_params(folder / "run"),
        loss=loss,
        packages=("jax", "flax", "optax"),
        listening=(heard_in_all - heard) / times.wall,
    )


if __name__ == "__main__":
    main()
