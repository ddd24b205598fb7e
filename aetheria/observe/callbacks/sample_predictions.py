"""A callback that writes what the model predicts for some examples, to be looked at."""

import base64
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Event
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.line_file import LineFile
from aetheria.observe.loggers.records import step_of_json
from aetheria.observe.samples import read_samples
from aetheria.plugins import register_callback

if TYPE_CHECKING:
    from aetheria.observe.probe import Probe

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
        samples = read_samples(probe, self._count)
        if not samples.rows:
            raise AetheriaError(
                "sample_predictions: expected a model that predicts one array, got one that "
                "predicts others; write a callback with a method inspect for it"
            )
        pictures, lines = _pictures(samples.images), []
        for number, row in enumerate(samples.rows):
            head = {"step": event.progress.step, "split": event.split, "index": row["index"]}
            picture = {"picture": pictures[number]} if pictures else {}
            lines.append(json.dumps({**head, **picture, **row}))
        self._file.append(*lines)


def _pictures(images: Mapping[str, np.ndarray]) -> list[str]:
    """Data URLs of the inputs; none if these are no pictures, or Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return []
    urls = []
    for drawn in images.get("inputs", ()):
        image = Image.fromarray(drawn[..., 0] if drawn.shape[-1] == 1 else drawn)
        image.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
        file = io.BytesIO()
        image.save(file, "PNG")
        urls.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return urls
