"""The range of a number in a config, written in the type of its field."""

from dataclasses import dataclass
from typing import Annotated

MAX_WHOLE = 2**31 - 1  # the largest value of a counter on a device


@dataclass(frozen=True, slots=True)
class Limits:
    """The smallest and the largest allowed value; None: no limit.

    >>> Limits(1, 10).check(3)
    >>> Limits(1, 10).check(0)
    Traceback (most recent call last):
    ...
    ValueError: 1 or more
    """

    minimum: float | None = None
    maximum: float | None = None

    def check(self, value: float) -> None:
        """Raises ValueError, which says what was expected, if the value is out of range."""
        if self.minimum is not None and value < self.minimum:
            raise ValueError(f"{self.minimum} or more")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"{self.maximum} or less")


PositiveInt = Annotated[int, Limits(1, MAX_WHOLE)]
NonNegativeInt = Annotated[int, Limits(0, MAX_WHOLE)]
NonNegativeFloat = Annotated[float, Limits(0)]
