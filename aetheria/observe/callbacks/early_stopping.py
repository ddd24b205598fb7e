"""A callback that ends a run whose evaluation no longer improves."""

import math

from aetheria.config.json_types import JsonObject
from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Event, RunStarted
from aetheria.observe.listener import RunContext
from aetheria.plugins import register_callback


@register_callback("early_stopping")
class EarlyStopping:
    """Asks for a stop after `patience` evaluations without an improvement.

    Args:
        context: what every callback is given.
        monitor: an evaluation metric, such as `eval/loss`, or `eval/ood/loss` of one of several
            evaluation splits.
        patience: evaluations to wait for a better value, 1 or more.
        mode: `min` if a lower value is better, `max` if a higher one is.
        min_delta: a value counts as better if it improves on the best one by more than this.

    Raises:
        AetheriaError: an argument is out of range, or the model does not report the metric.
    """

    def __init__(
        self,
        context: RunContext,
        monitor: str = "eval/loss",
        patience: int = 3,
        mode: str = "min",
        min_delta: float = 0.0,
    ):
        if mode not in ("min", "max") or patience < 1:
            raise AetheriaError(
                f"early_stopping: expected mode min or max and patience of 1 or more, got {mode!r} "
                f"and {patience}; change them in callbacks"
            )
        if monitor not in context.eval_metrics:
            raise AetheriaError(
                f"early_stopping: expected monitor to be one of {', '.join(context.eval_metrics)}, "
                f"got {monitor!r}; change it in callbacks"
            )
        self._stop, self._monitor, self._patience = context.stop, monitor, patience
        first, *_ = context.eval_splits
        own = (split for split in context.eval_splits if monitor.startswith(f"{split}/"))
        self._split = next(own, first)
        self._metric = monitor.removeprefix(f"{self._split}/").removeprefix("eval/")
        self._sign, self._min_delta = (1 if mode == "min" else -1), min_delta
        self._best: float | None = None
        self._num_worse = 0

    def notify(self, event: Event) -> None:
        """Compares an evaluation with the best one; asks for a stop if patience is exhausted."""
        if isinstance(event, EvaluationCompleted):
            if event.split != self._split:
                return
            self._compare(event)
        if isinstance(event, (RunStarted, EvaluationCompleted)):
            self._stop_if_exhausted()

    def export_state(self) -> JsonObject:
        """The best value, and the number of evaluations since."""
        return {"best": self._best, "num_worse": self._num_worse}

    def import_state(self, state: JsonObject) -> None:
        """Takes back what `export_state` returned."""
        self._best, self._num_worse = state["best"], state["num_worse"]

    def _compare(self, event: EvaluationCompleted) -> None:
        value = self._sign * event.metrics[self._metric]
        # A value that is not finite is never better, not even the infinity on the better side.
        threshold = math.inf if self._best is None else self._best - self._min_delta
        if math.isfinite(value) and value < threshold:
            self._best, self._num_worse = value, 0
        else:
            self._num_worse += 1

    def _stop_if_exhausted(self) -> None:
        if self._num_worse >= self._patience:
            self._stop.request(
                f"early stopping: {self._monitor} has not improved for {self._patience} evaluations"
            )
