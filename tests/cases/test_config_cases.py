"""Unusual config files and command lines: accepted as they are meant, or refused at once."""

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.long import long_or

from aetheria.cli.main import main
from aetheria.config import Config
from aetheria.config.files import load_config
from aetheria.config.precision_policy import parse_policy
from aetheria.errors import ConfigError

CASES = Path(__file__).with_name("configs.txt").read_text().strip().split("\n\n")
TAKEN = [case for case in CASES if case.startswith("# taken")]
REFUSED = [case for case in CASES if case.startswith("# one line")]


def load(folder: Path, text: str, name: str = "config.yaml", *overrides: str) -> Config:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return load_config(file, overrides)


def test_every_case_says_what_its_answer_is():
    assert len(TAKEN) + len(REFUSED) == len(CASES) > 10


@pytest.mark.parametrize("text", TAKEN)
def test_what_people_write_is_taken(tmp_path, text):
    config = load(tmp_path, text)
    (key,) = set(yaml.safe_load(text)) - {"model_name"}
    given = yaml.safe_load(text)[key]
    expected = {
        "mixed_precision": given,
        "callbacks": ("early_stopping",) if isinstance(given, str) else (given,),
        "max_steps": None,
    }
    assert getattr(config, key) == expected[key]


@pytest.mark.parametrize("text", REFUSED)
def test_what_nobody_means_is_refused_in_one_line_and_at_once(run, tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    answer = run("train", "config.yaml")
    answer.assert_refused()
    assert answer.seconds < 5
    assert len(answer.err) < 1000


def test_one_callback_trains(train):
    answer = train(callbacks={"early_stopping": {"patience": 2}}, max_steps=1)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    ("text", "compute", "params"),
    [
        ("bf16", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("bf16-mixed", "bfloat16", "float32"),
        ("mixed_bfloat16", "bfloat16", "float32"),
        ("'yes'", "bfloat16", "float32"),
        ("on", "bfloat16", "float32"),
        ("fp16", "float16", "float32"),
        ("16-mixed", "float16", "float32"),
        ("f32", "float32", "float32"),
        ("'no'", "float32", "float32"),
        ("32-true", "float32", "float32"),
        ("bf16-true", "bfloat16", "bfloat16"),
    ],
)
def test_the_precisions_of_other_trainers_are_policies(tmp_path, text, compute, params):
    config = load(tmp_path, f"model_name: a\nmixed_precision: {text}")
    policy = parse_policy(config.mixed_precision)
    assert (policy["compute"], policy["params"]) == (compute, params)


@pytest.mark.parametrize("text", ["bf61", "mixed", "8-mixed", "compute=int8", "bf16-mixed-true"])
def test_a_precision_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="mixed_precision: expected"):
        load(tmp_path, f"model_name: a\nmixed_precision: {text}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("0o17", 15),
        ("017", 17),
        ("0x10", 16),
        ("1_000", 1000),
        ("1e-3", 0.001),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("no", "no"),
        ("true", True),
        ("None", None),
        ("null", None),
        ("~", None),
        ("12a", "12a"),
        ("1e", "1e"),
        ("'1'", "1"),
    ],
)
def test_a_scalar_of_yaml_is_what_it_looks_like(tmp_path, text, value):
    written = load(tmp_path, f"model_name: a\nmodel_params: {{x: {text}}}").model_params["x"]
    given = load(tmp_path, "model_name: a", "b.yaml", f"model_params.x={text}").model_params["x"]
    assert written == given == value
    assert type(written) is type(given) is type(value)


@pytest.mark.parametrize("key", ["max_steps", "learning_rate", "eval_every_steps", "remat"])
@pytest.mark.parametrize("text", ["None", "null", "~", "none"])
def test_none_is_null_unless_it_is_a_choice(tmp_path, key, text):
    config = load(tmp_path, f"model_name: a\n{key}: {text}")
    assert getattr(config, key) == ("none" if (key, text) == ("remat", "none") else None)


