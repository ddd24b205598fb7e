"""The options of what concerns PyTorch: `parity`, `export`, `import`."""

from typing import Any

from aetheria.cli.argument_types import local_path, positive, positives
from aetheria.cli.options import add_config, add_model, add_overrides, add_project
from aetheria.tools.parity.command import CONTROLS, PRECISIONS, ParityCommand
from aetheria.tools.weights.command import ExportCommand, ImportCommand


def add_parity(commands: Any) -> None:
    """Adds `parity`."""
    parser = commands.add_parser("parity", help="compare PyTorch's steps with JAX's, leaf by leaf")
    add_config(parser)
    add_project(parser)
    parser.add_argument(
        "--steps",
        type=positive("a number"),
        metavar="N",
        help="steps to compare (default: 20, in float32 1)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=ParityCommand.precision,
        help="float64: both run on their own, to 1e-9 for 20 steps and 1e-6 beyond; float32: each "
        "step from the same state, to 1e-5 (default: %(default)s)",
    )
    parser.add_argument(
        "--control",
        choices=CONTROLS,
        help="a known trap for PyTorch's side, which is expected to be caught: the other epsilon, "
        "PyTorch's own clipping, a matrix that is not transposed",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
    parser.set_defaults(
        make_command=lambda o: ParityCommand(
            config_file=o.config,
            overrides=tuple(o.set),
            steps=o.steps,
            precision=o.precision,
            control=o.control,
            as_json=o.json,
            project=o.project,
            traceback=o.traceback,
        )
    )


def add_export(commands: Any) -> None:
    """Adds `export`."""
    parser = commands.add_parser("export", help="write a snapshot's weights for PyTorch")
    parser.add_argument("snapshot", metavar="SNAPSHOT", help="a snapshot, or a run folder")
    parser.add_argument(
        "--to",
        type=local_path,
        required=True,
        metavar="FILE",
        help="a .safetensors or .pt file; any other name: a folder with both weights and config",
    )
    add_model(parser)
    add_project(parser)
    parser.set_defaults(
        make_command=lambda o: ExportCommand(
            snapshot=o.snapshot,
            to=o.to,
            project=o.project,
            model=o.model,
            traceback=o.traceback,
        )
    )


def add_import(commands: Any) -> None:
    """Adds `import`."""
    parser = commands.add_parser("import", help="make a run folder of PyTorch's weights")
    parser.add_argument("file", type=local_path, metavar="FILE", help="a .safetensors or .pt file")
    add_model(parser)
    parser.add_argument(
        "--workdir", type=local_path, required=True, metavar="DIR", help="the run folder"
    )
    parser.add_argument(
        "--config", type=local_path, metavar="FILE", help="what is to be trained with the weights"
    )
    add_overrides(parser)
    parser.add_argument(
        "--input-shape",
        type=positives,
        metavar="N,N",
        help="of one example, such as 28,28,1; where neither file, config nor model says it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --workdir")
    add_project(parser)
    parser.set_defaults(
        make_command=lambda o: ImportCommand(
            file=o.file,
            model=o.model,
            workdir=o.workdir,
            config_file=o.config,
            overrides=tuple(o.set),
            input_shape=o.input_shape,
            overwrite=o.overwrite,
            project=o.project,
            traceback=o.traceback,
        )
    )
