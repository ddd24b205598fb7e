"""`python -m aetheria.main --config=configs/mlp.py [--config.epochs=3 …] [--workdir=DIR] …`.

The flags are those of ml_collections' config_flags; the config, the errors and the run are those of
`aetheria train`.
"""

import sys
from collections.abc import Sequence

from aetheria.cli.argument_types import local_path
from aetheria.cli.main import run_command
from aetheria.cli.options import OneLineParser, add_run_options, make_command, split_overrides
from aetheria.cli.train import TrainCommand


def parse(argv: Sequence[str]) -> TrainCommand:
    """Turns an argument vector into a command; `--config.key=value` overrides a key.

    >>> parse(["--config=configs/mlp.py", "--config.epochs=3"]).overrides
    ('epochs=3',)
    """
    overrides, rest = split_overrides(argv)
    parser = OneLineParser(prog="python -m aetheria.main", description=__doc__, usage=_USAGE)
    parser.add_argument(
        "--config", type=local_path, required=True, help="a .py, .yaml or .json file"
    )
    add_run_options(parser)
    options = parser.parse_args(rest)
    return make_command(options, options.config, overrides)


_USAGE = "%(prog)s --config=FILE [--config.KEY=VALUE ...] [options]"


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, trains, and returns the exit code."""
    return run_command(parse, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
