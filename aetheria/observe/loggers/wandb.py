"""Weights & Biases (extra `wandb`)."""

import inspect
from typing import Any

from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Event, RunEnded, RunStarted, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.records import metric_values
from aetheria.plugins import register_logger

_MODES = (None, "online", "offline", "disabled")
_OURS = ("dir", "config", "id", "resume")  # of wandb.init's arguments


@register_logger("wandb")
class WandbLogger:
    """Logs to one W&B run, the same one after a resume: its id is in the snapshot.

    Args:
        project: W&B project.
        mode: `online`, `offline` or `disabled`; None leaves it to WANDB_MODE.
        options: anything else `wandb.init` takes, but for dir, config, id and resume.

    Raises:
        AetheriaError: wandb is not installed, or an argument is none of these.
    """

    def __init__(
        self,
        context: RunContext,
        project: str = "aetheria",
        mode: str | None = None,
        **options: Any,
    ):
        try:
            import wandb
        except ImportError:
            raise AetheriaError(
                "loggers: expected the package wandb, got none; pip install 'aetheria[wandb]'"
            ) from None
        self._wandb: Any = wandb
        self._context = context
        if mode not in _MODES:
            raise AetheriaError(
                f"loggers.wandb.mode: expected online, offline or disabled, got {mode!r}; change it"
            )
        accepted = set(inspect.signature(self._wandb.init).parameters).difference(_OURS)
        for name in options:
            if name not in accepted:
                raise AetheriaError(
                    f"loggers.wandb: expected arguments of wandb.init other than "
                    f"{', '.join(_OURS)}, got {name!r}; remove it"
                )
        self._options = {"project": project, "mode": mode, **options}
        self._run: Any = None
        self._run_id: str | None = None

    def notify(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start()
            case TrainMetrics():
                self._log("train", event)
            case EvaluationCompleted():
                self._log("eval", event)
            case RunEnded() if self._run is not None:
                self._run.finish(exit_code=0 if event.status == "completed" else 1)

    def export_state(self) -> dict[str, Any]:
        return {"run_id": self._run_id}

    def import_state(self, state: dict[str, Any]) -> None:
        # A fork is another run: it must not write into its parent's curves.
        self._run_id = None if self._context.is_fork else state["run_id"]

    def _start(self) -> None:
        self._run = self._wandb.init(
            dir=str(self._context.run_dir),
            config=dict(self._context.config),
            id=self._run_id,
            resume="allow" if self._run_id else None,
            **self._options,
        )
        self._run_id = self._run.id
        # Our own step axis: W&B's counter only grows, so it drops what a resumed run logs again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _log(self, split: str, event: TrainMetrics | EvaluationCompleted) -> None:
        metrics = {f"{split}/{name}": value for name, value in metric_values(event).items()}
        counters = {"step": event.progress.step, "epoch": event.progress.epoch}
        self._run.log({**counters, **metrics})
