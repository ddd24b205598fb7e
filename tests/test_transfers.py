"""A training loop moves nothing between host and devices that it does not ask for.

JAX's guard does not notice a value that is read from a CPU device; what is sent, it does.
"""

import contextlib

import jax
import numpy as np
import pytest
from support.small_programs import STRATEGIES, make_chunk, make_program

NUM_SLICES = 4


@pytest.fixture(scope="module", params=STRATEGIES)
def program(request):
    return make_program(request.param, NUM_SLICES)


def train(program, context, on_report=lambda report: None):
    """All that a run does with a program, the loop and the boundaries in the context."""
    chunk = make_chunk(NUM_SLICES)
    batch = {name: column[0, 0] for name, column in chunk.items()}
    with context:
        state, report = program.init(), None
        for start, count in ((0, 3), (0, 1), (1, 2)):
            state, report = program.train_steps(state, chunk, start, count, report)
            on_report(report)
        report = program.import_report(program.fetch(report).sums)
        state, report = program.train_steps(program.unfreeze(state, 1), chunk, 0, 2, report)
        totals = program.eval_step(state, batch, program.eval_step(state, batch, None))
        evaluated, trained = program.fetch(totals), program.fetch(report)
        arrays = program.export_state(state)
        state, _ = program.train_steps(program.import_state(arrays), chunk, 0, 1)
        return evaluated, trained, {path: np.array(a) for path, a in arrays.items()}


def test_a_run_makes_no_implicit_transfer_and_has_the_same_bits(program):
    evaluated, trained, arrays = train(program, program.loop_context())
    plain, plain_trained, plain_arrays = train(program, contextlib.nullcontext())
    assert evaluated == plain and trained == plain_trained
    assert all(np.array_equal(arrays[path], plain_arrays[path]) for path in plain_arrays)
    assert program.num_compilations == {"train_step": 1, "eval_step": 1}


def test_the_context_is_that_of_the_whole_guard(program):
    with program.loop_context():
        assert jax.config.jax_transfer_guard_host_to_device == "disallow"
        assert jax.config.jax_transfer_guard_device_to_host == "disallow"
        assert jax.config.jax_transfer_guard_device_to_device == "disallow"


@pytest.mark.parametrize("step_value", ["float", "sum", "key"])
def test_a_loop_that_looks_at_a_report_in_every_step_is_an_error(program, step_value):
    """The control."""
    looks = {
        "float": lambda report: float(report.values[0, 0]),
        "sum": lambda report: report.values + 1,
        "key": lambda report: jax.random.key(0),
    }
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(program, program.loop_context(), looks[step_value])
    train(program, contextlib.nullcontext(), looks[step_value])
