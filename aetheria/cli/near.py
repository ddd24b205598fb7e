"""What somebody probably meant who wrote a word that a command line does not know."""

import dataclasses
import difflib
from collections.abc import Collection, Sequence

_SET = "--set"
# Verbs of other programs.
_COMMANDS = {
    **dict.fromkeys(("fit", "run", "start", "launch"), "train"),
    **dict.fromkeys(("resume", "continue", "restart"), "train CONFIG --resume=latest"),
    **dict.fromkeys(("checkpoints", "checkpoint", "ckpt", "ls", "list"), "snapshots"),
    **dict.fromkeys(("verify", "check"), "snapshots verify"),
    **dict.fromkeys(("goodput", "time", "profile"), "report"),
    **dict.fromkeys(("nan", "debug-nan"), "debug nan"),
}
_CONFIGS = (".py", ".yaml", ".yml", ".json")
# Options of other programs.
_OPTIONS = {
    **dict.fromkeys(("--output-dir", "--out", "--logdir", "--run-dir", "--save-dir"), "--workdir"),
    **dict.fromkeys(("--ckpt", "--ckpt-path", "--checkpoint", "--restore"), "--resume"),
    **dict.fromkeys(("--force", "--override"), "--overwrite"),
    **dict.fromkeys(("--world-size", "--nprocs", "--num-nodes"), "--num-processes"),
    **dict.fromkeys(("--rank", "--node-rank"), "--process-id"),
}


def near_command(word: str, commands: Sequence[str]) -> str:
    """`; did you mean '…'?`, or nothing.

    >>> near_command("trian", ["train", "plan"]), near_command("fit", ["train"])
    ("; did you mean 'train'?", "; did you mean 'train'?")
    """
    if word.endswith(_CONFIGS) and "train" in commands:
        return f"; did you mean 'train {word[:80]}'?"
    meant = _COMMANDS.get(word)
    if meant is None or meant.split()[0] not in commands:
        meant = next(iter(difflib.get_close_matches(word[:60], commands, n=1)), None)
    return "" if meant is None else f"; did you mean {meant!r}?"


def near_option(name: str, value: str, options: Collection[str]) -> str:
    """As `near_command`, for an option that a command does not have: another option, or a key of
    the config.

    >>> near_option("--epochs", "3", ["--set"]), near_option("--lr", "", ["--set"])
    ('; did you mean --set epochs=3?', '; did you mean --set learning_rate=…?')
    >>> near_option("--stop_at_step", "", ["--stop-at-step"])
    '; did you mean --stop-at-step?'
    """
    dashed = name.replace("_", "-")
    meant = dashed if dashed in options else _OPTIONS.get(dashed)
    if meant in options:
        return f"; did you mean {meant}?"
    key = _key(name.lstrip("-"))
    if key is not None and _SET in options:
        return f"; did you mean {_SET} {key}={value[:80] or '…'}?"
    near = difflib.get_close_matches(name[:60], options, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


def near_argument(word: str, options: Collection[str]) -> str:
    """As `near_option`, for a word too many.

    >>> near_argument("epochs=3", ["--set"])
    '; did you mean --set epochs=3?'
    """
    name, equals, value = word.partition("=")
    key = _key(name) if equals and _SET in options else None
    return "" if key is None else f"; did you mean {_SET} {key}={value[:80]}?"


def _key(name: str) -> str | None:
    """The key of a config that a name stands for, such as `lr` for `learning_rate`."""
    from aetheria.config.schema import Config
    from aetheria.config.suggestions import find_key

    known = [item.name for item in dataclasses.fields(Config)]
    first, dot, rest = name.replace("-", "_").partition(".")
    found = first if first in known else find_key(first, known)
    return None if found is None else f"{found}{dot}{rest}"
