"""What a spot check costs: steps of an elastic program on all devices that are each checked, and
steps that are not.
"""

import itertools
import os
import time
from typing import Any

import jax

from aetheria.build.processes import prepare_environment
from aetheria.config import make_config
from benchmarks.bouts import compare
from benchmarks.report import read_spec, write


class Steps:
    """An elastic program with a state, and one chunk of data."""

    def __init__(self, program: Any, chunk: Any):
        self._program, self._chunk, self._numbers = program, chunk, itertools.count()
        self._state, self._report = program.init(), None

    def run_checked(self, count: int) -> float:
        """Takes steps, each checked; returns seconds."""
        started_at = time.perf_counter()
        for number in itertools.islice(self._numbers, count):
            self._state, self._report = self._program.checked_step(
                self._state, self._chunk.arrays, 0, self._report, number
            )
        return self._wait(started_at)

    def run(self, count: int) -> float:
        """Takes steps as ever; returns seconds."""
        started_at = time.perf_counter()
        for _ in itertools.islice(self._numbers, count):
            self._state, self._report = self._program.train_steps(
                self._state, self._chunk.arrays, 0, 1, self._report
            )
        return self._wait(started_at)

    def _wait(self, started_at: float) -> float:
        jax.block_until_ready((self._state, self._report))
        return time.perf_counter() - started_at


def main() -> None:
    """Measures, and says what is stated: a check is one lane more on each device."""
    spec = read_spec()
    config = make_config({**spec["config"], **spec["changes"]}, "bench")
    prepare_environment(config, os.environ)
    from benchmarks.programs import make_parts

    _, feed, program = make_parts(config)
    steps = Steps(program, next(feed.train_chunks(0, 1)))
    steps.run_checked(2), steps.run(2)
    ratios = compare(steps.run_checked, steps.run)
    lanes_a_device = config.lanes // jax.device_count()
    assert not program.fetch(steps._report).guard.failed_check, "no device is wrong here"
    write(spec, {"checked_over_unchecked": ratios, "lanes_a_device": lanes_a_device})


if __name__ == "__main__":
    main()
