"""The cases: wrong and unusual input, the right answer beside each, in this process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from aetheria.cli.main import main

PROJECT = Path(__file__).parent / "project"
collect_ignore = ["project", "provenance_project"]


@dataclass(frozen=True)
class Answer:
    """What a command answered: exit code, text, the paths it wrote, and how long it took."""

    code: int
    out: str
    err: str
    written: frozenset[str]
    seconds: float

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()

    def assert_refused(self, *words: str) -> None:
        """One line on stderr with these words in it, exit 2, nothing written."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert len(self.lines) == 1, self.err
        for word in words:
            assert word in self.err, (word, self.err)
        assert not self.written, self.written


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Callable[..., Answer]:
    """Runs `aetheria ARGUMENTS` in this process, the current folder being tmp_path.

    An exception that a user would see as a traceback is raised.
    """
    monkeypatch.chdir(tmp_path)

    def files() -> frozenset[str]:
        paths = (str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
        return frozenset(path for path in paths if "__pycache__" not in path)  # Python's own

    def call(*arguments: str) -> Answer:
        before = files()
        capfd.readouterr()
        started_at = time.process_time()
        code = main([str(argument) for argument in arguments])
        seconds = time.process_time() - started_at
        out, err = capfd.readouterr()
        return Answer(code, out, err, files() - before, seconds)

    return call


@pytest.fixture
def train(run: Callable[..., Answer], tmp_path: Path) -> Callable[..., Answer]:
    """Trains a config for two steps, with the models and data of `project/`: `train(seed=1)`.

    `options` are further arguments of the command line.
    """

    def call(*options: str, **config: object) -> Answer:
        file = tmp_path / "case.yaml"
        values = {"model_name": "SimpleMLP", "strategy": "cpu", "max_steps": 2, "loggers": []}
        file.write_text(yaml.safe_dump({**values, **config}, sort_keys=False))
        return run("train", str(file), "--project", str(PROJECT), *options)

    return call
