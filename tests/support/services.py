"""Readers of what tracking services keep of a run: value name -> [(step, value), ...], in order."""

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aetheria.observe.loggers.records import RATES

Curves = dict[str, list[tuple[int, float]]]


def curves(rows: Iterator[tuple[str, int, float]] | list[tuple[str, int, float]]) -> Curves:
    """Rows of name, step and value by their names; without speed, which no two runs share."""
    found: Curves = {}
    for name, step, value in rows:
        if "/" in name and name.rpartition("/")[2] not in RATES:
            found.setdefault(name, []).append((step, value))
    return found


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


def trackio_curves(project: str) -> Curves:
    """Through the command line of Trackio, which prints JSON."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs(project)
    rows = SQLiteStorage.get_logs(project, run.name)
    return curves((name, row["step"], value) for row in rows for name, value in row.items())


def comet_curves(run_dir: Path) -> Curves:
    rows = []
    for file in sorted(run_dir.glob("comet/*.zip"), key=lambda file: file.stat().st_mtime):
        for line in zipfile.ZipFile(file).read("messages.json").splitlines():
            message = json.loads(line)
            if message["type"] == "metric_msg":
                metric = message["payload"]["metric"]
                rows.append((metric["metricName"], metric["step"], metric["metricValue"]))
    return curves(rows)
