"""What differs between a snapshot and the run that resumes from it, and what that means."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from aetheria.engine.typed_json import JsonObject
from aetheria.errors import SnapshotError
from aetheria.plugins.resolved import DESCRIPTION

_ADVICE = {
    "structural": "start a new run for it",
    "schedule": (
        "add --accept-changes to go on with the new value, or name the run folder in place of the "
        "config, for the one that the run was started with"
    ),
    "free": "",
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference.

    Attributes:
        path: what differs, such as `model_params.hidden_dim`.
        before: how it reads in the snapshot; None: that would tell a reader nothing.
        now: how it reads now.
        kind: `free`: it is reported, no more; `schedule`: it changes what the run computes from
            here on, and must be accepted; `structural`: the state or the data would not fit.
        reason: where it comes from, if that is known.
        advice: what to do about it; None: what the kind says.
    """

    path: str
    before: str | None
    now: str
    kind: Literal["free", "schedule", "structural"]
    reason: str = ""
    advice: str | None = None

    def problem(self) -> str:
        """The line for a change that is refused."""
        before = "" if self.before is None else f" ({self.before})"
        advice = _ADVICE[self.kind] if self.advice is None else self.advice
        return (
            f"--resume: expected {self.path} as in the snapshot{before}, got "
            f"{self.now}{self._because()}; {advice}"
        )

    def note(self) -> str:
        """The line for a change that is allowed."""
        before = "" if self.before is None else f"{self.before} -> "
        return f"changed since the snapshot: {self.path}: {before}{self.now}{self._because()}"

    def _because(self) -> str:
        return f" ({self.reason})" if self.reason else ""


def settle(changes: Iterable[Change], *, accept: bool) -> list[str]:
    """Allows changes, or refuses them.

    Args:
        changes: all of them.
        accept: whether the user accepts changes to what the run computes from here on.

    Returns:
        A line for each change, since each was allowed.

    Raises:
        SnapshotError: some are not allowed; a line for each of these.
    """
    changes = list(changes)
    refused = {"structural"} if accept else {"structural", "schedule"}
    problems = [change.problem() for change in changes if change.kind in refused]
    if problems:
        raise SnapshotError(*problems)
    return [change.note() for change in changes]


def differences(before: JsonObject, now: JsonObject) -> Iterator[tuple[str, str, str]]:
    """Finds the names whose JSON values differ, and says how both values read.

    >>> list(differences({"width": 8, "rate": float("nan")}, {"width": 4, "rate": float("nan")}))
    [('width', '8', '4')]
    """
    for name in {**before, **now}:
        old, new = _shown(before, name), _shown(now, name)
        if old != new and not (name in before and name in now and before[name] == now[name]):
            yield name, old, new


def _shown(values: JsonObject, name: str) -> str:
    if name not in values:
        return "nothing"
    value = values[name]
    if isinstance(value, Mapping) and DESCRIPTION in value:
        return str(value[DESCRIPTION])
    return json.dumps(value, sort_keys=True)
