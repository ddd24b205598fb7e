"""`aetheria export` and `aetheria import`: weights to PyTorch and from it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.fields import ModelFields, OverrideFields
from aetheria.cli.flag import Argument, Flag
from aetheria.config import MODEL_KEYS, Config
from aetheria.config.files import load_config, override
from aetheria.errors import ExitCode

_FIRST = "snapshot_step0"


@dataclass(frozen=True, kw_only=True)
class ExportCommand(ModelFields):
    """Writes the weights of a snapshot for PyTorch.

    Examples:
        aetheria export runs/mlp/1 --to=mlp.safetensors
        aetheria export runs/mlp/1/checkpoints/snapshot_ep2 --to=exported

    Exit codes:
        0: written
        2: a mistake

    Attributes:
        snapshot: a snapshot, or a run folder.
        to: a .safetensors or .pt file; any other name: a folder with the weights and the config.
        project: the folder that contains your models/ (default: the current folder).
    """

    snapshot: Annotated[str, Argument()]
    to: Annotated[Path, Flag(values.local_path, "FILE")]

    def execute(self) -> int:
        """Writes the weights, prints a summary, and returns the exit code.

        Raises:
            AetheriaError: the snapshot is missing or damaged, or the model has no PyTorch
                counterpart.
        """
        from aetheria.build.weights import export_weights
        from aetheria.plugins.discovery import find_project
        from aetheria.snapshots import read_snapshot
        from aetheria.snapshots.finding import find_snapshot
        from aetheria.snapshots.run_folder import newest_runs

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
class ImportCommand(OverrideFields, ModelFields):
    """Creates a run folder whose first snapshot has the weights of a PyTorch file.

    Examples:
        aetheria import mlp.safetensors --config=configs/mlp.py --workdir=run
        aetheria import exported --workdir=run --set learning_rate=1e-4

    Exit codes:
        0: created
        2: a mistake

    Attributes:
        file: a .safetensors or .pt file, or an exported folder.
        workdir: the run folder.
        config_file: the config to train the weights with (default: the keys given with --set).
        input_shape: the shape of one example, such as 28,28,1, if neither the file nor the config
            nor the model specifies it.
        overwrite: replace an earlier run in --workdir.
    """

    file: Annotated[Path, Argument(values.local_path)]
    workdir: Annotated[Path, Flag(values.local_path, "DIR")]
    config_file: Annotated[Path | None, Flag(values.local_path, "FILE", name="config")] = None
    input_shape: Annotated[tuple[int, ...] | None, Flag(values.positives, "N,N")] = None
    overwrite: bool = False

    def execute(self) -> int:
        """Reads and checks the weights, writes the run folder, and returns the exit code.

        Raises:
            AetheriaError: the file is damaged or belongs to another model, or the folder has a run.
        """
        config = self._config()
        from aetheria.build.weights import (
            WeightsRequest,
            first_snapshot,
            read_weights,
            spec_of_data,
        )
        from aetheria.plugins.discovery import find_project
        from aetheria.snapshots.claim import claim
        from aetheria.snapshots.run_folder import CHECKPOINTS
        from aetheria.snapshots.runs import RunRequest
        from aetheria.snapshots.snapshot_files import write_snapshot

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
        """The config, as far as it is known without the weights."""
        named = [] if self.model is None else [f"model_name={self.model}"]
        overrides = [*named, *self.overrides]
        if self.config_file is not None:
            return load_config(self.config_file, overrides)
        return override({"model_name": ""}, overrides, "aetheria import")