def test_no_loggers_may_be_spelled_none(tmp_path):
    for text in ("none", "null", "[]", "{}"):
        assert load(tmp_path, f"model_name: a\nloggers: {text}").loggers == ()
    assert load(tmp_path, "model_name: a\nloggers: {jsonl: , csv: {}}").loggers == (
        {"jsonl": None},
        {"csv": {}},
    )


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lr", "did you mean 'learning_rate'?"),
        ("optimizer", "the model chooses it"),
        ("weight_decay", "the model chooses it"),
        ("num_epochs", "did you mean 'epochs'?"),
        ("gradient_accumulation_steps", "did you mean 'grad_accumulation_steps'?"),
        ("gpus", "use mesh={data: 1}"),
        ("batchsize", "did you mean 'batch_size'?"),
        ("qqq", "see the table of keys in docs/config.md"),
        ("x" * 5000, "see the table of keys"),
        ("0", "see the table of keys"),
    ],
)
def test_a_suggestion_is_made_only_where_one_is_near(tmp_path, key, words):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "model_name: a", "config.yaml", f"{key}=1")
    (line,) = caught.value.problems
    assert words in line
    assert len(line) < 1000
    assert ("did you mean" in line) == ("did you mean" in words)


@pytest.mark.parametrize("param", ["zzz", "y" * 5000])
def test_a_models_unknown_hyperparameter_is_one_short_line(train, param):
    answer = train(model_params={param: 1})
    answer.assert_refused("model_params.", "expected one of", "use one of these, or remove it")
    assert len(answer.err) < 1000
    train(model_params={"hiden_dim": 8}).assert_refused("did you mean 'hidden_dim'?")


MALFORMED_FILES = {
    "UPPER.YAML": b"model_name: a",
    "Mixed.Yml": b"model_name: a",
    "bom.json": b'\xef\xbb\xbf{"model_name": "a"}',
    "bom.yaml": b"\xef\xbb\xbfmodel_name: a",
}


@pytest.mark.parametrize("name", MALFORMED_FILES)
def test_a_config_is_read_whatever_its_case_and_mark(tmp_path, name):
    (tmp_path / name).write_bytes(MALFORMED_FILES[name])
    assert load_config(tmp_path / name) == Config(model_name="a")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{chr(ord(name) - 1)}'] * 9)}]\n" for name in "bcdefghi"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.yaml", f"model_name: a\nmodel_params:\n  {BOMB.replace(chr(10), chr(10) + '  ')}"),
        ("large.yaml", "model_name: a\n# " + "x" * 2_000_000),
        ("keys.yaml", "\n".join(f"k{i}: 1" for i in range(100_000))),
        ("fewer_keys.yaml", "\n".join(f"k{i}: 1" for i in range(9_000))),
        ("keys.json", json.dumps({f"k{i}": 1 for i in range(9_000)})),
        ("surrogate.json", '{"model_name": "\\ud800"}'),
        ("surrogate_key.json", '{"model_name": "a", "\\ud800": 1}'),
        ("digits.yaml", "model_name: a\nseed: " + "9" * 5000),
        ("digits.json", '{"model_name": "a", "seed": ' + "9" * 5000 + "}"),
        ("digits.py", "get_config = lambda: {'model_name': 'a', 'seed': 10**5000}"),
        ("self.py", "c = {'model_name': 'a'}\nc['model_params'] = c\nget_config = lambda: c"),
        ("deep.json", "[" * 100_000),
        ("deep.yaml", "- " * 50_000),
        ("long.yaml", f"model_name: {'n' * 5000}"),
        ("long_value.yaml", f"model_name: a\nepochs: {'n' * 5000}"),
        ("batch.yaml", "model_name: SimpleMLP\nbatch_size: 1000000000000"),
        ("batch_of_2e9.yaml", "model_name: SimpleMLP\nbatch_size: 2000000000"),
        ("steps.yaml", "model_name: SimpleMLP\nmax_steps: 1000000000000"),
        ("epochs.yaml", "model_name: SimpleMLP\nepochs: 2000000000\nbatch_size: 1"),
        ("lanes.yaml", "model_name: SimpleMLP\nreproducibility: elastic\nlanes: 4294967296"),
    ],
)
def test_an_absurd_file_is_refused_at_once(run, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    answer = run("train", name)
    assert answer.code == 2
    assert not answer.written
    assert len(answer.lines) <= 21
    assert all(len(line) < 1000 for line in answer.lines)
    assert answer.seconds < 20


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "x" * 5000 + ".yaml"],
        ["train", ("x" * 200 + "/") * 30 + "a.yaml"],
        ["train", "a.yaml", "--workdir", "x" * 300],
        ["train", "a.yaml", "--project", "x" * 300],
        ["train", "a.yaml", "--workdir", ""],
        ["train", "\udcff.yaml"],
        ["train", "a.yaml", "--stop-at-step", "9" * 5000],
        ["train", "a.yaml", "--set", "x" * 5000],
        ["train", "a.yaml", "--set", "seed=" + "9" * 5000],
        ["train", "a.yaml", "--set", "model_name=\udcff"],
        ["train", "a.yaml", "--set", "snapshot.mode.x=1"],
        ["plan", "a.yaml", "--memory", "1e40"],
        ["plan", "a.yaml", "--memory", "999999999TB"],
        ["plan", "a.yaml", "--memory", "0GB"],
        ["plan", "a.yaml", "--devices", "²"],
        ["plan", "a.yaml", "--devices", "1" * 40],
        ["plan", "a.yaml", "--mesh", "data=" + "1" * 40],
        ["plan", "a.yaml", "--peak-tflops", "1e999"],
        ["report", "x" * 300],
    ],
)
def test_an_absurd_argument_is_one_line(run, tmp_path, arguments):
    (tmp_path / "a.yaml").write_text("model_name: SimpleMLP")
    answer = run(*arguments)
    answer.assert_refused()
    assert len(answer.err) < 7000  # a path is not shortened
    assert answer.seconds < 20


