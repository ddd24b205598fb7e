"""Describes the keys of a config for documentation: what their fields and docstrings say."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from aetheria.config.schema import Config, ResumeRule

_ENTRY = re.compile(r" {4}(\w+): (.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One key.

    Attributes:
        name: dotted if the key is nested.
        hint: the type, with its limits.
        required: whether the key has no default.
        default: the default; None for a required key.
        description: what the docstring says.
        resume: what a changed value means for a resumed run.
        keys: the keys nested in this one.
    """

    name: str
    hint: object
    required: bool
    default: object
    description: str
    resume: ResumeRule
    keys: tuple["Key", ...]


def describe(schema: type = Config) -> tuple[Key, ...]:
    """Describes all keys of a config, or of another dataclass with such fields.

    >>> seed = next(key for key in describe() if key.name == "seed")
    >>> seed.default, seed.resume, seed.description
    (0, 'schedule', 'Determines the initial parameters, the order of examples and dropout.')
    """
    return _describe(schema, prefix="", resume="free")


def _describe(schema: type, *, prefix: str, resume: ResumeRule) -> tuple[Key, ...]:
    """Args: `resume`: what a change of the whole group means; it applies to the keys in it."""
    descriptions = _attributes(schema)
    hints = typing.get_type_hints(schema, include_extras=True)
    undescribed = hints.keys() ^ descriptions.keys()
    assert not undescribed, f"{schema.__name__}: field and description differ: {undescribed}"
    keys = []
    for item in dataclasses.fields(schema):
        hint, name = hints[item.name], f"{prefix}{item.name}"
        rule = item.metadata.get("resume", resume)
        is_group = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        required = item.default is dataclasses.MISSING is item.default_factory
        keys.append(
            Key(
                name=name,
                hint=hint,
                required=required,
                default=None if required else _default(item),
                description=descriptions[item.name],
                resume=rule,
                keys=_describe(hint, prefix=f"{name}.", resume=rule) if is_group else (),
            )
        )
    return tuple(keys)


def _default(item: dataclasses.Field) -> object:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def _attributes(schema: type) -> Mapping[str, str]:
    """Field -> its description, from the section "Attributes:" of the docstring."""
    _, _, section = (inspect.getdoc(schema) or "").partition("Attributes:\n")
    entries: dict[str, list[str]] = {}
    name = ""
    for line in section.splitlines():
        if entry := _ENTRY.fullmatch(line):
            name, first = entry.groups()
            entries[name] = [first]
        elif line.strip():
            entries[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in entries.items()}
