"""`aetheria export SNAPSHOT`: weights or the whole prediction of a snapshot, for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from aetheria.cli import values
from aetheria.cli.fields import ModelFields
from aetheria.cli.flag import Argument, Flag
from aetheria.errors import AetheriaError, ExitCode

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx"}


def _platforms(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not set(names) <= {*_PLATFORMS} or len({*names}) < len(names):
        raise ValueError(f"expected some of {', '.join(_PLATFORMS)}, got {text!r}")
    return names


@dataclass(frozen=True, kw_only=True)
class ExportCommand(ModelFields):
    """Writes a snapshot for other programs: its weights, or its whole prediction.

    Examples:
        aetheria export runs/mlp/1 --to=mlp.safetensors --format=safetensors
        aetheria export runs/mlp/1/checkpoints/snapshot_ep2 --to=exported --format=stablehlo

    Exit codes:
        0: written
        2: a mistake

    Attributes:
        snapshot: a snapshot, or a run folder.
        to: what to write, which may not exist yet.
        format: what to write. pytorch: weights under PyTorch's names, in a .safetensors or .pt
            file, or a folder with the weights and the config. safetensors: weights under JAX's
            names, of any model. stablehlo: a folder with the prediction as a program and its
            weights, which runs without Aetheria. onnx: the prediction as an .onnx file.
        platforms: where the program of stablehlo runs: some of cpu, cuda, rocm, tpu.
        batch_size: the only number of rows that the program of stablehlo or onnx takes (default:
            any).
        project: the folder that contains your models/ (default: the current folder).
    """

    snapshot: Annotated[str, Argument()]
    to: Annotated[Path, Flag(values.local_path, "PATH")]
    format: Literal["pytorch", "safetensors", "stablehlo", "onnx"] = "pytorch"
    platforms: Annotated[tuple[str, ...], Flag(_platforms, "NAME,NAME")] = ("cpu",)
    batch_size: Annotated[int | None, Flag(values.positive("a batch size"), "N")] = None

    def execute(self) -> int:
        """Writes the export, prints a summary, and returns the exit code.

        Raises:
            AetheriaError: the snapshot is missing or damaged, or cannot be written in this format.
        """
        self._check()
        from aetheria.plugins.discovery import find_project
        from aetheria.snapshots import read_snapshot
        from aetheria.snapshots.finding import find_snapshot
        from aetheria.snapshots.run_folder import newest_runs
        from aetheria.tools.weights.exports import export_snapshot

        snapshot = read_snapshot(find_snapshot(self.snapshot, newest_runs()[:1]))
        arrays = export_snapshot(
            snapshot,
            self.to,
            find_project(None, self.project),
            self.model,
            format=self.format,
            platforms=self.platforms,
            batch_size=self.batch_size,
        )
        averaged = any("averaged_params" in path.split("/") for path in snapshot.arrays)
        size = sum(array.nbytes for array in arrays.values()) / 1e6
        print(
            f"exported {snapshot.path} (step {snapshot.record.progress.step}, verified"
            f"{', averaged parameters' if averaged else ''}) to {self.to}: {len(arrays)} tensors, "
            f"{size:.1f} MB"
        )
        return int(ExitCode.OK)

    def _check(self) -> None:
        """Raises AetheriaError if an option does not belong to the format."""
        suffix = _SUFFIXES.get(self.format)
        if suffix is not None and self.to.suffix != suffix:
            raise AetheriaError(
                f"--to: expected a name that ends in {suffix} with --format {self.format}, got "
                f"{self.to}; name it so"
            )
        if self.platforms != ("cpu",) and self.format != "stablehlo":
            raise AetheriaError(
                f"--platforms: expected --format stablehlo, got {self.format}; leave it out"
            )
        if self.batch_size is not None and self.format not in ("stablehlo", "onnx"):
            raise AetheriaError(
                f"--batch-size: expected --format stablehlo or onnx, got {self.format}; leave it "
                "out"
            )
