"""What a run is doing at the moment, for another thread to see."""


class Activity:
    """What a run is doing, for who looks from another thread. The engine writes, nobody else.

    Attributes:
        doing: in a word or two.
        unbounded: whether this takes as long as it takes, as compilers do.
        step: optimizer steps dispatched.
        beats: grows with everything done.
    """

    def __init__(self) -> None:
        self.doing, self.unbounded = "starting", True
        self.step = self.beats = 0

    def turn_to(self, doing: str, *, unbounded: bool = False) -> None:
        """Something else is done from here on."""
        self.doing, self.unbounded = doing, unbounded
        self.beats += 1
