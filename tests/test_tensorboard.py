"""TensorBoard curves, read back with TensorBoard's own reader."""

import json
import shutil

import numpy as np
import pytest
import yaml
from support.metric_files import curve
from support.runs import DIGITS, Finished
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aetheria.cli.train import TrainCommand
from aetheria.engine.stop import StopSignal
from aetheria.events import EvaluationCompleted, Progress, RunEnded, RunStarted, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.event_file import EventFile
from aetheria.observe.loggers.tensorboard import TensorBoardLogger

TRAIN_STEPS, EVAL_STEPS = list(range(5, 46, 5)), [23, 46]
CONFIG = {**DIGITS, "log_every_steps": 5, "loggers": ["jsonl", "tensorboard"]}
ENDED = RunEnded(progress=Progress(step=1), status="completed", reason="end of schedule")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run stopped at step 25 and resumed; and a copy that had gone on to the end when only its
    snapshot of step 23 was complete.
    """
    folder = tmp_path_factory.mktemp("tensorboard")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))

    def train(name, **options):
        run_dir = folder / name
        return Finished(
            TrainCommand(config_file=file, workdir=run_dir, **options).execute(), run_dir
        )

    assert train("resumed", stop_at_step=25).exit_code == 75
    resumed = train("resumed", resume="latest")
    shutil.copytree(resumed.run_dir, folder / "killed")
    for name in ("snapshot_step25", "snapshot_ep2"):
        shutil.rmtree(folder / "killed" / "checkpoints" / name)
    return {"resumed": resumed, "killed": train("killed", resume="latest")}


def steps(folder, tag="train/loss"):
    return [step for step, _ in curve(folder, tag)]


@pytest.mark.parametrize("history", ["resumed", "killed"])
@pytest.mark.parametrize(
    "tag", ["train/loss", "train/accuracy", "train/learning_rate", "eval/loss", "eval/accuracy"]
)
def test_every_point_is_there_once_and_equals_metrics_jsonl(runs, history, tag):
    split, name = tag.split("/")
    expected = [
        (record["step"], float(np.float32(record[name])))  # TensorBoard keeps float32
        for record in runs[history].metrics
        if record["split"] == split
    ]
    assert [step for step, _ in expected] == (TRAIN_STEPS if split == "train" else EVAL_STEPS)
    assert curve(runs[history].run_dir / "tensorboard", tag) == expected


def test_the_training_rate_is_a_curve_too(runs):
    assert steps(runs["resumed"].run_dir / "tensorboard", "train/steps_per_second") == TRAIN_STEPS


def test_the_check_sees_steps_that_a_resume_writes_again(runs, tmp_path):
    """The control: a plain writer that goes on from step 23 in the folder of a whole run."""
    folder = tmp_path / "tensorboard"
    shutil.copytree(runs["resumed"].run_dir / "tensorboard", folder)
    again = EventFile(folder / "events.000009.tfevents")
    again.add_scalars(25, {"train/loss": 1.0})
    again.close()
    assert steps(folder).count(25) == 2


def start(folder, step=0, resumed=False):
    logger = TensorBoardLogger(RunContext(run_dir=folder, config={}, stop=StopSignal()))
    progress = Progress(step=step)
    logger.notify(RunStarted(progress=progress, total_steps=9, steps_per_epoch=3, resumed=resumed))
    return logger


def report(logger, *numbers):
    for step in numbers:
        metrics = {"loss": 1.0 / step}
        logger.notify(
            TrainMetrics(progress=Progress(step=step), metrics=metrics, steps_per_second=1.0)
        )


def test_what_precedes_a_snapshot_is_on_disk_when_it_is_taken(tmp_path):
    """A kill right after it must lose nothing: the resumed run does not write that again."""
    logger = start(tmp_path)
    report(logger, *range(1, 41))
    logger.notify(
        EvaluationCompleted(
            progress=Progress(step=40), metrics={"loss": 1.0}, num_examples=1, seconds=0.1
        )
    )
    logger.export_state()
    shutil.copytree(tmp_path / "tensorboard", tmp_path / "killed")
    logger.notify(ENDED)
    assert steps(tmp_path / "killed") == list(range(1, 41))
    assert steps(tmp_path / "killed", "eval/loss") == [40]


def test_two_starts_within_a_second_keep_both_their_curves(tmp_path):
    for first in range(0, 12, 3):
        logger = start(tmp_path, step=first, resumed=first > 0)
        report(logger, first + 1, first + 2, first + 3)
        logger.notify(ENDED)
    assert steps(tmp_path / "tensorboard") == list(range(1, 13))


def test_a_fresh_start_forgets_a_run_killed_before_its_first_snapshot(tmp_path):
    report(killed := start(tmp_path), 1, 2, 3)
    killed.export_state()
    report(logger := start(tmp_path), 1, 2)
    for each in (killed, logger):
        each.notify(ENDED)
    assert steps(tmp_path / "tensorboard") == [1, 2]


def test_a_run_that_fails_before_it_starts_writes_nothing(tmp_path):
    TensorBoardLogger(RunContext(run_dir=tmp_path, config={}, stop=StopSignal())).notify(ENDED)
    assert list(tmp_path.iterdir()) == []


VALUES = [0.0, -1.5, 0.1, 1e-45, 1e300, -1e300, float("inf"), float("nan")]


@pytest.fixture
def event_file(tmp_path):
    """One value at each of some steps that take one to six bytes."""
    file = EventFile(tmp_path / "events.tfevents")
    for number, value in enumerate(VALUES):
        file.add_scalars(60 ** (number + 1), {"train/β": value, "x" * 200: 1})
    file.close()
    return tmp_path / "events.tfevents"


def test_any_number_and_step_is_read_back_as_written(event_file):
    with np.errstate(over="ignore"):
        expected = np.float32(VALUES)
    points = curve(event_file.parent, "train/β")
    assert [step for step, _ in points] == [60 ** (number + 1) for number in range(len(VALUES))]
    np.testing.assert_array_equal([value for _, value in points], expected)
    assert len(curve(event_file.parent, "x" * 200)) == len(VALUES)


def test_the_reader_checks_the_checksums(event_file):
    content = bytearray(event_file.read_bytes())
    content[-10] ^= 1
    event_file.write_bytes(content)
    assert len(curve(event_file.parent, "train/β")) == len(VALUES) - 1


def test_the_config_is_a_text_and_hyperparameters_once_however_often_a_run_starts(runs):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for run in runs.values():
        reader = EventAccumulator(str(run.run_dir / "tensorboard"))
        reader.Reload()
        ((step, text),) = [(e.step, e.tensor_proto.string_val[0]) for e in reader.Tensors("config")]
        config = json.loads(text.decode().removeprefix("```json").removesuffix("```"))
        assert step == 0 and config["model_params"] == DIGITS["model_params"]
        (_,) = reader.Tensors("_hparams_/session_start_info")

        def session(tag, reader=reader):
            metadata = reader.SummaryMetadata(f"_hparams_/{tag}")
            assert metadata.plugin_data.plugin_name == "hparams"
            return getattr(HParamsPluginData.FromString(metadata.plugin_data.content), tag)

        hparams = session("session_start_info").hparams
        assert hparams["learning_rate"].number_value == DIGITS["learning_rate"]
        assert hparams["model_name"].string_value == "SimpleMLP"
        assert hparams["model_params.hidden_dim"].number_value == 16
        assert session("session_end_info").status == 1  # STATUS_SUCCESS


def test_tensorboards_tab_of_hyperparameters_compares_runs(train):
    """Through the code by which TensorBoard serves that tab."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    folders = {}
    for rate in (0.001, 0.01):
        run = train(f"r{rate}", loggers=["tensorboard"], max_steps=2, learning_rate=rate)
        folders[f"r{rate}"] = str(run.run_dir / "tensorboard")
    multiplexer = EventMultiplexer(folders, tensor_size_guidance={"hparams": 0})
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, "")))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "0")
    experiment = context.experiment_from_metadata(request, "0", True, metadata, [])
    infos = {info.name: info for info in experiment.hparam_infos}
    rates = infos["learning_rate"].domain_interval
    assert (rates.min_value, rates.max_value) == (0.001, 0.01)
    assert {"batch_size", "model_params.hidden_dim"} <= infos.keys()
    assert {info.name.tag for info in experiment.metric_infos} >= {"eval/loss"}
