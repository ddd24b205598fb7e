"""What is generated from the config's fields is current, and the JSON Schema agrees with the
checks of a config.
"""

import dataclasses
import importlib.resources
import json
import re
import shutil
import sys
import tomllib
import typing
from dataclasses import dataclass

import pytest
import yaml
from jsonschema import Draft202012Validator
from support.runs import REPOSITORY

from aetheria.config import make_config
from aetheria.config.description import describe
from aetheria.config.files import load_config
from aetheria.config.json_schema import json_schema
from aetheria.config.limits import PositiveInt
from aetheria.config.schema import keys
from aetheria.errors import ConfigError
from aetheria.events import Event, Progress, SnapshotFailed, StallTime
from aetheria.observe.listener import RunContext

sys.path.append(str(REPOSITORY / "scripts"))

import generate_docs

GENERATED = (
    generate_docs.PAGE,
    generate_docs.SCHEMA,
    generate_docs.COMMANDS,
    generate_docs.EVENTS,
)
SHIPPED = importlib.resources.files("aetheria.config") / "config.schema.json"
VALIDATOR = Draft202012Validator(json.loads(SHIPPED.read_text(encoding="utf-8")))
EXAMPLE = re.compile(r"^```yaml[^\n]*\n(.*?)^```$|<<EOF\n(.*?)^EOF$", re.MULTILINE | re.DOTALL)


