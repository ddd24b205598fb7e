"""Train metrics are means over the logging interval, whatever happened to the run within it."""

import numpy as np
import pytest
from support.runs import without_rate

from aetheria.snapshots import read_snapshot

LEVELS = ("fast", "elastic")


def train_lines(done):
    assert done.exit_code in (0, 75)
    return [line for line in without_rate(done.metrics) if line["split"] == "train"]


@pytest.mark.parametrize("level", LEVELS)
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
