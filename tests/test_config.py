"""Config files and overrides: what is accepted, what is refused, and the error messages."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aetheria.cli.main import main
from aetheria.config import Config, SnapshotConfig, make_config
from aetheria.config.files import load_config
from aetheria.errors import ConfigError

YAML = """\
model_name: SimpleMLP
model_params: {input_dim: 64, num_classes: 10}
data_name: digits
batch_size: 32
learning_rate: 3e-3
mesh: {data: 2}
loggers: [jsonl, {console: {}}]
snapshot: {every_epochs: 2, mode: max}
"""
PYTHON = """\
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict()
    config.model_name = "SimpleMLP"
    config.model_params = {"input_dim": 64, "num_classes": 10}
    config.data_name = "digits"
    config.batch_size = 32
    config.learning_rate = 3e-3
    config.mesh = {"data": 2}
    config.loggers = ("jsonl", {"console": {}})
    config.snapshot = ConfigDict({"every_epochs": 2, "mode": "max"})
    return config
"""
JSON = json.dumps(yaml.safe_load(YAML), indent="\t")


@pytest.fixture
def write(tmp_path):
    """Writes a config file: `write(text)` or `write(text, "config.py")`."""

    def write_file(text: str, name: str = "config.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write_file


def problems(file: Path, *overrides: str) -> list[str]:
    """The lines of the error that loading raises, the file's folder cut off."""
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    lines = [line.replace(f"{file.parent}/", "") for line in caught.value.problems]
    assert all("\n" not in line for line in lines)
    return lines


def test_python_yaml_and_json_give_the_same_config(write):
    expected = Config(
        model_name="SimpleMLP",
        model_params={"input_dim": 64, "num_classes": 10},
        data_name="digits",
        batch_size=32,
        learning_rate=0.003,
        mesh={"data": 2},
        loggers=("jsonl", {"console": {}}),
        snapshot=SnapshotConfig(every_epochs=2, mode="max"),
    )
    assert load_config(write(YAML)) == expected
    assert load_config(write(YAML, "config.yml")) == expected
    assert load_config(write(PYTHON, "config.py")) == expected
    assert load_config(write(JSON, "config.json")) == expected
    assert load_config(write(YAML.replace("32", "64"))) != expected


def test_what_is_not_given_has_its_default(write):
    assert load_config(write("model_name: SimpleMLP")) == Config(model_name="SimpleMLP")


def test_every_problem_is_reported_at_once_with_its_file_and_the_nearest_key(write):
    file = write(
        """\
model_nam: SimpleMLP
epochs: 0
seed: true
batch_size: 30
grad_accumulation_steps: 4
learning_rate: fast
mixed_precision: 1
strategy: gpus
mesh: {data: two}
loggers: 3
max_steps: 1.5
model_params: [1]
snapshot: {every_epoch: 1, keep_last: 0, mode: maximum}
"""
    )
    assert problems(file) == [
        "config.yaml: model_nam: expected a known key, got 'model_nam'; did you mean 'model_name'?",
        "config.yaml: epochs: expected 1 or more, got 0",
        "config.yaml: seed: expected a whole number, got True",
        "config.yaml: learning_rate: expected a number, got 'fast'",
        "config.yaml: mixed_precision: expected true or false, or text, got 1",
        "config.yaml: strategy: expected one of auto, cpu, gpu, mesh, torch (did you mean 'gpu'?), "
        "got 'gpus'",
        "config.yaml: mesh: expected a whole number, got {'data': 'two'}",
        "config.yaml: loggers: expected a list, got 3",
        "config.yaml: max_steps: expected a whole number, got 1.5",
        "config.yaml: model_params: expected keys with values, got [1]",
        "config.yaml: snapshot.every_epoch: expected a known key, got 'snapshot.every_epoch'; "
        "did you mean 'snapshot.every_epochs'?",
        "config.yaml: snapshot.keep_last: expected 1 or more, got 0",
        "config.yaml: snapshot.mode: expected one of min, max (did you mean 'max'?), got 'maximum'",
        "config.yaml: model_name: expected a value, got none; add it",
        "config.yaml: batch_size: expected a multiple of grad_accumulation_steps (4), got 30; "
        "use 28 or 32",
    ]


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "use"),
    [(30, 4, "28 or 32"), (63, 8, "56 or 64"), (3, 4, "4"), (5, 3, "3 or 6")],
)
def test_a_batch_that_does_not_divide_names_the_nearest_that_do(
    write, batch_size, accumulation, use
):
    overrides = [f"batch_size={batch_size}", f"grad_accumulation_steps={accumulation}"]
    assert problems(write("model_name: a"), *overrides) == [
        "override: batch_size: expected a multiple of grad_accumulation_steps "
        f"({accumulation}), got {batch_size}; use {use}"
    ]


