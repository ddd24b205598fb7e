"""`aetheria …`: an argument vector becomes a command; a mistake becomes one line and exit 2."""

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import aetheria
from aetheria.cli.argument_types import local_path, mesh, positive, rate, size_bytes
from aetheria.cli.options import (
    OneLineParser,
    add_config,
    add_model,
    add_project,
    add_run_options,
    make_command,
    split_overrides,
)
from aetheria.cli.pytorch_options import add_export, add_import, add_parity
from aetheria.cli.terminal import safe_output
from aetheria.errors import AetheriaError, ExitCode
from aetheria.plugins.user_code import print_user_error
from aetheria.tools.nan.command import DebugNanCommand
from aetheria.tools.plan.command import PlanCommand
from aetheria.tools.prove.options import add_prove
from aetheria.tools.report.command import ReportCommand
from aetheria.tools.snapshots.command import SnapshotsCommand, VerifySnapshotsCommand


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, executes, and returns the exit code."""
    return run_command(parse, sys.argv[1:] if argv is None else argv)


def run_command(parser, argv: Sequence[str]) -> int:
    """Executes what `parser` makes of `argv`. Prints an AetheriaError, a line for each problem, and
    of an exception in a user's code the user's own frames; `--traceback` prints all of them.
    """
    command = None
    with safe_output():
        try:
            command = parser(argv)
            # Orbax and others warn on stderr about what is no concern of a user.
            logging.getLogger("absl").setLevel(logging.ERROR)
            return command.execute()
        except AetheriaError as error:
            if getattr(command, "traceback", False):
                traceback.print_exception(error)
            for problem in error.problems:
                print(" ".join(problem.split()), file=sys.stderr)
            return int(ExitCode.USER_ERROR)
        except Exception as error:
            if getattr(command, "traceback", False) or not print_user_error(error):
                raise
            return int(ExitCode.FAILED)


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
    for add in (
        _add_train,
        _add_plan,
        add_prove,
        add_parity,
        add_export,
        add_import,
        _add_snapshots,
        _add_report,
        _add_debug,
    ):
        add(commands)
    overrides, rest = split_overrides(argv)
    options = parser.parse_args(rest)
    if overrides and not hasattr(options, "set"):
        parser.error(f"unrecognized arguments: --config.{overrides[0]}")
    if overrides:
        options.set = [*options.set, *overrides]
    return options.make_command(options)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train what a config describes")
    add_config(parser)
    add_run_options(parser)
    parser.set_defaults(make_command=lambda o: make_command(o, o.config, o.set))


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser("plan", help="say what a run asks of many devices; nothing runs")
    add_config(parser)
    add_project(parser)
    parser.add_argument(
        "--devices", type=positive("a number"), metavar="N", help="how many, up to 2048"
    )
    parser.add_argument(
        "--mesh", type=mesh, metavar="AXIS=N,…", help="such as data=16,fsdp=8,tensor=8"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
    parser.add_argument(
        "--memory", type=size_bytes, metavar="SIZE", help="of a device, such as 80GB"
    )
    for option, metavar, text in (
        ("--peak-tflops", "T", "of a device, 1e12 operations a second (default: 989)"),
        ("--hbm-gbps", "GB", "a device's memory traffic a second (default: 3350)"),
        ("--link-gbps", "GB", "what a device sends a second (default: 450)"),
    ):
        parser.add_argument(option, type=rate, metavar=metavar, help=text)
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
        traceback=options.traceback,
    )


def _add_snapshots(commands: Any) -> None:
    parser = commands.add_parser(
        "snapshots",
        help="list the snapshots of a run, or verify them",
        usage="aetheria snapshots [verify] RUN|PATH [--quick] [--json]",
    )
    parser.add_argument(
        "words",
        nargs="+",
        type=local_path,
        metavar="RUN|PATH",
        help="a run folder or a snapshot; 'verify' before "
        "it: say of each whether it is sound, and exit with 1 if one is not",
    )
    parser.add_argument("--quick", action="store_true", help="list without reading the arrays")
    parser.add_argument("--json", action="store_true", help="list as JSON, a line for each")
    parser.set_defaults(make_command=_make_snapshots)


def _make_snapshots(options: argparse.Namespace) -> Command:
    match [str(word) for word in options.words]:
        case ["verify", where] if not (options.quick or options.json):
            return VerifySnapshotsCommand(where=Path(where))
        case [where] if where != "verify":
            return SnapshotsCommand(where=Path(where), quick=options.quick, as_json=options.json)
        case words:
            raise AetheriaError(
                f"aetheria snapshots: expected RUN|PATH, or verify RUN|PATH without options, got "
                f"{' '.join(words)}; see aetheria snapshots --help"
            )


def _add_report(commands: Any) -> None:
    parser = commands.add_parser("report", help="say where the time of a run went")
    parser.add_argument("run", type=local_path, metavar="RUN", help="a run folder")
    parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
    parser.set_defaults(make_command=lambda o: ReportCommand(run_dir=o.run, as_json=o.json))


def _add_debug(commands: Any) -> None:
    debug = commands.add_parser("debug", help="find out what went wrong in a run")
    things = debug.add_subparsers(metavar="WHAT", required=True, parser_class=OneLineParser)
    nan = things.add_parser("nan", help="where a loss or a gradient stopped being finite")
    nan.add_argument("dump", type=local_path, metavar="DUMP", help="a folder in a run's dumps/")
    add_model(nan)
    add_project(nan)
    nan.set_defaults(
        make_command=lambda o: DebugNanCommand(
            dump=o.dump, project=o.project, model=o.model, traceback=o.traceback
        )
    )
