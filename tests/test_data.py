"""Data: one conformance suite over all sources, and the two datasets that ship."""

import gc
import itertools
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aetheria.data import ArraySource, DataSplits, Feed, RecordSource
from aetheria.data.datasets import diabetes, digits
from aetheria.data.feed import epoch_order
from aetheria.data.prefetch import prefetch
from aetheria.errors import AetheriaError

NUM_TRAIN, NUM_EVAL = 23, 11


class Records:
    """Random access to records one at a time, as Grain's data sources give it."""

    def __init__(self, columns):
        self._columns = columns

    def __len__(self):
        return len(self._columns["id"])

    def __getitem__(self, record_key):
        return {name: column[record_key] for name, column in self._columns.items()}


def make_columns(num_examples):
    ids = np.arange(num_examples, dtype=np.int64)
    return {"inputs": ids[:, None] + np.array([0.25, 0.5]), "id": ids}


def array_source(num_examples):
    return ArraySource(make_columns(num_examples))


def list_source(num_examples):
    records = Records(make_columns(num_examples))
    return RecordSource([records[index] for index in range(num_examples)])


def grain_like_source(num_examples):
    return RecordSource(Records(make_columns(num_examples)))


every_source = pytest.mark.parametrize(
    "make_source", [array_source, list_source, grain_like_source]
)


def make_feed(make_source=array_source, batch_size=8, num_slices=2, seed=0):
    splits = DataSplits(train=make_source(NUM_TRAIN), eval=make_source(NUM_EVAL))
    return Feed(splits=splits, batch_size=batch_size, num_slices=num_slices, seed=seed)


class GlobalBatch(NamedTuple):
    arrays: dict
    num_examples: int


def global_batches_of(chunks):
    """The global batches of chunks, one by one, without those that are no data."""
    for chunk in chunks:
        for index, num_examples in enumerate(chunk.num_examples):
            yield GlobalBatch({name: a[index] for name, a in chunk.arrays.items()}, num_examples)


def take(feed, count, examples_seen=0, max_global_batches=2):
    """The first `count` global batches from a position on."""
    chunks = feed.train_chunks(examples_seen, max_global_batches)
    taken = list(itertools.islice(global_batches_of(chunks), count))
    chunks.close()
    return taken


def real_ids(global_batch):
    return global_batch.arrays["id"][global_batch.arrays["mask"] == 1].tolist()


def ids_of(global_batches):
    return [example for global_batch in global_batches for example in real_ids(global_batch)]


def epochs_of(seed, count):
    """The examples of the first epochs, one after another."""
    return np.concatenate([epoch_order(seed, epoch, NUM_TRAIN) for epoch in range(count)]).tolist()


@every_source
def test_the_order_is_a_function_of_seed_epoch_and_index(make_source):
    feed = make_feed(make_source)
    assert ids_of(take(feed, 9)) == epochs_of(0, 3)
    assert ids_of(take(feed, 9)) == ids_of(take(feed, 9))
    other = make_feed(make_source, seed=1)
    assert ids_of(take(other, 3)) != ids_of(take(feed, 3))


@every_source
def test_every_example_is_seen_exactly_once_an_epoch(make_source):
    ids = ids_of(take(make_feed(make_source), 9))
    epochs = [ids[start : start + NUM_TRAIN] for start in range(0, len(ids), NUM_TRAIN)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(NUM_TRAIN))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


@every_source
def test_all_global_batches_have_one_shape_and_dtype(make_source):
    feed = make_feed(make_source)
    shapes = {
        name: (column.shape, column.dtype) for name, column in feed.example_global_batch().items()
    }
    assert shapes == {
        "inputs": ((2, 4, 2), np.float32),
        "id": ((2, 4), np.int32),
        "mask": ((2, 4), np.float32),
    }
    for global_batch in take(feed, 9):
        assert {name: (a.shape, a.dtype) for name, a in global_batch.arrays.items()} == shapes


@every_source
def test_the_mask_counts_the_real_examples_and_no_global_batch_crosses_an_epoch(make_source):
    global_batches = take(make_feed(make_source), 9)
    assert [global_batch.num_examples for global_batch in global_batches] == [8, 8, 7] * 3
    assert [global_batch.arrays["mask"].sum() for global_batch in global_batches] == [8, 8, 7] * 3


@every_source
def test_the_tail_is_padded_with_a_real_row(make_source):
    tail = take(make_feed(make_source), 3)[2].arrays
    ids, mask = tail["id"].ravel(), tail["mask"].ravel()
    assert mask.tolist() == [1] * 7 + [0]
    assert ids[7] == ids[6]
    np.testing.assert_array_equal(tail["inputs"].reshape(8, 2)[7], [ids[6] + 0.25, ids[6] + 0.5])


@every_source
def test_columns_stay_together(make_source):
    for global_batch in take(make_feed(make_source), 4):
        np.testing.assert_array_equal(
            global_batch.arrays["inputs"][..., 0], global_batch.arrays["id"] + np.float32(0.25)
        )


