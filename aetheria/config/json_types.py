"""The vocabulary of JSON: types for what goes into JSON files and messages, and comes back."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# What may be written.
JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
# What was read: the reader knows, or checks, what each member is.
JsonObject: TypeAlias = Mapping[str, Any]
