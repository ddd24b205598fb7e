"""Writes tests/golden/public_surface.json: the names that users, scripts and plugins rely on.

    python scripts/freeze_surface.py            # writes the file
    python scripts/freeze_surface.py --check    # prints what differs from it; exits with 1 then

A name that goes, or changes its meaning, breaks somebody's config, script or plugin. So a change of
the file belongs into the change that causes it, with a line in CHANGELOG.md.
"""

import argparse
import ast
import contextlib
import dataclasses
import io
import json
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden" / "public_surface.json"

Surface = dict[str, dict[str, Any]]


def read_surface() -> Surface:
    """Section -> name -> what is promised about it, as JSON values. Loads no framework."""
    return {
        "exports": _exports(),
        "commands": _commands(),
        "config": _config(),
        "events": _events(),
        "summary": dict.fromkeys(_summary_keys(), "key"),
        "exit_codes": _exit_codes(),
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """A line for each name that was added, removed or changed.

    >>> differences({"config": {"epochs": "int"}}, {"config": {"epochs": "str", "seed": "int"}})
    ["config: epochs: 'int' -> 'str'", "config: seed: added, 'int'"]
    """
    lines = []
    for section in sorted(before.keys() | after.keys()):
        old, new = before.get(section, {}), after.get(section, {})
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                lines.append(f"{section}: {name}: removed")
            elif name not in old:
                lines.append(f"{section}: {name}: added, {new[name]!r}")
            elif old[name] != new[name]:
                lines.append(f"{section}: {name}: {old[name]!r} -> {new[name]!r}")
    return lines


def _exports() -> dict[str, str]:
    """The names of `aetheria.<name>` and `aetheria.loops.<name>`; the modules they come from may
    change.
    """
    import aetheria

    loops = ast.parse((REPOSITORY / "aetheria" / "loops" / "__init__.py").read_text())
    listed = [node.value for node in loops.body if isinstance(node, ast.Assign)]
    names = {*aetheria._HOMES, *(f"loops.{name}" for name in ast.literal_eval(listed[0]))}
    return dict.fromkeys(sorted(names), "name")


def _commands() -> dict[str, list[str]]:
    """Command -> its flags."""
    try:
        from aetheria.cli.parser import surface
    except ImportError:  # the command line is made with argparse
        found = dict(_commands_of_help(()))
    else:
        found = surface()
    return {
        words: sorted(name for name in names if name.startswith("--") and name != "--help")
        for words, names in sorted(found.items())
    }


def _commands_of_help(words: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """The commands under these words and their flags, read from `--help`."""
    from aetheria.cli.main import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    lines = text.getvalue().splitlines()
    commands = [match[1] for line in lines if (match := re.match(r" {4}([a-z]+)\b", line))]
    if re.search(r"[A-Z]+ \.\.\.$", lines[0]):
        return [item for name in commands for item in _commands_of_help((*words, name))]
    columns = [re.split(r" {2,}", line.strip())[0] for line in lines if line.startswith("  -")]
    return [(" ".join(words), re.findall(r"--[a-z][a-z-]*", " ".join(columns)))]


def _config() -> dict[str, str]:
    """Dotted key -> type and default."""
    from aetheria.config import Config

    return dict(_keys(Config, ""))


def _keys(schema: type, prefix: str) -> list[tuple[str, str]]:
    hints, keys = typing.get_type_hints(schema), []
    for item in dataclasses.fields(schema):
        hint = hints[item.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            keys += _keys(hint, f"{prefix}{item.name}.")
            continue
        keys.append((f"{prefix}{item.name}", f"{_type_text(hint)} = {_default_text(item)}"))
    return keys


def _default_text(item: "dataclasses.Field[Any]") -> str:
    if item.default is not dataclasses.MISSING:
        return repr(item.default)
    if item.default_factory is not dataclasses.MISSING:
        return repr(item.default_factory())
    return "required"


def _type_text(hint: Any) -> str:
    """A type as every version of Python writes it.

    >>> _type_text(typing.Optional[typing.Literal["a"]]), _type_text(Mapping[str, int])
    ("Literal['a'] | None", 'Mapping[str, int]')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is typing.Annotated:
        return _type_text(arguments[0])
    texts = [_type_text(argument) for argument in arguments]
    if origin in (typing.Union, types.UnionType):
        return " | ".join(texts)
    if hint is types.NoneType or hint is Ellipsis:
        return "None" if hint is types.NoneType else "..."
    name = getattr(origin or hint, "__name__", str(hint))
    return f"{name}[{', '.join(texts)}]" if texts else name


def _events() -> dict[str, dict[str, str]]:
    """Event -> field -> type; a field with a default is marked."""
    from aetheria import events

    return {
        event.__name__: {
            item.name: _type_text(typing.get_type_hints(event)[item.name])
            + (", optional" if _default_text(item) != "required" else "")
            for item in dataclasses.fields(event)
        }
        for event in (events.Progress, events.StallTime, *typing.get_args(events.Event))
    }


def _summary_keys() -> list[str]:
    """The keys of `summary.json`, read from the code that makes it: to import it would load jax."""
    source = (REPOSITORY / "aetheria" / "training" / "summary.py").read_text(encoding="utf-8")
    functions = {
        node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
    }
    return sorted(_returned_keys("summarize", functions))


def _returned_keys(name: str, functions: Mapping[str, ast.FunctionDef]) -> set[str]:
    """The keys of the dict that a function returns, and of those that it unpacks into it."""
    keys: set[str] = set()
    for node in ast.walk(functions[name]):
        if not (isinstance(node, ast.Return) and isinstance(node.value, ast.Dict)):
            continue
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            if isinstance(key, ast.Constant):
                keys.add(str(key.value))
            elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                keys |= _returned_keys(value.func.id, functions)
    return keys


def _exit_codes() -> dict[str, int]:
    from aetheria.errors import ExitCode

    return {code.name: int(code) for code in ExitCode}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file, or compares it with the code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it differs")
    options = parser.parse_args(argv)
    current = read_surface()
    if not options.check:
        GOLDEN.parent.mkdir(exist_ok=True)
        text = json.dumps(current, indent=1, ensure_ascii=False)
        GOLDEN.write_text(f"{text}\n", encoding="utf-8")
        return 0
    lines = differences(json.loads(GOLDEN.read_text(encoding="utf-8")), current)
    print(*lines, sep="\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