@every_source
def test_the_evaluation_split_is_served_once_and_in_order(make_source):
    batches = list(make_feed(make_source).eval_batches())
    assert {batch["id"].shape for batch in batches} == {(4,)}
    assert [batch["mask"].sum() for batch in batches] == [4, 4, 3]
    ids = [i for batch in batches for i in batch["id"][batch["mask"] == 1].tolist()]
    assert ids == list(range(NUM_EVAL))


@every_source
def test_64_bit_columns_become_32_bit_ones(make_source):
    example = make_source(3).read(np.array([2, 0]))
    assert {name: column.dtype for name, column in example.items()} == {
        "inputs": np.float32,
        "id": np.int32,
    }
    assert example["id"].tolist() == [2, 0]


@every_source
@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(0, 4 * NUM_TRAIN),
    slice_size=st.integers(1, 9),
    num_slices=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    max_global_batches=st.integers(1, 5),
)
def test_any_position_continues_the_same_sequence(
    make_source, start, slice_size, num_slices, seed, max_global_batches
):
    feed = make_feed(make_source, slice_size * num_slices, num_slices, seed)
    count = 2 * (-(-NUM_TRAIN // feed.batch_size))
    ids = ids_of(take(feed, count, start, max_global_batches))
    whole = epochs_of(seed, 7)
    assert len(ids) > NUM_TRAIN
    assert ids == whole[start : start + len(ids)]


@settings(max_examples=40, deadline=None)
@given(
    batch_size=st.integers(1, 30),
    num_taken=st.integers(0, 12),
    max_global_batches=st.integers(1, 5),
)
def test_batches_after_a_stop_equal_those_without_one(batch_size, num_taken, max_global_batches):
    feed = make_feed(batch_size=batch_size, num_slices=1)
    whole = take(feed, num_taken + 4, max_global_batches=max_global_batches)
    seen = sum(global_batch.num_examples for global_batch in whole[:num_taken])
    rest = take(feed, 4, seen)
    for expected, global_batch in zip(whole[num_taken:], rest, strict=True):
        assert global_batch.num_examples == expected.num_examples
        for name, column in expected.arrays.items():
            np.testing.assert_array_equal(global_batch.arrays[name], column)


@every_source
@pytest.mark.parametrize("max_global_batches", [1, 2, 3, 100])
def test_all_chunks_have_one_shape_and_bound(make_source, max_global_batches):
    chunks = make_feed(make_source).train_chunks(0, max_global_batches)
    taken = list(itertools.islice(chunks, 7))
    chunks.close()
    num_global_batches = min(max_global_batches, 3)  # an epoch has 3, and no chunk crosses one
    for chunk in taken:
        assert chunk.arrays["inputs"].shape == (num_global_batches, 2, 4, 2)
        assert 1 <= len(chunk.num_examples) <= num_global_batches
        counted = chunk.arrays["mask"].sum(axis=(1, 2))
        assert counted.tolist() == [
            *chunk.num_examples,
            *[0] * (num_global_batches - len(chunk.num_examples)),
        ]


def test_slices_change_neither_the_examples_nor_their_place_in_a_global_batch():
    one, four = make_feed(num_slices=1), make_feed(num_slices=4)
    for left, right in zip(take(one, 6), take(four, 6), strict=True):
        assert left.arrays["id"].shape == (1, 8) and right.arrays["id"].shape == (4, 2)
        assert left.arrays["id"].ravel().tolist() == right.arrays["id"].ravel().tolist()


def test_a_batch_larger_than_the_split_is_one_padded_batch_an_epoch():
    global_batches = take(make_feed(batch_size=32, num_slices=1), 2)
    assert [global_batch.num_examples for global_batch in global_batches] == [NUM_TRAIN, NUM_TRAIN]


def test_the_order_of_an_epoch_never_changes_between_releases():
    assert epoch_order(seed=7, epoch=3, num_examples=8).tolist() == [2, 5, 7, 3, 0, 6, 4, 1]


def test_a_record_source_reads_what_a_grain_pipeline_gives():
    grain = pytest.importorskip("grain.python")
    columns = make_columns(NUM_TRAIN)
    dataset = grain.MapDataset.range(NUM_TRAIN).map(
        lambda index: {name: column[index] for name, column in columns.items()}
    )
    feed = make_feed(lambda _: RecordSource(dataset))
    assert ids_of(take(feed, 6)) == epochs_of(0, 2)


def no_prefetch_thread_left(seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not [t for t in threading.enumerate() if t.name == "aetheria-prefetch"]:
            return True
        time.sleep(0.01)
    return False


def test_an_error_of_the_reader_surfaces_at_its_place():
    def chunks():
        yield from [1, 2, 3]
        raise OSError("the disk is gone")

    items = prefetch(chunks())
    assert [next(items), next(items), next(items)] == [1, 2, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert no_prefetch_thread_left()


def test_an_unreadable_record_stops_the_feed_at_its_global_batch():
    order = epoch_order(0, 0, NUM_TRAIN)

    class Damaged(Records):
        def __getitem__(self, record_key):
            if record_key == order[10]:
                raise ValueError(f"record {record_key} is damaged")
            return super().__getitem__(record_key)

    large = np.zeros((NUM_TRAIN, 1 << 18), np.float32)  # more than a read may hold
    source = RecordSource(Damaged({**make_columns(NUM_TRAIN), "large": large}))
    feed = make_feed(lambda _: source)
    global_batches = global_batches_of(feed.train_chunks(0, 32))
    assert real_ids(next(global_batches)) == order[:8].tolist()
    with pytest.raises(ValueError, match=f"record {order[10]} is damaged"):
        next(global_batches)


def test_closing_or_dropping_a_feed_ends_its_thread():
    chunks = make_feed(list_source).train_chunks(0, 2)
    next(chunks)
    assert not no_prefetch_thread_left(seconds=0.3)  # it is at work until it is closed
    chunks.close()
    assert no_prefetch_thread_left()
    dropped = make_feed(list_source).train_chunks(0, 2)
    next(dropped)
    del dropped
    gc.collect()
    assert no_prefetch_thread_left()


def test_a_feed_that_nobody_reads_starts_no_thread():
    chunks = make_feed(list_source).train_chunks(0, 2)
    assert no_prefetch_thread_left(seconds=0.1)
    chunks.close()


def test_a_source_in_memory_is_read_without_a_thread():
    chunks = make_feed(array_source).train_chunks(0, 2)
    next(chunks)
    assert no_prefetch_thread_left(seconds=0.1)


def test_prefetch_reads_no_further_ahead_than_its_depth():
    read = []

    def chunks():
        for number in range(100):
            read.append(number)
            yield number

    items = prefetch(chunks(), depth=2)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(read) <= 4  # one in use, two waiting, one in the hand of the thread
    items.close()
    assert no_prefetch_thread_left()


@pytest.mark.parametrize("dataset", [digits, diabetes])
def test_the_splits_of_a_dataset_are_disjoint_and_whole(dataset):
    splits = dataset()
    rows = {}
    for name, split in (("train", splits.train), ("eval", splits.eval)):
        columns = split.read(np.arange(len(split)))
        rows[name] = [columns["inputs"][i].tobytes() for i in range(len(split))]
    sizes = {"digits": (1438, 359), "diabetes": (354, 88)}[dataset.__name__]
    assert (len(rows["train"]), len(rows["eval"])) == sizes
    assert len({*rows["train"], *rows["eval"]}) == sum(sizes)  # every example of both is unique


def test_digits_are_what_their_description_says():
    train = digits().train
    columns = train.read(np.arange(len(train)))
    assert columns["inputs"].dtype == np.float32 and columns["inputs"].shape == (1438, 64)
    assert (columns["inputs"].min(), columns["inputs"].max()) == (0.0, 1.0)
    assert columns["labels"].dtype == np.int32
    assert sorted(set(columns["labels"].tolist())) == list(range(10))


def test_diabetes_is_standardized_unless_asked_otherwise():
    splits = diabetes()
    both = [split.read(np.arange(len(split))) for split in (splits.train, splits.eval)]
    for name, shape in (("inputs", (442, 10)), ("labels", (442, 1))):
        column = np.concatenate([columns[name] for columns in both])
        assert column.shape == shape
        np.testing.assert_allclose(column.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(column.std(axis=0), 1, atol=1e-5)
    raw = diabetes(standardize=False).train
    assert raw.read(np.arange(len(raw)))["labels"].max() > 300


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1.5])
def test_a_fraction_that_leaves_a_split_empty_is_refused(fraction):
    with pytest.raises(AetheriaError, match=r"^data_params.eval_fraction: expected a number"):
        digits(eval_fraction=fraction)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArraySource({}), "expected columns of one length above 0, got {}"),
        (lambda: ArraySource({"a": []}), "expected columns of one length above 0"),
        (lambda: ArraySource({"a": 3}), "expected columns of one length above 0"),
        (lambda: ArraySource({"a": [1], "b": [1, 2]}), "got {'a': 1, 'b': 2}"),
        (lambda: ArraySource({"mask": [1.0]}), "expected no column named 'mask'"),
        (lambda: ArraySource({"a": ["text"]}), "column 'a': expected numbers, got <U4"),
        (lambda: ArraySource({"a": [2**40]}), "column 'a': expected whole numbers of 32 bits"),
        (lambda: RecordSource([]), "expected records, got none"),
        (lambda: RecordSource([{"mask": 1.0}]), "expected no column named 'mask'"),
        (
            lambda: RecordSource([{"a": 2**40}]).read(np.array([0])),
            "column 'a': expected whole numbers of 32 bits",
        ),
    ],
)
def test_a_source_that_cannot_serve_is_refused_in_one_line(make, message):
    with pytest.raises(AetheriaError) as caught:
        make()
    assert message in str(caught.value) and "\n" not in str(caught.value)
