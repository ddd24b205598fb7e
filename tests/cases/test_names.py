"""Nothing in a file decides what code runs: hostile names by every door, safe ones beside."""

import hashlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.records import make_record

from aetheria import predict
from aetheria.cli.main import main
from aetheria.config import make_config
from aetheria.engine.interfaces import LOSS_OR_GRADIENT
from aetheria.engine.typed_json import to_json
from aetheria.errors import AetheriaError
from aetheria.inference import Predictor
from aetheria.plugins import CALLBACKS, DATA, LOGGERS, MODELS
from aetheria.snapshots.dumps import KIND
from aetheria.snapshots.manifest import record_digest
from aetheria.snapshots.snapshot_files import write_checkpoint

MARKER, VICTIM = "executed", "victim"
SPEC = {"inputs": {"shape": [3], "dtype": "float32"}}
# Each would make the marker, or remove the victim.
HOSTILE = [
    ("os:mkdir", {"path": MARKER}),
    ("os:system", {"command": f"mkdir {MARKER}"}),
    ("posix:mkdir", {"path": MARKER}),
    ("builtins:open", {"file": MARKER, "mode": "w"}),
    ("shutil:rmtree", {"path": VICTIM}),
    ("subprocess:Popen", {"args": ["mkdir", MARKER]}),
    ("runpy:run_path", {"path_name": "side_effect.py"}),
    ("aetheria.snapshots.run_plan:_remove", {"path": VICTIM}),
    ("aetheria.snapshots.run_folder:write_json", {"path": MARKER, "value": 1}),
    ("aetheria:predict", {}),
    ("numpy:save", {"file": MARKER, "arr": 1}),
    ("side_effect:Tiny", {}),
    ("models.side_effect:Tiny", {}),
    ("downloads.side_effect:Tiny", {}),
    (".side_effect:Tiny", {}),
    ("../side_effect:Tiny", {}),
    ("models/side_effect.py:Tiny", {}),
    ("side_effect", {}),
    ("os.mkdir", {"path": MARKER}),
    ("jsonl", {}),
    (":", {}),
    ("", {}),
    ("x" * 5000, {}),
    (None, {}),
    (5, {}),
    ({"os:mkdir": {"path": MARKER}}, {}),
    ("Tiny", ["os:mkdir"]),
    ("Tiny", {"__class__": "os:mkdir"}),
]
MODEL = """
from dataclasses import dataclass

import jax.numpy as jnp
import optax

from aetheria import LossOutput, Model, register_model, weighted


@register_model("NAME")
@dataclass(frozen=True)
class Tiny(Model):
    scale: float = 1.0

    def init(self, rng, example_batch):
        return {"w": jnp.zeros(example_batch["inputs"].shape[-1])}, {}

    def loss(self, params, model_state, batch, rng, train):
        losses = (batch["inputs"] @ params["w"]) ** 2
        loss = weighted(losses, batch["mask"])
        return LossOutput(loss.total, loss.weight, {}, model_state)

    def optimizer(self, total_steps):
        return optax.sgd(0.1)

    def predict(self, params, model_state, inputs):
        return inputs @ params["w"] * self.scale
"""
SIDE_EFFECT = f"from pathlib import Path\nPath('{MARKER}').mkdir()\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder: a project with a model, and files that leave a mark when imported."""
    for registry in (MODELS, DATA, LOGGERS, CALLBACKS):
        registry.names()
        monkeypatch.setattr(registry, "_found", dict(registry._found))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    modules = set(sys.modules)
    files = {
        "models/tiny.py": MODEL.replace("NAME", "Tiny"),
        "unregistered_models.py": MODEL.replace('@register_model("NAME")', ""),
        "side_effect.py": SIDE_EFFECT,
        "models/side_effect.py": SIDE_EFFECT,
        "downloads/side_effect.py": SIDE_EFFECT,
        f"{VICTIM}/file": "",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("unregistered_models", "plain_data", "side_effect", "models"):
            del sys.modules[name]


def assert_nothing_executed() -> None:
    assert not Path(MARKER).exists()
    assert Path(VICTIM, "file").exists()
    assert not {"side_effect", "models.side_effect", "downloads.side_effect"} & set(sys.modules)


def record(name: object, params: object) -> dict:
    config = make_config({"model_name": "Tiny", "strategy": "cpu"}, "test").to_dict()
    config = {**config, "model_name": name, "model_params": params}
    record = make_record(1)
    return to_json(replace(record, run=replace(record.run, config=config)))


def forge_snapshot(name: object, params: object) -> Path:
    """A snapshot whose digests are right: as whoever wants to can write it."""
    path = Path("hostile/checkpoints/snapshot_ep1")
    write_checkpoint(path, {"params/w": np.ones(3, np.float32)}, record(name, params))
    Path("hostile/config.json").write_text(json.dumps(record(name, params)["run"]["config"]))
    return path


def forge_dump(name: object, params: object) -> Path:
    path = Path("hostile/dumps/nonfinite_step1")
    global_batch = {
        "window/inputs": np.ones((1, 2, 3), np.float32),
        "window/mask": np.ones((1, 2), np.float32),
    }
    key = {"base_key": np.zeros(2, np.uint32)}
    says = {"schema_version": 1, "run": record(name, params)["run"], "kind": KIND}
    says |= {"what": LOSS_OR_GRADIENT, "step": 1, "examples_seen": 0, "indices": [0, 1]}
    write_checkpoint(path, {"params/w": np.ones(3, np.float32), **key, **global_batch}, says)
    return path


def forge_weights(name: object, params: object, path: str = "hostile.safetensors") -> Path:
    """A file of safetensors, by hand: who has no PyTorch can be sent one, too."""
    values = np.ones(3, np.float32)
    said = f"w{values.dtype}{values.shape}".encode() + values.tobytes()
    about = {
        "model_name": name,
        "model_params": params,
        "example_spec": SPEC,
        "sha256": hashlib.sha256(said).hexdigest(),
    }
    header = {
        "__metadata__": {"aetheria": json.dumps(about)},
        "w": {"dtype": "F32", "shape": [3], "data_offsets": [0, values.nbytes]},
    }
    head = json.dumps(header).encode()
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes(len(head).to_bytes(8, "little") + head + values.tobytes())
    return Path(path)


def forge_exported(name: object, params: object, folder: str) -> Path:
    return forge_weights(name, params, f"{folder}/model.safetensors").parent


def assert_main_refuses(*arguments: object) -> None:
    from contextlib import redirect_stderr
    from io import StringIO

    with redirect_stderr(StringIO()) as err:
        code = main([str(argument) for argument in arguments])
    assert code == 2, (code, err.getvalue())
    assert err.getvalue().count("\n") == 1, err.getvalue()
    assert len(err.getvalue()) < 2000


def assert_refuses(call, *arguments: object, **options: object) -> None:
    with pytest.raises(AetheriaError) as refused:
        call(*arguments, **options)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 2000


def forge_weightless() -> Path:
    path = Path("good/checkpoints/snapshot_ep1")
    if not path.exists():
        write_checkpoint(path, {"params/w": np.ones(3, np.float32)}, record("Tiny", {}))
    return path


def rewrite(path: Path, name: object, params: object) -> None:
    """Makes a record say another model; the manifest's digest of the record is right again."""
    says = json.loads((path / "record" / "metadata").read_text())
    says["run"]["config"] |= {"model_name": name, "model_params": params}
    (path / "record" / "metadata").write_text(json.dumps(says))
    manifest = json.loads((path / "manifest" / "metadata").read_text())
    manifest["record"] = record_digest(says)
    (path / "manifest" / "metadata").write_text(json.dumps(manifest))


def test_a_hostile_name_in_a_snapshot_or_a_dump_executes_nothing():
    snapshot, dump = forge_snapshot("Tiny", {}), forge_dump("Tiny", {})
    config = {"model_name": "SimpleMLP", "strategy": "cpu", "loggers": []}
    Path("c.yaml").write_text(yaml.safe_dump(config))
    good = forge_weightless()
    for name, params in HOSTILE:
        rewrite(snapshot, name, params)
        rewrite(dump, name, params)
        assert_refuses(Predictor.from_snapshot, snapshot)
        assert_refuses(Predictor, None, {"scale": 2.0}, "hostile")
        assert_main_refuses("debug", "nan", dump)
        assert_nothing_executed()
    for name, params in HOSTILE[::3]:
        rewrite(snapshot, name, params)
        assert_refuses(predict.load, snapshot)
        assert_refuses(reload, good, snapshot)
        assert_main_refuses("export", snapshot, "--to", "out")
        assert main(["train", "c.yaml", f"--resume={snapshot}", "--accept-changes"]) == 2
        assert main(["snapshots", "hostile"]) == 0
        assert main(["snapshots", "verify", "hostile"]) == 0
        assert_nothing_executed()
    assert not Path("out").exists() and not Path("runs").exists()


def reload(good: Path, path: Path) -> None:
    """What a predictor is refused leaves it as it was."""
    predictor = Predictor(checkpoint_path=good)
    try:
        predictor.reload(path)
    finally:
        assert predictor.snapshot == good


@pytest.mark.parametrize("torch", [True, False], ids=["with torch", "without torch"])
def test_a_hostile_name_in_a_file_of_weights_executes_nothing(torch, monkeypatch):
    if torch:
        pytest.importorskip("torch")
    files = [
        forge(name, params, f"{index}{ending}")
        for index, (name, params) in enumerate(HOSTILE)
        for forge, ending in ((forge_weights, ".safetensors"), (forge_exported, ""))
    ]
    if torch:  # the control: such a file is read as far as the model it names
        with pytest.raises(AetheriaError, match="a PyTorch counterpart, got Tiny"):
            Predictor(checkpoint_path=forge_weights("Tiny", {}, "sound.safetensors"))
    else:
        hide_torch(monkeypatch)
    for file in files:
        assert_refuses(Predictor, checkpoint_path=file)
        assert_refuses(predict.load, file)
        assert_main_refuses("import", file, "--workdir", "new")
    assert not Path("new").exists()
    assert_nothing_executed()


def hide_torch(monkeypatch) -> None:
    find_spec = importlib.util.find_spec
    without = lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
    monkeypatch.setattr(importlib.util, "find_spec", without)


def test_a_project_that_lies_around_a_dump_is_data():
    """Downloaded with its run folder: the caller is not in it."""
    dump = forge_dump("Planted", {})
    Path("hostile/models").mkdir()
    planted = SIDE_EFFECT + MODEL.replace("NAME", "Planted")
    Path("hostile/models/planted.py").write_text(planted)
    assert_main_refuses("debug", "nan", dump)
    assert_refuses(Predictor.from_snapshot, forge_snapshot("Planted", {}))
    assert_nothing_executed()
    assert main(["debug", "nan", str(dump), "--project=hostile"]) in (0, 1)  # the caller says so
    assert Path(MARKER).exists()


def outputs(predictor: Predictor) -> list[float]:
    return predictor.predict(np.ones((2, 3), np.float32)).tolist()


def test_the_safe_names_work_by_every_door():
    """The control: what is registered, and what the caller himself gives."""
    registered = forge_snapshot("Tiny", {"scale": 2.0})
    assert outputs(Predictor.from_snapshot(registered)) == [6.0, 6.0]
    assert outputs(predict.load("hostile", project=".")) == [6.0, 6.0]
    assert main(["debug", "nan", str(forge_dump("Tiny", {}))]) == 1  # all is finite
    spelled = forge_named("models.tiny:Tiny", "spelled")  # of a model that is registered
    assert outputs(Predictor.from_snapshot(spelled)) == [6.0, 6.0]
    path = "unregistered_models:Tiny"
    own = forge_named(path, "own")
    assert outputs(Predictor(path, checkpoint_path=own)) == [6.0, 6.0]
    assert outputs(Predictor(path, {"scale": 2.0}, own)) == [6.0, 6.0]
    predictor = Predictor(path, checkpoint_path=own)
    predictor.reload()
    assert outputs(predictor) == [6.0, 6.0]
    del sys.modules["unregistered_models"]
    with pytest.raises(AetheriaError, match="give it yourself, as model_name='unregistered_mod"):
        Predictor(checkpoint_path=own)
    assert "unregistered_models" not in sys.modules
    __import__("unregistered_models")  # the caller has imported it himself
    assert outputs(Predictor(checkpoint_path=own)) == [6.0, 6.0]


def forge_named(name: str, run: str) -> Path:
    path = Path(run, "checkpoints", "snapshot_ep1")
    arrays = {"params/w": np.ones(3, np.float32)}
    write_checkpoint(path, arrays, record(name, {"scale": 2.0}))
    return path


def test_a_dump_takes_the_import_path_that_the_caller_gives():
    dump = forge_dump("unregistered_models:Tiny", {})
    assert_main_refuses("debug", "nan", dump)
    assert main(["debug", "nan", str(dump), "--model", "unregistered_models:Tiny"]) == 1


def test_a_name_that_an_installed_package_provides_is_found(folder):
    info = folder / "tiny_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.0\n")
    provides = "[aetheria.models]\nPackaged = unregistered_models:Tiny\nBad = os:mkdir\n"
    (info / "entry_points.txt").write_text(provides)
    for name, run in (("Packaged", "one"), ("unregistered_models:Tiny", "two")):
        assert outputs(Predictor(checkpoint_path=forge_named(name, run))) == [6.0, 6.0]
    assert_refuses(Predictor, checkpoint_path=forge_snapshot("Bad", {"path": MARKER}))
    assert_nothing_executed()


