"""The options of `aetheria prove …`."""

from typing import Any

from aetheria.command.argument_types import mesh, positive, positives
from aetheria.command.options import OneLineParser, add_config, add_project
from aetheria.command.prove import ProveElasticCommand
from aetheria.command.prove_resume import SIGNALS, ProveResumeCommand


def add_prove(commands: Any) -> None:
    """Adds `prove` and its claims."""
    prove = commands.add_parser("prove", help="test a claim on a config")
    claims = prove.add_subparsers(metavar="CLAIM", required=True, parser_class=OneLineParser)
    _add_elastic(claims)
    _add_resume(claims)


def _add_elastic(claims: Any) -> None:
    elastic = claims.add_parser(
        "elastic", help="the same bits on any number of devices (reproducibility: elastic)"
    )
    add_config(elastic)
    elastic.add_argument("--steps", type=positive("a number"), default=20, help="steps to compare")
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
    add_project(elastic)
    elastic.set_defaults(
        make_command=lambda options: ProveElasticCommand(
            config_file=options.config,
            overrides=tuple(options.set),
            steps=options.steps,
            devices=options.devices,
            processes=options.processes,
            meshes=tuple(options.mesh),
            control=options.control,
            project=options.project,
        )
    )


def _add_resume(claims: Any) -> None:
    resume = claims.add_parser("resume", help="the same bits, killed and resumed or left alone")
    add_config(resume)
    resume.add_argument(
        "--steps",
        type=positive("a number"),
        default=ProveResumeCommand.steps,
        help="steps to compare (default: %(default)s)",
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
        "params, model_state, opt_state, rng, counters, loss_scale, cursor, step or listeners",
    )
    add_project(resume)
    resume.set_defaults(
        make_command=lambda options: ProveResumeCommand(
            config_file=options.config,
            overrides=tuple(options.set),
            steps=options.steps,
            kill_at=options.kill_at,
            signal_name=options.signal,
            drop=options.drop,
            project=options.project,
        )
    )