def example_configs() -> list[str]:
    """The YAML configs on the documentation's pages."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    blocks = [a or b for page in pages for a, b in EXAMPLE.findall(page.read_text("utf-8"))]
    return [block for block in blocks if re.search("^model_name:", block, re.MULTILINE)]


def is_accepted(values: dict) -> bool:
    try:
        make_config(values, "here")
    except ConfigError:
        return False
    return True


def test_generated_docs_are_current():
    """If this fails, run `python scripts/generate_docs.py`."""
    assert generate_docs.write(REPOSITORY, describe(), check=True) == []


@pytest.mark.parametrize(
    ("change", "outdated"),
    [
        ({"default": 11}, [generate_docs.PAGE, generate_docs.SCHEMA]),
        ({"hint": int}, [generate_docs.PAGE, generate_docs.SCHEMA]),
        ({"description": "Another."}, [generate_docs.PAGE, generate_docs.SCHEMA]),
        ({"name": "passes"}, [generate_docs.PAGE, generate_docs.SCHEMA]),
        ({"resume": "free"}, [generate_docs.PAGE]),
    ],
)
def test_a_changed_field_makes_generated_docs_outdated(tmp_path, change, outdated):
    for name in GENERATED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    changed = [
        dataclasses.replace(key, **change) if key.name == "epochs" else key for key in describe()
    ]
    assert generate_docs.write(tmp_path, changed, check=True) == outdated
    assert generate_docs.write(tmp_path, changed, check=False) == outdated
    assert generate_docs.write(tmp_path, changed, check=True) == []


def test_another_command_makes_its_page_outdated(monkeypatch):
    page = generate_docs.make_command_page()
    assert page == (REPOSITORY / generate_docs.COMMANDS).read_text()
    assert "--stop-at-step N" in page and "\n## aetheria prove elastic\n" in page
    monkeypatch.setattr("aetheria.cli.train.TrainCommand.__doc__", "Something else.")
    assert generate_docs.make_command_page() != page


def test_the_page_of_events_is_complete_and_needs_every_description(monkeypatch):
    page = (REPOSITORY / generate_docs.EVENTS).read_text()
    described = [*typing.get_args(Event), Progress, StallTime, RunContext]
    for each in described:
        _, _, section = page.partition(f"# {each.__name__}\n")
        table = section.partition("\n#")[0]
        names = [item.name for item in dataclasses.fields(each)]
        assert names
        assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == names
    monkeypatch.setattr(SnapshotFailed, "__doc__", "A save failed.")
    with pytest.raises(ValueError, match=r"SnapshotFailed\.name: expected a description"):
        generate_docs.make_events_page()


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="expected the markers"):
        generate_docs.replace_table("# The config", "table")


def test_description_default_and_limits_come_from_the_field():
    @dataclass
    class Small:
        """A schema.

        Attributes:
            size: How large it is,
                in metres.
        """

        size: PositiveInt = dataclasses.field(default=3, metadata={"resume": "schedule"})

    (key,) = describe(Small)
    assert (key.name, key.description) == ("size", "How large it is, in metres.")
    table = generate_docs.make_table([key]).splitlines()
    assert table[2:] == [
        "| `size` | integer, 1 or more | `3` | How large it is, in metres. | `--accept-changes` |"
    ]
    assert json_schema([key])["properties"]["size"] == {
        "description": "How large it is, in metres.",
        "type": "integer",
        "minimum": 1,
        "maximum": 2**31 - 1,
        "default": 3,
    }


def test_a_field_without_a_description_is_found():
    @dataclass
    class Undescribed:
        """A schema.

        Attributes:
            size: How large it is.
        """

        size: int = 3
        weight: int = 4

    with pytest.raises(AssertionError, match="weight"):
        describe(Undescribed)


def test_keys_are_dotted_and_each_has_a_row_in_the_docs():
    page = (REPOSITORY / generate_docs.PAGE).read_text("utf-8")
    table = page.partition(generate_docs.BEGIN)[2].partition(generate_docs.END)[0]
    assert len(set(keys())) == len(keys()) > 30
    assert {"model_name", "snapshot.mode"} <= set(keys())
    assert [key for key in keys() if table.count(f"\n| `{key}` |") != 1] == []


def test_the_json_schema_is_valid_and_forbids_unknown_keys():
    Draft202012Validator.check_schema(VALIDATOR.schema)
    snapshot = VALIDATOR.schema["properties"]["snapshot"]
    assert VALIDATOR.schema["additionalProperties"] is snapshot["additionalProperties"] is False
    assert all(value["description"] for value in snapshot["properties"].values())


def test_the_json_schema_is_in_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    packed = project["tool"]["setuptools"]["package-data"]["aetheria"]
    assert generate_docs.SCHEMA.removeprefix("aetheria/") in packed


@pytest.mark.parametrize("name", ["cnn", "lm", "mlp"])
def test_shipped_configs_are_valid(name):
    config = load_config(REPOSITORY / "configs" / f"{name}.py")
    VALIDATOR.validate(json.loads(json.dumps(config.to_dict())))


def test_examples_in_the_docs_are_valid():
    assert len(example_configs()) >= 4
    for example in example_configs():
        VALIDATOR.validate(yaml.safe_load(example))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("epochs: 1", []),
        ("model_name: a\nepoch: 1", []),
        ("model_name: a\nepochs: 0", ["epochs"]),
        ("model_name: a\nepochs: 1.5", ["epochs"]),
        ("model_name: a\nepochs: 2147483648", ["epochs"]),
        ("model_name: a\nlearning_rate: -1.0", ["learning_rate"]),
        ("model_name: a\nlearning_rate: fast", ["learning_rate"]),
        ("model_name: a\nema_decay: 1.5", ["ema_decay"]),
        ("model_name: a\nseed: 4294967296", ["seed"]),
        ("model_name: a\nremat: some", ["remat"]),
        ("model_name: a\nstrategy: gpus", ["strategy"]),
        ("model_name: a\nmesh: {data: 0}", ["mesh", "data"]),
        ("model_name: a\nmodel_params: [1]", ["model_params"]),
        ("model_name: a\nloggers: [3]", ["loggers", 0]),
        ("model_name: a\nsnapshot: {every_epoch: 1}", ["snapshot"]),
        ("model_name: a\nsnapshot: {keep_last: 0}", ["snapshot", "keep_last"]),
        ("model_name: a\nsnapshot: {mode: maximum}", ["snapshot", "mode"]),
    ],
)
def test_a_wrong_config_is_marked_where_it_is_wrong(text, path):
    (error,) = VALIDATOR.iter_errors(yaml.safe_load(text))
    assert list(error.path) == path


VALUES = [
    *(None, True, False, 0, 1, -1, 8, 0.5, 2.0, 1.5, 2**31, 2**32, [], {}, [1], [None], ["a"]),
    *("", "a", "none", "None", "null", "Null", "1e-3", "0.001", ".5", "1.", "3", "+2.5E4", "1e"),
    *("auto", "gpu", "full", "fast", "skip", "rollback", "min", "elastic", "bf16"),
    *({"data": 2}, {"data": 2.0}, {"data": 0}, {"data": "2"}, {"a": None}, {"a": {"b": [1]}}),
    *({"a": 1}, ["a", {"b": {}}], ["a", {"b": None}], {"every_steps": 1}, {"every_steps": -1}),
]
# Where they differ: the builder checks the items of a list; a JSON Schema knows no precision policy
# and no limit of a number in quotes.
DIFFERENCES = {
    "loggers": [[1], [None]],
    "callbacks": [[1], [None]],
    "mixed_precision": [v for v in VALUES if isinstance(v, str) and v != "bf16"],
    "ema_decay": ["3", "+2.5E4"],
}


@pytest.mark.parametrize("key", keys())
def test_the_json_schema_accepts_what_the_checks_accept(key):
    group, _, name = key.rpartition(".")
    for value in VALUES:
        needed = {"reproducibility": "elastic"} if key == "spot_check_every" else {}
        values = {
            "model_name": "a",
            **needed,
            **({group: {name: value}} if group else {name: value}),
        }
        differs = value in DIFFERENCES.get(key, [])
        assert (VALIDATOR.is_valid(values) != is_accepted(values)) == differs, value
