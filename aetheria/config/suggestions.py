"""What to do about a key or a value of a config that does not exist."""

import difflib
from collections.abc import Sequence

from aetheria.config.limits import MAX_WHOLE
from aetheria.config.words import meaning_of
from aetheria.errors import shown

# What other trainers call a value.
_VALUES = {
    ("strategy", "ddp"): "use strategy 'mesh', which takes all devices, or mesh={data: 8}",
    ("strategy", "dp"): "use strategy 'mesh', which takes all devices, or mesh={data: 8}",
    ("strategy", "fsdp"): "use strategy 'mesh' with mesh={fsdp: 8}",
    ("strategy", "deepspeed"): "use strategy 'mesh' with mesh={fsdp: 8}",
    ("strategy", "cuda"): "use 'gpu'",
    ("strategy", "tpu"): "use 'mesh', which takes all devices",
    ("strategy", "jax"): "use 'auto'",
    ("strategy", "pytorch"): "use 'torch'",
    ("mixed_precision", 16): "use '16-mixed' or 'bf16-mixed'",
    ("mixed_precision", 32): "use false",
    ("mixed_precision", 64): "use '64-true'",
    ("on_nonfinite", "raise"): "use 'halt'",
    ("on_nonfinite", "ignore"): "use 'skip'",
}
_MAX_NAME_LENGTH = 60  # a longer name resembles no key, and comparing it takes long


def unknown_key(where: str, name: str, known: Sequence[str], value: object = "") -> str:
    """The error for a key that does not exist, with the key that was probably meant.

    >>> unknown_key("a.yaml", "seeds", ["epochs", "seed"])
    "a.yaml: seeds: expected a known key, got 'seeds'; did you mean 'seed'?"
    >>> unknown_key("a.yaml", "gpus", ["mesh"], 4)
    "a.yaml: gpus: expected a known key, got 'gpus'; use mesh={data: 4}"
    """
    shown_name = shown(name)
    advice = _advice(name, known, value)
    return f"{where}: {shown_name[1:-1]}: expected a known key, got {shown_name}; {advice}"


def _advice(name: str, known: Sequence[str], value: object) -> str:
    meaning = meaning_of(name)
    if meaning is None:
        near = nearest(name, known)
        return f"did you mean {near!r}?" if near else "see the table of keys in docs/config.md"
    if meaning.note:
        return meaning.note
    if meaning.key.startswith("model_params."):
        return (
            f"the model chooses it: use {meaning.key} if it is a Classifier or a Regressor, else a "
            "hyperparameter of its own"
        )
    if "=" in meaning.key:
        is_count = isinstance(value, int) and 0 < value <= MAX_WHOLE
        return f"use {meaning.setting(str(value) if is_count else '')}"
    if meaning.key:
        return f"did you mean {meaning.key!r}?"
    if meaning.option:
        return f"it is an option of the command line: use {meaning.option}"
    return "see the table of keys in docs/config.md"


def near_value(name: str, value: object) -> str:
    """`; use …` for a value that a key does not have, but another trainer's does; or nothing.

    >>> near_value("strategy", "fsdp")
    "; use strategy 'mesh' with mesh={fsdp: 8}"
    """
    if not isinstance(value, str | int):
        return ""
    advice = _VALUES.get((name, value.lower() if isinstance(value, str) else value))
    return "" if advice is None else f"; {advice}"


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is spelled almost like `name`."""
    if len(name) >= _MAX_NAME_LENGTH:
        return None
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return near[0] if near else None
