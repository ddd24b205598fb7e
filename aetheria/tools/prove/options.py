"""The options of `aetheria prove …`."""

import argparse
from typing import Any

from aetheria.cli.argument_types import mesh, positive, positives
from aetheria.cli.options import OneLineParser, add_config, add_project
from aetheria.tools.prove.elastic_command import ProveElasticCommand
from aetheria.tools.prove.resume_command import SIGNALS, ProveResumeCommand


def add_prove(commands: Any) -> None:
    """Adds `prove` and its claims."""
    prove = commands.add_parser("prove", help="test a claim on a config")
    claims = prove.add_subparsers(metavar="CLAIM", required=True, parser_class=OneLineParser)
    _add_elastic(claims)
    _add_resume(claims)


def _add_elastic(claims: Any) -> None:
    elastic = _add_claim(
        claims,
        "elastic",
        "the same bits on any number of devices (reproducibility: elastic)",
        ProveElasticCommand.steps,
    )
    elastic.add_argument(
        "--devices", type=positives, default=(1, 2, 4, 8), metavar="N,N", help="such as 1,2,8"
    )
    elastic.add_argument(
        "--processes",
        type=positives,
        default=(1, 2),
        metavar="N,N",
        help="such as 1,2: with two processes, each has half of the devices",
    )
    elastic.add_argument(
        "--mesh",
        type=mesh,
        action="append",
        default=[],
        metavar="AXIS=N,…",
        help="another layout to compare, such as data=2,fsdp=4; may be given several times",
    )
    elastic.add_argument(
        "--control",
        action="store_true",
        help="the same with reproducibility: fast, which is expected to fail",
    )
    elastic.set_defaults(
        make_command=lambda options: ProveElasticCommand(
            **_what(options),
            devices=options.devices,
            processes=options.processes,
            meshes=tuple(options.mesh),
            control=options.control,
        )
    )


def _add_resume(claims: Any) -> None:
    resume = _add_claim(
        claims,
        "resume",
        "the same bits, killed and resumed or left alone",
        ProveResumeCommand.steps,
    )
    resume.add_argument(
        "--kill-at",
        type=positives,
        metavar="N,N",
        help="the steps at which the run is ended (default: after a third and two thirds)",
    )
    resume.add_argument(
        "--signal",
        choices=SIGNALS,
        default=ProveResumeCommand.signal_name,
        help="how it is ended (default: %(default)s)",
    )
    resume.add_argument(
        "--drop",
        metavar="FIELD",
        help="take this out of the snapshot after the first kill, which is expected to fail: "
        "such as rng, cursor or opt_state; a wrong name lists them all",
    )
    resume.set_defaults(
        make_command=lambda options: ProveResumeCommand(
            **_what(options),
            kill_at=options.kill_at,
            signal_name=options.signal,
            drop=options.drop,
        )
    )


def _add_claim(claims: Any, name: str, text: str, steps: int) -> Any:
    """Adds a claim with the options that every one has."""
    parser = claims.add_parser(name, help=text)
    add_config(parser)
    add_project(parser)
    parser.add_argument(
        "--steps",
        type=positive("a number"),
        default=steps,
        help="steps to compare (default: %(default)s)",
    )
    return parser


def _what(options: argparse.Namespace) -> dict[str, Any]:
    """What is to be proven, from the options that every claim has."""
    return {
        "config_file": options.config,
        "overrides": tuple(options.set),
        "steps": options.steps,
        "project": options.project,
        "traceback": options.traceback,
    }
