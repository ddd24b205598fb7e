"""A callback that records where the time of some steps goes."""

from collections.abc import Callable

from aetheria.errors import AetheriaError
from aetheria.events import Event, RunEnded, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.plugins import register_callback


@register_callback("profiler")
class Profiler:
    """Records some steps with JAX's profiler, once in every start of the run, into
    `tensorboard/plugins/profile/` of the run folder.

    It begins at the first report of `start_step` or a later step, and ends at the first report
    that is `num_steps` later, or with the run. A run reports every `log_every_steps`, when these
    steps are done and a few more are queued. Of several processes, the first is recorded.

    Args:
        context: what every callback is given.
        start_step: the step to wait for; the first ones compile.
        num_steps: how many steps to record. A recording of many takes memory and slows the run.

    Raises:
        AetheriaError: an argument is below 1, or the strategy is `torch`.
    """

    def __init__(self, context: RunContext, start_step: int = 10, num_steps: int = 10):
        if min(start_step, num_steps) < 1:
            raise AetheriaError(
                f"profiler: expected start_step and num_steps of 1 or more, got {start_step} and "
                f"{num_steps}; change them in callbacks"
            )
        if context.start_profile is None:
            raise AetheriaError(
                "profiler: expected a strategy of JAX, got 'torch'; leave the callback out, or use "
                "torch.profiler in a program of your own"
            )
        self._folder, self._start = context.run_dir / "tensorboard", context.start_profile
        self._start_step, self._num_steps = start_step, num_steps
        self._opened_at: int | None = None
        self._finish: Callable[[], None] | None = None

    def notify(self, event: Event) -> None:
        """Begins and ends the recording."""
        if isinstance(event, RunEnded):
            self._end()
        elif isinstance(event, TrainMetrics):
            step = event.progress.step
            if self._opened_at is None:
                if step >= self._start_step:
                    self._opened_at, self._finish = step, self._start(self._folder)
            elif step >= self._opened_at + self._num_steps:
                self._end()

    def _end(self) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()
