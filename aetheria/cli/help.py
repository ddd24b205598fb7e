"""What `--help` prints, as text. cyclopts could print it too, but imports rich for it: 0.1 s."""

import inspect
import itertools
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import cyclopts
from docstring_parser import google

_COLUMN = 26
_SECTIONS = ("Examples", "Exit codes")  # of a command's docstring


def describe(
    program: str,
    about: str | None,
    arguments: Sequence[cyclopts.Argument],
    commands: Mapping[str, str | None],
) -> str:
    """The help of a command, or of a group of commands.

    Args:
        program: the words that start it.
        about: its docstring.
        arguments: its flags and arguments; none for a group.
        commands: the next words and their docstrings; none for a command alone.
    """
    required = [usage(argument) for argument in arguments if argument.required]
    usages = [" ".join([program, *required, "[OPTIONS]"])] if arguments else []
    usages += [f"{program} COMMAND ..."] if commands else []
    sections: dict[str, list[tuple[str, str]]] = {
        "Commands": [(word, summarize(text)) for word, text in commands.items()],
        "Arguments": [],
        "Options": [],
    }
    for argument in arguments:
        (group,) = cast(tuple[cyclopts.Group], argument.parameter.group)
        default = f" (default: {argument.show_default})" if argument.show_default else ""
        row = (usage(argument), f"{argument.parameter.help}{default}")
        sections.setdefault(group.name, []).append(row)
    sections["Options"].append(("-h, --help", "print this and exit"))
    if not arguments and " " not in program:
        sections["Options"].append(("--version", "print the version and exit"))
    return "\n\n".join(
        [
            "\n".join(f"Usage: {line}" for line in usages),
            f"{summarize(about)}.",
            *(f"{title}:\n{lines}" for title in _SECTIONS if (lines := section(about, title))),
            *("\n".join([f"{title}:", *_rows(rows)]) for title, rows in sections.items() if rows),
        ]
    )


def usage(argument: cyclopts.Argument) -> str:
    """How an argument is written: `--workdir DIR`."""
    return f"{argument.name} {argument.parameter.metavar}".rstrip()


def section(docstring: str | None, title: str) -> str:
    """The indented lines below `title:`; empty if there are none.

    >>> section("Trains.\\n\\n    Examples:\\n        aetheria train c.yaml\\n", "Examples")
    '  aetheria train c.yaml'
    """
    lines = iter(inspect.cleandoc(docstring or "").splitlines())
    below = itertools.dropwhile(lambda line: line != f"{title}:", lines)
    rows = itertools.takewhile(lambda line: line.startswith(" "), itertools.islice(below, 1, None))
    return "\n".join(f"  {row.strip()}" for row in rows)


def summarize(docstring: str | None) -> str:
    """The first line, without its full stop."""
    return (google.parse(docstring or "").short_description or "").removesuffix(".")


def _rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    width = max(shutil.get_terminal_size().columns, 60) - _COLUMN
    for left, text in rows:
        first, *others = textwrap.wrap(text, width) or [""]
        if len(left) > _COLUMN - 4:
            yield f"  {left}"
            left = ""
        yield f"  {left:{_COLUMN - 2}}{first}".rstrip()
        yield from (" " * _COLUMN + line for line in others)
