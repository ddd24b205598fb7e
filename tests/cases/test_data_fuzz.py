"""Datasets made wrong at random: taken or one line, never another exception."""

import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aetheria import ArraySource, Classes, DataSplits, RecordSource
from aetheria.data import Feed
from aetheria.data.checks import check_data
from aetheria.errors import AetheriaError

SIZE, WIDTH = 40, 3
TAKEN, REFUSED = set(), set()

strange_values = st.sampled_from(
    [
        *[
            None,
            "cat",
            "",
            b"x",
            float("nan"),
            float("inf"),
            1e39,
            -1e300,
            2**40,
            -1,
            10,
            0.5,
            True,
        ],
        *[1j, [], [1.0], [[1.0]], {}, {"a": 1}, (), object(), np.datetime64("2026-01-01")],
        *[np.ones((2, 2)), np.array("x"), np.float16(2), np.uint8(255), np.zeros(0), ArraySource],
    ]
)
strange_names = st.sampled_from(
    ["input", "label", "mask", "", 0, None, ("a",), "x" * 5000, "Inputs"]
)


@st.composite
def rows(draw):
    """Examples as a list of dicts, one or two of which may be wrong."""
    made = [
        {"inputs": [float(row)] * WIDTH, "labels": draw(st.sampled_from([row % 10, 3]))}
        for row in range(draw(st.sampled_from([0, 1, 2, SIZE, SIZE, SIZE])))
    ]
    for row in draw(st.lists(st.integers(0, SIZE - 1), max_size=2)):
        if row < len(made) and isinstance(made[row], dict):
            column = draw(st.sampled_from(["inputs", "labels"]))
            match draw(st.sampled_from(["value", "cell", "lose", "rename", "row"])):
                case "value":
                    made[row][column] = draw(strange_values)
                case "cell":
                    made[row]["inputs"] = [1.0, draw(strange_values), 2.0]
                case "lose":
                    made[row].pop(column, None)
                case "rename":
                    made[row][draw(strange_names)] = made[row].pop(column, 0)
                case "row":
                    made[row] = draw(strange_values)
    return made


@st.composite
def columns(draw):
    """Examples as a dict of columns, one of which may be wrong."""
    made = {"inputs": np.ones((SIZE, WIDTH)), "labels": np.arange(SIZE) % 10}
    name = draw(st.sampled_from(["inputs", "labels"]))
    match draw(
        st.sampled_from(["right", "dtype", "cut", "value", "rename", "more", "ragged", "lose"])
    ):
        case "dtype":
            kinds = ["f2", "f8", "i1", "u8", "?", "O", "U5", "S3", "M8[s]", "c8", "g"]
            made[name] = made[name].astype(draw(st.sampled_from(kinds)))
        case "cut":
            made[name] = made[name][: draw(st.integers(0, SIZE))]
        case "value":
            made[name] = draw(strange_values)
        case "rename":
            made[draw(strange_names)] = made.pop(name)
        case "more":
            made["more"] = draw(strange_values)
        case "ragged":
            made[name] = [[1.0] * draw(st.integers(0, 2)) for _ in range(SIZE)]
        case "lose":
            del made[name]
    return made


class Custom:
    """A source that forgets what it was asked for at some row."""

    def __init__(self, columns, wrong_row, how):
        self._columns, self._wrong_row, self._how = columns, wrong_row, how

    def __len__(self):
        return SIZE

    def read(self, indices):
        found = {name: np.asarray(c)[indices] for name, c in self._columns.items()}
        if self._wrong_row in indices:
            found = {
                "short": {name: c[:-1] for name, c in found.items()},
                "long": {name: np.concatenate([c, c]) for name, c in found.items()},
                "none": None,
                "text": dict.fromkeys(found, "text"),
                "wide": {name: np.stack([c, c], -1) for name, c in found.items()},
                "double": {name: c * 1e39 for name, c in found.items()},
                "fewer": {"inputs": found["inputs"]},
            }[self._how]
        return found


@st.composite
def sets(draw):
    """One set of examples, in any form."""
    right = {"inputs": np.ones((SIZE, WIDTH)), "labels": np.arange(SIZE) % 10}
    how = st.sampled_from(["short", "long", "none", "text", "wide", "double", "fewer"])
    match draw(
        st.sampled_from(["rows", "columns", "records", "arrays", "pair", "custom", "strange"])
    ):
        case "rows":
            return draw(rows())
        case "columns":
            return draw(columns())
        case "records":
            made = draw(rows())
            return lambda: RecordSource(made)
        case "arrays":
            made = draw(columns())
            return lambda: ArraySource(made)
        case "pair":
            return (*draw(columns()).values(),)
        case "custom":
            return Custom(right, draw(st.integers(0, SIZE)), draw(how))
    return draw(strange_values)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(sets(), min_size=1, max_size=2),
    form=st.sampled_from(["splits", "tuple", "dict", "list"]),
    classes=st.sampled_from([{}, {"labels": Classes(10)}, {"inputs": Classes(100, None)}]),
)
def test_any_dataset_is_taken_or_one_line(parts, form, classes):
    def made(part):
        return part() if callable(part) and not isinstance(part, type) else part

    def dataset():
        train, *others = (made(part) for part in parts)
        if not others:
            return train
        return {
            "splits": lambda: DataSplits(train=train, eval=others[0]),
            "tuple": lambda: (train, others[0]),
            "dict": lambda: {"train": train, "eval": others[0]},
            "list": lambda: [train, others[0]],
        }[form]()

    problems = answer(dataset, classes)
    assert len(problems) <= 1
    for problem in problems:
        assert ": expected" in problem and "\n" not in problem, problem
    (REFUSED if problems else TAKEN).add(problems or repr(parts)[:200])


def answer(dataset, classes):
    """What is said of a dataset; of one that is taken nothing, and it is served as it should be."""
    try:
        splits, notes = check_data(dataset(), "mine", classes)
        feed = Feed(splits=splits, batch_size=8, num_slices=2, seed=0)
        chunks = itertools.islice(feed.train_chunks(0, 3), 4)
        batches = [*(chunk.arrays for chunk in chunks), *feed.eval_batches()]
    except AetheriaError as error:
        return error.problems
    assert all("\n" not in note for note in notes)
    spec = feed.example_spec()
    for name, column in itertools.chain.from_iterable(batch.items() for batch in batches):
        shape = column.shape[column.ndim - len(spec[name]["shape"]) :]
        assert {"shape": [*shape], "dtype": str(column.dtype)} == spec[name]
        if name in classes:
            assert column.dtype.kind in "iu"
            assert column.min() >= 0 and column.max() < classes[name].count
    return ()


def test_both_answers_were_given():
    """The control: what is thrown at the checks is neither all right nor all wrong."""
    assert len(TAKEN) > 3 and len(REFUSED) > 10
