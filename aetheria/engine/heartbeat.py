"""What a run is doing at the moment, for another thread to see."""


class Heartbeat:
    """What a run is doing, for who looks from another thread. The engine writes, nobody else.

    Attributes:
        doing: in a word or two.
        no_timeout: whether this takes as long as it takes, as compilers do.
        step: optimizer steps dispatched.
        count: grows with everything done.
    """

    def __init__(self) -> None:
        self.doing, self.no_timeout = "starting", True
        self.step = self.count = 0

    def enter(self, doing: str, *, no_timeout: bool = False) -> None:
        """Something else is done from here on."""
        self.doing, self.no_timeout = doing, no_timeout
        self.count += 1