WRONG = [
    ("model_name", "builtins:open", "standard library"),
    ("model_name", "os:mkdir", "standard library"),
    ("model_name", "antigravity:geohash", "standard library"),
    ("model_name", "numpy:save", "expected an aetheria Model, got 'numpy:save'"),
    ("model_name", "numpy:ndarray", "which is the class ndarray"),
    ("model_name", "aetheria.snapshots.run_plan:_remove", "expected an aetheria Model"),
    ("model_name", "unregistered_models:optax", "which is a module"),
    ("data_name", "os:system", "standard library"),
    ("data_name", "shutil:rmtree", "standard library"),
    ("data_name", "yaml:unsafe_load", "expected a dataset function, got 'yaml:unsafe_load'"),
    ("data_name", "numpy:save", "expected a dataset function"),
    ("data_name", "aetheria.snapshots.run_plan:_remove", "expected a dataset function"),
    ("data_name", "plain_data:system", "expected a dataset function"),
    ("data_name", "plain_data:rmtree", "expected a dataset function"),
    ("data_name", "plain_data:CONSTANT", "which is a str"),
    ("loggers", "builtins:print", "standard library"),
    ("loggers", "numpy:save", "expected a class with a method notify(event)"),
    ("loggers", {"shutil:rmtree": {"path": VICTIM}}, "standard library"),
    ("callbacks", "json:dumps", "standard library"),
    ("callbacks", "threading:Condition", "standard library"),
    ("callbacks", {"aetheria.snapshots.run_plan:_remove": {"path": VICTIM}}, "notify(event)"),
    ("callbacks", "plain_data:Deaf", "which is the class Deaf"),
    ("callbacks", "plain_data:make_listener", "which is a function make_listener"),
]
PLAIN_DATA = """
from os import system
from shutil import rmtree

import numpy as np

import aetheria

CONSTANT = "text"


def rows():
    columns = {"inputs": np.eye(8, dtype="float32")[:, :3]}
    source = aetheria.ArraySource(columns)
    return aetheria.DataSplits(train=source, eval=source)


class Deaf:
    def __init__(self, context):
        raise AssertionError("called")


def make_listener(context):
    raise AssertionError("called")
"""


