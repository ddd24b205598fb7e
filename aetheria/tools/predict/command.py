"""`aetheria predict RUN`: predictions for a file of any length."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aetheria.cli import values
from aetheria.cli.fields import ModelFields
from aetheria.cli.flag import Argument, Flag
from aetheria.errors import AetheriaError, ExitCode, shown

if TYPE_CHECKING:
    from aetheria.inference import Predictor
    from aetheria.tools.predict.rows import Input

_KINDS = ("npy", "csv", "jsonl", "parquet")


def _path_or_dash(text: str) -> str:
    """Reads a path on a mounted file system, or `-`.

    >>> _path_or_dash("-"), _path_or_dash("x.csv")
    ('-', 'x.csv')
    """
    if text.startswith("--"):
        raise ValueError("expected a value, got none")
    return str(values.local_path(text))


@dataclass(frozen=True, kw_only=True)
class PredictCommand(ModelFields):
    """Predicts for a file or a folder of pictures, in bounded memory. An interrupted prediction
    continues when the same command runs again.

    Examples:
        aetheria predict runs/mlp/1@best --input=new.csv --output=answers.csv --proba
        aetheria predict runs/mlp/1 --input=x.npy --output=y.npy --batch-size=4096

    Exit codes:
        0: written
        1: the reader of stdout has exited
        2: a mistake
        75: interrupted; the same command continues

    Attributes:
        run: a run folder, RUN@best, RUN@latest, RUN@STEP, a snapshot, or a file of weights.
        input: a .npy, .npz, .csv, .jsonl or .parquet file, a folder of pictures, or - for CSV or
            JSON lines on stdin.
        output: a .npy, .csv, .jsonl or .parquet file, or - for stdout, in the format of the input
            if that is CSV or JSON lines, else in CSV.
        proba: class probabilities; in a table, beside the class.
        batch_size: rows to compute at a time (default: 1024, fewer if they take over 64 MiB).
        overwrite: replace the file in --output, and begin anew where it is partial of something
            else.
        project: the folder that contains your models/ (default: the current folder).
    """

    run: Annotated[str, Argument()]
    input: Annotated[str, Flag(_path_or_dash, "PATH", takes_dash=True)]
    output: Annotated[str, Flag(_path_or_dash, "FILE", takes_dash=True)]
    proba: bool = False
    batch_size: Annotated[int | None, Flag(values.whole(1, 1 << 20), "N")] = None
    overwrite: bool = False

    def execute(self) -> int:
        """Predicts, writes, and returns the exit code.

        Raises:
            AetheriaError: the snapshot or the input is missing or does not fit.
        """
        kind = self._check_output()
        from aetheria.tools.predict.inputs import open_input
        from aetheria.tools.predict.stream import default_batch_size, expected_by
        from aetheria.tools.predict.tables import open_stdin

        with _plain_warnings():
            predictor = self._predictor()
            expected = expected_by(predictor)
            if self.input == "-":
                source, format_of_input = open_stdin(expected)
            else:
                source = open_input(Path(self.input), expected)
                format_of_input = Path(self.input).suffix.lower().removeprefix(".")
            size = self.batch_size or default_batch_size(expected)
            if kind is None:
                kind = "jsonl" if format_of_input == "jsonl" else "csv"
                return self._print(predictor, source, kind, size)
            return self._write(predictor, source, kind, size)

    def _check_output(self) -> str | None:
        """The format of the file to write; None: stdout. Loads nothing."""
        if self.output == "-":
            return None
        kind = Path(self.output).suffix.lower().removeprefix(".")
        if kind not in _KINDS:
            raise AetheriaError(
                "--output: expected a .npy, .csv, .jsonl or .parquet file, or - for stdout, got "
                f"{shown(self.output)}; name it so"
            )
        if Path(self.output).exists() and not self.overwrite:
            raise AetheriaError(
                f"--output: expected a file that is not there yet, got {self.output}; name "
                "another, or add --overwrite"
            )
        return kind

    def _predictor(self) -> "Predictor":
        from aetheria.hardware.jax.prediction import power_of_two
        from aetheria.inference import Predictor
        from aetheria.plugins.discovery import find_project

        options: dict[str, Any] = {"copy": False}
        if self.batch_size is not None:
            options["max_batch_size"] = power_of_two(self.batch_size)
        project = find_project(None, self.project)
        options |= self._model(project)
        return Predictor(checkpoint_path=self.run, project=project, **options)

    def _model(self, project: Path) -> dict[str, Any]:
        """The model that the caller names, with the hyperparameters that the snapshot says."""
        from aetheria.build.weights import looks_like_weights
        from aetheria.tools.predict.identity import remake_under

        if self.model is None:
            return {}
        if looks_like_weights(Path(self.run)):
            return {"model_name": self.model}
        return {"model": remake_under(self.model, self.run, project)}

    def _write(self, predictor: "Predictor", source: "Input", kind: str, batch_size: int) -> int:
        from aetheria.tools.predict.formats import make_format
        from aetheria.tools.predict.identity import identify
        from aetheria.tools.predict.partial import PartialFile
        from aetheria.tools.predict.stream import write_file

        target = Path(self.output).expanduser()
        options = {"proba": self.proba, "batch size": batch_size, "format": kind}
        identity = identify(predictor.snapshot, source, {**options, "model": self.model})
        with PartialFile(target, identity, restart=self.overwrite) as file:
            form = make_format(kind, self._outputs(predictor, source), file.scratch)
            if file.num_rows:
                print(f"{file.path}: continues after {file.num_rows} rows", file=sys.stderr)
            try:
                written = write_file(
                    predictor,
                    source,
                    file,
                    form,
                    batch_size=batch_size,
                    probabilities=self.proba,
                )
            except KeyboardInterrupt:
                kept = f"{file.num_rows} rows are in {file.path}; the same command continues"
                print(f"interrupted: {kept if identity else 'nothing is kept'}", file=sys.stderr)
                return int(ExitCode.PREEMPTED)
        earlier = f", {written.num_earlier} of them earlier" if written.num_earlier else ""
        print(f"{target}: {written.num_rows} rows{earlier}, of {predictor.snapshot} (verified)")
        return int(ExitCode.OK)

    def _print(self, predictor: "Predictor", source: "Input", kind: str, batch_size: int) -> int:
        """Writes to stdout, block by block."""
        from aetheria.tools.predict.formats import make_format
        from aetheria.tools.predict.progress import ProgressReport
        from aetheria.tools.predict.stream import as_array, predict_input

        form = make_format(kind, self._outputs(predictor, source), Path())
        progress, num_rows = ProgressReport(source.num_rows), 0
        outputs = predict_input(
            predictor, source, start=0, batch_size=batch_size, probabilities=self.proba
        )
        try:
            with contextlib.closing(outputs), os.fdopen(os.dup(1), "wb") as stdout:
                for each in outputs:
                    block = as_array(each)
                    head = b"" if num_rows else form.head(block)
                    stdout.write(head + form.rows(block, num_rows))
                    stdout.flush()
                    num_rows += len(block)
                    progress.add(len(block))
        except BrokenPipeError:
            print(f"stdout: its reader has exited after {num_rows} rows", file=sys.stderr)
            return int(ExitCode.FAILED)
        finally:
            progress.end()
        return int(ExitCode.OK)

    def _outputs(self, predictor: "Predictor", source: "Input") -> Any:
        from aetheria.tools.predict.formats import Outputs

        labels = predictor.model.class_columns().get("labels")
        num_classes = 0 if labels is None else labels.count
        return Outputs(predictor.classes, num_classes, self.proba, source.keys)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints a warning of the predictor as one line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
        yield
