"""metrics.jsonl and metrics.csv: what they hold, and that a kill leaves no gap and no repeat."""

import json
import math
import shutil

import pytest
import yaml
from support.metric_files import csv_rows
from support.runs import DIGITS, Finished, without_rate

from aetheria.cli.train import TrainCommand
from aetheria.engine.stop import StopSignal
from aetheria.events import EvaluationCompleted, Progress, RunEnded, RunStarted, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.records import CsvLogger, JsonlLogger

STEPS_PER_EPOCH, NUM_EXAMPLES, STOP_AT = 23, 1438, 25
CONFIG = {
    **DIGITS,
    "grad_accumulation_steps": 2,
    "log_every_steps": 5,
    "loggers": ["jsonl", "csv"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three histories of one config: whole, stopped and resumed, killed and resumed.

    The killed run had gone on to step 46 when only its snapshot of step 23 was complete, and its
    last lines were half written.
    """
    folder = tmp_path_factory.mktemp("records")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))

    def train(name, **options):
        run_dir = folder / name
        return Finished(
            TrainCommand(config_file=file, workdir=run_dir, **options).execute(), run_dir
        )

    whole = train("whole")
    train("resumed", stop_at_step=STOP_AT)
    shutil.copytree(whole.run_dir, folder / "killed")
    shutil.rmtree(folder / "killed" / "checkpoints" / "snapshot_ep2")
    for name in ("metrics.jsonl", "metrics.csv"):
        path = folder / "killed" / name
        path.write_bytes(path.read_bytes()[:-20])
    killed_steps = [step_of(line) for line in lines_of(folder / "killed", "metrics.jsonl")[:-1]]
    assert max(killed_steps) > STEPS_PER_EPOCH, "lines follow the snapshot"
    resumed = train("resumed", resume="latest")
    return {"whole": whole, "resumed": resumed, "killed": train("killed", resume="latest")}


def step_of(line):
    return json.loads(line)["step"]


def lines_of(run_dir, name):
    return (run_dir / name).read_text().splitlines()


def strict(line):
    """Reads JSON as the standard has it: NaN and Infinity are not."""
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_jsonl_has_a_line_for_every_report_and_evaluation(runs):
    whole = runs["whole"].metrics
    assert [r["step"] for r in whole if r["split"] == "train"] == list(range(5, 46, 5))
    assert [r["step"] for r in whole if r["split"] == "eval"] == [23, 46]


def test_jsonl_lines_hold_the_three_counters_and_the_metrics(runs):
    for record in runs["whole"].metrics:
        epoch, steps = divmod(record["step"] - 1, STEPS_PER_EPOCH)
        assert record["epoch"] == epoch + 1
        assert record["micro_step"] == 2 * record["step"]
        seen = epoch * NUM_EXAMPLES + min((steps + 1) * 64, NUM_EXAMPLES)
        assert record["examples_seen"] == seen
        assert math.isfinite(record["loss"])
        assert 0 <= record["accuracy"] <= 1
        if record["split"] == "eval":
            assert record["num_examples"] == 359
        else:
            assert 32 < record["examples_per_second"] / record["steps_per_second"] < 64.5
            assert 0 <= record["learning_rate"] <= DIGITS["learning_rate"]


def test_jsonl_ends_with_the_metrics_of_the_summary(runs):
    last = runs["whole"].metrics[-1]
    final = runs["whole"].summary["final"]
    assert {k: final[f"eval/{k}"] for k in ("loss", "accuracy")} == {
        k: last[k] for k in ("loss", "accuracy")
    }


def test_csv_holds_the_same_as_jsonl_in_long_form(runs):
    counters = ("step", "epoch", "examples_seen", "split")
    expected = [
        {**{k: str(record[k]) for k in counters}, "name": name, "value": repr(record[name])}
        for record in runs["whole"].metrics
        for name in ("loss", "accuracy", "grad_norm", "learning_rate")
        if name in record
    ]
    in_order = lambda row: (int(row["step"]), row["split"], row["name"])
    assert sorted(csv_rows(runs["whole"].run_dir), key=in_order) == sorted(expected, key=in_order)


@pytest.mark.parametrize("history", ["resumed", "killed"])
def test_a_resumed_run_writes_the_files_of_an_uninterrupted_one(runs, history):
    assert runs[history].exit_code == 0
    assert without_rate(runs[history].metrics) == without_rate(runs["whole"].metrics)
    assert csv_rows(runs[history].run_dir) == csv_rows(runs["whole"].run_dir)


def make(logger, folder):
    return logger(RunContext(run_dir=folder, config={}, stop=StopSignal()))


def started(step):
    return RunStarted(
        progress=Progress(step=step), total_steps=6, steps_per_epoch=3, resumed=step > 0
    )


def step_events(step, loss=None):
    progress = Progress(step=step, micro_step=step, examples_seen=4 * step, epoch=1 + step // 4)
    metrics = {"loss": 1 / step if loss is None else loss, "accuracy": step / 8}
    yield TrainMetrics(progress=progress, metrics=metrics, steps_per_second=2.0)
    if step % 3 == 0:
        yield EvaluationCompleted(progress=progress, metrics=metrics, num_examples=9, seconds=0.1)


ENDED = RunEnded(progress=Progress(step=6), status="completed", reason="end of schedule")


def write(logger, first, last):
    """Notifies a logger of a run from one step to another; does not end it."""
    logger.notify(started(first))
    for step in range(first + 1, last + 1):
        for event in step_events(step):
            logger.notify(event)
    return logger


class Appending(JsonlLogger):
    """The control: drops no line."""

    def __init__(self, context):
        super().__init__(context)
        self._file._drop_after = lambda file, last_step: None


def is_whole_after_any_kill(logger, name, folder):
    """Cuts the file at every byte between a snapshot and a later kill, resumes, and compares."""
    whole, killed = folder / "whole", folder / "killed"
    for path in (whole, killed):
        path.mkdir()
    write(make(logger, whole), 0, 6).notify(ENDED)
    expected = (whole / name).read_bytes()
    write(make(logger, killed), 0, 2).notify(ENDED)
    kept = len((killed / name).read_bytes())
    write(make(logger, killed), 2, 4).notify(ENDED)
    written = (killed / name).read_bytes()
    assert written == expected[: len(written)]
    for size in range(kept, len(written) + 1):
        (killed / name).write_bytes(written[:size])
        write(make(logger, killed), 2, 6).notify(ENDED)
        if (killed / name).read_bytes() != expected:
            return False
    return True


@pytest.mark.parametrize(
    ("logger", "name"), [(JsonlLogger, "metrics.jsonl"), (CsvLogger, "metrics.csv")]
)
def test_a_kill_at_any_byte_leaves_no_gap_and_no_repeat(logger, name, tmp_path):
    assert is_whole_after_any_kill(logger, name, tmp_path)


def test_the_check_of_kills_sees_a_file_that_is_merely_appended_to(tmp_path):
    assert not is_whole_after_any_kill(Appending, "metrics.jsonl", tmp_path)


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 64, b"\xff\xfe\xc3", "²,1,1,train,loss,1".encode(), b"{}\n7"],
    ids=["zeros", "no text", "no number", "no record"],
)
@pytest.mark.parametrize(
    ("logger", "name"), [(JsonlLogger, "metrics.jsonl"), (CsvLogger, "metrics.csv")]
)
def test_what_a_crash_of_the_machine_left_does_not_stop_a_resume(logger, name, garbage, tmp_path):
    write(make(logger, tmp_path), 0, 2).notify(ENDED)
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(before + garbage)
    write(make(logger, tmp_path), 2, 2).notify(ENDED)
    assert (tmp_path / name).read_bytes() == before


def test_a_fresh_start_forgets_a_run_killed_before_its_first_snapshot(tmp_path):
    write(make(JsonlLogger, tmp_path), 0, 2).notify(ENDED)
    write(make(JsonlLogger, tmp_path), 0, 1).notify(ENDED)
    assert [step_of(line) for line in lines_of(tmp_path, "metrics.jsonl")] == [1]


def test_every_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    logger = write(make(JsonlLogger, tmp_path), 0, 2)
    assert [step_of(line) for line in lines_of(tmp_path, "metrics.jsonl")] == [1, 2]
    logger.notify(ENDED)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null_in_strict_json(value, tmp_path):
    logger = make(JsonlLogger, tmp_path)
    logger.notify(started(0))
    for event in step_events(1, loss=value):
        logger.notify(event)
    logger.notify(ENDED)
    (line,) = lines_of(tmp_path, "metrics.jsonl")
    assert strict(line)["loss"] is None
    assert strict(line)["accuracy"] == 0.125


def test_the_strict_reader_refuses_what_python_would_write():
    with pytest.raises(pytest.fail.Exception, match="NaN is not JSON"):
        strict(json.dumps({"loss": math.nan}))


@pytest.mark.parametrize("logger", [JsonlLogger, CsvLogger])
def test_a_run_that_fails_before_it_starts_writes_nothing(logger, tmp_path):
    make(logger, tmp_path).notify(ENDED)
    assert list(tmp_path.iterdir()) == []
