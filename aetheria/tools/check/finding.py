"""What a check has found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: `ok`; `warning`: the run would go on, maybe not as is meant; `problem`: it would
            refuse, or fail.
        about: what was looked at.
        text: what was found.
    """

    level: Literal["ok", "warning", "problem"]
    about: str
    text: str
