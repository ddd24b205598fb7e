"""Checks each part of a run by itself, as far as the others allow. Runs nothing, writes nothing."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax

from aetheria.build import build_feed, build_model, build_retention, build_schedule
from aetheria.build.data import check_batch_fits, make_dataset, name_eval_metrics
from aetheria.build.devices import build_strategy, cut_for_devices
from aetheria.build.listeners import choose_listeners, list_choices
from aetheria.build.model import check_decomposes
from aetheria.build.run import build_program
from aetheria.build.snapshots import check_monitor
from aetheria.config import Config
from aetheria.data import Feed
from aetheria.engine.interfaces import AnyProgram, SingleProcess
from aetheria.errors import AetheriaError, summary_of
from aetheria.hardware.jax.program import JaxProgram
from aetheria.hardware.jax.step_memory import device_limit, step_memory
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.hardware.strategy import Strategy
from aetheria.model.model import Model
from aetheria.model.overriding import with_hooks
from aetheria.snapshots.disk_space import check_disk_space
from aetheria.snapshots.run_plan import RunPlan
from aetheria.snapshots.runs import RunRequest
from aetheria.snapshots.sizes import size_text
from aetheria.tools.check.finding import Finding

Found = TypeVar("Found")
_BATCH_STATISTICS = "batch_stats"  # where Flax's Linen keeps those of BatchNorm


@dataclass
class Checks:
    """The checks of one config. A part that fails is a finding, and what needs it is left out.

    Attributes:
        config: the keys that are right by themselves.
        config_name: what a new run folder would be named after.
        project: the project folder.
        workdir: the run folder; None: the next one under `runs/`.
        memory_bytes: of a device; None: what the device says.
    """

    config: Config
    config_name: str
    project: Path
    workdir: Path | None = None
    memory_bytes: int | None = None

    def run(self) -> Iterator[Finding]:
        """Yields what is found, part by part."""
        self._found: list[Finding] = []
        for each in self._parts():
            each()
            yield from self._found
            self._found.clear()

    def _parts(self) -> Iterator[Callable[[], None]]:
        self._model: Model | None = None
        self._feed: Feed | None = None
        self._strategy: Strategy[AnyProgram] | None = None
        self._served: Feed | None = None  # the data, cut for the devices
        self._program: AnyProgram | None = None
        yield from (
            self._check_model,
            self._check_data,
            self._check_listeners,
            self._check_devices,
            self._check_program,
            self._check_batch_statistics,
            self._check_folder,
            self._check_memory,
        )

    def _try(self, about: str, look: Callable[[], Found]) -> Found | None:
        """What `look` returns; None: it has failed, which is a finding."""
        try:
            return look()
        except AetheriaError as error:
            self._found += [Finding("problem", about, line) for line in error.problems]
        except Exception as error:  # of a user's code
            self._found.append(Finding("problem", about, summary_of(error, 300)))
        return None

    def _say(self, level: Any, about: str, text: str) -> None:
        self._found.append(Finding(level, about, text))

    def _check_model(self) -> None:
        self._model = self._try("model", lambda: build_model(self.config, self.project))
        if (model := self._model) is not None:
            self._try("model", lambda: check_decomposes(model, self.config, 1))
            if not self._found:
                self._say("ok", "model", self.config.model_name)

    def _check_data(self) -> None:
        config, model = self.config, self._model
        if model is None:
            made = (config.data_name, config.data_params, self.project, {})
            self._try("data", lambda: make_dataset(*made))
            return
        self._feed = feed = self._try("data", lambda: build_feed(config, self.project, model))
        if feed is None:
            # Labels may be the only mistake: the other checks go on without looking at them.
            with contextlib.suppress(Exception):
                self._feed = build_feed(
                    config, self.project, with_hooks(model, class_columns=lambda self: {})
                )
            return
        for note in feed.notes:
            self._say("warning", "data", note)
        self._try("data", lambda: check_batch_fits(feed))
        self._try("data", lambda: build_schedule(config, feed))
        columns = ", ".join(
            f"{name} {column['dtype']} {column['shape']}"
            for name, column in feed.example_spec().items()
        )
        self._say("ok", "data", f"{feed.num_train_examples:,} examples of {columns}")

    def _check_listeners(self) -> None:
        for key in ("loggers", "callbacks"):
            for item in getattr(self.config, key):
                alone = replace(self.config, **{"loggers": (), "callbacks": (), key: (item,)})
                self._check_listener(key, alone)
        if not self._found:
            self._say("ok", "listeners", "loggers and callbacks")

    def _check_listener(self, key: str, alone: Config) -> None:
        if self._try(key, lambda: choose_listeners(alone, self.project)) is None:
            return
        for choice in list_choices(alone, self.project):
            preflight = getattr(choice.factory, "preflight", None)
            if preflight is not None:
                problems = self._try(key, lambda p=preflight, c=choice: p(c.arguments))
                self._found += [Finding("problem", key, line) for line in problems or ()]

    def _check_devices(self) -> None:
        made = self._try("devices", lambda: build_strategy(self.config, SingleProcess()))
        self._strategy = made
        if made is None:
            return
        if (feed := self._feed) is not None:
            self._served = self._try("devices", lambda: cut_for_devices(feed, made))
            if self._served is None:
                return
        self._say("ok", "devices", made.devices)

    def _check_program(self) -> None:
        """The shapes and dtypes that the model makes of the data, and what it reports."""
        model, feed, strategy = self._model, self._served, self._strategy
        if model is None or feed is None or strategy is None:
            return
        compile = lambda: build_program(self.config, model, feed, strategy)
        self._program = program = self._try("model", compile)
        if program is None:
            return
        metrics = name_eval_metrics(feed, program.eval_metrics)
        self._try("snapshot", lambda: check_monitor(self.config, metrics))
        self._say("ok", "model", f"fits the data; reports {', '.join(('train/loss', *metrics))}")

    def _check_batch_statistics(self) -> None:
        steps = self.config.grad_accumulation_steps
        if steps == 1 or not isinstance(self._program, JaxProgram) or self._feed is None:
            return
        state = named_leaves(self._program.abstract_state.model_state)
        if any(_BATCH_STATISTICS in path.split("/") for path in state):
            self._say(
                "warning",
                "model",
                "grad_accumulation_steps: BatchNorm normalizes each micro-batch of "
                f"{self._feed.slice_size} examples by itself, not the batch of "
                f"{self.config.batch_size}; with fewer micro-batches the results differ",
            )

    def _check_folder(self) -> None:
        """The run folder, and the room on its disk for the snapshots."""
        retention = build_retention(self.config)
        request = RunRequest(
            config_name=self.config_name, workdir=self.workdir, retention=retention
        )
        plan: RunPlan | None = self._try("folder", request.resolve)
        if plan is None:
            return
        size = 0 if self._program is None else self._program.state_bytes
        lines = self._try("folder", lambda: check_disk_space(plan.run_dir, size, retention))
        for line in lines or ():
            self._say("warning", "folder", line)
        if lines is not None:
            takes = f"; a snapshot takes {size_text(size)}" if size else ""
            self._say("ok", "folder", f"{plan.run_dir}{takes}")

    def _check_memory(self) -> None:
        """The compiled step against the memory of a device."""
        program = self._program
        if program is None:
            return
        if not isinstance(program, JaxProgram):
            why = f"not estimated with strategy {self.config.strategy}"
            if self.config.strategy != "torch":
                why = f"not estimated with reproducibility {self.config.reproducibility}"
            self._say("ok", "memory", why)
            return
        compiled = self._try("memory", lambda: program.trace_train_step().lower().compile())
        if compiled is None:
            return
        peak = step_memory(compiled).peak
        limit = self.memory_bytes or device_limit(jax.local_devices()[0])
        text = f"a step needs {size_text(peak)} on each device"
        if limit is None:
            self._say("ok", "memory", f"{text}; how much there is is not known")
        elif peak > limit:
            self._say(
                "problem",
                "memory",
                f"batch_size: expected a step that fits in {size_text(limit)} on each device, got "
                f"{size_text(peak)}; raise grad_accumulation_steps, or lower batch_size",
            )
        else:
            self._say("ok", "memory", f"{text}, of {size_text(limit)}")


def cache_finding() -> Finding:
    """Whether compiled programs can be kept for later starts."""
    from aetheria.hardware.jax.compile_cache import make_folder

    folder = make_folder(os.environ)
    if folder is None:
        text = "compiled programs cannot be kept; make the cache folder yours alone (chmod 700)"
        return Finding("warning", "cache", text)
    return Finding("ok", "cache", str(folder))
