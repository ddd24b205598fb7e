"""What a changed config means for a run that is resumed."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from aetheria.config import Config
from aetheria.errors import SnapshotError


def check_config_change(before: Mapping[str, Any], after: Config, *, accept: bool) -> list[str]:
    """Compares the snapshot's config with the one given now.

    A free field (strategy, loggers, cadences) may change. One that changes the course of the run
    from here on (batch size, learning rate, epochs, …) needs `accept`. One that decides the shape
    of the state or the data may not change; the model's learning-rate-like hyperparameters count as
    structural too, since only the model knows what they decide.

    Returns:
        A line for each change that was let through.

    Raises:
        SnapshotError: a change that is not allowed; all of them, a line each.
    """
    now = after.to_dict()
    problems, notes = [], []
    for item in fields(Config):
        old, new = before.get(item.name), _as_json(now[item.name])
        if old == new:
            continue
        change = f"{item.name}: {old!r} -> {new!r}"
        match item.metadata["resume"]:
            case "structural":
                problems.append(
                    f"--resume: expected {item.name} as in the snapshot ({old!r}), got {new!r}; "
                    "start a new run for it"
                )
            case "schedule" if not accept:
                problems.append(
                    f"--resume: expected {item.name} as in the snapshot ({old!r}), got {new!r}; "
                    "add --accept-changes to go on with the new value"
                )
            case _:
                notes.append(f"changed since the snapshot: {change}")
    if problems:
        raise SnapshotError(*problems)
    return notes


def _as_json(value: Any) -> Any:
    """Tuples become lists, as they did in the snapshot."""
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return value
