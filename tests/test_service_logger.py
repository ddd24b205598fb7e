"""What all loggers of services share, with a service that may lose what it was sent last."""

import json
import shutil
import sys
from itertools import product

import pytest

from aetheria.engine.stop import StopSignal
from aetheria.errors import AetheriaError
from aetheria.events import (
    EvaluationCompleted,
    Progress,
    RolledBack,
    RunEnded,
    RunStarted,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.service import ServiceLogger


class Shelf(ServiceLogger):
    """A service that keeps rows in a list, by the id of their run."""

    def __init__(self, folder, rows, *, can_say=True, breaks_at=None, is_fork=False):
        context = RunContext(run_dir=folder, config={}, stop=StopSignal(), is_fork=is_fork)
        super().__init__(context, "shelf")
        self.rows, self.can_say, self.breaks_at = rows, can_say, breaks_at
        self.closed = None

    def _open(self, run_id):
        return run_id or f"run{len(self.rows)}"

    def _last_steps(self):
        mine = [row for row in self.rows if row[0] == self._run_id]
        return {name: step for _, step, name, _ in mine} if self.can_say else None

    def _send(self, points):
        for point in points:
            if point.step == self.breaks_at:
                raise OSError("the server is gone")
            for name, value in point.values.items():
                self.rows.append((self._run_id, point.step, name, value))

    def _close(self, status):
        self.closed = status

    def drain(self):
        """As a kill leaves it, when all that was queued has been sent."""
        self._queue.put(None)
        self._thread.join()


def started(step=0, *, resumed=False, replays=False):
    progress = Progress(step=step)
    return RunStarted(
        progress=progress, replays=replays, total_steps=9, steps_per_epoch=3, resumed=resumed
    )


def log(logger, steps, *, value=1.0):
    for step in steps:
        event = {"progress": Progress(step=step), "metrics": {"loss": value * step}}
        logger.notify(TrainMetrics(**event, steps_per_second=1.0))
        if step % 3 == 0:
            logger.notify(EvaluationCompleted(**event, num_examples=1, seconds=0.1))


ENDED = RunEnded(progress=Progress(step=9), status="completed", reason="")
EXPECTED = {"train/loss": list(range(1, 10)), "eval/loss": [3, 6, 9]}


def steps_of(rows, run_id="run0"):
    names = ("train/loss", "eval/loss")
    return {
        name: [step for run, step, key, _ in rows if (run, key) == (run_id, name)] for name in names
    }


def resume(folder, rows, state, step, **options):
    logger = Shelf(folder, rows, **options)
    logger.import_state(state)
    logger.notify(started(step, resumed=True))
    log(logger, range(step + 1, 10))
    logger.notify(ENDED)
    return logger


@pytest.mark.parametrize(
    ("killed_at", "saved", "lost"), [*product((4, 7, 9), (0, 3, 4), (0, 1, 5))]
)
def test_every_point_is_there_once_whenever_a_run_is_killed(tmp_path, killed_at, saved, lost):
    rows = []
    logger = Shelf(tmp_path, rows)
    logger.notify(started())
    log(logger, range(1, killed_at + 1))
    state = logger.export_state()
    logger.drain()
    del rows[len(rows) - lost :]  # were still in the service's buffer
    assert resume(tmp_path, rows, state, saved).closed == "completed"
    assert steps_of(rows) == EXPECTED


def test_a_line_that_the_kill_left_half_written_is_logged_again(tmp_path):
    rows = []
    logger = Shelf(tmp_path, rows)
    logger.notify(started())
    log(logger, range(1, 5))
    logger.drain()
    with (tmp_path / "points" / "shelf.jsonl").open("a") as file:
        file.write('{"step": 5, "epo')
    resume(tmp_path, rows, logger.export_state(), 4)
    assert steps_of(rows) == EXPECTED


def test_the_check_sees_points_that_are_twice_and_points_that_are_missing(tmp_path):
    """The controls: a logger that asks nothing, and one without the file of its points."""
    for asks, keeps in [(False, False), (True, False)]:
        rows, folder = [], tmp_path / f"{asks}"
        logger = Shelf(folder, rows)
        logger.notify(started())
        log(logger, range(1, 7))
        logger.drain()
        if asks:
            del rows[-12:]
        if not keeps:
            shutil.rmtree(folder / "points")
        resume(folder, rows, logger.export_state(), 4, can_say=asks)
        assert steps_of(rows) != EXPECTED


def test_a_service_that_cannot_say_what_it_has_is_sent_what_the_file_lacks(tmp_path):
    rows = []
    logger = Shelf(tmp_path, rows, can_say=False)
    logger.notify(started())
    log(logger, range(1, 8))
    logger.drain()
    resume(tmp_path, rows, logger.export_state(), 4, can_say=False)
    assert steps_of(rows) == EXPECTED


def test_a_run_that_rolls_back_or_replays_a_step_logs_it_once(tmp_path):
    rows = []
    logger = Shelf(tmp_path, rows)
    logger.notify(started())
    log(logger, range(1, 7))
    back = RolledBack(progress=Progress(step=3), replays=True, from_step=6, snapshot="snapshot_3")
    logger.notify(back)
    log(logger, range(3, 10))
    logger.notify(ENDED)
    assert steps_of(rows) == EXPECTED


def test_what_a_service_missed_is_sent_when_the_run_resumes(tmp_path):
    rows = []
    logger = Shelf(tmp_path, rows, breaks_at=3)
    logger.notify(started())
    log(logger, range(1, 4))
    logger._thread.join()
    with pytest.raises(OSError, match="the server is gone"):
        log(logger, [4])
    assert steps_of(rows)["train/loss"][-1] < 3
    resume(tmp_path, rows, logger.export_state(), 3)
    assert steps_of(rows) == EXPECTED


def test_a_fork_is_a_run_of_its_own(tmp_path):
    rows = []
    logger = Shelf(tmp_path / "fork", rows, is_fork=True)
    logger.import_state({"run_id": "parent"})
    logger.notify(started(3, resumed=True))
    log(logger, [4])
    logger.notify(ENDED)
    assert {row[0] for row in rows} == {"run0"}


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "comet"])
def test_a_missing_package_is_one_line_before_anything_is_written(
    name, train, tmp_path, monkeypatch
):
    package = {"comet": "comet_ml"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AetheriaError, match=rf"pip install 'aetheria\[{name}\]'") as error:
        train("run", loggers=[name])
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("wandb", {"settings": {"api_key": "hunter2"}}, "settings.api_key: expected no cred"),
        ("mlflow", {"tracking_uri": "postgresql://me:hunter2@h/db"}, "MLFLOW_TRACKING_URI"),
        ("trackio", {"server_url": "https://h?write_token=hunter2"}, "got 'server_url'"),
        ("trackio", {"webhook_url": "https://hooks/hunter2"}, "got 'webhook_url'"),
        ("comet", {"api_key": "hunter2"}, "api_key"),
    ],
)
def test_a_secret_in_a_config_is_refused_and_not_repeated(name, arguments, words, train, tmp_path):
    pytest.importorskip({"comet": "comet_ml"}.get(name, name))
    with pytest.raises(AetheriaError) as error:
        train("run", loggers=[{name: arguments}])
    assert words in str(error.value) and "hunter2" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy 2.1, about MLflow
def test_an_mlflow_run_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from aetheria.observe.loggers.mlflow import MlflowLogger

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    logger = MlflowLogger(RunContext(run_dir=tmp_path, config={}, stop=StopSignal()))
    logger.import_state({"run_id": "0" * 32})
    with pytest.raises(
        AetheriaError, match=r"expected the MLflow run 000.*; set tracking_uri"
    ) as e:
        logger.notify(started(3, resumed=True))
    assert len(str(e.value).splitlines()) == 1
    assert json.loads(json.dumps(logger.export_state())) == {"run_id": "0" * 32}
