"""What a model says of a column of class numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classes:
    """Says that a column holds class numbers or tokens: whole numbers from 0 to `count` - 1.

    Attributes:
        count: how many there are.
        shape: that of one example; (): a single number; None: any.
    """

    count: int
    shape: tuple[int, ...] | None = ()
