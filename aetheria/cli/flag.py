"""Markers: what a field of a command says about its flag. Imports no library and no sibling.

```
stop_at_step: Annotated[int | None, Flag(positive("a step"), "N")] = None  # --stop-at-step N
config_file: Annotated[Path, Argument(local_path, name="CONFIG")]  # CONFIG
overrides: Annotated[tuple[str, ...], Repeated(name="set")] = ()  # --set A --set B
overwrite: bool = False  # --overwrite
precision: Literal["float64", "float32"] = "float64"  # --precision float64|float32
```
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """A flag with one value; the last one counts if it is given twice.

    Attributes:
        read: converts the text; raises ValueError("expected ..., got ...").
        metavar: the name of the value in the help.
        name: the flag without its hyphens; empty: the field's name with hyphens.
        old_name: a former name, which is still accepted.
        takes_dash: whether the value may be `-`; `read` then refuses what begins with `--`.
    """

    read: Callable[[str], object] = str
    metavar: str = ""
    name: str = ""
    old_name: str = ""
    takes_dash: bool = False


@dataclass(frozen=True)
class Argument(Flag):
    """A positional argument; the help calls it `name`, or the field's name in capitals."""


@dataclass(frozen=True)
class Repeated(Flag):
    """A flag that may be given several times; the field is a tuple."""


@dataclass(frozen=True)
class Arguments(Argument, Repeated):
    """One or more positional arguments; the field is a tuple."""


@dataclass(frozen=True)
class Section:
    """A field that is a dataclass; the help lists its flags under a title of their own."""

    title: str
