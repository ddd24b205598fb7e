"""Datasets as people give them: taken where the meaning is plain, else one line and exit 2."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from aetheria import ArraySource, DataSplits, RecordSource
from aetheria.data.checks import check_data
from aetheria.data.datasets import digits
from aetheria.errors import AetheriaError

X = np.random.default_rng(0).normal(size=(64, 10))
Y = X.sum(1, keepdims=True)
PLAIN = {"inputs": X, "labels": Y}
ROWS = [{"inputs": x, "labels": y} for x, y in zip(X, Y, strict=True)]


class Frame:
    """What a data frame can do that we rely on, pandas not being installed."""

    def __init__(self, columns):
        self._columns = columns
        self.columns = list(columns)
        self.shape = (len(next(iter(columns.values()))), len(columns))

    def __getitem__(self, name):
        return SimpleNamespace(to_numpy=lambda: self._columns[name])

    def __len__(self):
        return self.shape[0]

    def to_numpy(self):
        return np.stack(list(self._columns.values()), axis=1)

    def __array__(self, dtype=None, copy=None):
        return self.to_numpy()


def cells(rows):
    """Arrays as the cells of a table's column."""
    column = np.empty(len(rows), object)
    column[:] = list(rows)
    return column


class Custom:
    """A source of a user's own, one behaviour of which may be replaced."""

    def __init__(self, read=None, length=64):
        self._read, self._length = read or self.right, length

    @staticmethod
    def right(indices):
        return {"inputs": X[indices], "labels": Y[indices]}

    def __len__(self):
        return self._length

    def read(self, indices):
        return self._read(indices)


class Lookup:
    """Records or pairs behind an index, as Grain's data sources and PyTorch's datasets are."""

    def __init__(self, rows):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        return self._rows[index]


def both(split):
    return DataSplits(train=split, eval=split)


def everything(source):
    return source.read(np.arange(len(source)))


TAKEN = {
    "sources": both(ArraySource(PLAIN)),
    "dicts": both(PLAIN),
    "dict of splits": {"train": PLAIN, "eval": PLAIN},
    "pairs in DataSplits": both((X, Y)),
    "pair of pairs": ((X, Y), (X, Y)),
    "pair of dicts": (PLAIN, dict(PLAIN)),
    "lists of dicts": both(ROWS),
    "pair of lists of dicts": (ROWS, list(ROWS)),
    "nested lists": both({"inputs": X.tolist(), "labels": Y.tolist()}),
    "records": both(RecordSource(ROWS)),
    "records behind an index": both(Lookup(ROWS)),
    "a source of one's own": both(Custom()),
    "a table of arrays": both(Frame({"inputs": cells(X), "labels": cells(Y)})),
    "two tables of inputs and labels": both((Frame(dict(zip("abcdefghij", X.T, strict=True))), Y)),
}


@pytest.mark.parametrize("form", TAKEN)
def test_a_form_with_a_plain_meaning_is_taken(form):
    splits, notes = check_data(TAKEN[form], "mine", {})
    assert notes == []
    for split in (splits.train, splits.eval):
        columns = everything(split)
        assert {name: c.dtype for name, c in columns.items()} == {
            "inputs": np.float32,
            "labels": np.float32,
        }
        np.testing.assert_array_equal(columns["inputs"], X.astype(np.float32))
        np.testing.assert_array_equal(columns["labels"], Y.astype(np.float32))


@pytest.mark.parametrize(
    "whole", [(X, Y), PLAIN, ROWS, RecordSource(ROWS), Custom(), Lookup(ROWS), (X.tolist(), Y)]
)
def test_a_set_without_an_evaluation_split_is_split_the_same_way_each_time(whole):
    splits, notes = check_data(whole, "mine", {})
    assert notes == [
        "data: 'mine' has no evaluation split: 13 of its 64 examples are held out, the same ones "
        "in every run"
    ]
    rows = [everything(split)["labels"] for split in (splits.train, splits.eval)]
    assert [len(r) for r in rows] == [51, 13]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows), 0), np.sort(Y.astype("f4"), 0))
    again = check_data(PLAIN, "other", {}).splits
    np.testing.assert_array_equal(
        everything(splits.eval)["inputs"], everything(again.eval)["inputs"]
    )


def test_a_whole_set_is_split_as_the_shipped_datasets_are():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    ours, shipped = check_data((x / 16, y), "mine", {}).splits, digits()
    for mine, theirs in ((ours.train, shipped.train), (ours.eval, shipped.eval)):
        np.testing.assert_array_equal(everything(mine)["inputs"], everything(theirs)["inputs"])


