"""Records that Aetheria 0.1.0 wrote, turned into the layout of today.

They name no version. `-1` and `{}` stood for "none", what was added in the course of 0.1.0 may be
missing, and what a snapshot says of its run stood beside the rest. A value that is not what 0.1.0
wrote is passed on as it is: the reader of the layout refuses it.
"""

from collections.abc import Mapping

from aetheria.engine.typed_json import JsonObject

_RUN = ("config", "example_spec", "versions", "lineage", "resolved", "provenance")
# Its dumps did not say what was not finite, until the guard looked at updates.
_WHAT = "loss or gradient"


def upgrade_snapshot(old: JsonObject) -> JsonObject:
    """Turns the record of a snapshot into today's layout."""
    others = {name: value for name, value in old.items() if name not in (*_RUN, "engine")}
    return {**others, "engine": _upgrade_engine(old.get("engine")), "run": _upgrade_run(old)}


def upgrade_dump(old: JsonObject) -> JsonObject:
    """Turns the record of a dump into today's layout."""
    others = {name: value for name, value in old.items() if name not in _RUN}
    return {"what": _WHAT, **others, "run": _upgrade_run(old)}


def _upgrade_run(old: JsonObject) -> JsonObject:
    return {"versions": {}, **{name: old[name] for name in _RUN if name in old}}


def _upgrade_engine(old: object) -> object:
    if not isinstance(old, Mapping):
        return old
    engine = {"pending": None, "interval": None, **old}
    if engine.get("eval_step") == -1:
        engine |= {"eval_step": None, "num_eval_examples": None}
    if engine["interval"] == {}:
        engine["interval"] = None
    if engine["pending"] is not None:
        engine["pending"] = {"logged": engine["pending"] or None}
    return engine
