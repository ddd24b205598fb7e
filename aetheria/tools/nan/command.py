"""`aetheria debug nan`: why a global batch gave a non-finite loss, gradient, update or state."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aetheria.cli import values
from aetheria.cli.fields import ModelFields
from aetheria.cli.flag import Argument
from aetheria.errors import ExitCode

if TYPE_CHECKING:
    import numpy as np

    from aetheria.tools.nan.replay import Finding


@dataclass(frozen=True, kw_only=True)
class DebugNanCommand(ModelFields):
    """Replays the dump of a non-finite global batch and finds the first non-finite value.

    Attributes:
        dump: a folder in dumps/ of a run.
        project: the folder that contains your models/ (default: the current folder).
    """

    dump: Annotated[Path, Argument(values.local_path)]

    def execute(self) -> int:
        """Replays, prints, and returns the exit code: 0 if the cause was found, 1 if everything is
        finite in the replay.

        Raises:
            AetheriaError: the folder is not a dump, it is damaged, or its model cannot be built.
        """
        from aetheria.snapshots.dumps import read_dump
        from aetheria.tools.nan.text import describe

        snapshot, global_batch = read_dump(self.dump)
        record = snapshot.record
        finding = self._find(snapshot.arrays, global_batch, record)
        for name, text in describe(finding, record, global_batch):
            print(f"{name:10} {text}")
        return int(ExitCode.FAILED if finding is None else ExitCode.OK)

    def _find(
        self,
        arrays: Mapping[str, "np.ndarray"],
        global_batch: Mapping[str, "np.ndarray"],
        record: Mapping[str, Any],
    ) -> "Finding | None":
        from aetheria.build import is_elastic
        from aetheria.build.provenance import model_params
        from aetheria.config import make_config
        from aetheria.model.by_name import remake_model
        from aetheria.plugins.bounded import build_described
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.nan.replay import Replay

        config = make_config(record["config"], str(self.dump))
        described = {
            "model_name": self.model or config.model_name,
            "model_params": model_params(config),
            "resolved": record.get("resolved", {}),
        }
        project = find_project(None, self.project)
        model = remake_model(described, str(self.dump), project, self.model).model
        build = lambda: Replay(
            model,
            mixed_precision=config.mixed_precision,
            carries_state=not is_elastic(config),  # all lanes start from the same state
            arrays=arrays,
            global_batch=global_batch,
            step=record["step"],
            total_steps=record.get("total_steps", 1),
        )
        return build_described(build, str(self.dump), len(arrays)).find()
