"""A callback that writes what the model predicts for some examples, to be looked at."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Event
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.line_file import LineFile
from aetheria.observe.loggers.records import step_of_json
from aetheria.plugins import register_callback

if TYPE_CHECKING:
    from aetheria.observe.probe import Probe

_MAX_VALUES = 16  # of one prediction or label; a row of a table has no room for more
_MAX_PIXELS = 96  # the longer side of a picture


@register_callback("sample_predictions")
class SamplePredictions:
    """Writes `samples.jsonl` at every evaluation: the predictions for the first examples of a
    split, one JSON object a line.

    The keys are step, split, index (of the example in the split), `picture` where inputs are
    pictures and Pillow is installed, a small PNG as a data URL, `prediction`, and `label` if the
    data has `labels`. A prediction is the most probable class, by its name if the data has names,
    where labels are whole numbers, and else the network's output; of more than 16 numbers, the
    first 16.

    Args:
        context: what every callback is given.
        count: how many examples, 1 or more.
        split: of which split, as events name it; None: the first evaluation split.

    Raises:
        AetheriaError: `count` is below 1, or there is no such split.
    """

    def __init__(self, context: RunContext, count: int = 8, split: str | None = None):
        splits = (*context.eval_splits, "test")
        if count < 1 or (split is not None and split not in splits):
            raise AetheriaError(
                f"sample_predictions: expected count of 1 or more and split one of "
                f"{', '.join(splits)}, got {count} and {split!r}; change them in callbacks"
            )
        self._count, self._split = count, split or context.eval_splits[0]
        self._file = LineFile(context.run_dir / "samples.jsonl", step_of_json)

    def notify(self, event: Event) -> None:
        """Opens the file, and drops what a resumed run writes again."""
        self._file.follow(event)

    def inspect(self, event: EvaluationCompleted, probe: "Probe") -> None:
        """Writes the predictions of an evaluation."""
        if event.split != self._split:
            return
        examples = probe.examples(self._count)
        inputs, labels = examples["inputs"], examples.get("labels")
        outputs = probe.predict(inputs)
        if not isinstance(outputs, np.ndarray):
            raise AetheriaError(
                "sample_predictions: expected a model that predicts one array, got a "
                f"{type(outputs).__name__}; write a callback with a method inspect for it"
            )
        pictures, rows = _pictures(inputs), []
        for index, output in enumerate(outputs):
            row = {"step": event.progress.step, "split": event.split, "index": index}
            if pictures:
                row["picture"] = pictures[index]
            if isinstance(labels, np.ndarray):
                row["prediction"] = _prediction(output, labels[index], probe.classes)
                row["label"] = _shown(labels[index], probe.classes)
            else:  # a model of tokens predicts the next of each
                like = inputs[index] if isinstance(inputs, np.ndarray) else output
                row["prediction"] = _prediction(output, like, ())
            rows.append(json.dumps(row))
        self._file.append(*rows)


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


def _pictures(inputs: Any) -> list[str]:
    """Data URLs of pictures [count, height, width, 1 or 3]; none if inputs are something else."""
    if isinstance(inputs, Mapping) or inputs.ndim != 4 or inputs.shape[-1] not in (1, 3):
        return []
    try:
        from PIL import Image
    except ImportError:
        return []
    urls = []
    for pixels in inputs:
        drawn = _as_bytes(pixels)
        image = Image.fromarray(drawn[..., 0] if drawn.shape[-1] == 1 else drawn)
        image.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
        file = io.BytesIO()
        image.save(file, "PNG")
        urls.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return urls


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels u8: as they are, or of [0, 1]; standardized ones are stretched from the least to the
    most.
    """
    if pixels.dtype == np.uint8:
        return pixels
    wide = np.nan_to_num(pixels.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = min(float(wide.min()), 0.0), max(float(wide.max()), 1.0)
    if low < 0.0 or high > 1.0:
        low, high = float(wide.min()), float(wide.max())
    return np.round((wide - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
