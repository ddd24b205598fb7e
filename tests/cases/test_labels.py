"""Labels of a classifier: taken where their meaning is plain, else one line with row and value."""

import numpy as np
import pytest
from aetheria.models.cnn import SimpleCNN
from aetheria.models.mlp import SimpleMLP
from aetheria.models.transformer import Transformer

from aetheria import ArraySource, Classes, DataSplits, RecordSource
from aetheria.data.checks import check_data
from aetheria.data.text import TokenSource
from aetheria.errors import AetheriaError

LABELS = np.arange(40) % 10
INPUTS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def at(row, value, labels=LABELS):
    labels = labels.astype(np.result_type(labels, type(value)))
    labels[row] = value
    return labels


def check(labels, classes, make=ArraySource):
    source = make({"inputs": INPUTS, "labels": labels})
    splits = check_data(DataSplits(train=source, eval=source), "mine", {"labels": classes}).splits
    return splits.train.read(np.arange(40))["labels"]


def records(columns):
    """The same rows, from a source that is read row by row."""
    names = [*columns]
    rows = zip(*columns.values(), strict=True)
    return RecordSource([dict(zip(names, row, strict=True)) for row in rows])


both_sources = pytest.mark.parametrize("make", [ArraySource, records])
TAKEN = {
    "whole numbers": (LABELS, 10),
    "bytes": (LABELS.astype(np.uint8), 10),
    "floats without a fraction": (LABELS.astype(float), 10),
    "a column vector": (LABELS[:, None], 10),
    "a column vector of floats": (LABELS[:, None].astype(float), 10),
    "bool for two classes": (LABELS > 4, 2),
    "a column vector of bool": ((LABELS > 4)[:, None], 2),
    "fewer classes than the model has": (LABELS % 3, 10),
}
REFUSED = {
    "too large": (at(7, 10), 10, "expected class numbers from 0 to 9, got 10 in row 7; number"),
    "from one on": (LABELS + 1, 10, "expected class numbers from 0 to 9, got 10 in row 9"),
    "minus one": (at(23, -1), 10, "expected class numbers from 0 to 9, got -1 in row 23"),
    "ignored by other trainers": (at(23, -100), 10, "got -100 in row 23"),
    "fractions": (at(5, 0.5), 10, "expected class numbers from 0 to 9, got 0.5 in row 5"),
    "NaN": (at(39, np.nan), 10, "expected class numbers from 0 to 9, got nan in row 39"),
    "infinity": (at(3, -np.inf), 10, "got -inf in row 3"),
    "a float that is too large": (at(3, 10.0), 10, "got 10 in row 3; number"),
    "bool for ten classes": (LABELS > 4, 10, "got bool (False in row 0); bool is taken for two"),
    "three classes for a model of two": (LABELS % 3, 2, "from 0 to 1, got 2 in row 2"),
    "one-hot": (np.eye(10)[LABELS], 10, "got one-hot rows of shape [10] (row 0: [1. 0. ... 0. 0.]"),
    "two labels": (np.stack([LABELS] * 2, 1), 10, "got rows of shape [2] (row 0: [0 0]); give one"),
}


@both_sources
@pytest.mark.parametrize("case", TAKEN)
def test_labels_whose_meaning_is_plain_become_class_numbers(case, make):
    labels, count = TAKEN[case]
    taken = check(labels, Classes(count), make)
    assert taken.shape == (40,) and taken.dtype.kind in "iu" and taken.dtype.itemsize <= 4
    np.testing.assert_array_equal(taken, np.ravel(labels))


@both_sources
@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_no_class_has_are_one_line(case, make):
    labels, count, message = REFUSED[case]
    with pytest.raises(AetheriaError) as caught:
        check(labels, Classes(count), make)
    said = str(caught.value)
    assert said.startswith("train split, column 'labels': ") and "\n" not in said
    assert message in said


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_says_nothing_of_classes_takes_any_labels(case):
    labels = REFUSED[case][0]
    split = {"inputs": INPUTS, "labels": labels}
    splits = check_data(DataSplits(train=split, eval=split), "mine", {}).splits
    np.testing.assert_array_equal(splits.train.columns["labels"], labels)


def test_the_row_of_a_set_without_an_evaluation_split_is_the_row_of_the_whole_set():
    with pytest.raises(AetheriaError, match=r"^data, column 'labels': .* got 10 in row 7"):
        check_data((INPUTS, at(7, 10)), "mine", {"labels": Classes(10)})


def test_tokens_are_checked_in_inputs_and_labels_at_the_row_that_is_read():
    row = np.full(20_000, 65, np.uint8)
    row[1234] = 200
    source, classes = TokenSource(row, 10), Transformer(vocab_size=128).class_columns()
    splits = check_data(DataSplits(train=source, eval=source), "mine", classes).splits
    splits.train.read(np.arange(123))
    with pytest.raises(AetheriaError, match=r"'inputs': .*from 0 to 127, got 200 in row 123"):
        splits.train.read(np.array([5, 123]))


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        (SimpleMLP(num_classes=3), {"labels": Classes(3)}),
        (SimpleMLP(), {}),
        (SimpleCNN(num_classes=7), {"labels": Classes(7)}),
        (Transformer(vocab_size=9), dict.fromkeys(["inputs", "labels"], Classes(9, None))),
    ],
)
def test_the_shipped_models_say_what_their_labels_mean(model, columns):
    assert model.class_columns() == columns


def test_a_model_whose_labels_are_missing_names_the_column_that_is_near():
    split = {"inputs": INPUTS, "label": LABELS}
    with pytest.raises(AetheriaError, match=r"column 'labels': .* did you mean 'label'"):
        check_data(DataSplits(train=split, eval=split), "mine", {"labels": Classes(10)})


MLP = {"input_dim": 64, "num_classes": 10, "hidden_dim": 8}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("one_based", ["train split", "'labels'", "from 0 to 9", "got 10 in row"]),
        ("minus_one", ["'labels'", "got -1 in row"]),
        ("one_bad", ["'labels'", "got 10 in row 700"]),
        ("bool", ["'labels'", "bool", "row 0"]),
        ("one_hot", ["'labels'", "one-hot", "row 0", "argmax"]),
    ],
)
def test_a_run_with_such_labels_is_refused_before_it_begins(train, kind, words):
    data = {"data_name": "labels", "data_params": {"kind": kind}}
    train(model_params=MLP, **data).assert_refused(*words)


@pytest.mark.parametrize("answer", [{"labels": 10}, 10, None, {"labels": Classes(0)}])
def test_a_model_that_answers_otherwise_is_told_what_to_return(answer):
    with pytest.raises(AetheriaError, match=r"^class_columns: expected .* return \{'labels'"):
        check_data((INPUTS, LABELS), "mine", answer)
