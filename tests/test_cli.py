"""The command line: what it accepts, and how it refuses."""

import json
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from support.runs import DIGITS, REPOSITORY

from aetheria.cli.parser import parse, surface
from aetheria.errors import AetheriaError

MAIN = "aetheria.main"


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**DIGITS, "epochs": 1}))
    return file


@pytest.fixture
def refused(command, tmp_path):
    """Runs a command that must be refused: exit 2, so many lines on stderr, nothing written."""

    def files():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def run(*arguments, num_lines=1, module="aetheria.cli.main", run=command):
        before = files()
        done = run(*arguments, module=module)
        lines = done.stderr.splitlines()
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert len(lines) == num_lines, done.stderr
        assert files() == before
        return done.stderr

    return run


def test_help_is_fast_and_imports_no_jax(cli):
    seconds = []
    for _ in range(3):
        started_at = time.perf_counter()
        done = cli("--help")
        seconds.append(time.perf_counter() - started_at)
    assert done.returncode == 0
    assert "train" in done.stdout
    # A loose bound on a shared machine; the benchmark measures it.
    assert min(seconds) < 1.5


def test_no_command_line_imports_a_framework(cli):
    """All help texts, and the declarations of all commands, in one process."""
    probe = """
import sys
from aetheria.cli.parser import parse, surface
for command in ["", *surface()]:
    try:
        parse([*command.split(), "--help"])
    except SystemExit as stop:
        assert stop.code == 0
frameworks = {"jax", "flax", "optax", "orbax", "torch", "numpy", "rich"}
print("imported:", *sorted(frameworks & {name.split(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epoch=3", "did you mean 'epochs'?"),
        ("epochs=three", "epochs: expected a whole number, got 'three'"),
        ("epochs=0", "epochs: expected 1 or more, got 0"),
        ("model_name=SimpelMLP", "use 'SimpleMLP'"),
        ("data_name=digit", "use 'digits'"),
        ("loggers=[jsonnl]", "use 'jsonl'"),
        ("loggers=jsonl, console", "write a list, as [jsonl, console]"),
        ("callbacks=early_stopping,profiler", "as [early_stopping, profiler]"),
        ("model_params.hidden_dims=3", "did you mean 'hidden_dim'?"),
        ("model_params.hidden_dim=big", "expected a whole number, got 'big'"),
        ("model_params.input_dim=10", "input_dim: expected 64"),
        ("grad_accumulation_steps=5", "got 64; use 60 or 65"),
        ("snapshot.monitor=eval/acc", "expected one of eval/loss, eval/accuracy"),
        ("strategy=gpu", "strategy: expected a gpu device"),
        ("strategy=tpu", "expected one of auto, cpu, gpu, mesh"),
        ("strategy=fsdp", "use strategy 'mesh' with mesh={fsdp: 8}"),
        ("mesh={model: 2}", "mesh: expected no mesh with strategy 'cpu'"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(refused, config, override, expected):
    assert expected in refused("train", str(config), "--set", override)
    assert expected in refused(f"--config={config}", f"--config.{override}", module=MAIN)


def test_a_process_of_its_own_refuses_alike(refused, cli, config):
    expected = "did you mean 'epochs'?"
    assert expected in refused("train", str(config), "--set", "epoch=3", module="aetheria", run=cli)
    assert expected in refused(f"--config={config}", "--config.epoch=3", module=MAIN, run=cli)


def test_several_mistakes_are_reported_at_once(refused, config):
    wrong = ["--set", "epoch=3", "--set", "batch_size=many", "--set", "mixed_precision=maybe"]
    reported = refused("train", str(config), *wrong, num_lines=3)
    assert "epoch:" in reported
    assert "batch_size:" in reported
    assert "mixed_precision:" in reported


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "nowhere.yaml"), "nowhere.yaml: expected a config file, got none there"),
        (("train", "config.toml"), "expected a config ending in"),
        (("train",), "aetheria train: expected CONFIG, got none; see aetheria train --help"),
        (("train", "config.yaml", "--nope"), "expected an option of this command, got --nope"),
        (("trian", "config.yaml"), "aetheria: expected one of train, check, comp"),
        (("trian", "config.yaml"), "got 'trian'; did you mean 'train'?; see aetheria --help"),
        (("fit", "config.yaml"), "did you mean 'train'?"),
        (("config.yaml",), "got 'config.yaml'; did you mean 'train config.yaml'?"),
        (("resume", "run"), "did you mean 'train CONFIG --resume=latest'?"),
        (("train", "config.yaml", "epochs=3"), "did you mean --set epochs=3?"),
        (("train", "config.yaml", "--epochs=3"), "did you mean --set epochs=3?"),
        (("train", "config.yaml", "--lr", "0.1"), "did you mean --set learning_rate=…?"),
        (("train", "config.yaml", "--max-epochs=3"), "did you mean --set epochs=3?"),
        (
            ("train", "config.yaml", "--model_params.hidden_dim=3"),
            "--set model_params.hidden_dim=3?",
        ),
        (("train", "config.yaml", "--output-dir=x"), "did you mean --workdir?"),
        (("train", "config.yaml", "--resum=latest"), "did you mean --resume?"),
        (("snapshots", "run", "--epochs=3"), "got --epochs; see aetheria snapshots --help"),
        (
            ("prove", "elastc", "c.yaml"),
            "aetheria prove: expected one of elastic, replay, resume, got",
        ),
        (
            ("prove",),
            "expected one of elastic, replay, resume, got none; see aetheria prove --help",
        ),
        (("train", "a.yaml", "b.yaml"), "expected no further argument, got 'b.yaml'"),
        (("train", "config.yaml", "--overwrite=false"), "--overwrite: expected no value, got 'f"),
        (("train", "config.yaml", "--no-overwrite"), "expected an option of this command, got --n"),
        (("train", "config.yaml", "--stop_at_step=5"), "expected an option of this command, got"),
        (("train", "config.yaml", "--workdir"), "--workdir: expected a value, got none"),
        (("train", "config.yaml", "--workdir", "--overwrite"), "expected a value, got none"),
        (("train", "config.yaml", "--resume=latest"), "expected a snapshot in runs/config"),
        (("train", "config.yaml", "--resume=best"), "expected a snapshot with eval/loss"),
        (("train", "config.yaml", "--resume=120"), "expected a snapshot of step 120"),
        (("train", "config.yaml", "--resume=checkpoints/snapshot_ep5.pt"), "nothing there"),
        (("train", "config.yaml", "--stop-at-step=0"), "expected a step of 1 or more"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(refused, config, arguments, expected):
    assert expected in refused(*arguments)


def test_a_run_is_never_overwritten_silently(command, refused, config, tmp_path):
    assert command("train", str(config), "--workdir=w").returncode == 0
    assert "add --resume=latest" in refused("train", str(config), "--workdir=w")
    keep = tmp_path / "w" / "notes.txt"
    keep.write_text("mine")
    first = (tmp_path / "w" / "metrics.jsonl").read_text()
    done = command("train", str(config), "--workdir=w", "--overwrite", "--set", "seed=1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w" / "metrics.jsonl").read_text() != first
    assert keep.read_text() == "mine"


def test_a_run_that_failed_before_its_first_step_leaves_its_folder_free(
    cli, command, refused, tmp_path
):
    (tmp_path / "models").mkdir()
    model = tmp_path / "models" / "torn.py"
    model.write_text(TORN)
    (tmp_path / "torn.yaml").write_text("{model_name: torn, data_name: digits, max_steps: 30}")
    args = ("train", "torn.yaml", "--workdir=w")
    done = cli(*args)
    assert done.returncode == 1 and "no weights yet" in done.stderr
    model.write_text(TORN.replace("raise OSError", "return super().init(rng, batch)\n    OSError"))
    done = command(*args, "--stop-at-step=5", "--set", "log_every_steps=1")
    assert done.returncode == 75
    # The control: a run that has taken steps and then failed, without a snapshot.
    shutil.rmtree(tmp_path / "w" / "checkpoints")
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    (tmp_path / "w" / "summary.json").write_text(json.dumps(summary | {"status": "failed"}))
    assert "expected a folder without a run" in refused(*args)


TORN = """
from dataclasses import dataclass

