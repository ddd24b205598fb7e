"""Calls that are computed together: which, how long they wait, and that no bit depends on it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aetheria.hardware.jax.joining.batching import MicroBatcher
from aetheria.hardware.jax.joining.equal_bits import measure_equal_buckets, probe_rows


class Doubling:
    """Doubles its rows and notes the sizes of the computations; `gate` holds them up."""

    def __init__(self):
        self.sizes, self.gate, self.started = [], threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, group, batches):
        self.started.set()
        assert self.gate.wait(10)
        self.sizes.append([len(batch) for batch in batches])
        return [batch * 2 for batch in batches]


@pytest.fixture
def compute():
    return Doubling()


def make(compute, *, most=8, delay=0.0, threads=1):
    return MicroBatcher(
        compute,
        may_join=lambda group, rows: rows <= most,
        max_delay_seconds=delay,
        num_threads=threads,
    )


def rows(number, start=0):
    return np.arange(start, start + number)


def test_calls_that_wait_together_are_computed_together(compute):
    batcher = make(compute)
    compute.gate.clear()
    first = batcher.submit("a", rows(1), 1)
    assert compute.started.wait(10)  # the only thread is busy: the others queue
    sizes = [("a", 3), ("b", 1), ("a", 4), ("a", 2), ("a", 1)]
    calls = [batcher.submit(group, rows(number), number) for group, number in sizes]
    compute.gate.set()
    for call, (_, number) in zip([first, *calls], [("a", 1), *sizes], strict=True):
        np.testing.assert_array_equal(call.result(10), rows(number) * 2)
    batcher.close()
    # 3 + 4 leave room for 1, not for 2; another group is computed alone.
    assert compute.sizes == [[1], [3, 4, 1], [1], [2]]


def test_a_call_waits_for_others_no_longer_than_the_bound(compute):
    batcher = make(compute, delay=0.3)
    started = time.monotonic()
    batcher.submit("a", rows(1), 1).result(10)
    alone = time.monotonic() - started
    assert alone >= 0.3
    started = time.monotonic()
    calls = [batcher.submit("a", rows(4), 4) for _ in range(2)]  # full: nothing to wait for
    for call in calls:
        call.result(10)
    assert time.monotonic() - started < 0.3
    assert compute.sizes == [[1], [4, 4]]
    batcher.close()


def test_an_idle_thread_leaves_a_call_to_those_that_wait_for_it(compute):
    batcher = make(compute, most=3, delay=5.0, threads=3)
    calls = [batcher.submit("a", rows(1), 1) for _ in range(3)]
    for call in calls:
        call.result(10)
    assert compute.sizes == [[1, 1, 1]]
    batcher.close()


def test_without_a_delay_a_call_alone_is_computed_at_once(compute):
    batcher = make(compute, delay=0.0)
    for _ in range(3):
        batcher.submit("a", rows(1), 1).result(10)
    assert compute.sizes == [[1], [1], [1]]
    batcher.close()


def test_an_error_reaches_the_calls_of_its_computation_alone(compute):
    def fails(group, batches):
        if group == "bad":
            raise ValueError("no such thing")
        return compute(group, batches)

    batcher = make(fails)
    with pytest.raises(ValueError, match="no such thing"):
        batcher.submit("bad", rows(1), 1).result(10)
    np.testing.assert_array_equal(batcher.submit("a", rows(2), 2).result(10), rows(2) * 2)
    batcher.close()


def test_a_cancelled_call_is_not_computed(compute):
    batcher = make(compute, most=1)
    compute.gate.clear()
    first = batcher.submit("a", rows(1), 1)
    assert compute.started.wait(10)
    dropped, last = (batcher.submit("a", rows(1), 1) for _ in range(2))
    assert dropped.cancel()
    compute.gate.set()
    first.result(10), last.result(10)
    assert len(compute.sizes) == 2
    batcher.close()


def test_closing_answers_what_is_queued_and_refuses_more(compute):
    batcher = make(compute, delay=5.0)
    calls = [batcher.submit("a", rows(1, n), 1) for n in range(5)]
    started = time.monotonic()
    batcher.close()
    assert time.monotonic() - started < 5
    assert [int(call.result(0)[0]) for call in calls] == [0, 2, 4, 6, 8]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("a", rows(1), 1)


def test_no_answer_is_lost_or_another_s_under_many_threads(compute):
    batcher = make(compute, delay=0.001, threads=3)

    def work(thread):
        for number in range(100):
            size, start = 1 + number % 5, 1000 * thread + number
            answer = batcher.submit(number % 2, rows(size, start), size).result(10)
            np.testing.assert_array_equal(answer, rows(size, start) * 2)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert sum(len(sizes) for sizes in compute.sizes) == 1600
    assert max(len(sizes) for sizes in compute.sizes) > 1
    batcher.close()


PROBE = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


def test_batch_sizes_of_equal_bits_are_found():
    assert measure_equal_buckets(lambda x: x * 2, PROBE, min_rows=1) == {
        size: frozenset({1, 2, 4, 8}) for size in (1, 2, 4, 8)
    }
    # One row is summed in another order, as XLA does on a CPU.
    by_size = lambda x: x.sum(1) if len(x) > 1 else x[:, ::-1].cumsum(1)[:, -1]
    found = measure_equal_buckets(by_size, PROBE, min_rows=1)
    assert found == {1: frozenset({1}), **{n: frozenset({2, 4, 8}) for n in (2, 4, 8)}}
    assert measure_equal_buckets(by_size, PROBE, min_rows=4) == {
        size: frozenset({4, 8}) for size in (4, 8)
    }


def test_a_model_whose_rows_depend_on_each_other_joins_none():
    normalized = lambda x: x - x.mean(0)
    assert set(measure_equal_buckets(normalized, PROBE, min_rows=1)) == {1}
    by_place = lambda x: x + np.arange(len(x))[:, None]
    assert set(measure_equal_buckets(by_place, PROBE, min_rows=1)) == {1}


def test_the_probe_is_of_the_range_of_training():
    import jax

    spec = {
        "image": jax.ShapeDtypeStruct((1, 3, 2), np.float32),
        "text": jax.ShapeDtypeStruct((1, 4), np.int32),
    }
    made = probe_rows(spec, {"inputs/image": (10.0, 20.0)}, 16)
    assert made["image"].shape == (16, 3, 2) and made["text"].shape == (16, 4)
    assert 10 <= made["image"].min() < 12 and 18 < made["image"].max() <= 20
    assert set(np.unique(made["text"])) == {0, 1}
