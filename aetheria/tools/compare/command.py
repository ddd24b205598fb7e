"""`aetheria compare A B`: why two runs differ."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.fields import ModelFields
from aetheria.cli.flag import Argument, Flag
from aetheria.errors import ExitCode


@dataclass(frozen=True, kw_only=True)
class CompareCommand(ModelFields):
    """Says why two runs differ: records, metric lines, snapshots, then the first operation.

    Where they part, the steps after the last common state are computed again under the record of
    each run. Nothing is written.

    Examples:
        aetheria compare runs/mlp/1 runs/mlp/2
        aetheria compare runs/mlp/1 runs/mlp/2 --quick --json

    Exit codes:
        0: they are equal, bit for bit, and of one length
        1: they differ
        2: a mistake, or nothing of both can be compared

    Attributes:
        a: a run folder.
        b: another run folder.
        quick: compute nothing; compare what is in the folders.
        model: the model of both, a registered name or pkg.mod:Name (default: the registered names
            in the folders; an import path there is not followed).
        data_name: the dataset of both (default: the registered names in the folders).
        as_json: print only JSON.
        project: the folder that contains your models/ and data/ (default: the current folder).
    """

    a: Annotated[Path, Argument(values.local_path)]
    b: Annotated[Path, Argument(values.local_path)]
    quick: bool = False
    data_name: Annotated[str | None, Flag(metavar="NAME")] = None
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Compares, prints, and returns the exit code, 1 if the runs differ.

        Raises:
            AetheriaError: a folder is no run, or nothing of both can be compared.
        """
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.compare.building import Chosen
        from aetheria.tools.compare.comparison import compare_runs
        from aetheria.tools.compare.text import as_json, print_page

        chosen = Chosen(
            project=find_project(None, self.project), model=self.model, data=self.data_name
        )
        comparison = compare_runs(self.a, self.b, chosen, quick=self.quick)
        if self.as_json:
            print(json.dumps(as_json(comparison), indent=2))
        else:
            print_page(comparison)
        return int(ExitCode.OK if comparison.equal else ExitCode.FAILED)
