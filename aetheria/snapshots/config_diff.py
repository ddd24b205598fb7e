"""What a changed config, a changed default or changed surroundings mean for a resumed run."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from aetheria.config import MODEL_KEYS, Config
from aetheria.snapshots.changes import Change, differences, settle
from aetheria.snapshots.provenance import Provenance

# What the config gives to the model and the dataset, and which key names who takes it.
_PARAMETERS = {"model_params": "model_name", "data_params": "data_name"}
_NAMES = tuple(_PARAMETERS.values())
_LISTENERS = ("loggers", "callbacks")


def check_resume(
    record: Mapping[str, Any], config: Config, provenance: Provenance, *, accept: bool
) -> list[str]:
    """Compares a snapshot with the run that is to go on from it.

    Returns:
        A line for each change that was let through.

    Raises:
        SnapshotError: changes that are not allowed, a line each.
    """
    changes = list(config_changes(record, config, provenance))
    # With another model or dataset, the rest differs for that reason alone.
    if all(change.kind != "structural" for change in changes):
        changes += provenance.changes_since(record)
    return settle(changes, accept=accept)


def check_names(record: Mapping[str, Any], config: Config) -> None:
    """Looks at the names of model and dataset alone, before either is made: with another one the
    first thing that does not fit would be said instead.

    Raises:
        SnapshotError: a name is another than in the snapshot.
    """
    pairs = [(name, record["config"].get(name), getattr(config, name)) for name in _NAMES]
    changes = [
        Change(path=name, before=repr(old), now=repr(new), kind="structural")
        for name, old, new in pairs
        if old != new
    ]
    settle(changes, accept=False)


def config_changes(
    record: Mapping[str, Any], config: Config, provenance: Provenance
) -> Iterator[Change]:
    """Compares the snapshot's config with the one given now.

    A free field (strategy, loggers, cadences) may change. One that changes the course of the run
    from here on (batch size, learning rate, epochs, …) must be accepted, and so must a default that
    changed in code. One that decides the shape of the state or the data may not change; the model's
    hyperparameters count as such, since only the model knows what they decide.

    Hyperparameters are compared as they were resolved, so it is no change if a config now names
    what was the default. A snapshot that does not hold these is compared by its config alone.
    """
    before, now = record["config"], _as_json(config.to_dict())
    resolved = record.get("resolved", {})
    by_value = [
        key for key, name in _PARAMETERS.items() if key in resolved and before[name] == now[name]
    ]
    left_out = {*by_value, *(MODEL_KEYS if "model_params" in by_value else ())}
    for item in fields(Config):
        old, new = before.get(item.name), now[item.name]
        if old != new and item.name not in left_out:
            kind = item.metadata["resume"]
            yield Change(path=item.name, before=repr(old), now=repr(new), kind=kind)
    for key in by_value:
        given = {*before[key], *now[key]}
        if key == "model_params":
            given |= {k for k in MODEL_KEYS if (before.get(k), now[k]) != (None, None)}
        file = provenance.file_of(_PARAMETERS[key].removesuffix("_name"))
        changes = list(
            _parameter_changes(key, resolved[key], provenance.resolved[key], given, file)
        )
        yield from changes
        if key == "model_params" and not changes:
            # What a function that makes the model leaves to the class.
            fields_of = (resolved.get("model", {}), provenance.resolved.get("model", {}))
            yield from _parameter_changes("model", *fields_of, set(), file)
    for key in _LISTENERS:
        if before.get(key) == now[key]:
            yield from _listener_changes(key, resolved.get(key, {}), provenance)


def _parameter_changes(
    key: str, before: Mapping[str, Any], now: Mapping[str, Any], given: set[str], file: str
) -> Iterator[Change]:
    """Args: `given`: the names that either config gives; the others are the code's defaults."""
    for name, old, new in differences(before, now):
        is_short = key == "model_params" and name in MODEL_KEYS
        path = name if is_short else f"{key}.{name}"
        if name in given:
            kind = "schedule" if is_short else "structural"
            yield Change(path=path, before=old, now=new, kind=kind)
            continue
        can_be_set = key in _PARAMETERS and name in before and name in now
        yield Change(
            path=path,
            before=old,
            now=new,
            kind="schedule",
            reason=f"the default changed in {file}",
            advice="set it in the config, or add --accept-changes" if can_be_set else None,
        )


def _listener_changes(
    key: str, before: Mapping[str, Any], provenance: Provenance
) -> Iterator[Change]:
    """The config is the same, so what differs are defaults."""
    now = provenance.resolved.get(key, {})
    for listener in before.keys() & now.keys():
        reason = f"the default changed in {provenance.file_of(f'{key}.{listener}')}"
        for name, old, new in differences(before[listener], now[listener]):
            path = f"{key}.{listener}.{name}"
            yield Change(path=path, before=old, now=new, kind="free", reason=reason)


def _as_json(value: Any) -> Any:
    """Tuples become lists, as they did in the snapshot."""
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return value
