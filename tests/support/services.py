"""Readers of what tracking services keep of a run: value name -> [(step, value), ...], in order."""

import csv
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aetheria.observe.loggers.records import RATES
from support.metric_files import csv_rows

Curves = dict[str, list[tuple[int, float]]]


def curves(rows: Iterator[tuple[str, int, float]] | list[tuple[str, int, float]]) -> Curves:
    """Rows of name, step and value by their names; without speed, which no two runs share."""
    found: Curves = {}
    for name, step, value in rows:
        if "/" in name and name.rpartition("/")[2] not in RATES:
            found.setdefault(name, []).append((step, value))
    return found


def tensorboard_curves(run_dir: Path) -> Curves:
    reader = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    tags = reader.Tags()["scalars"]
    return curves((tag, each.step, each.value) for tag in tags for each in reader.Scalars(tag))


def csv_curves(run_dir: Path) -> Curves:
    return curves(
        (f"{row['split']}/{row['name']}", int(row["step"]), float(row["value"]))
        for row in csv_rows(run_dir)
    )


def jsonl_curves(run_dir: Path) -> Curves:
    counters = ("step", "micro_step", "epoch", "examples_seen", "split", "num_examples")
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return curves(
        (f"{line['split']}/{name}", line["step"], value)
        for line in lines
        for name, value in line.items()
        if name not in counters
    )


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format around protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    block_size, header_size = 32768, 7
    data = file.read_bytes()
    assert data.startswith(b":W&B")
    position, payload = header_size, b""
    while position + header_size <= len(data):
        if (left := block_size - position % block_size) < header_size:
            position += left
            continue
        _, size, part = struct.unpack_from("<IHB", data, position)
        position += header_size + size
        payload += data[position - size : position]
        if part in (1, 4):  # whole, or the last part
            yield Record.FromString(payload)
            payload = b""


def wandb_curves(run_dir: Path) -> Curves:
    rows = []
    for file in sorted(run_dir.glob("wandb/*run-*/*.wandb")):
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                rows += [(name, row.get("step"), value) for name, value in row.items()]
    return curves(rows)


def mlflow_curves(uri: str) -> Curves:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("aetheria").experiment_id])
    return curves(
        (name, metric.step, metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    )


def trackio_curves(folder: Path) -> Curves:
    """Through Trackio's command line: the library reads the name of its folder on import."""
    sql = "SELECT run_name, step, metrics FROM metrics ORDER BY id"
    command = [sys.executable, "-m", "trackio.cli", "query", "project", "--project=aetheria"]
    done = subprocess.run(
        [*command, "--json", f"--sql={sql}"],
        env={**os.environ, "TRACKIO_DIR": str(folder)},
        capture_output=True,
        check=True,
    )
    rows = json.loads(done.stdout)["rows"]
    assert len({row["run_name"] for row in rows}) == 1
    points = [(row["step"], json.loads(row["metrics"])) for row in rows]
    return curves((name, step, value) for step, row in points for name, value in row.items())


def comet_curves(run_dir: Path) -> Curves:
    """From the archives that Comet uploads; its command line, which shows no steps, reads the
    same values.
    """
    files = sorted(run_dir.glob("comet/*.zip"), key=lambda file: file.stat().st_mtime)
    rows = []
    for file in files:
        for line in zipfile.ZipFile(file).read("messages.json").splitlines():
            message = json.loads(line)
            if message["type"] == "metric_msg":
                metric = message["payload"]["metric"]
                rows.append((metric["metricName"], metric["step"], metric["metricValue"]))
    command = [str(Path(sys.executable).with_name("comet")), "offline", *map(str, files)]
    shown = subprocess.run(
        [*command, "--csv", "--section=metric", "--level=detail"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    listed = [(row["name"], row["value"]) for row in csv.DictReader(shown.splitlines())]
    assert listed == [(name, str(value)) for name, _, value in rows]
    return curves(rows)
