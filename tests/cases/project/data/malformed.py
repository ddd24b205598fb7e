"""Datasets given wrongly; `data_name` is the function's name."""

import numpy as np

from aetheria import ArraySource, DataSplits, RecordSource, register_data

X = np.random.default_rng(0).normal(size=(64, 10))
Y = X.sum(1, keepdims=True)
ROW = {"inputs": X[0], "labels": Y[0]}


def both(source):
    return DataSplits(train=source, eval=source)


@register_data("pair")
def pair():  # taken
    return X, Y


@register_data("plain_dict")
def plain_dict():  # taken
    return both({"inputs": X, "labels": Y})


@register_data("list_of_dicts")
def list_of_dicts():  # taken
    return both([ROW] * 8)


@register_data("generator")
def generator():
    return both(RecordSource(ROW for _ in range(8)))


@register_data("other_shape_in_eval")
def other_shape_in_eval():
    return DataSplits(
        train=ArraySource({"inputs": X, "labels": Y}),
        eval=ArraySource({"inputs": X[:, :7], "labels": Y}),
    )


@register_data("no_labels_in_eval")
def no_labels_in_eval():
    return DataSplits(
        train=ArraySource({"inputs": X, "labels": Y}), eval=ArraySource({"inputs": X})
    )


@register_data("other_names")
def other_names():
    return both(ArraySource({"x": X, "y": Y}))


@register_data("ragged_row")
def ragged_row():
    rows = [dict(ROW) for _ in range(400)]
    rows[333] = {"inputs": X[0][:9], "labels": Y[0]}
    return both(RecordSource(rows))


@register_data("row_without_a_key")
def row_without_a_key():
    rows = [dict(ROW) for _ in range(400)]
    del rows[333]["labels"]
    return both(RecordSource(rows))


@register_data("beyond_float32")
def beyond_float32():
    return both(ArraySource({"inputs": np.full((64, 10), 1e39), "labels": Y}))


class Short:
    """Returns a row less than it is asked for."""

    def __len__(self):
        return 64

    def read(self, indices):
        taken = indices[:-1] if len(indices) > 1 else indices
        return {"inputs": X[taken].astype("float32"), "labels": Y[taken].astype("float32")}


@register_data("short")
def short():
    return both(Short())


@register_data("label_for_labels")
def label_for_labels():
    return both({"inputs": X, "label": Y})


@register_data("missing_file")
def missing_file():
    return np.load("no_such.npy")


@register_data("two_labels")
def two_labels():
    return both({"inputs": X, "labels": np.repeat(Y, 2, axis=1)})


class BadLater:
    """Records of which number 333 is too short; no look at some of them shows it."""

    def __len__(self):
        return 400

    def __getitem__(self, index):
        return {"inputs": X[0][:9], "labels": Y[0]} if index == 333 else ROW


@register_data("bad_later")
def bad_later():
    return DataSplits(train=RecordSource(BadLater()), eval={"inputs": X, "labels": Y})


@register_data("some_nan")
def some_nan():
    holed = X.copy()
    holed[2, 4] = holed[2, 5] = np.nan
    holed[9, 0] = np.inf
    return holed, Y
