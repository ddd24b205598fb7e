"""What a model says of a column of class numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classes:
    """States that a column holds class numbers or tokens: whole numbers from 0 to `count` - 1.

    Attributes:
        count: the number of classes.
        shape: the shape of one example; () is a single number, None any shape.
    """

    count: int
    shape: tuple[int, ...] | None = ()
