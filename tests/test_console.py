"""What a person sees: plain lines in a log, a live bar in a terminal."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
import yaml
from support.runs import DIGITS

from aetheria.engine.stop import StopSignal
from aetheria.events import NonFiniteDetected, Progress, SnapshotFailed
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.console import ConsoleLogger

CONFIG = {**DIGITS, "loggers": ["console"], "epochs": 1}
ESCAPE = "\x1b["


@pytest.fixture
def in_terminal(tmp_path):
    """Trains in a process whose terminal is 160 columns wide: exit code and all it showed."""

    def run(*arguments):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        unset = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES")
        environment = {k: v for k, v in os.environ.items() if k not in unset}
        process = subprocess.Popen(
            [sys.executable, "-m", "aetheria", *arguments],
            cwd=tmp_path,
            env={**environment, "XLA_FLAGS": "", "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so when the last writer has gone
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
        return process.wait(timeout=60), shown.decode()

    return run


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return str(file)


def test_a_terminal_shows_a_bar_and_then_the_table(in_terminal, config_file):
    exit_code, shown = in_terminal("train", config_file, "--workdir=run")
    assert exit_code == 0, shown
    assert ESCAPE in shown, "the bar is drawn in place"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    shown_last = r"epoch 1 .*23/23.*loss \d\.\d{4}  lr \S+ \S+ steps/s  \S+ examples/s  data wait"
    assert re.search(shown_last, text)
    assert "23/23" in text, "the bar is full, although step 23 is not on the log cadence"
    bar, _, table = text.rpartition("23/23")
    assert re.search(r"epoch 1  step 23  eval loss \d\.\d{4}  accuracy \d\.\d{4}", bar)
    assert re.search(r"status +completed \(end of schedule\)", table)
    assert re.search(r"eval/accuracy +\d\.\d{4}", table)
    assert "Traceback" not in text


def test_a_log_file_gets_plain_lines(cli, config_file):
    """The same run, its stdout no terminal: no bar, no escape sequence."""
    done = cli("train", config_file, "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert ESCAPE not in done.stdout
    assert "\r" not in done.stdout
    assert "steps/s" not in done.stdout
    lines = done.stdout.splitlines()
    assert "training to step 23 (23 an epoch)" in lines
    evaluation = r"epoch 1  step 23  eval loss \d\.\d{4}  accuracy \d\.\d{4}  \(359 examples\)"
    assert sum(re.fullmatch(evaluation, line) is not None for line in lines) == 1
    assert re.search(r"status +completed \(end of schedule\)", done.stdout)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            NonFiniteDetected(
                progress=Progress(step=10),
                num_skipped=2,
                num_skipped_total=3,
                consecutive=1,
                last_skipped_step=9,
            ),
            "step 9: non-finite loss or gradient; 2 global batch(es) skipped, 3 in total\n",
        ),
        (
            SnapshotFailed(name="snapshot_ep1", step=23, reason="OSError: disk full"),
            "snapshot_ep1 could not be saved: OSError: disk full; the run continues\n",
        ),
    ],
    ids=["non-finite", "failed save"],
)
def test_what_went_wrong_is_a_line(event, line, tmp_path, capsys):
    logger = ConsoleLogger(RunContext(run_dir=tmp_path, config={}, stop=StopSignal()))
    logger.notify(event)
    assert capsys.readouterr().out == line
