"""`aetheria eval RUN`: every metric of a snapshot, on the data of its run or on other data."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from aetheria.cli import values
from aetheria.cli.fields import ModelFields
from aetheria.cli.flag import Argument, Flag
from aetheria.cli.table import print_table
from aetheria.errors import AetheriaError, ExitCode, shown

if TYPE_CHECKING:
    from aetheria.tools.evaluate.evaluation import Evaluated


def _names(text: str) -> tuple[str, ...]:
    """Reads names, separated by commas.

    >>> _names("f1,auroc")
    ('f1', 'auroc')
    """
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise ValueError(f"expected names separated by commas, got {shown(text)}")
    return found


@dataclass(frozen=True, kw_only=True)
class EvalCommand(ModelFields):
    """Evaluates a snapshot with every metric that its training reports.

    Examples:
        aetheria eval runs/mlp/1@best --split=test
        aetheria eval runs/mlp/1 --data=new.csv --metrics=f1,auroc --output=scores.json

    Exit codes:
        0: evaluated
        2: a mistake

    Attributes:
        run: a run folder, RUN@best, RUN@latest, RUN@STEP, or a snapshot.
        split: eval (all evaluation splits), the name of one of several, test, or train.
        data: a .csv, .parquet or .npz file, or a folder of pictures, to evaluate on in place of the
            run's own data; it has the columns of training.
        metrics: metrics to compute beside the means, such as f1,auroc,confusion (default: those of
            training).
        strategy: where to compute (default: as in training).
        data_name: the dataset, if the snapshot contains an import path, which is not followed.
        output: a .json file to write the result to.
        overwrite: replace the file in --output.
        as_json: print only JSON.
        project: the folder that contains your models/ and data/ (default: the current folder).
    """

    run: Annotated[str, Argument()]
    split: Annotated[str, Flag(metavar="NAME")] = "eval"
    data: Annotated[Path | None, Flag(values.local_path, "PATH")] = None
    metrics: Annotated[tuple[str, ...] | None, Flag(_names, "NAME,...")] = None
    strategy: Literal["auto", "cpu", "gpu", "mesh"] | None = None
    data_name: Annotated[str | None, Flag(metavar="NAME")] = None
    output: Annotated[Path | None, Flag(values.local_path, "FILE")] = None
    overwrite: bool = False
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Evaluates, prints, and returns the exit code.

        Raises:
            AetheriaError: the snapshot, the split or the data is missing or does not fit.
        """
        self._check()
        from aetheria.plugins.discovery import find_project
        from aetheria.snapshots.run_folder import write_json
        from aetheria.tools.evaluate.evaluation import EvaluationRequest, evaluate_snapshot
        from aetheria.tools.evaluate.text import as_json

        request = EvaluationRequest(
            split=self.split,
            data=self.data,
            metrics=self.metrics,
            strategy=self.strategy,
            project=find_project(None, self.project),
            model_name=self.model,
            data_name=self.data_name,
        )
        evaluated = evaluate_snapshot(self.run, request)
        result = as_json(evaluated)
        if self.output is not None:
            try:
                write_json(self.output, result)
            except OSError as error:
                raise AetheriaError(
                    f"--output: expected a file that can be written, got {self.output} "
                    f"({error.strerror}); name another"
                ) from error
        if self.as_json:
            print(json.dumps(result, indent=2))
        else:
            _print(evaluated)
        return int(ExitCode.OK)

    def _check(self) -> None:
        """Raises AetheriaError for options that exclude each other, before anything is loaded."""
        if self.data is not None and self.split != "eval":
            raise AetheriaError(
                f"--split: expected none with --data, which is evaluated as a whole, got "
                f"{self.split!r}; leave one of them out"
            )
        if self.output is None:
            return
        if self.output.suffix.lower() != ".json":
            raise AetheriaError(f"--output: expected a .json file, got {self.output}; name it so")
        if self.output.exists() and not self.overwrite:
            raise AetheriaError(
                f"--output: expected a file that is not there yet, got {self.output}; name "
                "another, or add --overwrite"
            )


def _print(evaluated: "Evaluated") -> None:
    from aetheria.tools.evaluate.text import confusion_matrix, metric_rows

    averaged = ", averaged parameters" if evaluated.averaged else ""
    print(f"{evaluated.snapshot} (step {evaluated.step}, verified{averaged})")
    for split, each in evaluated.splits.items():
        print(f"{split}: {each.num_examples} examples in {each.seconds:.1f} s")
    rows = metric_rows(evaluated)
    headers = ["metric", "value", "in training"]
    if not any(recorded for _, _, recorded in rows):
        headers, rows = headers[:2], [row[:2] for row in rows]
    print_table(headers, rows, right=headers[1:])
    for split, each in evaluated.splits.items():
        if (matrix := confusion_matrix(each.metrics, evaluated.classes)) is not None:
            print(f"confusion matrix of {split}")
            print_table(matrix[0], matrix[1], right=matrix[0][1:])
        if each.bad.first:
            print(f"{split}: not finite: {each.bad.first}", file=sys.stderr)
