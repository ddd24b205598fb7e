"""Ends a run whose evaluation no longer improves."""

import math
from typing import Any

from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Event, RunStarted
from aetheria.observe.listener import RunContext
from aetheria.plugins import register_callback


@register_callback("early_stopping")
class EarlyStopping:
    """Asks for a stop after `patience` evaluations without improvement.

    Args:
        monitor: an evaluation metric, such as `eval/loss`.
        patience: evaluations to wait for a better value.
        mode: `min` or `max`.
        min_delta: what counts as better.

    Raises:
        AetheriaError: an argument that makes no sense, or a metric the model does not report.
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
        self._sign, self._min_delta = (1 if mode == "min" else -1), min_delta
        self._best: float | None = None
        self._num_worse = 0

    def notify(self, event: Event) -> None:
        if isinstance(event, EvaluationCompleted):
            self._judge(event)
        if isinstance(event, (RunStarted, EvaluationCompleted)):
            self._stop_if_exhausted()

    def export_state(self) -> dict[str, Any]:
        return {"best": self._best, "num_worse": self._num_worse}

    def import_state(self, state: dict[str, Any]) -> None:
        self._best, self._num_worse = state["best"], state["num_worse"]

    def _judge(self, event: EvaluationCompleted) -> None:
        value = self._sign * event.metrics[self._monitor.removeprefix("eval/")]
        # What is not finite is never better, an infinity on the good side neither.
        bar = math.inf if self._best is None else self._best - self._min_delta
        if math.isfinite(value) and value < bar:
            self._best, self._num_worse = value, 0
        else:
            self._num_worse += 1

    def _stop_if_exhausted(self) -> None:
        if self._num_worse >= self._patience:
            self._stop.request(
                f"early stopping: {self._monitor} has not improved for {self._patience} evaluations"
            )
