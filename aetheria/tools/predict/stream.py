"""Predicts for an input block by block: in order, reading ahead, and holding a few blocks alone."""

from collections.abc import Generator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from aetheria.data.prefetch import prefetch
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError
from aetheria.inference import Predictor
from aetheria.tools.predict.formats import Format
from aetheria.tools.predict.partial import PartialFile
from aetheria.tools.predict.progress import ProgressReport
from aetheria.tools.predict.rows import Expected, Input

_MAX_BLOCK_BYTES = 64 << 20
_MAX_BLOCK_ROWS = 1024


class Written(NamedTuple):
    """What a prediction has written: all rows of the file, and those of an earlier start."""

    num_rows: int
    num_earlier: int


def expected_by(predictor: Predictor) -> Expected:
    """What a predictor's model was trained on."""
    return Expected(predictor.encoding, predictor.input_spec)


def default_batch_size(expected: Expected) -> int:
    """The most rows, a power of two up to 1024, whose inputs take 64 MiB."""
    fits = _MAX_BLOCK_BYTES // max(expected.example_bytes, 1)
    return min(_MAX_BLOCK_ROWS, 1 << max(fits.bit_length() - 1, 0))


def predict_input(
    predictor: Predictor, source: Input, *, start: int, batch_size: int, probabilities: bool
) -> Generator[Any, None, None]:
    """Yields the outputs of `batch_size` rows each, from row `start` on. A thread reads ahead."""
    predict = predictor.predict_proba if probabilities else predictor.predict
    with closing(prefetch(source.blocks(start, batch_size))) as blocks:
        for inputs in blocks:
            yield predict(inputs)


def write_file(
    predictor: Predictor,
    source: Input,
    file: PartialFile,
    form: Format,
    *,
    batch_size: int,
    probabilities: bool,
) -> Written:
    """Predicts for what a partial file lacks, and completes it.

    Blocks begin at the same rows in every start, so that each row is computed in the same batch.
    """
    earlier, like = file.num_rows, _noted_like(file.about)
    progress = ProgressReport(source.num_rows, earlier)
    try:
        if earlier != source.num_rows:
            outputs = predict_input(
                predictor,
                source,
                start=earlier,
                batch_size=batch_size,
                probabilities=probabilities,
            )
            for each in outputs:
                block = as_array(each)
                data = form.rows(block, file.num_rows)
                if like is None:
                    like = block[:0]
                    file.about = {"shape": list(block.shape[1:]), "dtype": block.dtype.str}
                    data = form.head(block) + data
                file.append(data, len(block))
                progress.add(len(block))
    finally:
        progress.end()
    assert like is not None, "an input has rows"
    num_rows, of_block = file.num_rows, like
    file.finish(lambda written: form.finish(written, of_block, num_rows))
    return Written(num_rows, earlier)


def as_array(outputs: Any) -> np.ndarray:
    """Outputs as they are written; raises AetheriaError if a model has several."""
    if not hasattr(outputs, "dtype"):
        raise AetheriaError(
            f"output: expected a model with one array of outputs, got a {type(outputs).__name__}; "
            "use aetheria.predict.predict_batches from Python"
        )
    array = np.ascontiguousarray(outputs)
    # Of bfloat16, which NumPy's files have no name for, the values are kept exactly.
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def _noted_like(about: JsonObject) -> np.ndarray | None:
    """A block of no rows like those that an earlier start wrote; None: it wrote none."""
    match about:
        case {"shape": [*shape], "dtype": str() as dtype} if all(type(d) is int for d in shape):
            return np.zeros((0, *shape), np.dtype(dtype))  # pyright: ignore[reportArgumentType]
    return None
