"""`aetheria …`: an argument vector becomes a command; a mistake becomes one line and exit 2."""

import argparse
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import aetheria
from aetheria.command.plan import PlanCommand
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


class Command(Protocol):
    """Command: a frozen value that does one thing, and says how it went by an exit code."""

    def execute(self) -> int: ...


def parse(argv: Sequence[str]) -> Command:
    """Turns an argument vector into a command.

    >>> parse(["train", "config.yaml", "--set", "epochs=3"]).overrides
    ('epochs=3',)
    """
    parser = OneLineParser(
        prog="aetheria", description="Trains models; a run is a function of its config."
    )
    parser.add_argument("--version", action="version", version=aetheria.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=OneLineParser)
    for add in (_add_train, _add_plan):
        add(commands)
    options = parser.parse_args(argv)
    return options.make_command(options)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train what a config describes")
    _add_config(parser)
    add_run_options(parser)
    parser.set_defaults(make_command=lambda o: make_command(o, o.config, o.set))


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser("plan", help="say what a run asks of many devices; nothing runs")
    _add_config(parser)
    add_project(parser)
    parser.add_argument(
        "--devices", type=_positive("a number"), metavar="N", help="how many, up to 2048"
    )
    parser.add_argument(
        "--mesh", type=_mesh, metavar="AXIS=N,…", help="such as data=16,fsdp=8,tensor=8"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
    parser.add_argument(
        "--memory", type=_size_bytes, metavar="SIZE", help="of a device, such as 80GB"
    )
    for option, metavar, text in (
        ("--peak-tflops", "T", "of a device, 1e12 operations a second (default: 989)"),
        ("--hbm-gbps", "GB", "a device's memory traffic a second (default: 3350)"),
        ("--link-gbps", "GB", "what a device sends a second (default: 450)"),
    ):
        parser.add_argument(option, type=_rate, metavar=metavar, help=text)
    parser.set_defaults(make_command=_make_plan)


def _make_plan(options: argparse.Namespace) -> PlanCommand:
    machine = {
        "memory_bytes": options.memory,
        "peak_tflops": options.peak_tflops,
        "hbm_gbps": options.hbm_gbps,
        "link_gbps": options.link_gbps,
    }
    return PlanCommand(
        config_file=options.config,
        overrides=tuple(options.set),
        project=options.project,
        devices=options.devices,
        mesh=options.mesh,
        machine={name: value for name, value in machine.items() if value is not None},
        as_json=options.json,
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


def add_project(parser: argparse.ArgumentParser) -> None:
    """The option that every command with a model has."""
    parser.add_argument(
        "--project", type=Path, metavar="DIR", help="the folder that holds your models/"
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
    add_project(parser)
    parser.add_argument(
        "--stop-at-step",
        type=_positive("a step"),
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


def _positive(what: str) -> Callable[[str], int]:
    def positive(text: str) -> int:
        if not text.isdigit() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"expected {what} of 1 or more, got {text!r}")
        return int(text)

    return positive


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return rate


def _mesh(text: str) -> dict[str, int]:
    """Reads axes and sizes.

    >>> _mesh("data=16,fsdp=8")
    {'data': 16, 'fsdp': 8}
    """
    items = [item.partition("=") for item in text.split(",")]
    mesh = {axis.strip(): size.strip() for axis, _, size in items}
    if len(mesh) < len(items) or not all(size.isdigit() and int(size) for size in mesh.values()):
        raise argparse.ArgumentTypeError(
            f"expected sizes of axes such as data=16,fsdp=8,tensor=8, got {text!r}"
        )
    return {axis: int(size) for axis, size in mesh.items()}


def _size_bytes(text: str) -> int:
    """Reads a size with its unit.

    >>> _size_bytes("80GB"), _size_bytes("1.5 GiB")
    (80000000000, 1610612736)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a size such as 80GB or 24GiB, got {text!r}")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** ("KMGT".index(unit) + 1))
