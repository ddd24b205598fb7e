"""`python -m aetheria.main --config=configs/mlp.py [--config.epochs=3 …] [--workdir=DIR] …`.

The flags are those of ml_collections' config_flags; the config, the errors and the run are those of
`aetheria train`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.flag import Flag
from aetheria.cli.main import run_command
from aetheria.cli.parser import parse_command
from aetheria.cli.train import TrainCommand


@dataclass(frozen=True, kw_only=True)
class MainCommand(TrainCommand):
    """Trains the model that a config describes: `aetheria train` with the config as a flag.

    Attributes:
        config_file: a .py, .yaml or .json file.
    """

    config_file: Annotated[Path, Flag(values.local_path, "FILE", name="config")]


def parse(argv: Sequence[str]) -> MainCommand:
    """Turns an argument vector into a command; `--config.key=value` overrides a key.

    >>> parse(["--config=configs/mlp.py", "--config.epochs=3"]).overrides
    ('epochs=3',)
    """
    return parse_command(MainCommand, "python -m aetheria.main", argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, trains, and returns the exit code."""
    return run_command(parse, argv)


if __name__ == "__main__":
    sys.exit(main())
