"""`aetheria …`: an argument vector becomes a command; a mistake becomes one line and exit 2."""

import argparse
import contextlib
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import aetheria
from aetheria.command.prove import ProveElasticCommand
from aetheria.command.train import TrainCommand
from aetheria.errors import AetheriaError, ExitCode
from aetheria.protocols import JoinOptions

_PROJECT_HELP = "the folder that holds your models/"


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


def parse(argv: Sequence[str]) -> TrainCommand | ProveElasticCommand:
    """Turns an argument vector into a command.

    >>> parse(["train", "config.yaml", "--set", "epochs=3"]).overrides
    ('epochs=3',)
    """
    parser = OneLineParser(
        prog="aetheria", description="Trains models; a run is a function of its config."
    )
    parser.add_argument("--version", action="version", version=aetheria.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=OneLineParser)
    _add_train(commands)
    _add_prove(commands)
    options = parser.parse_args(argv)
    return options.make(options)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train what a config describes")
    _add_config(train)
    add_run_options(train)
    train.set_defaults(make=lambda options: make_command(options, options.config, options.set))


def _add_prove(commands: Any) -> None:
    prove = commands.add_parser("prove", help="test a claim on a config")
    claims = prove.add_subparsers(metavar="CLAIM", required=True, parser_class=OneLineParser)
    elastic = claims.add_parser(
        "elastic", help="the same bits on any number of devices (reproducibility: elastic)"
    )
    _add_config(elastic)
    elastic.add_argument("--steps", type=_positive, default=20, help="steps to compare")
    elastic.add_argument(
        "--devices", type=_positives, default=(1, 2, 4, 8), metavar="N,N", help="such as 1,2,8"
    )
    elastic.add_argument(
        "--processes",
        type=_positives,
        default=(1, 2),
        metavar="N,N",
        help="such as 1,2: with two processes, each has half of the devices",
    )
    elastic.add_argument(
        "--control",
        action="store_true",
        help="the same with reproducibility: fast, which is expected to fail",
    )
    elastic.add_argument("--project", type=Path, metavar="DIR", help=_PROJECT_HELP)
    elastic.set_defaults(
        make=lambda options: ProveElasticCommand(
            config_file=options.config,
            overrides=tuple(options.set),
            steps=options.steps,
            devices=options.devices,
            processes=options.processes,
            control=options.control,
            project=options.project,
        )
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="a .yaml, .json or .py file")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the config, dotted if nested; may be repeated",
    )


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
    parser.add_argument("--project", type=Path, metavar="DIR", help=_PROJECT_HELP)
    parser.add_argument(
        "--stop-at-step",
        type=_positive,
        metavar="N",
        help="take a snapshot at step N and exit 75; the run can be resumed",
    )
    group = parser.add_argument_group(
        "several processes", "started by hand; torchrun and srun need none of these"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num-processes", type=_positive, metavar="N")
    group.add_argument("--process-id", type=int, metavar="I", help="this one's number, from 0")
    group.add_argument(
        "--join-timeout",
        type=_seconds,
        default=JoinOptions.join_timeout,
        metavar="SECONDS",
        help="how long to wait for all to come (default: %(default)g)",
    )
    group.add_argument(
        "--heartbeat-timeout",
        type=_seconds,
        default=JoinOptions.heartbeat_timeout,
        metavar="SECONDS",
        help="after this long a silent process counts as dead, which ends all "
        "(default: %(default)g)",
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
        join=JoinOptions(
            **{item.name: getattr(options, item.name) for item in fields(JoinOptions)}
        ),
    )


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a mistake is one line."""

    def error(self, message: str):
        raise AetheriaError(f"{self.prog}: {message}; see {self.prog} --help")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 1 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number of seconds of 1 or more, got {text!r}")


def _positives(text: str) -> tuple[int, ...]:
    return tuple(_positive(part.strip()) for part in text.split(","))