def test_a_learning_rate_given_twice_must_be_one_value(write):
    text = "model_name: a\nlearning_rate: 1e-3\nmodel_params: {learning_rate: %s}"
    assert load_config(write(text % "1e-3")).learning_rate == 0.001
    assert problems(write(text % "2e-3")) == [
        "config.yaml: learning_rate: expected one value, got 0.001 here and 0.002 in "
        "model_params; keep one"
    ]


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3", "'1e-3'"])
def test_every_spelling_of_a_number_is_that_number(write, text):
    assert load_config(write(f"model_name: a\nlearning_rate: {text}")).learning_rate == 0.001


@pytest.mark.parametrize("text", [".nan", ".inf", "nan", "1e999", "true", "[1]", "1" + "0" * 400])
def test_what_is_no_finite_number_is_refused(write, text):
    (line,) = problems(write(f"model_name: a\nlearning_rate: {text}"))
    assert line.startswith("config.yaml: learning_rate: expected a number, got")


def test_a_whole_number_may_be_spelled_as_a_float(write):
    config = load_config(write("model_name: a\nepochs: 3.0\nmesh: {data: 2.0}"))
    assert (config.epochs, type(config.epochs)) == (3, int)
    assert (config.mesh, type(config.mesh["data"])) == ({"data": 2}, int)


@pytest.mark.parametrize("value", ["true", "false", "yes"])
def test_a_truth_value_is_no_whole_number(write, value):
    (line,) = problems(write(f"model_name: a\nepochs: {value}"))
    assert line.startswith("config.yaml: epochs: expected a whole number, got")


def test_a_seed_that_jax_would_cut_short_is_refused(write):
    assert load_config(write(f"model_name: a\nseed: {2**32 - 1}")).seed == 2**32 - 1
    assert problems(write(f"model_name: a\nseed: {2**32}")) == [
        "config.yaml: seed: expected 4294967295 or less, got 4294967296"
    ]


def test_a_key_given_twice_is_refused_in_yaml_and_json(write):
    assert problems(write("model_name: a\nepochs: 1\nepochs: 2")) == [
        "config.yaml: expected YAML, got the key 'epochs' twice (line 3); fix the file"
    ]
    (line,) = problems(write("model_name: a\nmodel_params: {x: 1, x: 2}"))
    assert "the key 'x' twice (line 2)" in line
    (line,) = problems(write('{"model_name": "a", "epochs": 1, "epochs": 2}', "config.json"))
    assert "the key 'epochs' twice" in line


