"""The vocabulary of errors: the mistakes a user can make, and the exit codes of the process."""

from enum import IntEnum

_MAX_SHOWN = 200  # characters


class ExitCode(IntEnum):
    """The exit status of the process; a SLURM script may act on it."""

    OK = 0
    FAILED = 1
    USER_ERROR = 2
    NONFINITE_HALT = 3
    PREEMPTED = 75
    HANG = 76


def shown(value: object) -> str:
    """The `repr` of a value, cut where it is long, so that an error message stays one line.

    >>> shown("abc"), len(shown("a" * 5000))
    ("'abc'", 219)
    """
    try:
        text = repr(value)
    except Exception as error:  # a user's `__repr__`, or an integer too long to print
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    if len(text) <= _MAX_SHOWN:
        return text
    return f"{text[:_MAX_SHOWN]}… ({len(text)} characters)"


def summary_of(error: Exception, limit: int = _MAX_SHOWN) -> str:
    """The kind and the message of any error on one line, for another message to quote.

    >>> summary_of(ValueError("two\\nlines"))
    'ValueError: two lines'
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:limit]


class AetheriaError(Exception):
    """A mistake that a user can fix, reported in one line and before anything compiles.

    The message has the form `<where>: expected <what>, got <value>; <what to do>`.
    Several mistakes found together are several lines of one error.

    Attributes:
        problems: the lines.
    """

    def __init__(self, *problems: str):
        self.problems = problems
        super().__init__("\n".join(problems))


class ConfigError(AetheriaError):
    """A config that cannot be read, or has unknown, ill-typed or contradictory keys."""


class RegistryError(AetheriaError):
    """A model, dataset, logger or callback whose name is not registered, or is registered twice."""


class ModelError(AetheriaError):
    """A model with a hook that breaks the contract of models; the message names the hook."""


class HardwareError(AetheriaError):
    """A strategy, mesh or process group that this machine or this batch size does not allow."""


class SnapshotError(AetheriaError):
    """A snapshot that is missing, damaged, or of another model."""