from aetheria import register_model
from aetheria.models.mlp import SimpleMLP


@register_model("torn")
@dataclass(frozen=True, kw_only=True)
class Torn(SimpleMLP):
    num_classes: int = 10

    def init(self, rng, batch):
        raise OSError("no weights yet")
"""


def test_the_default_run_folder_is_numbered(command, config, tmp_path):
    for number in (1, 2):
        done = command("train", str(config))
        assert done.returncode == 0, done.stderr
        assert f"run folder: runs/config/{number} (starting afresh)" in done.stdout
    assert (tmp_path / "runs" / "config" / "2" / "summary.json").exists()


def test_auto_starts_afresh_where_there_is_nothing_and_says_so(command, config):
    done = command("train", str(config), "--workdir=w", "--resume=auto")
    assert done.returncode == 0, done.stderr
    assert "run folder: w (starting afresh)" in done.stdout
    done = command("train", str(config), "--workdir=w", "--resume=auto")
    assert done.returncode == 0, done.stderr
    assert "resuming from w/checkpoints/snapshot_ep1 (step 23, epoch 1, verified)" in done.stdout


def test_a_moved_run_still_resumes(command, config, tmp_path):
    assert command("train", str(config), "--workdir=w", "--stop-at-step=5").returncode == 75
    shutil.move(tmp_path / "w", tmp_path / "elsewhere")
    done = command("train", str(config), "--workdir=elsewhere", "--resume=latest")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "elsewhere" / "summary.json").read_text())["steps"] == 23


def test_both_commands_run_the_same_run(command, config, tmp_path):
    assert command("train", str(config), "--workdir=a").returncode == 0
    assert command(f"--config={config}", "--workdir=b", module=MAIN).returncode == 0
    assert command("--config", str(config), "--workdir", "c", module=MAIN).returncode == 0
    digests = {
        json.loads((tmp_path / name / "summary.json").read_text())["params_sha256"]
        for name in "abc"
    }
    assert len(digests) == 1


def test_a_reader_that_leaves_does_not_change_the_exit_code(config):
    command = f"{sys.executable} -m aetheria train {config} --workdir=w | head -1; exit $PIPESTATUS"
    done = subprocess.run(
        ["bash", "-c", command], cwd=config.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((config.parent / "w" / "summary.json").read_text())["status"] == "completed"


def test_shipped_configs_parse():
    from aetheria.config.files import load_config

    files = sorted((REPOSITORY / "configs").glob("*.py"))
    assert files
    for file in files:
        load_config(file)


def test_overrides_may_be_spelled_as_for_the_module():
    command = parse(["plan", "c.yaml", "--config.seed=1", "--set", "epochs=2", "--devices=2"])
    assert command.overrides == ("epochs=2", "seed=1")
    with pytest.raises(AetheriaError, match=r"expected an option of .*, got --config\.seed=1"):
        parse(["debug", "nan", "dump", "--config.seed=1"])


def test_every_flag_of_a_command_has_a_help_text(capsys):
    for command, flags in surface().items():
        with pytest.raises(SystemExit, match="0"):
            parse([*command.split(), "--help"])
        lines = capsys.readouterr().out.splitlines()
        for flag in flags:
            if flag == "--join-timeout":  # the old name, which the text of the new one mentions
                continue
            (place,) = (n for n, line in enumerate(lines) if line.split()[:1] == [flag])
            own_line = lines[place][2:].split("  ", 1)[1:]  # a long flag has its text below
            assert own_line or lines[place + 1].startswith(" " * 20), (command, flag)


def test_the_word_alone_prints_the_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse([])
    assert capsys.readouterr().out.startswith("Usage: aetheria COMMAND ...")


def test_every_command_has_examples_that_parse_and_its_exit_codes(capsys):
    for command, flags in surface().items():
        with pytest.raises(SystemExit, match="0"):
            parse([*command.split(), "--help"])
        _, _, rest = capsys.readouterr().out.partition("\nExamples:\n")
        examples, _, codes = rest.partition("\n\nExit codes:\n")
        lines = [shlex.split(line) for line in examples.splitlines()]
        assert len(lines) >= (2 if flags else 1), command
        for words in lines:
            assert words[: len(command.split()) + 1] == ["aetheria", *command.split()], flags
            parse(words[1:])
        assert codes.lstrip().startswith("0: ") and "  2: a mistake" in codes, command


def test_a_tool_in_a_new_folder_is_a_command(tmp_path, monkeypatch):
    import aetheria.tools

    package = tmp_path / "count"
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""Counts."""\nCOMMANDS = {("count", "up"): "aetheria.tools.count.command:CountCommand"}\n'
    )
    (package / "command.py").write_text(
        "from dataclasses import dataclass\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class CountCommand:\n"
        '    """Counts up.\n\n    Attributes:\n        loud: print it.\n    """\n\n'
        "    loud: bool = False\n"
    )
    monkeypatch.setattr(aetheria.tools, "__path__", [*aetheria.tools.__path__, str(tmp_path)])
    assert parse(["count", "up", "--loud"]).loud
    assert surface()["count up"] == ["--loud"]


def test_a_command_is_the_same_where_pydantic_is_imported():
    """As wandb and a user's own code import it: cyclopts then checks values with it."""
    words = ["config.yaml", "--workdir=run", "--set=epochs=3", "--stop-at-step=5", "--overwrite"]
    before = parse(["train", *words]), parse(["plan", "config.yaml", "--mesh=data=2", "--json"])
    pytest.importorskip("pydantic")
    assert before == (
        parse(["train", *words]),
        parse(["plan", "config.yaml", "--mesh=data=2", "--json"]),
    )


def test_the_old_name_of_a_flag_is_accepted():
    for name in ("--join-timeout", "--initialization-timeout"):
        command = parse(["train", "c.yaml", f"{name}=7"])
        assert command.distributed.initialization_timeout == 7.0
        with pytest.raises(AetheriaError, match=f"{name}: expected a number above 0, got '0'"):
            parse(["train", "c.yaml", f"{name}=0"])
