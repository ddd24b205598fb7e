"""Parallel readers: reads overlap, and nothing else tells how many threads read."""

import gc
import itertools
import threading
import time

import numpy as np
import pytest

import aetheria
from aetheria.data import ArraySource, DataSplits, Feed, RecordSource
from aetheria.data.arrays import MappedSource
from aetheria.data.checks import check_data
from aetheria.errors import AetheriaError

SIZE = 50


class Reads:
    """A source on demand that counts the threads inside of it."""

    def __init__(self, parallel=True, meet=1, wait=20.0, fail_at=None):
        self.parallel, self.fail_at = parallel, fail_at
        self.meet, self.wait = meet, wait
        self.inside, self.most, self.num_reads = 0, 0, 0
        self.order = []
        self.changed = threading.Condition()

    def __len__(self):
        return SIZE

    def has_met(self):
        return self.most >= self.meet

    def read(self, indices):
        with self.changed:
            self.inside += 1
            self.num_reads += 1
            self.order += indices.tolist()
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            # Before a run, one thread asks for the shape of row 0 and checks a sample.
            is_main = threading.current_thread() is threading.main_thread()
            counts = len(indices) > 1 and not is_main
            if counts and not self.changed.wait_for(self.has_met, self.wait):
                raise TimeoutError("no second read came")
        time.sleep(0.001 * (indices[0] % 5))  # so that they do not end in their order
        with self.changed:
            self.inside -= 1
        if self.fail_at is not None and self.fail_at in indices:
            raise ValueError(f"row {self.fail_at} is gone")
        return {"inputs": indices.astype(np.float32)[:, None], "labels": indices.astype(np.int32)}


def make_feed(source, num_readers, **options):
    splits = DataSplits(train=source, eval=source)
    options = {"batch_size": 16, "num_slices": 2, "seed": 3, **options}
    return Feed(splits=splits, num_readers=num_readers, **options)


def take(feed, count=8, examples_seen=0):
    chunks = feed.train_chunks(examples_seen, 1)
    taken = list(itertools.islice(chunks, count))
    chunks.close()
    return taken


def threads(name="aetheria-reader"):
    return [thread for thread in threading.enumerate() if thread.name == name]


