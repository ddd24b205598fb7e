"""TensorBoard curves through tensorboardX, which needs neither TensorFlow nor TensorBoard."""

from typing import Any

from aetheria.events import EvaluationCompleted, Event, RunEnded, RunStarted, StepsCompleted
from aetheria.plugins import register_logger
from aetheria.protocols import RunContext


@register_logger("tensorboard")
class TensorBoardLogger:
    """Writes `tensorboard/`; tags are `train/loss`, `eval/accuracy` and so on."""

    def __init__(self, context: RunContext):
        self._folder = context.run_dir / "tensorboard"
        self._writer: Any = None

    def notify(self, event: Event) -> None:
        match event:
            case RunStarted():
                from tensorboardX import SummaryWriter

                # purge_step makes a reader forget what a killed process wrote past the snapshot.
                purge_step = event.progress.step + 1 if event.resumed else None
                self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
            case StepsCompleted():
                self._write("train", event)
                self._writer.add_scalar(
                    "train/steps_per_second", event.steps_per_second, event.progress.step
                )
            case EvaluationCompleted():
                self._write("eval", event)
            case RunEnded():
                self._writer.close()

    def export_state(self) -> dict[str, Any]:
        """Flushes: what precedes a snapshot must outlive a kill that follows it."""
        self._writer.flush()
        return {}

    def _write(self, split: str, event: StepsCompleted | EvaluationCompleted) -> None:
        for name, value in event.metrics.items():
            self._writer.add_scalar(f"{split}/{name}", value, event.progress.step)
