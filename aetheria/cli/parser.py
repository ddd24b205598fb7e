"""Turns an argument vector into a command.

A command is a frozen dataclass: its fields are its flags, and its docstring is their help (see
`declaration`). cyclopts assigns the words of the vector to the fields; a mistake is one line.
"""

import inspect
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import cyclopts
from cyclopts import App, Parameter

import aetheria
from aetheria.cli.commands import Command, CommandTable, Words, find_commands
from aetheria.cli.declaration import Option, list_options, make
from aetheria.cli.help import describe, summarize
from aetheria.errors import AetheriaError, shown

_PROGRAM = "aetheria"
Declared = TypeVar("Declared", bound=Command)


def parse(argv: Sequence[str]) -> Command:
    """Turns the arguments of `aetheria` into a command; prints and exits for `--help`.

    >>> parse(["train", "config.yaml", "--set", "epochs=3", "--config.seed=1"]).overrides
    ('epochs=3', 'seed=1')
    """
    table = find_commands()
    overrides, rest = split_overrides(argv)
    words = table.choose(rest)
    program, rest = " ".join([_PROGRAM, *words]), rest[len(words) :]
    is_command = words in table.commands
    if _asks_for_help(rest if is_command else rest[:1]):
        _print_and_exit(_help(program, table, words))
    if is_command:
        return _parse_fields(table.load(words), program, rest, overrides)
    if not words and rest == ["--version"]:
        _print_and_exit(aetheria.__version__)
    names = ", ".join(path[-1] for path in table.below(words))
    _refuse(program, f"expected one of {names}, got {shown(rest[0]) if rest else 'none'}")


def parse_command(declared: type[Declared], program: str, argv: Sequence[str]) -> Declared:
    """Turns the arguments of a program that is one command into that command."""
    overrides, rest = split_overrides(argv)
    if _asks_for_help(rest):
        _print_and_exit(describe(program, declared.__doc__ or "", list_options(declared), {}))
    return _parse_fields(declared, program, rest, overrides)


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
    table = find_commands()
    return {
        " ".join(words): [
            name for option in list_options(table.load(words)) for name in option.names
        ]
        for words in table.commands
    }


def _parse_fields(
    declared: type[Declared], program: str, argv: Sequence[str], overrides: Sequence[str]
) -> Declared:
    options = list_options(declared)
    if mistake := _mistake_in_flags(argv, options):
        _refuse(program, mistake)
    try:
        given = _assign(argv, options)
    except cyclopts.CycloptsError as error:
        _refuse(program, _mistake(error, options))
    if overrides and not any(option.field == "overrides" for option in options):
        _refuse(program, f"expected an option of this command, got --config.{overrides[0]}")
    if overrides:
        given["overrides"] = (*given.get("overrides", ()), *overrides)
    return make(declared, given)


def _assign(argv: Sequence[str], options: Iterable[Option]) -> dict[str, Any]:
    """The values that were given, by field."""

    def command(**given: object) -> None: ...

    signature = inspect.Signature([_parameter(option) for option in options])
    command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    app = App(
        help_flags=(),
        version_flags=(),
        # No `--no-overwrite`, no JSON; a flag given twice is its last value.
        default_parameter=Parameter(negative=(), json_list=False, allow_repeating=True),
    )
    app.default(command)
    _, bound, _ = app.parse_args(argv, print_error=False, exit_on_error=False)
    return dict(bound.arguments)


def _parameter(option: Option) -> inspect.Parameter:
    """The option for cyclopts, which reads texts only; `option.read` makes values of them."""

    def convert(_: object, tokens: Sequence[cyclopts.Token]) -> object:
        read = [option.read(token.value) for token in tokens]
        return tuple(read) if option.is_repeated else read[0]

    hint = bool if option.is_switch else tuple[str, ...] if option.is_repeated else str
    parameter = Parameter(name=option.names, converter=None if option.is_switch else convert)
    return inspect.Parameter(
        option.field,
        inspect.Parameter.POSITIONAL_ONLY if option.is_argument else inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if option.required else None,
        annotation=Annotated[hint, parameter],
    )


def _mistake_in_flags(argv: Sequence[str], options: Iterable[Option]) -> str:
    """Refuses what cyclopts takes: `--stop_at_step`, and `--overwrite=false` for a switch."""
    if argv[:1] == ["__complete"]:  # to cyclopts, a shell that completes words
        return "expected another first argument, got '__complete'"
    flags = {name: option for option in options for name in option.names}
    for word in argv[: argv.index("--")] if "--" in argv else argv:
        name, equals, value = word.partition("=")
        if word.startswith("--") and name not in flags:
            return f"expected an option of this command, got {name}"
        if word.startswith("--") and equals and flags[name].is_switch:
            return f"{name}: expected no value, got {shown(value)}"
    return ""


def _mistake(error: cyclopts.CycloptsError, options: Iterable[Option]) -> str:
    """What was expected and what was given, in one line."""
    name = error.argument.name if error.argument else ""
    match error:
        case cyclopts.CoercionError(token=token):  # the ValueError of a reader
            return f"{(token and token.keyword) or name}: {error.msg}"
        case cyclopts.MissingArgumentError(keyword=None):
            usage = next(option.usage for option in options if name in option.names)
            return f"expected {usage}, got none"
        case cyclopts.MissingArgumentError():
            return f"{name}: expected a value, got none"
        case cyclopts.UnknownOptionError(token=token):
            return f"expected an option of this command, got {token.keyword or token.value}"
        case cyclopts.UnusedCliTokensError(unused_tokens=[word, *_]):
            return f"expected no further argument, got {shown(word)}"
    return str(error)


def _refuse(program: str, mistake: str) -> NoReturn:
    raise AetheriaError(f"{program}: {mistake}; see {program} --help") from None


def _asks_for_help(argv: Sequence[str]) -> bool:
    before = argv[: argv.index("--")] if "--" in argv else argv
    return not {"-h", "--help"}.isdisjoint(before)


def _help(program: str, table: CommandTable, words: Words) -> str:
    options = list_options(table.load(words)) if words in table.commands else []
    below = {path[-1]: summarize(table.about(path)) for path in table.below(words)}
    return describe(program, table.about(words), options, below)


def _print_and_exit(text: str) -> NoReturn:
    print(text)
    raise SystemExit(0)