def wait_for_no_threads(seconds=10.0):
    deadline = time.monotonic() + seconds
    while (left := threads() + threads("aetheria-prefetch")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not left


def test_two_readers_are_inside_the_source_at_once_and_one_is_not():
    take(make_feed(Reads(meet=2), 2))
    with pytest.raises(TimeoutError, match="no second read came"):  # the control
        take(make_feed(Reads(meet=2, wait=0.3), 1))
    with pytest.raises(TimeoutError):
        take(make_feed(Reads(meet=2, wait=0.3, parallel=False), 2))


@pytest.mark.parametrize("num_readers", [2, 3, 7])
@pytest.mark.parametrize("seen", [0, 21])
def test_the_number_of_readers_changes_no_batch(num_readers, seen):
    expected, found = (take(make_feed(Reads(), n), examples_seen=seen) for n in (1, num_readers))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_equal(other, one)
    of_eval = [list(make_feed(Reads(), n).eval_batches()) for n in (1, num_readers)]
    assert sum(batch["mask"].sum() for batch in of_eval[0]) == SIZE
    np.testing.assert_equal(*of_eval)
    source = Reads()
    take(make_feed(source, num_readers))
    assert len(threads()) == 0 or wait_for_no_threads()
    assert source.most <= num_readers


def test_a_source_that_does_not_allow_several_threads_is_read_in_order_by_one():
    source = Reads(parallel=False)
    feed = make_feed(source, 4)
    chunks = take(feed, 3)
    assert source.most == 1 and wait_for_no_threads()
    taken = [i for chunk in chunks for i in chunk.arrays["labels"].ravel()]
    rows = [row for row in source.order if row or source.order.count(0) == 1]
    start = rows.index(taken[0])
    assert rows[start : start + 16] == taken[:16]


def test_the_error_of_a_reader_surfaces_at_its_batch_and_ends_the_threads():
    order = make_feed(Reads(), 1).train_indices(32)
    feed = make_feed(Reads(fail_at=order[5]), 3)
    chunks = feed.train_chunks(0, 1)
    assert [next(chunks).num_examples, next(chunks).num_examples] == [[16], [16]]
    with pytest.raises(ValueError, match=f"row {order[5]} is gone") as caught:
        next(chunks)
    assert any(entry.name == "read" for entry in caught.traceback), "the user's own frame"
    assert wait_for_no_threads()


def test_closing_or_dropping_a_feed_ends_its_threads():
    for end in (lambda chunks: chunks.close(), lambda _: None):
        chunks = make_feed(Reads(), 3).train_chunks(0, 1)
        next(chunks)
        assert len(threads()) == 3
        end(chunks)
        del chunks
        gc.collect()
        assert wait_for_no_threads()


def test_readers_stop_at_a_bounded_number_of_examples_ahead():
    source = Reads()
    chunks = make_feed(source, 3).train_chunks(0, 1)
    next(chunks)
    time.sleep(0.5)
    # One in use, two that wait, one in the hand of the thread before them, one that was read.
    assert len(source.order) <= 5 * 16 + 4
    assert len(source.order) > 2 * 16
    chunks.close()


def test_sources_say_whether_several_threads_may_read_them():
    class Records(list):
        pass

    class Others:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"inputs": index}

    records = [{"inputs": n} for n in range(3)]
    assert RecordSource(records).parallel and RecordSource(Records(records)).parallel
    assert not RecordSource(Others()).parallel and RecordSource(Others(), parallel=True).parallel
    assert not RecordSource(records, parallel=False).parallel
    Others.parallel = True
    assert RecordSource(Others()).parallel
    assert MappedSource({"inputs": np.zeros(3)}).parallel
    assert not getattr(ArraySource({"inputs": [1.0]}), "parallel", False), "it is in memory"
    for source in (Reads(parallel=True), Reads(parallel=False)):
        splits = check_data(source, None, {}).splits  # checked, and a fifth is held out
        assert splits.train.parallel == splits.eval.parallel == source.parallel


CONFIG = {
    "model_name": "SimpleMLP",
    "model_params": {"input_dim": 1, "hidden_dim": 4, "num_classes": SIZE},
    "epochs": 2,
    "batch_size": 16,
    "strategy": "cpu",
    "loggers": ["jsonl"],
}


def train(tmp_path, name, source, **config):
    return aetheria.train({**CONFIG, **config}, data=source, workdir=tmp_path / name)


def test_a_run_has_the_same_bits_with_any_number_of_readers_and_may_change_it(tmp_path, capfd):
    one = train(tmp_path, "one", Reads(), data_readers=1)
    parallel = Reads(meet=3)
    three = train(tmp_path, "three", parallel, data_readers=3)
    assert 3 <= parallel.most <= 6 and wait_for_no_threads()  # both splits may be read at a time
    sha256 = [run.summary["params_sha256"] for run in (one, three)]
    assert sha256[0] == sha256[1]
    assert "one thread reads" not in capfd.readouterr().out
    stopped = aetheria.train(
        {**CONFIG, "data_readers": 3}, data=Reads(), workdir=tmp_path / "half", stop_at_step=3
    )
    resumed = stopped.resume(data_readers=1)
    assert resumed.summary["params_sha256"] == sha256[0]
    train(tmp_path, "alone", Reads(parallel=False), data_readers=3, max_steps=1)
    assert "data_readers: one thread reads the train split, not 3" in capfd.readouterr().out


@pytest.mark.parametrize("value", [0, 1000, "many"])
def test_another_number_of_readers_is_one_line(tmp_path, value):
    with pytest.raises(AetheriaError, match="data_readers: expected") as caught:
        train(tmp_path, "bad", Reads(), data_readers=value)
    assert "\n" not in str(caught.value)
