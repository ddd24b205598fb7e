"""What a changed config, a changed default or a changed environment means for a resumed run."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

from aetheria.config import MODEL_KEYS, Config
from aetheria.engine.record import RunRecord
from aetheria.engine.typed_json import JsonObject, to_json
from aetheria.snapshots.changes import Change, differences, settle
from aetheria.snapshots.provenance import file_of, provenance_changes

# What the config passes to the model and the dataset, and the key that names the receiver.
_PARAMETERS = {"model_params": "model_name", "data_params": "data_name"}
_NAMES = tuple(_PARAMETERS.values())


def check_resume(before: RunRecord, now: RunRecord, *, accept: bool) -> list[str]:
    """Compares the record of a snapshot with the run that resumes from it.

    Returns:
        A line for each change that is allowed.

    Raises:
        SnapshotError: changes that are not allowed, a line each.
    """
    changes = list(config_changes(before, now))
    # With another model or dataset, the rest differs for that reason alone.
    if all(change.kind != "structural" for change in changes):
        changes += provenance_changes(before, now)
    return settle(changes, accept=accept)


def check_names(before: RunRecord, config: Config) -> None:
    """Compares the names of model and dataset alone, before either is made. Otherwise the error
    would be the first thing that does not fit, and not the reason for it.

    Raises:
        SnapshotError: a name is another than in the snapshot.
    """
    pairs = [(name, before.config.get(name), getattr(config, name)) for name in _NAMES]
    changes = [
        Change(path=name, before=repr(old), now=repr(new), kind="structural")
        for name, old, new in pairs
        if old != new
    ]
    settle(changes, accept=False)


def config_changes(before: RunRecord, now: RunRecord) -> Iterator[Change]:
    """Compares the snapshot's config with the one of now.

    A free field (strategy, loggers, cadences) may change. The user must accept a change that
    affects what the run computes from here on (batch size, learning rate, epochs, …), and so a
    default that changed in code. A field that decides the shape of the state or of the data may
    not change; the model's hyperparameters count as such, since only the model knows what they
    decide.

    Hyperparameters are compared as they were resolved: a config may now name what was the default.
    A snapshot without resolved ones is compared by its config alone.
    """
    # A key that an older release did not have stands for what that release did.
    defaults = _object(to_json(Config(model_name="").to_dict()))
    old, new = {**defaults, **before.config}, _config(now)
    by_value = [
        key
        for key, name in _PARAMETERS.items()
        if _resolved(before, key) is not None and old.get(name) == new[name]
    ]
    left_out = {*by_value, *(MODEL_KEYS if "model_params" in by_value else ())}
    for item in fields(Config):
        was, now_is = old.get(item.name), new[item.name]
        if was != now_is and item.name not in left_out:
            kind = item.metadata["resume"]
            yield Change(path=item.name, before=repr(was), now=repr(now_is), kind=kind)
    for key in by_value:
        yield from _resolved_changes(key, before, now)
    for key in ("loggers", "callbacks"):
        if old.get(key) == new[key]:
            yield from _listener_changes(key, before, now)


def with_all_keys(record: RunRecord) -> RunRecord:
    """The record with every key of a config: of those that an older release did not have, the
    defaults, which they stand for.
    """
    return replace(record, config={**Config(model_name="").to_dict(), **record.config})


def _resolved_changes(key: str, before: RunRecord, now: RunRecord) -> Iterator[Change]:
    old, new = before.config, _config(now)
    given = {*_names(old.get(key)), *_names(new[key])}
    if key == "model_params":
        given |= {k for k in MODEL_KEYS if (old.get(k), new[k]) != (None, None)}
    file = file_of(now, _PARAMETERS[key].removesuffix("_name"))
    resolved = (_resolved(before, key) or {}, _resolved(now, key) or {})
    changes = list(_parameter_changes(key, *resolved, given=given, file=file))
    yield from changes
    if key == "model_params" and not changes:
        # What a function that makes the model leaves to the class.
        own_fields = (_resolved(before, "model") or {}, _resolved(now, "model") or {})
        yield from _parameter_changes("model", *own_fields, given=set(), file=file)


def _parameter_changes(
    key: str, before: JsonObject, now: JsonObject, *, given: set[str], file: str
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


def _listener_changes(key: str, before: RunRecord, now: RunRecord) -> Iterator[Change]:
    """The config is the same, so what differs are defaults."""
    old_arguments, new_arguments = _resolved(before, key) or {}, _resolved(now, key) or {}
    for listener in old_arguments.keys() & new_arguments.keys():
        reason = f"the default changed in {file_of(now, f'{key}.{listener}')}"
        pair = (old_arguments[listener], new_arguments[listener])
        for name, old, new in differences(*map(_object, pair)):
            path = f"{key}.{listener}.{name}"
            yield Change(path=path, before=old, now=new, kind="free", reason=reason)


def _resolved(run: RunRecord, key: str) -> JsonObject | None:
    return None if run.resolved is None else getattr(run.resolved, key)


def _config(run: RunRecord) -> JsonObject:
    """The config as JSON reads it back: tuples are lists."""
    return _object(to_json(run.config))


def _object(value: object) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def _names(value: object) -> set[str]:
    return set(_object(value))