def test_a_yaml_tag_that_runs_code_is_refused_in_one_line(write, tmp_path, capsys):
    touched = tmp_path / "touched"
    attack = f"!!python/object/apply:os.system ['touch {touched}']"
    assert main(["train", str(write(f"model_name: {attack}"))]) == 2
    assert main(["train", str(write("model_name: a")), "--set", f"seed={attack}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("could not determine a constructor for the tag" in line for line in lines)
    assert not touched.exists()
    yaml.unsafe_load(attack)  # the attack is a real one
    assert touched.exists()


@pytest.mark.parametrize(
    "text",
    [
        "model_name: [",
        "model_name: a\n? [1, 2]\n: 3",
        "model_name: 2024-13-45",
        "model_name: a\nmodel_params: &self {me: *self}",
        "model_name: a\nloggers: &self [*self]",
        "model_name: " + "[" * 3000,
        "- model_name",
        "model_name",
        "",
        "model_name: \0",
        "model_name: a\nmodel_params: {day: 2024-01-01}",
    ],
)
def test_a_malformed_file_is_one_line(write, text, capsys):
    file = write(text)
    assert main(["train", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: ")


def test_bytes_that_are_no_text_are_one_line(write, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_bytes(b"model_name: \xff\xfe")
    (line,) = problems(file)
    assert line.startswith("config.yaml: expected YAML, got 'utf-8' codec")


def test_a_missing_file_and_a_wrong_ending_are_one_line(write, tmp_path):
    assert problems(tmp_path / "config.yaml") == [
        "config.yaml: expected a config file, got none there; check the path"
    ]
    assert problems(write(YAML, "config.toml")) == [
        "config.toml: expected a config ending in .py, .yaml, .yml, .json, got '.toml'; "
        "rename it or name another"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def get_config():\n    raise KeyError('seed')", "KeyError: 'seed'"),
        ("def get_config(:\n", "SyntaxError: "),
        ("import not_installed_anywhere", "ModuleNotFoundError: "),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("def get_config():\n    return [1]", "got list"),
        ("model_name = 'a'", "expected a function get_config(), got none"),
    ],
)
def test_a_python_config_that_fails_is_one_line(write, text, reason, capsys):
    file = write(text, "config.py")
    assert main(["train", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: ") and reason in line


def test_a_python_config_edited_in_the_same_second_is_read_anew(write, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for epochs in (3, 4, 5):
        text = f"def get_config():\n    return {{'model_name': 'a', 'epochs': {epochs}}}"
        file = write(text, "config.py")
        os.utime(file, (1_000_000_000, 1_000_000_000))
        assert load_config(file).epochs == epochs
    assert [path.name for path in tmp_path.iterdir()] == ["config.py"]


def test_overrides_are_dotted_and_read_as_yaml(write):
    config = load_config(
        write(YAML),
        [
            "epochs=3",
            "learning_rate=1e-4",
            "mixed_precision=true",
            "model_params.hidden_dim=32",
            "model_params.input_dim=10",
            "snapshot.keep_last=2",
            "mesh={data: 8}",
            "max_grad_norm=null",
            "eval_every_steps=5",
            "data_name=diabetes",
        ],
    )
    assert config == Config(
        model_name="SimpleMLP",
        model_params={"input_dim": 10, "num_classes": 10, "hidden_dim": 32},
        data_name="diabetes",
        batch_size=32,
        epochs=3,
        learning_rate=1e-4,
        mixed_precision=True,
        mesh={"data": 8},
        eval_every_steps=5,
        loggers=("jsonl", {"console": {}}),
        snapshot=SnapshotConfig(every_epochs=2, mode="max", keep_last=2),
    )


@pytest.mark.parametrize(
    "spelling", ["('console', 'csv')", "['console', 'csv']", "[console, csv]", '("console","csv")']
)
def test_a_list_may_be_spelled_as_python_or_yaml(write, spelling):
    assert load_config(write(YAML), [f"loggers={spelling}"]).loggers == ("console", "csv")


def test_the_last_override_of_a_key_wins(write):
    assert load_config(write(YAML), ["epochs=3", "epochs=4"]).epochs == 4


def test_errors_in_overrides_say_so(write):
    file = write("model_name: a\nepochs: 0")
    assert problems(file, "bath_size=3", "snapshot.keep_last=0", "seed=x", "loggers.0=csv") == [
        "config.yaml: epochs: expected 1 or more, got 0",
        "override: bath_size: expected a known key, got 'bath_size'; did you mean 'batch_size'?",
        "override: snapshot.keep_last: expected 1 or more, got 0",
        "override: seed: expected a whole number, got 'x'",
        "override: loggers: expected a list, got {'0': 'csv'}",
    ]
    assert problems(file, "epochs=1", "snapshot={mod: min}") == [
        "override: snapshot.mod: expected a known key, got 'snapshot.mod'; "
        "did you mean 'snapshot.mode'?"
    ]
    assert problems(file, "model_name.x=1") == [
        "override: model_name.x: expected 'model_name' to contain keys, got 'a'; set it as a whole"
    ]
    assert problems(file, "epochs") == ["--set: expected key=value, got 'epochs'; use key=value"]


@pytest.mark.parametrize("text", ["[1", "2024-13-45", "[" * 10_000, "!!python/name:os.system"])
def test_an_override_that_is_no_value_is_one_line(write, text):
    (line,) = problems(write("model_name: a"), f"epochs={text}")
    assert line.startswith("override: epochs: expected a YAML value, got")


def test_config_flags_of_the_main_module_are_overrides(write, capsys):
    from aetheria import main as main_module

    file = write("model_name: a")
    arguments = [f"--config={file}", "--config.epochs=0", "--config.batch_siz", "3"]
    assert main_module.main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        "override: epochs: expected 1 or more, got 0",
        "override: batch_siz: expected a known key, got 'batch_siz'; did you mean 'batch_size'?",
    ]


def test_make_config_copies_what_it_is_given():
    params = {"sizes": [1, 2]}
    config = make_config({"model_name": "a", "model_params": params}, "here")
    params["sizes"].append(3)
    assert config.model_params == {"sizes": [1, 2]}


_texts = st.text(st.characters(codec="utf-8"), max_size=8)
_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_params = st.dictionaries(_texts, _plain, max_size=3)
_amounts = st.floats(min_value=0, allow_infinity=False)
_counts = st.integers(1, 10**6)


@st.composite
def _configs(draw):
    """Any config that the schema allows."""
    accumulation, batches = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    listeners = st.lists(_texts | st.dictionaries(_texts, _params, min_size=1, max_size=1))

    def optional(strategy):
        return draw(st.none() | strategy)

    return Config(
        model_name=draw(_texts),
        model_params=draw(_params),
        data_name=draw(_texts),
        data_params=draw(_params),
        epochs=draw(_counts),
        max_steps=optional(_counts),
        batch_size=accumulation * batches,
        learning_rate=optional(_amounts),
        max_grad_norm=optional(_amounts),
        remat=optional(st.sampled_from(["none", "dots", "full"])),
        mixed_precision=draw(st.booleans() | st.sampled_from(["compute=f16", "output=bf16"])),
        grad_accumulation_steps=accumulation,
        strategy=draw(st.sampled_from(["auto", "cpu", "gpu", "mesh"])),
        mesh=draw(st.dictionaries(_texts, _counts, max_size=2)),
        seed=draw(st.integers(0, 2**32 - 1)),
        on_nonfinite=draw(st.sampled_from(["skip", "halt", "rollback"])),
        max_consecutive_skips=draw(_counts),
        log_every_steps=draw(_counts),
        eval_every_steps=optional(_counts),
        loggers=tuple(draw(listeners)),
        callbacks=tuple(draw(listeners)),
        snapshot=SnapshotConfig(
            every_epochs=draw(st.integers(0, 9)),
            every_steps=draw(st.integers(0, 9)),
            keep_last=draw(_counts),
            keep_best=draw(st.integers(0, 9)),
            monitor=draw(_texts),
            mode=draw(st.sampled_from(["min", "max"])),
        ),
    )


class _QuotingDumper(yaml.SafeDumper):
    """PyYAML does not quote texts such as 1e5, which are texts in YAML 1.1 and numbers in 1.2."""

    def represent_text(self, text):
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_QuotingDumper.add_representer(str, _QuotingDumper.represent_text)


@settings(max_examples=40, deadline=None)
@given(_configs())
def test_any_config_survives_yaml_and_json(tmp_path_factory, config):
    folder = tmp_path_factory.getbasetemp()
    file = folder / "round_trip.yaml"
    file.write_text(yaml.dump(config.to_dict(), Dumper=_QuotingDumper), encoding="utf-8")
    assert load_config(file) == config
    file = folder / "round_trip.json"
    file.write_text(json.dumps(config.to_dict()), encoding="utf-8")
    assert load_config(file) == config
