"""`aetheria import FILE`: a run folder of the weights in a file."""

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
class ImportCommand(OverrideFields, ModelFields):
    """Creates a run folder whose first snapshot has the weights of a file.

    Examples:
        aetheria import mlp.safetensors --config=configs/mlp.py --workdir=run
        aetheria import mlp.safetensors --workdir=run --set model_params.num_classes=2 --partial

    Exit codes:
        0: created
        2: a mistake

    Attributes:
        file: a .safetensors file with JAX's or PyTorch's names, a .pt file, or an exported folder.
        workdir: the run folder.
        config_file: the config to train the weights with (default: the keys given with --set).
        input_shape: the shape of one example, such as 28,28,1, if neither the file nor the config
            nor the model specifies it.
        partial: keep the model's own values where the file lacks a leaf or has another shape, such
            as of a new last layer, and print which (default: that is a mistake); JAX's names only.
        overwrite: replace an earlier run in --workdir.
    """

    file: Annotated[Path, Argument(values.local_path)]
    workdir: Annotated[Path, Flag(values.local_path, "DIR")]
    config_file: Annotated[Path | None, Flag(values.local_path, "FILE", name="config")] = None
    input_shape: Annotated[tuple[int, ...] | None, Flag(values.positives, "N,N")] = None
    partial: bool = False
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
                self.partial,
            ),
        )
        own = {k: v for k, v in weights.model.params.items() if k not in shorts}
        config = replace(config, model_name=weights.model.name, model_params=own)
        arrays, record = first_snapshot(weights, config, project)
        path = self.workdir / CHECKPOINTS / _FIRST
        with claim(plan) as plan:
            plan.prepare(config.to_dict())
            write_snapshot(path, arrays, record)
        if weights.report is not None:
            print(f"{self.file}: {weights.report}")
        print(f"imported {self.file} as {config.model_name}: {path} (step 0)")
        return int(ExitCode.OK)

    def _config(self) -> Config:
        """The config, as far as it is known without the weights."""
        named = [] if self.model is None else [f"model_name={self.model}"]
        overrides = [*named, *self.overrides]
        if self.config_file is not None:
            return load_config(self.config_file, overrides)
        return override({"model_name": ""}, overrides, "aetheria import")
