"""Turns an argument vector into a command.

A command is a frozen dataclass: its fields are its flags, and its docstring is their help (see
`signature`). cyclopts assigns the words of the vector to the fields; a mistake is one line.
"""

from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeVar

import cyclopts

import aetheria
from aetheria.cli.commands import Command, find_commands, load
from aetheria.cli.help import describe, usage
from aetheria.cli.signature import make, signature_of
from aetheria.errors import AetheriaError, shown

_HELP = ("-h", "--help")
Declared = TypeVar("Declared", bound=Command)


def parse(argv: Sequence[str]) -> Command:
    """Turns the arguments of `aetheria` into a command; prints and exits for `--help`.

    >>> parse(["train", "config.yaml", "--set", "epochs=3", "--config.seed=1"]).overrides
    ('epochs=3', 'seed=1')
    """
    overrides, rest = split_overrides(argv)
    found = find_commands()
    words = max((path for path in found if path == tuple(rest[: len(path)])), key=len)
    program, rest = " ".join(["aetheria", *words]), rest[len(words) :]
    below = {path[-1]: where for path, where in found.items() if path and path[:-1] == words}
    if ":" in found[words]:
        return _parse(load(found[words]), program, rest, overrides, below)
    if rest[:1] == ["--version"] and not words:
        _print_and_exit(aetheria.__version__)
    if (rest and rest[0] in _HELP) or not argv:
        _print_and_exit(describe(program, load(found[words]).__doc__, [], _docstrings(below)))
    from aetheria.cli.near import near_command

    got = f"{shown(rest[0])}{near_command(rest[0], list(below))}" if rest else "none"
    _refuse(program, f"expected one of {', '.join(below)}, got {got}")


def parse_command(declared: type[Declared], program: str, argv: Sequence[str]) -> Declared:
    """Turns the arguments of a program that is one command into this command."""
    overrides, rest = split_overrides(argv)
    return _parse(declared, program, rest, overrides, {})


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


def surface() -> dict[str, list[str]]:
    """Every command -> its arguments and flags, former names included: what users rely on."""
    return {
        " ".join(words): [
            n for a in _app(load(where)).assemble_argument_collection() for n in a.names
        ]
        for words, where in find_commands().items()
        if ":" in where
    }


def _parse(
    declared: type[Declared],
    program: str,
    argv: Sequence[str],
    overrides: Sequence[str],
    below: Mapping[str, str],
) -> Declared:
    app = _app(declared)
    arguments = app.assemble_argument_collection()
    words = argv[: argv.index("--")] if "--" in argv else argv
    if not set(_HELP).isdisjoint(words):
        _print_and_exit(describe(program, declared.__doc__, arguments, _docstrings(below)))
    _check_flags(program, words, arguments)
    try:
        _, bound, _ = app.parse_args(argv, print_error=False, exit_on_error=False)
    except cyclopts.CycloptsError as error:
        _refuse(program, _mistake(error, arguments))
    given = dict(bound.arguments)
    if overrides:
        if not hasattr(declared, "overrides"):
            _refuse(program, f"expected an option of this command, got --config.{overrides[0]}")
        given["overrides"] = (*given.get("overrides", ()), *overrides)
    return make(declared, given)


def _app(declared: type) -> cyclopts.App:
    def command(**given: object) -> None: ...

    command.__signature__ = signature_of(declared)  # pyright: ignore[reportFunctionMemberAccess]
    # No `--no-overwrite`, no JSON; a flag given twice is its last value.
    rules = cyclopts.Parameter(negative=(), json_list=False, allow_repeating=True)
    app = cyclopts.App(help_flags=(), version_flags=(), default_parameter=rules)
    app.default(command)
    return app


def _check_flags(
    program: str, words: Sequence[str], arguments: Sequence[cyclopts.Argument]
) -> None:
    """Refuses what cyclopts accepts: `--stop_at_step`, `--overwrite=false`, and `__complete`, the
    word with which a shell asks it for completions.
    """
    if words[:1] == ["__complete"]:
        _refuse(program, "expected another first argument, got '__complete'")
    flags = {name: argument for argument in arguments for name in argument.names}
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--") and name not in flags:
            from aetheria.cli.near import near_option

            near = near_option(name, value, flags)
            _refuse(program, f"expected an option of this command, got {name}{near}")
        if word.startswith("--") and equals and flags[name].hint is bool:
            _refuse(program, f"{name}: expected no value, got {shown(value)}")


def _mistake(error: cyclopts.CycloptsError, arguments: Sequence[cyclopts.Argument]) -> str:
    """What was expected and what was given, in one line."""
    match error:
        case cyclopts.CoercionError(argument=cyclopts.Argument() as argument, token=token):
            return f"{(token and token.keyword) or argument.name}: {error.msg}"  # a reader's
        case cyclopts.MissingArgumentError(keyword=str() as name):
            return f"{name}: expected a value, got none"
        case cyclopts.MissingArgumentError(argument=cyclopts.Argument() as argument):
            return f"expected {usage(argument)}, got none"
        case cyclopts.UnknownOptionError(token=token):
            return f"expected an option of this command, got {token.keyword or token.value}"
        case cyclopts.UnusedCliTokensError(unused_tokens=[word, *_]):
            from aetheria.cli.near import near_argument

            near = near_argument(word, [n for a in arguments for n in a.names])
            return f"expected no further argument, got {shown(word)}{near}"
    return str(error)


def _refuse(program: str, mistake: str) -> NoReturn:
    raise AetheriaError(f"{program}: {mistake}; see {program} --help") from None


def _docstrings(below: Mapping[str, str]) -> dict[str, str | None]:
    return {word: load(where).__doc__ for word, where in below.items()}


def _print_and_exit(text: str) -> NoReturn:
    print(text)
    raise SystemExit(0)
