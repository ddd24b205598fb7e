"""`aetheria debug nan`: why a global batch gave a non-finite loss, gradient, update or state."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aetheria.cli import values
from aetheria.cli.fields import ModelFields
from aetheria.cli.flag import Argument
from aetheria.errors import ExitCode

if TYPE_CHECKING:
    from aetheria.tools.nan.dump import Dump
    from aetheria.tools.nan.replay import Finding


@dataclass(frozen=True, kw_only=True)
class DebugNanCommand(ModelFields):
    """Replays the dump of a non-finite global batch and finds the first non-finite value.

    Examples:
        aetheria debug nan runs/mlp/1/dumps/nonfinite_step13
        aetheria debug nan run/dumps/nonfinite_step13 --project=.

    Exit codes:
        0: the cause was found
        1: everything is finite in the replay
        2: a mistake

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
        from aetheria.tools.nan.dump import read_dump
        from aetheria.tools.nan.text import describe

        dump = read_dump(self.dump)
        finding = self._find(dump)
        for name, text in describe(finding, dump):
            print(f"{name:10} {text}")
        return int(ExitCode.FAILED if finding is None else ExitCode.OK)

    def _find(self, dump: "Dump") -> "Finding | None":
        import jax

        from aetheria.build import is_elastic
        from aetheria.build.provenance import model_params, recorded_model
        from aetheria.config import make_config
        from aetheria.hardware.hidden_gpus import stay_where_it_was
        from aetheria.model.by_name import remake_model
        from aetheria.plugins.bounded import build_described
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.nan.replay import Replay

        record = dump.record
        stay_where_it_was(os.environ, record.run.machine)
        if "JAX_PLATFORMS" in os.environ:  # jax came with what reads a dump, but has not started
            jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
        config = make_config(record.run.config, str(self.dump))
        said = recorded_model(record.run)._replace(
            name=self.model or config.model_name, params=model_params(config)
        )
        project = find_project(None, self.project)
        model = remake_model(said, str(self.dump), project, self.model).model
        build = lambda: Replay(
            model,
            mixed_precision=config.mixed_precision,
            carries_state=not is_elastic(config),  # all lanes start from the same state
            arrays=dump.arrays,
            global_batch=dump.global_batch,
            step=dump.record.step,
            total_steps=dump.record.total_steps or 1,
        )
        return build_described(build, str(self.dump), len(dump.arrays)).find()
