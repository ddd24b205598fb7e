"""One trial under way: its runs, one seed after the other, and when it is pruned."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from aetheria.config import Config
from aetheria.errors import ExitCode
from aetheria.snapshots.run_lock import living_holder
from aetheria.tools.sweep.process import MetricReader, RunProcess, is_complete, result_of
from aetheria.tools.sweep.results import mean_and_spread
from aetheria.tools.sweep.settings import Settings
from aetheria.tools.sweep.space import apply
from aetheria.tools.sweep.study import Claimed, SweepStudy


class TrialInProgress:
    """A trial that this process runs; `advance` is called again and again.

    The first seed's run alone is compared with other trials while it trains: if it is pruned, the
    other seeds are not run.

    Args:
        claimed: the trial.
        study: remembers how it ends.
        settings: of the sweep.
        project: the project folder.
        environment: variables for its processes.
    """

    def __init__(
        self,
        claimed: Claimed,
        study: SweepStudy,
        settings: Settings,
        project: Path,
        environment: Mapping[str, str],
    ):
        self.number, self.point = claimed.number, claimed.point
        self._claimed, self._study, self._settings = claimed, study, settings
        self._project, self._environment = project, environment
        self._seeds = list(settings.seeds)
        self._results: list[dict[str, Any]] = []
        self._process: RunProcess | None = None
        self._reader = MetricReader(self._run_dir, settings.metric)
        self._reported = set(claimed.reported)
        self._pruned_at: int | None = None
        self._stopping = False
        self.status = "running"

    def advance(self) -> bool:
        """Does what there is to do; returns whether the trial goes on."""
        if self._process is None:
            return self._begin_run()
        code = self._process.exit_code()
        if len(self._results) == 0 and self._pruned_at is None and not self._stopping:
            self._report()
        if code is None:
            return True
        return self._end_run(code)

    def stop(self) -> None:
        """Ends the run with a snapshot; another process, or a later one, continues the trial."""
        self._stopping = True
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """Ends the run at once; the trial is to be continued."""
        if self._process is not None:
            self._process.kill()
        self._claimed.lock.release()

    @property
    def _run_dir(self) -> Path:
        return self._claimed.folder / f"seed_{self._seed}"

    @property
    def _seed(self) -> int:
        return self._seeds[min(len(self._results), len(self._seeds) - 1)]

    def _begin_run(self) -> bool:
        if self._stopping:
            return self._leave()
        if living_holder(self._run_dir) is not None:
            return True  # of a sweep that was killed; it goes on by itself
        if is_complete(self._run_dir):
            return self._record_run()
        if not self._results and self._claimed.reported and self._claimed.trial.should_prune():
            # The sweep was killed after it had decided this.
            self._pruned_at = max(self._claimed.reported)
            return self._finish_pruned()
        self._process = RunProcess(self._run_dir, self._config(), self._project, self._environment)
        return True

    def _config(self) -> Config:
        point = {**self._claimed.point}
        if len(self._seeds) > 1:
            point["seed"] = self._seed
        return apply(self._settings.config, point)

    def _report(self) -> None:
        trial = self._claimed.trial
        for step, value in self._reader.new_values():
            if step in self._reported or value is None or not math.isfinite(value):
                continue
            self._reported.add(step)
            trial.report(value, step)
            if trial.should_prune():
                self._pruned_at = step
                assert self._process is not None, "it reports"
                self._process.stop()
                return

    def _end_run(self, code: int) -> bool:
        process, self._process = self._process, None
        assert process is not None, "it has ended"
        if code == ExitCode.OK and is_complete(self._run_dir):
            return self._record_run()
        if code == ExitCode.PREEMPTED and self._pruned_at is not None:
            return self._finish_pruned()
        if code == ExitCode.PREEMPTED or self._stopping:
            return self._leave()
        if process.was_refused():
            # A process of a sweep that was killed has the run. It locks the folder some seconds
            # after its start, so that this trial may have begun before that.
            return True
        return self._finish(TrialState.FAIL, None, f"seed {self._seed}: {process.why()}")

    def _result(self) -> dict[str, Any]:
        settings = self._settings
        folder = str(self._run_dir.relative_to(self._study.folder))
        found = result_of(self._run_dir, settings.metric, settings.mode)
        return {"folder": folder, "seed": self._seed, **found}

    def _record_run(self) -> bool:
        result = self._result()
        if result["value"] is None:
            self._results.append(result)
            return self._finish(
                TrialState.FAIL,
                None,
                f"seed {result['seed']}: {self._settings.metric} never finite",
            )
        self._results.append(result)
        if len(self._results) < len(self._seeds):
            return self._begin_run()
        value, _ = mean_and_spread([each["value"] for each in self._results])
        return self._finish(TrialState.COMPLETE, value, "")

    def _finish_pruned(self) -> bool:
        self._results.append(self._result())
        return self._finish(TrialState.PRUNED, None, f"pruned at step {self._pruned_at}")

    def _finish(self, state: TrialState, value: float | None, reason: str) -> bool:
        self.status = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(
            state, "failed"
        )
        self._study.finish(self._claimed, state, value, self._results, reason)
        return False

    def _leave(self) -> bool:
        self.status = "stopped"
        self._claimed.lock.release()
        return False
