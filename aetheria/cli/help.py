"""What `--help` prints, as text. cyclopts could print it too, but imports rich for it: 0.1 s."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from docstring_parser import google

from aetheria.cli.declaration import Option

_COLUMN = 26
_HELP = ("-h, --help", "print this and exit")
_VERSION = ("--version", "print the version and exit")


def describe(
    program: str, about: str, options: Iterable[Option], commands: Mapping[str, str]
) -> str:
    """The help of a command, or of a group of commands.

    Args:
        program: the words that start it.
        about: its docstring.
        options: its options; none for a group.
        commands: the next words -> their summaries; none for a command alone.
    """
    required = [option.usage for option in options if option.required]
    usages = [" ".join([program, *required, "[OPTIONS]"])] if options else []
    usages += [f"{program} COMMAND ..."] if commands else []
    sections: dict[str, list[tuple[str, str]]] = {"Commands": list(commands.items())}
    sections.update({"Arguments": [], "Options": []})
    for option in options:
        default = f" (default: {option.default})" if option.default else ""
        row = option.usage, option.text + default
        sections.setdefault(option.section, []).append(row)
    sections["Options"] += [_HELP] if options or " " in program else [_HELP, _VERSION]
    docstring = google.parse(about)
    texts = [docstring.short_description, docstring.long_description]
    return "\n\n".join(
        [
            "\n".join(f"Usage: {usage}" for usage in usages),
            *(" ".join(text.split()) for text in texts if text),
            *("\n".join([f"{title}:", *_rows(rows)]) for title, rows in sections.items() if rows),
        ]
    )


def summarize(about: str) -> str:
    """The first line of a docstring."""
    return (google.parse(about).short_description or "").removesuffix(".")


def _rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    width = max(shutil.get_terminal_size().columns, 60) - _COLUMN
    for left, text in rows:
        first, *others = textwrap.wrap(text, width) or [""]
        if len(left) > _COLUMN - 4:
            yield f"  {left}"
            left = ""
        yield f"  {left:{_COLUMN - 2}}{first}".rstrip()
        yield from (" " * _COLUMN + line for line in others)
