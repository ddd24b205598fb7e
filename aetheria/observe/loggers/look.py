"""What a logger shows of the model at evaluations: histograms of the parameters, and samples.

Loaded by a logger that is asked for these alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Histogram
from aetheria.observe.confusion import confusion_counts, confusion_table, draw_confusion
from aetheria.observe.pictures import encode_png
from aetheria.observe.probe import Probe
from aetheria.observe.samples import read_samples


@dataclass(frozen=True, kw_only=True)
class Images:
    """Pictures of one size.

    Attributes:
        width: in pixels.
        height: likewise.
        files: PNG files.
        captions: of each; none: they have none.
    """

    width: int
    height: int
    files: list[bytes]
    captions: list[str]


class Table(NamedTuple):
    """A table of texts.

    Attributes:
        columns: their names.
        rows: each with a text for each column.
    """

    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class View:
    """What is to be shown of one evaluation.

    Attributes:
        histograms: of the parameters, with names such as `params/Dense_0/kernel`.
        images: with names such as `eval/images/inputs`.
        tables: with names such as `eval/predictions`.
    """

    histograms: Mapping[str, Histogram]
    images: Mapping[str, Images]
    tables: Mapping[str, Table]


class Look:
    """Looks at the model through the probe.

    Args:
        where: the logger, such as `loggers.wandb`.
        histograms: whether to count the values of every parameter.
        samples: how many examples of each split to show, and the confusion matrix if it is among
            the metrics; 0: none.

    Raises:
        AetheriaError: `samples` is negative.
    """

    def __init__(self, where: str, *, histograms: bool, samples: int):
        if samples < 0:
            raise AetheriaError(f"{where}.samples: expected 0 or more, got {samples}; change it")
        self._histograms, self._samples = histograms, samples
        self._seen_step = -1

    def __call__(self, event: EvaluationCompleted, probe: Probe) -> View:
        """Looks at the model after an evaluation."""
        step, split = event.progress.step, event.split
        histograms: dict[str, Histogram] = {}
        images: dict[str, Images] = {}
        tables: dict[str, Table] = {}
        if self._histograms and step != self._seen_step:  # several splits have one state
            found = probe.parameter_histograms()
            histograms = {
                f"params/{name}": Histogram(tuple(each.edges.tolist()), tuple(each.counts.tolist()))
                for name, each in found.items()
            }
        self._seen_step = step
        if self._samples:
            shown = read_samples(probe, self._samples)
            captions = [_caption(row) for row in shown.rows]
            for name, pictures in shown.images.items():
                images[f"{split}/images/{name}"] = _images(pictures, captions)
            if shown.rows:
                rows = [[str(value) for value in row.values()] for row in shown.rows]
                tables[f"{split}/predictions"] = Table(list(shown.rows[0]), rows)
            if (counts := confusion_counts(event.metrics)) is not None:
                images[f"{split}/images/confusion"] = _images(draw_confusion(counts)[None], [])
                tables[f"{split}/confusion"] = Table(*confusion_table(counts, probe.classes))
        return View(histograms=histograms, images=images, tables=tables)

    def go_back(self) -> None:
        """The run has gone back: evaluations of the same step are looked at again."""
        self._seen_step = -1


def _images(pictures: np.ndarray, captions: list[str]) -> Images:
    """Encodes pictures u8 [count, height, width, 1 or 3]."""
    height, width = pictures.shape[1:3]
    files = [encode_png(picture) for picture in pictures]
    return Images(width=width, height=height, files=files, captions=captions)


def _caption(row: Mapping[str, Any]) -> str:
    """Says what a model predicts for a picture.

    >>> _caption({"index": 3, "prediction": "cat", "label": "dog"})
    'prediction: cat, label: dog'
    """
    return ", ".join(f"{name}: {value}" for name, value in row.items() if name != "index")


def markdown_table(table: Table) -> str:
    """Writes a table in Markdown.

    >>> print(markdown_table(Table(["index", "prediction"], [["0", "a|b"]])))
    | index | prediction |
    |---|---|
    | 0 | a\\|b |
    """
    lines = [[text.replace("|", "\\|") for text in line] for line in (table.columns, *table.rows)]
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|---" * len(table.columns) + "|", *body])