@pytest.mark.parametrize(("key", "value", "says"), WRONG, ids=lambda value: str(value)[:40])
def test_a_config_names_only_what_its_key_wants(key, value, says, run, folder):
    (folder / "plain_data.py").write_text(PLAIN_DATA)
    listed = [value] if key in ("loggers", "callbacks") else value
    config = {"model_name": "SimpleMLP", "strategy": "cpu", "loggers": [], key: listed}
    config["data_params"] = {"path": VICTIM} if key == "data_name" else {}
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    run("train", "c.yaml").assert_refused(says)
    assert_nothing_executed()
    assert "antigravity" not in sys.modules


def test_a_project_function_that_is_not_registered_is_a_dataset(run, folder):
    """The control: import paths that the config itself gives."""
    (folder / "plain_data.py").write_text(PLAIN_DATA)
    config = {
        "model_name": "unregistered_models:Tiny",
        "data_name": "plain_data:rows",
        "callbacks": ["aetheria.observe.loggers.records:JsonlLogger"],
        "loggers": [],
        "batch_size": 4,
        "max_steps": 2,
        "strategy": "cpu",
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    answer = run("train", "c.yaml", "--workdir=run")
    assert answer.code == 0, answer.err
    resumed = run("train", "c.yaml", "--workdir=run", "--resume=latest")
    assert resumed.code == 0, resumed.err


def said(call, *arguments: object, **options: object) -> str:
    with pytest.raises(AetheriaError) as refused:
        call(*arguments, **options)
    return str(refused.value)


def test_a_not_found_error_says_where_was_looked_and_what_is_there(folder):
    (folder / "models" / "forgotten.py").write_text("class Lost:\n    pass\n")
    line = said(MODELS.get, "Lost", folder)
    assert f"looked in {folder / 'models'}, " in line
    assert f"{folder / 'models' / 'forgotten.py'}, " in line and "@register_model" in line
    assert "tiny.py" not in line  # the control: it registers one
    path = forge_snapshot("Lost", {})
    for project in (str(folder), folder):
        assert str(folder / "models") in said(Predictor, checkpoint_path=path, project=project)
    assert "no/such" in said(Predictor, checkpoint_path=path, project="no/such")
    (folder / "elsewhere").mkdir()
    assert "elsewhere is empty" in said(predict.load, "elsewhere/snapshot_ep3")
    line = said(predict.load, "hostile/dumps")
    assert "known: none" not in line and str(folder / "hostile") in line