def test_max_steps_is_the_length_of_a_run_whatever_epochs_say(train):
    for epochs in (1, 100):
        answer = train("--overwrite", "--workdir", "r", epochs=epochs, max_steps=9)
        assert answer.code == 0, answer.err
        assert json.loads(Path("r/summary.json").read_text())["steps"] == 9


VALID = {
    "model_name": "SimpleMLP",
    "model_params": {"hidden_dim": 8},
    "batch_size": 32,
    "learning_rate": 0.001,
    "mixed_precision": False,
    "mesh": {"data": 1},
    "loggers": ["jsonl"],
    "snapshot": {"every_steps": 5, "mode": "min"},
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -1, 0, "none", "yes", "1:30", ".nan", "os:system"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
KEYS = st.sampled_from([*Config(model_name="").to_dict(), "lr", "", "snapshot.mode"])


@st.composite
def malformed(draw) -> tuple[str, bytes]:
    """A file name and bytes: values where they do not belong, a text cut or spliced, or noise."""
    kind = draw(st.sampled_from(["values", "spliced", "bytes"]))
    if kind == "bytes":
        return draw(st.sampled_from(["a.yaml", "a.json"])), draw(st.binary(max_size=200))
    values = {**VALID, **draw(st.dictionaries(KEYS, VALUES, max_size=4))}
    name = draw(st.sampled_from(["a.yaml", "a.json"]))
    text = yaml.safe_dump(values) if name == "a.yaml" else json.dumps(values)
    if kind == "spliced":
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 5))
        text = text[:at] + draw(st.text(max_size=5)) + text[at + length :]
    return name, text.encode("utf-8", "surrogatepass")


@given(malformed())
@settings(
    max_examples=long_or(60, 300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_malformed_config_is_a_traceback(tmp_path, capsys, case):
    name, content = case
    file = tmp_path / name
    file.write_bytes(content)
    started_at, problems = time.perf_counter(), ()
    try:
        config = load_config(file)
        json.dumps(config.to_dict())  # a run folder can store what is accepted
    except ConfigError as error:
        problems = error.problems
    if problems:
        assert all("\n" not in line and len(line) < 2000 for line in problems)
        assert main(["train", str(file)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == len(problems)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    file.unlink()
    assert time.perf_counter() - started_at < 20
