"""The page of events and of what a listener is given, from the dataclasses and their docstrings."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator

from docstring_parser import Docstring
from docstring_parser.google import parse

from aetheria.events import Event, Progress, StallTime, Suspect
from aetheria.observe.listener import RunContext

_INTRO = """\
# Events

What a listener, that is a logger or a callback, receives during a run; how to write one is in
[the guide](../how-to/listeners.md). This page is written by `scripts/generate_docs.py` from
`aetheria/events.py`, and a test checks that it is complete.

A listener's `notify(event)` is called with each event, in order, and ignores those that it does
not know. Events are frozen dataclasses of plain numbers and texts, to be imported from
`aetheria.events`. Every run starts with `RunStarted` and ends with `RunEnded`.
"""
_PARTS = "## Parts of events\n"
_CONTEXT = """\
## What a listener is made with

A class under `callbacks` or `loggers` is called with a `RunContext` as its first argument, and with
the arguments of the config.
"""
_MODULES = re.compile(r"(?:collections\.abc|aetheria(?:\.\w+)+|pathlib|typing)\.")


def make_events_page() -> str:
    """The whole page in Markdown.

    Raises:
        ValueError: a field has no description.
    """
    events = "\n".join(map(_section, typing.get_args(Event)))
    parts = "\n".join(map(_section, (Progress, StallTime, Suspect)))
    return "\n".join([_INTRO, events, _PARTS, parts, _CONTEXT, _section(RunContext)])


def _section(described: type) -> str:
    level = "##" if described in typing.get_args(Event) else "###"
    rows = "".join(f"| `{name}` | {hint} | {text} |\n" for name, hint, text in _rows(described))
    about = _prose(parse(inspect.getdoc(described) or ""))
    table = f"| field | type | meaning |\n|---|---|---|\n{rows}"
    return f"{level} {described.__name__}\n\n{about}\n\n{table}"


def _prose(docstring: Docstring) -> str:
    parts = (docstring.short_description, docstring.long_description)
    return " ".join(" ".join(filter(None, parts)).split())


def _rows(described: type) -> Iterator[tuple[str, str, str]]:
    texts = {
        param.arg_name: " ".join((param.description or "").split())
        for each in reversed(described.__mro__)
        if each.__doc__
        for param in parse(inspect.cleandoc(each.__doc__)).params
    }
    for each in dataclasses.fields(described):
        if not texts.get(each.name):
            raise ValueError(f"{described.__name__}.{each.name}: expected a description, got none")
        yield each.name, _hint(each.type), texts[each.name].replace("|", "&#124;")


def _hint(hint: object) -> str:
    text = hint if isinstance(hint, str) else inspect.formatannotation(hint)
    return f"`{_MODULES.sub('', text).replace('|', 'or')}`"
