"""Options that several commands have, and the parser they have them in."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from aetheria.cli.argument_types import address, duration, local_path, positive, token, whole
from aetheria.cli.train import TrainCommand
from aetheria.errors import AetheriaError
from aetheria.hardware.processes.address import MAX_PROCESSES
from aetheria.hardware.processes.distributed_config import DistributedConfig


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a mistake is one line, and an option is spelled out: `--over` is not
    `--overwrite`.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str):
        raise AetheriaError(f"{self.prog}: {message}; see {self.prog} --help")


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes ml_collections' spelling of overrides out of an argument vector.

    >>> split_overrides(["train", "--config.epochs=3", "--config.seed", "1", "--overwrite"])
    (['epochs=3', 'seed=1'], ['train', '--overwrite'])
    """
    overrides, rest = [], []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name.startswith("--config."):
            rest.append(argument)
            continue
        key = name.removeprefix("--config.")
        overrides.append(f"{key}={value}" if equals else f"{key}={next(arguments, '')}")
    return overrides, rest


def add_config(parser: argparse.ArgumentParser) -> None:
    """The config and its overrides."""
    parser.add_argument("config", type=local_path, help="a .yaml, .json or .py file")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Overrides of a config's keys."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the config, dotted if nested; may be repeated, and may be written "
        "--config.KEY=VALUE",
    )


def add_project(parser: argparse.ArgumentParser) -> None:
    """The options that every command with a model has."""
    parser.add_argument(
        "--project", type=local_path, metavar="DIR", help="the folder that holds your models/"
    )
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="print the whole traceback of an error, not your own frames alone",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """The option of every command that reads a file that names a model."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a registered name, or pkg.mod:Name (default: the registered name that the file "
        "holds; its import path is not followed)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of a run, the same for every way to start one."""
    parser.add_argument(
        "--workdir",
        type=local_path,
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
        help="resume although config, defaults, settings or data set another course from here on",
    )
    add_project(parser)
    parser.add_argument(
        "--stop-at-step",
        type=positive("a step"),
        metavar="N",
        help="take a snapshot at step N and exit 75; the run can be resumed",
    )
    group = parser.add_argument_group(
        "several processes", "started by hand; torchrun and srun need none of these"
    )
    group.add_argument(
        "--coordinator", type=address, metavar="HOST:PORT", help="where process 0 listens"
    )
    group.add_argument("--num-processes", type=whole(1, MAX_PROCESSES), metavar="N")
    group.add_argument(
        "--process-id",
        type=whole(0, MAX_PROCESSES - 1),
        metavar="I",
        help="this process's number, from 0",
    )
    group.add_argument(
        "--token",
        type=token,
        help="a secret that all processes of the run share; the environment variable "
        "AETHERIA_TOKEN keeps it out of the list of processes",
    )
    group.add_argument(
        "--initialization-timeout",
        "--join-timeout",
        type=duration,
        default=DistributedConfig.initialization_timeout,
        metavar="SECONDS",
        help="how long to wait for all to come (default: %(default)g)",
    )
    group.add_argument(
        "--heartbeat-timeout",
        type=duration,
        default=DistributedConfig.heartbeat_timeout,
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
        traceback=options.traceback,
        join=DistributedConfig(
            **{item.name: getattr(options, item.name) for item in fields(DistributedConfig)}
        ),
    )
