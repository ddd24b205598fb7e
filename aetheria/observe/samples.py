"""What the model makes of a few examples, to be looked at. Knows no logger."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aetheria.observe.pictures import as_bytes, is_pictures
from aetheria.observe.probe import Probe

_MAX_VALUES = 16  # of one prediction or label; a row of a table has no room for more


class Samples(NamedTuple):
    """Some examples of a split.

    Attributes:
        rows: of each example JSON values: its `index` in the split, `prediction`, and `label` if
            the data has `labels`; none, if the model does not predict one array.
        images: name -> pictures u8 [count, height, width, 1 or 3]: `inputs` where these are
            pictures, and what the model's hook `images` makes.
    """

    rows: list[dict[str, Any]]
    images: Mapping[str, np.ndarray]


def read_samples(probe: Probe, count: int) -> Samples:
    """Predicts for the first `count` examples of the split that a probe is of.

    A prediction is the most probable class, by its name if the data has names, where labels are
    whole numbers, and else the network's output; of more than 16 numbers, the first 16.
    """
    examples = probe.examples(count)
    inputs, labels = examples["inputs"], examples.get("labels")
    outputs = probe.predict(inputs)
    images = {"inputs": inputs} if is_pictures(inputs) else {}
    images |= probe.images(examples, outputs)
    drawn = {name: np.stack([as_bytes(one) for one in each]) for name, each in images.items()}
    if not isinstance(outputs, np.ndarray):
        return Samples([], drawn)
    rows = []
    for index, output in enumerate(outputs):
        row: dict[str, Any] = {"index": index}
        if isinstance(labels, np.ndarray):
            row["prediction"] = _prediction(output, labels[index], probe.classes)
            row["label"] = _shown(labels[index], probe.classes)
        else:  # a model of tokens predicts the next of each
            like = inputs[index] if isinstance(inputs, np.ndarray) else output
            row["prediction"] = _prediction(output, like, ())
        rows.append(row)
    return Samples(rows, drawn)


def _prediction(output: np.ndarray, like: np.ndarray, classes: Sequence[str]) -> Any:
    """What the output of one example says, in the form of its label, or of its tokens.

    >>> _prediction(np.array([0.1, 2.0]), np.array(0), ["cat", "dog"])
    'dog'
    >>> _prediction(np.array([0.5]), np.array([1.5]), [])
    [0.5]
    """
    if like.dtype.kind not in "iu" or output.ndim != like.ndim + 1:
        return _shown(output, ())
    # A model may have more classes than its data, which no example has taught it.
    known = output[..., : len(classes)] if classes else output
    return _shown(known.argmax(-1), classes)


def _shown(value: np.ndarray, classes: Sequence[str]) -> Any:
    """JSON values of a class number, by its name, or of an array."""
    if value.ndim == 0 and value.dtype.kind in "iu" and 0 <= value < len(classes):
        return classes[int(value)]
    values = value.reshape(-1)[:_MAX_VALUES].tolist()
    plain = [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
    return plain if value.ndim else plain[0]
