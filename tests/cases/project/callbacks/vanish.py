"""A callback that takes the run folder away."""

import shutil

from aetheria import register_callback
from aetheria.events import TrainMetrics


@register_callback("vanish")
class Vanish:
    def __init__(self, context, step: int, how: str):
        self._run_dir, self._step, self._how = context.run_dir, step, how

    def notify(self, event):
        if not isinstance(event, TrainMetrics) or event.progress.step != self._step:
            return
        if self._how == "remove":
            shutil.rmtree(self._run_dir)
            return
        self._run_dir.rename(self._run_dir.with_name("moved"))
        if self._how != "rename":
            self._run_dir.write_text("a file in its place")
