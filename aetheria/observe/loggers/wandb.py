"""A logger for Weights & Biases (extra `wandb`)."""

import inspect
import os
import urllib.parse
from collections.abc import Mapping
from typing import Any

from aetheria.config.json_types import JsonObject
from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Event, RunEnded, RunStarted, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.credentials import has_netrc_entry
from aetheria.observe.loggers.records import metric_values, rates
from aetheria.plugins import register_logger

_MODES = (None, "online", "offline", "disabled")
_SET_HERE = ("dir", "config", "id", "resume")  # the arguments of wandb.init given by this logger


@register_logger("wandb")
class WandbLogger:
    """Logs to one W&B run; its id is in the snapshot, so a resumed run logs to the same one.

    Args:
        context: what every logger is given.
        project: the W&B project.
        mode: `online`, `offline` or `disabled`; None: the variable WANDB_MODE decides.
        options: further arguments of `wandb.init`, except dir, config, id and resume.

    Raises:
        AetheriaError: wandb is not installed, or an argument is not one of these.
    """

    def __init__(
        self,
        context: RunContext,
        project: str = "aetheria",
        mode: str | None = None,
        **options: object,
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
        accepted = set(inspect.signature(self._wandb.init).parameters).difference(_SET_HERE)
        for name in options:
            if name not in accepted:
                raise AetheriaError(
                    f"loggers.wandb: expected arguments of wandb.init other than "
                    f"{', '.join(_SET_HERE)}, got {name!r}; remove it"
                )
        self._options: dict[str, Any] = {"project": project, "mode": mode, **options}
        self._run: Any = None
        self._run_id: str | None = None

    @staticmethod
    def preflight(arguments: Mapping[str, Any]) -> list[str]:
        """What `aetheria check` finds wrong before a run: no credentials for the service."""
        mode = arguments.get("mode") or os.environ.get("WANDB_MODE", "online")
        service = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        host = urllib.parse.urlsplit(service).hostname or ""
        if mode != "online" or os.environ.get("WANDB_API_KEY") or has_netrc_entry(host):
            return []
        return [
            f"loggers.wandb: expected credentials for {host}, got none; set WANDB_API_KEY, run "
            "wandb login, or use mode: offline"
        ]

    def notify(self, event: Event) -> None:
        """Logs the values of an event with metrics."""
        match event:
            case RunStarted():
                self._start()
            case TrainMetrics():
                self._log("train", event)
            case EvaluationCompleted():
                self._log(event.split, event)
            case RunEnded() if self._run is not None:
                self._run.finish(exit_code=0 if event.status == "completed" else 1)

    def export_state(self) -> JsonObject:
        """The id of the W&B run."""
        return {"run_id": self._run_id}

    def import_state(self, state: JsonObject) -> None:
        """Takes back the id of the W&B run."""
        # A fork is another run: it must not write to the W&B run of its parent.
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
        # W&B's own step counter only grows: on that axis it would drop what a resumed run logs
        # again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _log(self, split: str, event: TrainMetrics | EvaluationCompleted) -> None:
        values = metric_values(event)
        if isinstance(event, TrainMetrics):
            values |= rates(event)
        metrics = {f"{split}/{name}": value for name, value in values.items()}
        counters = {"step": event.progress.step, "epoch": event.progress.epoch}
        self._run.log({**counters, **metrics})
