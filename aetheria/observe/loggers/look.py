"""What a logger shows of the model at evaluations: histograms of the parameters, and samples.

Loaded by a logger that is asked for these alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Histogram
from aetheria.observe.pictures import encode_png
from aetheria.observe.probe import Probe
from aetheria.observe.samples import read_samples


@dataclass(frozen=True, kw_only=True)
class Images:
    """Pictures of one size.

    Attributes:
        width: in pixels.
        height: likewise.
        files: PNG files, one an example.
    """

    width: int
    height: int
    files: list[bytes]


@dataclass(frozen=True, kw_only=True)
class View:
    """What is to be shown of one evaluation.

    Attributes:
        histograms: of the parameters, with names such as `params/Dense_0/kernel`.
        images: with names such as `eval/images/inputs`.
        rows: of each sample, its index, prediction and label, JSON values.
    """

    histograms: Mapping[str, Histogram]
    images: Mapping[str, Images]
    rows: list[dict[str, Any]]


class Look:
    """Looks at the model through the probe.

    Args:
        where: the logger, such as `loggers.wandb`.
        histograms: whether to count the values of every parameter.
        samples: how many examples of each split to show; 0: none.

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
        step, histograms, images, rows = event.progress.step, {}, {}, []
        if self._histograms and step != self._seen_step:  # several splits have one state
            found = probe.parameter_histograms()
            histograms = {
                f"params/{name}": Histogram(tuple(each.edges.tolist()), tuple(each.counts.tolist()))
                for name, each in found.items()
            }
        self._seen_step = step
        if self._samples:
            shown = read_samples(probe, self._samples)
            rows = shown.rows
            for name, pictures in shown.images.items():
                height, width = pictures.shape[1:3]
                files = [encode_png(picture) for picture in pictures]
                images[f"{event.split}/images/{name}"] = Images(
                    width=width, height=height, files=files
                )
        return View(histograms=histograms, images=images, rows=rows)

    def go_back(self) -> None:
        """The run has gone back: evaluations of the same step are looked at again."""
        self._seen_step = -1


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Writes rows as a table of Markdown.

    >>> print(markdown_table([{"index": 0, "prediction": "a|b"}]))
    | index | prediction |
    |---|---|
    | 0 | a\\|b |
    """
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row[name]).replace("|", "\\|") for name in columns] for row in rows]
    head, rule, *body = lines
    framed = [f"| {' | '.join(line)} |" for line in body]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *framed])
