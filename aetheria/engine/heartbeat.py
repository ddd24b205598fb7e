"""What a run is doing at the moment, for the watchdog's thread to read."""


class Heartbeat:
    """What a run is doing. The engine alone writes it; other threads read it.

    Attributes:
        doing: in a word or two.
        no_timeout: whether this may take any time, as compiling may.
        step: optimizer steps dispatched.
        count: grows with everything the engine does.
    """

    def __init__(self) -> None:
        self.doing, self.no_timeout = "starting", True
        self.step = self.count = 0

    def enter(self, doing: str, *, no_timeout: bool = False) -> None:
        """The run does something else from here on."""
        self.doing, self.no_timeout = doing, no_timeout
        self.count += 1
