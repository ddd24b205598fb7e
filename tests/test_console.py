"""What a person sees: plain lines in a log, a live bar in a terminal."""

import io
import json
import re
import sys

import pytest
import yaml
from support.long import covering
from support.runs import DIGITS, REPOSITORY

from aetheria.engine.interfaces import ArraySpec
from aetheria.engine.stop import StopSignal
from aetheria.events import (
    NonFiniteDetected,
    PhaseChanged,
    Progress,
    SnapshotFailed,
    SnapshotSaved,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.bar import Bar, Part, fit_parts
from aetheria.observe.loggers.console import ConsoleLogger
from aetheria.observe.loggers.json_lines import JsonLines
from aetheria.training.card import _layers_text

sys.path.append(str(REPOSITORY / "scripts"))

from terminal import run_in_terminal

CONFIG = {**DIGITS, "loggers": ["console"], "epochs": 1}
ESCAPE = "\x1b["


def without_escapes(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def in_terminal(tmp_path):
    """Trains in a process with a terminal of its own: exit code and all it showed.

    `keys` are pressed as soon as the terminal shows `after`.
    """

    def run(*arguments, width=160, after=b"", keys=b"", **environment):
        shown, to_press = bytearray(), [keys]

        def react(written):
            shown.extend(written)
            return to_press.pop() if to_press and after in shown else b""

        exit_code = run_in_terminal(
            [sys.executable, "-m", "aetheria", *arguments],
            folder=tmp_path,
            size=(40, width),
            environment=environment,
            react=react,
        )
        return exit_code, shown.decode()

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
    text = without_escapes(shown)
    shown_last = r"epoch 1 .*23/23.*loss \d\.\d{4}  lr \S+  \S+ steps/s  \S+ examples/s  data wait"
    assert re.search(shown_last, text), drawings(shown)[-1]
    assert "epoch 1  0/23" in text and "0/0" not in text, "it is drawn before the first step"
    assert "23/23" in text, "the bar is full, although step 23 is not on the log cadence"
    bar, _, table = text.rpartition("23/23")
    assert re.search(r"epoch 1  step 23  eval loss \d\.\d{4}  accuracy \d\.\d{4}", bar)
    assert re.search(r"status +completed \(end of schedule\)", table)
    assert re.search(r"eval/accuracy +\d\.\d{4}", table)
    assert "Traceback" not in text
    card = {
        line[:17].strip(): line[17:].strip() for line in text.splitlines() if line[16:17] == " "
    }
    assert text.startswith("run folder: run (starting afresh)")
    assert card["model"] == "SimpleMLP, 1,210 parameters: Dense_0 1,040, Dense_1 170"
    assert card["devices"] == "1 CPU device" and card["mesh"] == "1 device"
    assert card["global batch"] == "64 examples, 1 micro-batch of 64"
    assert card["data"].startswith("digits, train 1,438, eval 359; inputs float32 [64]")
    assert card["length"] == "23 steps, 23 an epoch"


def drawings(shown):
    """Each drawing of the bar, without escapes."""
    parts = re.split(r"[\r\n]+", without_escapes(shown))
    return [part for part in parts if re.search(r"\b\d+/23\b", part)]


def test_a_narrow_terminal_without_colors_gets_lines_that_fit(in_terminal, config_file):
    exit_code, shown = in_terminal("train", config_file, "--workdir=run", width=40, NO_COLOR="1")
    assert exit_code == 0, shown
    assert not re.search(r"\x1b\[[0-9;]*m", shown), "a colour"
    bars = drawings(shown)
    assert bars and max(map(len, bars)) < 40, "a line that fills the last column is broken"
    assert re.search(r"23/23  loss \d\.\d{4}", bars[-1])
    # Text that people read is broken between words; lines that `grep` finds are left whole.
    card = without_escapes(shown).partition("epoch")[0].splitlines()
    assert max(map(len, card)) <= 40 and "model: SimpleMLP, 1,210 parameters:" in card


def test_a_terminal_that_cannot_draw_again_gets_plain_lines(in_terminal, config_file):
    exit_code, shown = in_terminal("train", config_file, "--workdir=run", TERM="dumb")
    assert exit_code == 0, shown
    assert "\x1b" not in shown and drawings(shown) == []
    assert "epoch 1  step 23  eval loss" in shown


@pytest.mark.parametrize(
    "environment",
    covering(
        {
            "PYTHONIOENCODING": {"PYTHONIOENCODING": "ascii"},
            "LC_ALL": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        },
        default=["LC_ALL"],
    ),
)
def test_a_terminal_without_unicode_gets_a_bar_of_ascii(in_terminal, config_file, environment):
    exit_code, shown = in_terminal("train", config_file, "--workdir=run", **environment)
    assert exit_code == 0, shown
    assert shown.isascii() and "\\u" not in shown, "no escape stands for what ASCII lacks"
    assert re.search(r"-{24} epoch 1  23/23", drawings(shown)[-1])
    assert "encoding" not in shown


def test_ctrl_c_says_what_it_does(in_terminal, config_file):
    exit_code, shown = in_terminal(
        *("train", config_file, "--workdir=run", "--set=epochs=100000"),
        after=b"eval loss",
        keys=b"\x03",
    )
    assert exit_code == 75, shown
    text = without_escapes(shown)
    line = "SIGINT: a snapshot is being written; a second signal ends the run at once, without it"
    assert text.count(line) == 1
    assert re.search(r"status +preempted \(signal SIGINT\)", text)
    assert "Traceback" not in text
    # The bar hides the cursor. A second signal would leave it so.
    assert "\x1b[?25h" in shown.partition("SIGINT: ")[0]


def test_a_log_file_gets_plain_lines(cli, config_file):
    """The same run, its stdout no terminal: no bar, no escape sequence."""
    done = cli("train", config_file, "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert ESCAPE not in done.stdout
    assert "\r" not in done.stdout
    assert "steps/s" not in done.stdout
    lines = done.stdout.splitlines()
    assert "length           23 steps, 23 an epoch" in lines
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


def test_the_parts_of_a_bar_fit():
    parts = [Part("epoch 1", 2), Part("5/9", 0), Part("loss 0.5", 1), Part("lr 0.1", 3)]
    for width in range(50):
        text = fit_parts(parts, width)
        assert len(text) <= width
        assert "5/9".startswith(text) or "5/9" in text
        assert width < 13 or "loss 0.5" in text


def test_a_snapshot_in_flight_is_shown_until_it_is_saved():
    bar, at = Bar(), Progress(step=5)
    doing = lambda: [part.text for part in bar._parts()][2:]
    for source, target, shown in (
        ("training", "evaluating", ["evaluating"]),
        ("evaluating", "training", []),
        ("training", "saving", ["saving a snapshot"]),
        ("saving", "training", ["saving a snapshot"]),  # it is written while training goes on
    ):
        bar.phase(PhaseChanged(progress=at, source=source, target=target))
        assert doing() == shown
    bar.phase(SnapshotSaved(name="snapshot_ep1", step=5, size_bytes=1, seconds=1.0))
    assert doing() == []


def test_the_layers_of_a_deep_model_are_one_entry():
    shapes = {f"block_{n}/kernel": ArraySpec((4, 4), "float32") for n in range(12)}
    assert _layers_text({**shapes, "head/bias": ArraySpec((7,), "float32")}) == (
        "block_* 12 x 16, head 7"
    )
    unlike = {f"layer{'x' * n}/w": ArraySpec((n,), "float32") for n in range(1, 12)}
    assert _layers_text(unlike).endswith(", 3 more")


TALKING = """\
print("hello from a config")
def get_config():
    return CONFIG
"""


def test_json_lines_are_all_there_is_on_stdout(cli, tmp_path):
    (tmp_path / "config.py").write_text(TALKING.replace("CONFIG", repr({**CONFIG, "epochs": 2})))
    done = cli("train", "config.py", "--workdir=run", "--log-format=json")
    assert done.returncode == 0, done.stderr
    assert "hello from a config" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "start" and kinds[-1] == "end"
    assert {kind: kinds.count(kind) for kind in kinds} == {
        **{"start": 1, "train": 4, "eval": 2, "snapshot": 2, "end": 1}
    }
    start, end = lines[0], lines[-1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert start["num_params"] == sum(start["layers"].values()) == 1210
    assert start["num_examples"] == {"train": 1438, "eval": 359}
    assert end["metrics"] == summary["final"] and end["step"] == 46 and end["exit_code"] == 0
    page = (REPOSITORY / "docs" / "how-to" / "terminal.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    assert {name for line in lines for name in line} - named == set(), "not in the docs"
    # The control: without the option, a program's prints and a person's lines are there.
    done = cli("train", "config.py", "--dry-run")
    assert "hello from a config" in done.stdout and "run folder: " in done.stdout


def test_a_value_that_is_not_finite_is_null_in_a_json_line(tmp_path):
    stream, context = io.StringIO(), RunContext(run_dir=tmp_path, config={}, stop=StopSignal())
    metrics = {"loss": float("nan"), "accuracy": 0.5}
    event = TrainMetrics(progress=Progress(step=1), metrics=metrics, steps_per_second=float("inf"))
    JsonLines(context, stream=stream).notify(event)
    line = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert line["metrics"] == {"loss": None, "accuracy": 0.5}
    assert line["steps_per_second"] is None


def test_quiet_leaves_the_last_line_and_errors(command, config_file):
    done = command("train", config_file, "--workdir=run", "--quiet")
    assert done.returncode == 0 and done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert re.fullmatch(
        r"completed at step 23 \(end of schedule\): eval/loss \S+  eval/accuracy \S+; run", line
    )
    wild = (
        "--set=learning_rate=1e38",
        "--set=on_nonfinite=skip",
        "--set=max_consecutive_skips=500",
    )
    done = command("train", config_file, "--workdir=wild", "--quiet", *wild)
    assert len(done.stdout.splitlines()) == 1
    assert "non-finite" in done.stderr and "eval loss" not in done.stderr


def test_verbose_shows_what_is_hidden(command, config_file):
    done = command("train", config_file, "--workdir=run", "--verbose")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ {17}Dense_0/kernel  float32 \[64, 16\]  1,024$", done.stdout, re.M)
    assert len(re.findall(r"step \d+/23  loss", done.stdout)) == 2, "every report"
    assert re.search(r"^step 23: saved snapshot_ep1, [\d,]+ bytes", done.stdout, re.M)


@pytest.mark.parametrize(
    "options",
    [
        ("--quiet", "--verbose"),
        ("--quiet", "--log-format=json"),
        ("--log-format=json", "--dry-run"),
        ("--log-format=json", "--print-config"),
    ],
)
def test_two_forms_of_output_are_refused(command, config_file, options):
    done = command("train", config_file, *options)
    assert done.returncode == 2 and done.stdout == ""
    assert "expected it without" in done.stderr and len(done.stderr.splitlines()) == 1
