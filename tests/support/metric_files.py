"""Readers of the files that loggers write."""

import csv

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def curve(folder, tag):
    """The (step, value) points TensorBoard shows, all of them."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    if tag not in reader.Tags()["scalars"]:
        return []
    return [(point.step, point.value) for point in reader.Scalars(tag)]


def csv_rows(run_dir):
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))
