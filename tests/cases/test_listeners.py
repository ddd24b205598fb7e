"""Loggers and callbacks: what is not one, and what one may do while it is made."""

import json
import sys

import pytest
import yaml

from aetheria.plugins import CALLBACKS, LOGGERS

LISTENERS = """
import time

from aetheria import register_logger, register_callback
from aetheria.errors import AetheriaError
from aetheria.events import TrainMetrics


@register_logger("eager")
class Eager:
    def __init__(self, context, folder: str = "tensorboard"):
        (context.run_dir / folder).mkdir()
        self._file = context.run_dir / folder / "eager.txt"
        self._file.write_text("")

    def notify(self, event):
        with self._file.open("a") as file:
            print(type(event).__name__, file=file)


@register_logger("breaking")
class Breaking:
    def __init__(self, context):
        pass

    def notify(self, event):
        if isinstance(event, TrainMetrics):
            raise OSError("the server\\nis gone")


@register_logger("refusing")
class Refusing(Breaking):
    def __init__(self, context):
        raise AetheriaError("loggers.refusing: expected a server, got none; start one")


@register_logger("deaf")
class Deaf:
    def __init__(self, context):
        raise AssertionError("called")


@register_logger("no_event")
class NoEvent:
    def __init__(self, context):
        pass

    def notify(self):
        pass


@register_logger("no_context")
class NoContext:
    def notify(self, event):
        pass


@register_logger("made_deaf")
def made_deaf(context):
    return {}


@register_logger("made_none")
def made_none(context):
    pass


@register_logger("hanging")
class Hanging(NoEvent):
    def notify(self, event):
        if isinstance(event, TrainMetrics):
            time.sleep(5)


@register_logger("flooding")
class Flooding(NoEvent):
    def notify(self, event):
        print("flood " * 100_000)


@register_logger("made")
def made(context):
    return Eager(context, folder="made")


@register_logger("a_text")
class Text(str):
    pass
"""


@pytest.fixture
def start(run, tmp_path, monkeypatch):
    """Trains a step with some loggers of a project."""
    for registry in (LOGGERS, CALLBACKS):
        registry.names()
        monkeypatch.setattr(registry, "_found", dict(registry._found))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("models", "loggers"):
        (tmp_path / folder).mkdir()
    (tmp_path / "loggers" / "mine.py").write_text(LISTENERS)

    def call(*options, loggers):
        config = {"model_name": "SimpleMLP", "strategy": "cpu", "max_steps": 2}
        config |= {"log_every_steps": 1, "loggers": loggers}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        return run("train", "c.yaml", "--workdir=run", *options)

    return call


@pytest.mark.parametrize(
    ("logger", "words"),
    [
        ("deaf", ["loggers", "a method notify(event), got 'deaf'", "the class Deaf"]),
        ("no_event", ["loggers.no_event", "notify to take one event, got notify()"]),
        ("no_context", ["loggers.no_context", "takes a context first"]),
        ("made_deaf", ["loggers.made_deaf", "got a dict"]),
        ("made_none", ["loggers.made_none", "got a NoneType"]),
        ("refusing", ["loggers.refusing: expected a server"]),
        ("a_text", ["got 'a_text'"]),
        ("early_stopping", ["logger: expected one of"]),
        (5, ["loggers"]),
    ],
)
def test_what_is_no_listener_is_refused_and_nothing_is_left(logger, words, start):
    start(loggers=["eager", logger]).assert_refused(*words)


def test_a_run_goes_on_with_a_listener_that_hangs_floods_or_raises(start, tmp_path):
    answer = start(loggers=["jsonl", "hanging", "flooding", "breaking"])
    assert answer.code == 0
    assert answer.err.count("Traceback") <= 1 and answer.err.count("was detached") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2 and [*summary["detached_listeners"]] == ["breaking"]


def test_the_run_folder_exists_when_a_logger_is_made(start, tmp_path):
    answer = start(loggers=["jsonl", "eager", "made", "breaking"])
    assert answer.code == 0, answer.err
    for folder in ("tensorboard", "made"):
        heard = (tmp_path / "run" / folder / "eager.txt").read_text().split()
        assert heard[0] == "RunStarted" and heard[-1] == "RunEnded"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["detached_listeners"] == {"breaking": "OSError: the server is gone"}
    assert "detached" in answer.out and "breaking" in answer.out
    # A refused request that would have replaced it leaves all of it as it was.
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    start("--overwrite", loggers=["eager", "refusing"]).assert_refused("expected a server")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == files
    again = start("--overwrite", loggers=["eager"])
    assert again.code == 0, again.err
    assert "RunEnded" in (tmp_path / "run" / "tensorboard" / "eager.txt").read_text()
    assert not (tmp_path / "run" / "made" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["detached_listeners"] == {}
