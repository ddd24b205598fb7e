"""`aetheria export` and `aetheria import`: weights to PyTorch, and from it."""

from dataclasses import dataclass, replace
from pathlib import Path

from aetheria.config import MODEL_KEYS, Config
from aetheria.config.files import load_config, override
from aetheria.errors import ExitCode

_FIRST = "snapshot_step0"


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Command: writes the weights of a snapshot under PyTorch's names.

    Attributes:
        snapshot: the path of a snapshot, or of a run.
        to: a `.safetensors` or `.pt` file, or a folder.
        project: the project folder; None: the current one.
        model: a registered name or `pkg.mod:Name`; None: the snapshot's own, a registered one.
        traceback: print the whole traceback of an error, not the user's own frames alone.
    """

    snapshot: str
    to: Path
    project: str | Path | None = None
    model: str | None = None
    traceback: bool = False

    def execute(self) -> int:
        """Writes, says what, and returns the exit code.

        Raises:
            AetheriaError: no such snapshot, a damaged one, or a model without a twin.
        """
        from aetheria.plugins.discovery import find_project
        from aetheria.snapshots import read_snapshot
        from aetheria.snapshots.finding import find_snapshot
        from aetheria.snapshots.run_folder import newest_runs
        from aetheria.tools.weights.weights import export_weights

        snapshot = read_snapshot(find_snapshot(self.snapshot, newest_runs()[:1]))
        project = find_project(None, self.project)
        tensors = export_weights(snapshot, self.to, project, self.model)
        averaged = any("averaged_params" in path.split("/") for path in snapshot.arrays)
        size = sum(array.nbytes for array in tensors.values()) / 1e6
        print(
            f"exported {snapshot.path} (step {snapshot.record.progress.step}, verified"
            f"{', averaged parameters' if averaged else ''}) to {self.to}: {len(tensors)} tensors, "
            f"{size:.1f} MB"
        )
        return int(ExitCode.OK)


@dataclass(frozen=True, kw_only=True)
class ImportCommand:
    """Command: makes a run folder whose first snapshot has the weights of a file.

    Attributes:
        file: `.safetensors` or `.pt`, or a folder that was exported.
        model: a registered name or `pkg.mod:Name`; None: what the config says, or the file, whose
            name is looked up among registered models only.
        workdir: the run folder.
        config_file: what the weights are to be trained with; None: the keys given, and defaults.
        overrides: `key=value` texts applied to it.
        input_shape: of one example, where nobody else says it.
        overwrite: whether an earlier run in `workdir` may be removed.
        project: the project folder; None: found from the config file.
        traceback: print the whole traceback of an error, not the user's own frames alone.
    """

    file: Path
    workdir: Path
    model: str | None = None
    config_file: Path | None = None
    overrides: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None
    overwrite: bool = False
    project: str | Path | None = None
    traceback: bool = False

    def execute(self) -> int:
        """Reads, checks, writes, and returns the exit code.

        Raises:
            AetheriaError: the file is not sound or another model's, or the folder holds a run.
        """
        config = self._config()
        from aetheria.plugins.discovery import find_project
        from aetheria.snapshots.claim import claim
        from aetheria.snapshots.run_folder import CHECKPOINTS
        from aetheria.snapshots.runs import RunRequest
        from aetheria.snapshots.snapshot_files import write_snapshot
        from aetheria.tools.weights.weights import (
            WeightsRequest,
            first_snapshot,
            read_weights,
            spec_of_data,
        )

        plan = RunRequest(
            config_name="import", workdir=self.workdir, overwrite=self.overwrite
        ).resolve()
        project = find_project(self.config_file, self.project)
        shorts = {k: v for k in MODEL_KEYS if (v := getattr(config, k)) is not None}
        weights = read_weights(
            self.file,
            WeightsRequest(
                config.model_name or None,
                {**config.model_params, **shorts},
                project,
                self.input_shape,
                spec_of_data(config, project) if self.config_file else None,
            ),
        )
        own = {k: v for k, v in weights.model.params.items() if k not in shorts}
        config = replace(config, model_name=weights.model.name, model_params=own)
        arrays, record = first_snapshot(weights, config, project)
        path = self.workdir / CHECKPOINTS / _FIRST
        with claim(plan) as plan:
            plan.prepare(config.to_dict())
            write_snapshot(path, arrays, record)
        print(f"imported {self.file} as {config.model_name}: {path} (step 0)")
        return int(ExitCode.OK)

    def _config(self) -> Config:
        """The config as far as it is known without the file."""
        named = [] if self.model is None else [f"model_name={self.model}"]
        overrides = [*named, *self.overrides]
        if self.config_file is not None:
            return load_config(self.config_file, overrides)
        return override({"model_name": ""}, overrides, "aetheria import")
