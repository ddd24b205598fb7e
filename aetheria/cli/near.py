"""What somebody probably meant who wrote a word that a command line does not know."""

import dataclasses
import difflib
import shlex
from collections.abc import Collection, Sequence

from aetheria.config.suggestions import nearest
from aetheria.config.words import NOTES_ON_VERBS, Meaning, meaning_of

_SET = "--set"
_CONFIGS = (".py", ".yaml", ".yml", ".json")


def near_command(word: str, commands: Sequence[str]) -> str:
    """`; did you mean '…'?`, or what to do instead, or nothing.

    >>> near_command("trian", ["train", "plan"]), near_command("fit", ["train"])
    ("; did you mean 'train'?", "; did you mean 'train'?")
    """
    if word.endswith(_CONFIGS) and "train" in commands:
        return f"; did you mean 'train {word[:80]}'?"
    meaning = meaning_of(word)
    if meaning is not None and meaning.command and meaning.command.split()[0] in commands:
        return f"; did you mean {meaning.command!r}?"
    if meaning is not None and meaning.note in NOTES_ON_VERBS and "train" in commands:
        return f"; {meaning.note}"
    cutoff = 0.6 if meaning is None else 0.8  # a known word is no mistyped command
    near = next(iter(difflib.get_close_matches(word[:60], commands, n=1, cutoff=cutoff)), None)
    return "" if near is None else f"; did you mean {near!r}?"


def near_option(name: str, value: str, options: Collection[str]) -> str:
    """As `near_command`, for an option that a command does not have: another option, or a key of
    the config.

    >>> near_option("--epochs", "3", ["--set"]), near_option("--lr", "", ["--set"])
    ('; did you mean --set epochs=3?', '; did you mean --set learning_rate=…?')
    >>> near_option("--stop_at_step", "", ["--stop-at-step"])
    '; did you mean --stop-at-step?'
    """
    dashed = name.replace("_", "-")
    if dashed in options:
        return f"; did you mean {dashed}?"
    meaning = meaning_of(name)
    if meaning is not None and meaning.option in options:
        return f"; did you mean {meaning.option}?"
    if _SET in options and (advice := _near_key(name.lstrip("-"), value)):
        return advice
    near = difflib.get_close_matches(name[:60], options, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near and meaning is None else ""


def near_argument(word: str, options: Collection[str]) -> str:
    """As `near_option`, for a word too many.

    >>> near_argument("epochs=3", ["--set"])
    '; did you mean --set epochs=3?'
    """
    name, equals, value = word.partition("=")
    if not equals or _SET not in options:
        return ""
    meaning = meaning_of(name)
    if meaning is not None and meaning.option in options:
        return f"; did you mean {meaning.option}={value[:80]}?"
    return _near_key(name, value)


def _near_key(name: str, value: str) -> str:
    """The setting of a config that a name and its value stand for, such as `lr` for
    `learning_rate`.
    """
    from aetheria.config.schema import Config

    known = [item.name for item in dataclasses.fields(Config)]
    first, dot, rest = name.replace("-", "_").partition(".")
    meaning = Meaning(first) if first in known else meaning_of(first)
    if meaning is None and (near := nearest(first, known)):
        meaning = Meaning(near)
    if meaning is None:
        return ""
    if meaning.note and rest:  # `--trainer.max_epochs`
        return _near_key(rest, value) or f"; {meaning.note}"
    if meaning.note:
        return f"; {meaning.note}"
    if meaning.key == "strategy" and (other := meaning_of(value)) and "=" in other.key:
        meaning = other
    setting = meaning.setting(value) if not dot else f"{meaning.key}.{rest}={value[:80] or '…'}"
    chooses = "the model chooses it; " if setting.startswith("model_params.") and not dot else ""
    return f"; {chooses}did you mean {_SET} {_quoted(setting)}?" if meaning.key else ""


def _quoted(setting: str) -> str:
    """As a shell has to be given it."""
    return setting if "…" in setting else shlex.quote(setting)
