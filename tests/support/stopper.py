"""A callback that stops a run in the middle of an evaluation."""

from aetheria.events import PhaseChanged


class Stopper:
    """Asks for a stop, as a signal does, when the evaluation at a step begins."""

    def __init__(self, context, step):
        self._stop, self._step = context.stop, step

    def notify(self, event):
        evaluates = isinstance(event, PhaseChanged) and event.target == "evaluating"
        if evaluates and event.progress.step == self._step:
            self._stop.request("signal SIGTERM", preempt=True)