def test_right_arrays_are_served_by_the_very_same_source():
    source = ArraySource(PLAIN)
    splits, _ = check_data(both(source), "mine", {})
    assert splits.train is source and splits.eval is source


def changed(row, **columns):
    rows = [dict(r) for r in ROWS]
    rows[row].update(columns)
    return rows


def without(row, column):
    rows = [dict(r) for r in ROWS]
    del rows[row][column]
    return rows


def at(row, value, array=X):
    array = array.copy()
    array[row] = value
    return array


SHORT = lambda indices: {"inputs": X[indices][:-1], "labels": Y[indices]}
LONG = lambda indices: {"inputs": X[[*indices, 0]], "labels": Y[indices]}
OTHER_SHAPE = lambda indices: {
    "inputs": X[indices][:, : 10 - (indices[0] > 0)],
    "labels": Y[indices],
}
OTHER_COLUMNS = lambda indices: {
    "inputs": X[indices],
    "labels" if indices[-1] == 0 else "y": Y[indices],
}
TEXT = np.array(["cat", "dog"] * 32)

REFUSED = {
    # forms
    "nothing": (lambda: None, "which returns NoneType; return DataSplits("),
    "an array": (lambda: X, "which returns ndarray of shape [64, 10]; return DataSplits("),
    "a text": (lambda: "digits.csv", "which returns str"),
    "a class": (lambda: ArraySource, "which returns type"),
    "three arrays": (lambda: (X, Y, X), "which returns tuple (ndarray, ndarray, ndarray)"),
    "three splits": (lambda: (ROWS, ROWS, ROWS), "which returns tuple (list, list, list)"),
    "a list of arrays": (lambda: [X, Y], "which returns list (ndarray, ndarray)"),
    "a list of pairs": (
        lambda: [*zip(X, Y, strict=True)],
        "which returns list (tuple, tuple, tuple, tuple, …)",
    ),
    "pairs, but one": (
        lambda: Lookup([*zip(X, Y, strict=True), ()]),
        f"data, row {len(X)}: expected a pair (inputs, labels), got tuple (); give every example",
    ),
    "a generator": (lambda: (row for row in ROWS), "which returns generator"),
    "splits that are generators": (
        lambda: both(row for row in ROWS),
        "which returns as the train split generator",
    ),
    "one split None": (lambda: DataSplits(train=PLAIN, eval=None), "as the eval split NoneType"),
    "splits named otherwise": (
        lambda: {"train": PLAIN, "other": PLAIN},
        "expected the splits 'train' and 'eval' of 'mine', got train, other",
    ),
    "a generator of records": (
        lambda: both(RecordSource(r for r in ROWS)),
        "got a generator; use list(…)",
    ),
    "a dict of records": (lambda: both(RecordSource(PLAIN)), "got a dict; use ArraySource"),
    "an array of columns": (
        lambda: both(ArraySource(X)),
        "expected a mapping of columns, got a ndarray",
    ),
    # empty
    "no examples": (
        lambda: both({"inputs": X[:0], "labels": Y[:0]}),
        "of one length above 0, got {'inputs': 0, 'labels': 0}",
    ),
    "no rows": (lambda: both([]), "train split, RecordSource: expected records, got none"),
    "no columns": (lambda: both({}), "expected columns of one length above 0, got {}"),
    "no eval rows": (
        lambda: DataSplits(PLAIN, Custom(length=0)),
        "eval split: expected examples, got none",
    ),
    "one example for two splits": (
        lambda: (X[:1], Y[:1]),
        "expected at least 2 examples, one to train on and one held out, got 1",
    ),
    # columns
    "a scalar": (lambda: both({**PLAIN, "temperature": 3.0}), "'temperature': 'a scalar'"),
    "lengths": (lambda: (X, Y[:60]), "got {'inputs': 64, 'labels': 60}"),
    "a column named mask": (lambda: both({**PLAIN, "mask": Y}), "expected no column named 'mask'"),
    "a column named mask in a source": (
        lambda: both(Custom(lambda i: {**Custom.right(i), "mask": Y[i]})),
        "expected no column named 'mask'",
    ),
    "a name that is no text": (
        lambda: both({0: X, 1: Y}),
        "expected names of columns as text, got 0",
    ),
    "text": (
        lambda: both({**PLAIN, "kind": TEXT}),
        "column 'kind': expected numbers, got <U3 ('cat' in row 0)",
    ),
    "objects": (
        lambda: both({**PLAIN, "age": np.array([1.0, None] * 32, object)}),
        "column 'age': expected numbers, got object (None in row 1)",
    ),
    "dates": (
        lambda: both({**PLAIN, "day": np.arange(64).astype("M8[D]")}),
        "column 'day': expected numbers, got datetime64[D]",
    ),
    "complex": (
        lambda: both({"inputs": X + 1j, "labels": Y}),
        "column 'inputs': expected numbers, got complex128 (",
    ),
    "structured": (
        lambda: both({"inputs": np.zeros(64, [("a", "f4"), ("b", "f4")])}),
        "got a structured array",
    ),
    "masked": (
        lambda: both({"inputs": np.ma.masked_array(X, X > 2), "labels": Y}),
        "got a masked array",
    ),
    "a set": (
        lambda: both({"inputs": {1.0, 2.0}}),
        "column 'inputs': expected an array, got a set",
    ),
    "ragged lists": (
        lambda: both({"inputs": [[1.0, 2.0]] * 5 + [[1.0]], "labels": [0.0] * 6}),
        "column 'inputs': expected rows of one shape, got [1] in row 5 after [2] in row 0",
    ),
    "ragged cells": (
        lambda: both(Frame({"inputs": cells([[1.0, 2.0], [1.0]]), "labels": np.ones(2)})),
        "got [1] in row 1 after [2] in row 0",
    ),
    # numbers
    "beyond float32": (
        lambda: both({"inputs": at(7, 1e39), "labels": Y}),
        "column 'inputs': expected numbers that fit float32 (at most 3.4e+38), got 1e+39 in row 7",
    ),
    "beyond float32 in a record": (
        lambda: both(RecordSource(changed(7, inputs=at(0, -1e39)[0]))),
        "got -1e+39 in row 7",
    ),
    "beyond float32 in a source": (
        lambda: both(Custom(lambda i: {"inputs": at(63, 1e300)[i], "labels": Y[i]})),
        "train split, column 'inputs': expected numbers that fit float32 (at most 3.4e+38), got "
        "1e+300 in row 63",
    ),
    "beyond int32": (
        lambda: both({**PLAIN, "id": np.arange(64) + 2**31 - 60}),
        "column 'id': expected whole numbers of 32 bits, got 2147483648 in row 60",
    ),
    # rows
    "a ragged row": (
        lambda: both([*ROWS, {"inputs": X[0][:9], "labels": Y[0]}]),
        "train split, column 'inputs': expected rows of shape [10], as row 0 is, got [9] in row 64",
    ),
    "a ragged record": (
        lambda: both(RecordSource(changed(33, inputs=X[0][:9]))),
        "train split, column 'inputs': expected rows of shape [10], as row 0 is, got [9] in row 33",
    ),
    "a record without a key": (
        lambda: both(RecordSource(without(33, "labels"))),
        "train split, column 'labels': expected in every record, got row 33 without it (columns "
        "inputs)",
    ),
    "a record with a renamed key": (
        lambda: both(RecordSource([*ROWS[:33], {"inputs": X[0], "label": Y[0]}])),
        "got row 33 without it (columns inputs, label; did you mean 'label'?)",
    ),
    "a record that is none": (
        lambda: both(RecordSource([*ROWS, None])),
        "expected records that are mappings of columns, got a NoneType in row 64",
    ),
    "records that are pairs": (
        lambda: both(RecordSource([*zip(X, Y, strict=True)])),
        "expected records that are mappings of columns, got a tuple in row 0",
    ),
    "a record of another kind of number": (
        lambda: both(
            RecordSource([{"inputs": X[0], "labels": 1}] * 9 + [{"inputs": X[0], "labels": 0.5}])
        ),
        "column 'labels': expected int32 as in row 0, got float32 0.5 in row 9; give every row one",
    ),
    "a text among records": (
        lambda: both(RecordSource(changed(5, labels="cat"))),
        "column 'labels': expected",
    ),
    # sources
    "fewer rows": (
        lambda: both(Custom(SHORT)),
        "train split, column 'inputs': expected 1 rows for the indices from 0 to 0, got 0 of them",
    ),
    "more rows": (
        lambda: both(Custom(LONG)),
        "train split, column 'inputs': expected 1 rows for the indices from 0 to 0, got 2 of them",
    ),
    "a shape that changes": (
        lambda: both(Custom(lambda i: {"inputs": X[i][:, : 10 - (len(i) > 1)], "labels": Y[i]})),
        "column 'inputs': expected rows of shape [10], as row 0 is, got [9] in row 0",
    ),
    "columns that change": (
        lambda: both(Custom(lambda i: {"inputs": X[i], "labels" if len(i) == 1 else "y": Y[i]})),
        "expected the columns of row 0 (inputs, labels), got inputs, y",
    ),
    "a list": (
        lambda: both(Custom(lambda i: [X[i], Y[i]])),
        "Custom.read: expected a mapping of columns, got a list",
    ),
    "a scalar of a source": (
        lambda: both(Custom(lambda i: {"inputs": X[i], "labels": 1.0})),
        "column 'labels': expected 1 rows for the indices from 0 to 0, got a scalar",
    ),
    "a length that is none": (
        lambda: both(Custom(length=-1)),
        "train split: expected a source with a length, got Custom",
    ),
    "a missing file": (
        lambda: both(Custom(lambda i: {"inputs": np.load("none.npy")})),
        "train split: expected a file that can be read, got 'none.npy' (No such file or directory)",
    ),
    # two splits
    "a column less in eval": (
        lambda: DataSplits(PLAIN, {"inputs": X}),
        "eval split: expected the columns of the train split (inputs, labels), got inputs",
    ),
    "another shape in eval": (
        lambda: DataSplits(PLAIN, {"inputs": X[:, :7], "labels": Y}),
        "eval split, column 'inputs': expected float32 rows of shape [10] as in the train split, "
        "got float32 rows of shape [7] in row 0",
    ),
    "another dtype in eval": (
        lambda: ((X, Y), (X, Y.astype(int))),
        "eval split, column 'labels': expected float32 rows of shape [1] as in the train split, "
        "got int32 rows of shape [1] in row 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_dataset_that_cannot_be_meant_is_one_line(case):
    make, message = REFUSED[case]
    with pytest.raises(AetheriaError) as caught:
        check_data(make(), "mine", {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("generator", ["generator", "list(…)"]),
        ("other_shape_in_eval", ["eval split", "'inputs'", "[10]", "[7]"]),
        ("no_labels_in_eval", ["eval split", "inputs, labels", "got inputs"]),
        ("other_names", ["'inputs'", "SimpleMLP", "x, y"]),
        ("label_for_labels", ["'labels'", "SimpleMLP", "rename 'label'"]),
        ("ragged_row", ["'inputs'", "[9]", "row 333"]),
        ("row_without_a_key", ["'labels'", "row 333"]),
        ("beyond_float32", ["'inputs'", "1e+39", "row 0"]),
        ("short", ["'inputs'", "15", "16"]),
        ("missing_file", ["data_name 'missing_file'", "no_such.npy"]),
        ("two_labels", ["labels", "one number", "[2]"]),
    ],
)
def test_a_run_on_such_data_is_refused_before_it_begins(train, name, words):
    train(data_name=name).assert_refused(*words)


def test_a_row_that_turns_bad_in_a_run_is_one_line_and_the_summary_says_so(train, tmp_path):
    answer = train(data_name="bad_later", max_steps=20, batch_size=8)
    assert answer.code == 2, answer.err
    line = answer.lines[-1]
    assert "train split, column 'inputs': expected rows of shape [10]" in line
    assert "got [9] in row 333" in line and "Traceback" not in answer.err
    summary = json.loads(next(tmp_path.rglob("summary.json")).read_text())
    assert (summary["status"], summary["exit_code"]) == ("failed", 2)
    assert "row 333" in summary["reason"]


def test_what_a_user_should_know_of_the_data_is_said_at_the_start_and_it_trains(train):
    answer = train(data_name="some_nan", max_steps=1)
    assert answer.code == 0, answer.err
    for note in (
        "data, column 'inputs': 3 values are not finite, the first is nan in row 2",
        "data: 'some_nan' has no evaluation split: 13 of its 64 examples are held out",
        "batch_size: 64 is more than the 51 examples of the train split",
    ):
        assert note in answer.out


def test_a_sample_says_so_where_it_finds_what_is_not_finite():
    holed = X.copy()
    holed[63, 1] = np.inf
    source = Custom(lambda i: {"inputs": holed[i], "labels": Y[i]})
    notes = check_data(DataSplits(train=PLAIN, eval=source), "mine", {}).notes
    assert notes == [
        "eval split, column 'inputs': 1 values are not finite in a sample of 16 rows, the first is "
        "inf in row 63; on_nonfinite decides what happens to such examples"
    ]
