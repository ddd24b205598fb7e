"""Train metrics are means over the logging interval, whatever happened to the run within it."""

import numpy as np
import pytest
from support.long import covering
from support.runs import without_rate

from aetheria.snapshots import read_snapshot

LEVELS = ("fast", "elastic")


def train_lines(done):
    assert done.exit_code in (0, 75)
    return [line for line in without_rate(done.metrics) if line["split"] == "train"]


# The fast program resumes within an interval in the test below, too.
@pytest.mark.parametrize("level", covering(LEVELS, default=["elastic"]))
def test_a_line_is_the_mean_of_its_interval_and_a_resumed_run_has_the_same(train, level):
    each = train_lines(train("each", reproducibility=level, log_every_steps=1))
    whole = train("whole", reproducibility=level, log_every_steps=7)
    sizes = np.diff([0, *(line["examples_seen"] for line in each)])
    for line in train_lines(whole):
        steps = slice(line["step"] - 7, line["step"])
        for name in ("loss", "accuracy"):
            values = [other[name] for other in each[steps]]
            np.testing.assert_allclose(
                line[name], np.average(values, weights=sizes[steps]), rtol=1e-6
            )
            assert len(set(values)) > 1 and line[name] != values[-1], "the control"
        norms = [other["grad_norm"] for other in each[steps]]
        np.testing.assert_allclose(line["grad_norm"], np.mean(norms), rtol=1e-6)

    stopped = train("run", reproducibility=level, log_every_steps=7, stop_at_step=10)
    assert stopped.exit_code == 75
    record = read_snapshot(stopped.run_dir / "checkpoints" / "snapshot_step10").record
    assert record.engine.interval["grad_norm"][1] == 3
    resumed = train("run", reproducibility=level, log_every_steps=7, resume="latest")
    assert without_rate(resumed.metrics) == without_rate(whole.metrics)
    assert resumed.summary["final"] == whole.summary["final"]


def test_the_last_values_are_means_over_the_last_epoch(train):
    """Step 46 is a global batch of 30 examples and 34 paddings; step 42 is the last that is logged
    every seven.
    """
    done = train("each", log_every_steps=1)
    each = train_lines(done)
    seven = train("seven", log_every_steps=7, eval_every_steps=20, snapshot={"every_epochs": 0})
    for run in (done, seven):
        final = run.summary["final"]
        for name in ("loss", "accuracy"):
            expected = mean(each[23:], name)
            np.testing.assert_allclose(final[f"train/{name}"], expected, rtol=1e-5)
            assert abs(final[f"train/{name}"] - each[-1][name]) > 1e-3, "the control"
        norms = [line["grad_norm"] for line in each[23:]]
        np.testing.assert_allclose(final["train/grad_norm"], np.mean(norms), rtol=1e-5)
    # Within an epoch: the last whole interval; before there is one, all steps.
    # Step 25 comes after the end of an epoch, and before the end of the interval from 21 to 28.
    for stop_at, steps in ((3, slice(0, 3)), (16, slice(7, 14)), (25, slice(0, 23))):
        options = {"resume": "latest"} if stop_at > 3 else {}
        stopped = train("short", log_every_steps=7, stop_at_step=stop_at, **options)
        found = stopped.summary["final"]["train/loss"]
        np.testing.assert_allclose(found, mean(each[steps], "loss"), rtol=1e-5)


def mean(lines, name):
    sizes = [30 if line["step"] % 23 == 0 else 64 for line in lines]
    return np.average([line[name] for line in lines], weights=sizes)
