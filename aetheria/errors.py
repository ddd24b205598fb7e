"""Vocabulary: the errors a user can cause, and the exit codes a script can rely on."""

from enum import IntEnum
from typing import Any

_MAX_SHOWN = 200  # characters


class ExitCode(IntEnum):
    """What the process tells its caller; a SLURM script acts on these."""

    OK = 0
    FAILED = 1
    USER_ERROR = 2
    NONFINITE_HALT = 3
    PREEMPTED = 75
    HANG = 76


def shown(value: Any) -> str:
    """The value as a message shows it: its repr, cut where it is long, so that a line stays a line.

    >>> shown("abc"), len(shown("a" * 5000))
    ("'abc'", 219)
    """
    try:
        text = repr(value)
    except Exception as error:  # of somebody's class, or a whole number too long to print
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    if len(text) <= _MAX_SHOWN:
        return text
    return f"{text[:_MAX_SHOWN]}… ({len(text)} characters)"


class AetheriaError(Exception):
    """A mistake a user can mend, said in one line and before anything compiles.

    The message follows `<where>: expected <what>, got <value>; <what to do>`.
    Several mistakes found together are several lines of one error.
    """

    def __init__(self, *problems: str):
        self.problems = problems
        super().__init__("\n".join(problems))


class ConfigError(AetheriaError):
    """A config that cannot be read, or holds unknown, ill-typed or contradicting keys."""


class RegistryError(AetheriaError):
    """A model, dataset, logger or callback that is not there, or is there twice."""


class ModelError(AetheriaError):
    """A model one of whose hooks does not keep the contract; the message names the hook."""


class HardwareError(AetheriaError):
    """A strategy or mesh that this machine, or this batch size, cannot serve."""


class SnapshotError(AetheriaError):
    """A snapshot that is missing, damaged, or belongs to another model."""
