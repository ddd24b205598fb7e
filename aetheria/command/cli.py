"""`aetheria …`: an argument vector becomes a command; a mistake becomes one line and exit 2."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import aetheria
from aetheria.command.train import TrainCommand
from aetheria.errors import AetheriaError, ExitCode


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, executes, and returns the exit code."""
    return run_command(parse, sys.argv[1:] if argv is None else argv)


def run_command(parser, argv: Sequence[str]) -> int:
    """Executes what `parser` makes of `argv`; prints an AetheriaError, a line for each problem."""
    try:
        command = parser(argv)
        # Orbax and others warn on stderr about what is no concern of a user.
        logging.getLogger("absl").setLevel(logging.ERROR)
        return command.execute()
    except AetheriaError as error:
        for problem in error.problems:
            print(" ".join(problem.split()), file=sys.stderr)
        return int(ExitCode.USER_ERROR)


def parse(argv: Sequence[str]) -> TrainCommand:
    """Turns an argument vector into a command.

    >>> parse(["train", "config.yaml", "--set", "epochs=3"]).overrides
    ('epochs=3',)
    """
    parser = OneLineParser(
        prog="aetheria", description="Trains models; a run is a function of its config."
    )
    parser.add_argument("--version", action="version", version=aetheria.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=OneLineParser)
    train = commands.add_parser("train", help="train what a config describes")
    train.add_argument("config", type=Path, help="a .yaml, .json or .py file")
    train.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the config, dotted if nested; may be repeated",
    )
    add_run_options(train)
    options = parser.parse_args(argv)
    return make_command(options, options.config, options.set)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of a run, the same for every way to start one."""
    parser.add_argument(
        "--workdir",
        type=Path,
        metavar="DIR",
        help="the run folder (default: the next runs/<config name>/<n>)",
    )
    parser.add_argument(
        "--resume",
        metavar="WHAT",
        help="auto, latest, best, a step, or the path of a snapshot",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run that --workdir holds"
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="resume with a config that sets another course from here on",
    )
    parser.add_argument(
        "--project", type=Path, metavar="DIR", help="the folder that holds your models/"
    )
    parser.add_argument(
        "--stop-at-step",
        type=_positive,
        metavar="N",
        help="take a snapshot at step N and exit 75; the run can be resumed",
    )


def make_command(
    options: argparse.Namespace, config: Path, overrides: Sequence[str]
) -> TrainCommand:
    """The command that parsed options stand for."""
    return TrainCommand(
        config_file=config,
        overrides=tuple(overrides),
        workdir=options.workdir,
        resume=options.resume,
        overwrite=options.overwrite,
        accept_changes=options.accept_changes,
        project=options.project,
        stop_at_step=options.stop_at_step,
    )


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a mistake is one line."""

    def error(self, message: str):
        raise AetheriaError(f"{self.prog}: {message}; see {self.prog} --help")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a step of 1 or more, got {text!r}")
    return int(text)
