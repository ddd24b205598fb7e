"""Weights both ways: PyTorch's files into predictors and runs, snapshots into PyTorch's files."""

import json
import os
import pickle
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.long import covering, covering_rows
from support.runs import DIGITS, REPOSITORY

torch = pytest.importorskip("torch")

from aetheria.models.mlp import SimpleMLP  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from support import plain_pytorch  # noqa: E402

from aetheria.errors import AetheriaError  # noqa: E402
from aetheria.hardware.torch.counterparts import COUNTERPARTS  # noqa: E402
from aetheria.inference import Predictor  # noqa: E402
from aetheria.snapshots import read_snapshot  # noqa: E402
from aetheria.tools.weights.export_command import ExportCommand  # noqa: E402
from aetheria.tools.weights.import_command import ImportCommand  # noqa: E402

PARAMS = {
    "mlp": {"input_dim": 6, "hidden_dim": 8, "num_layers": 2, "num_classes": 3},
    "cnn": {"conv_dims": [4, 6], "hidden_dim": 8, "num_classes": 3, "batch_norm": True},
    "lm": {
        "vocab_size": 11,
        "num_layers": 2,
        "width": 8,
        "num_heads": 2,
        "max_length": 5,
        "mlp_ratio": 2,
    },
}
NAMES = {"mlp": "SimpleMLP", "cnn": "SimpleCNN", "lm": "Transformer"}
SHAPES = {"cnn": (12, 8, 1)}  # not square, and so nobody can tell
PLAIN = {"mlp": plain_pytorch.Mlp, "cnn": plain_pytorch.Cnn, "lm": plain_pytorch.Gpt}


@pytest.fixture(scope="module", params=covering([*PARAMS], default=["cnn", "lm"]))
def trained(request, tmp_path_factory):
    """(kind, folder) of a model trained in a process that knows PyTorch alone."""
    folder = tmp_path_factory.mktemp(request.param)
    script = Path(plain_pytorch.__file__)
    assert "aetheria" not in script.read_text()
    subprocess.run([sys.executable, str(script), request.param, str(folder)], check=True)
    return request.param, folder


def predictor(kind, path, **options):
    return Predictor(
        model_name=NAMES[kind],
        model_params=PARAMS[kind],
        checkpoint_path=path,
        input_shape=SHAPES.get(kind),
        **options,
    )


def examples(folder):
    with np.load(folder / "examples.npz") as columns:
        inputs = columns["inputs"]
        return inputs.astype(np.int32 if inputs.dtype.kind == "i" else "f"), columns["outputs"]


def test_a_plain_pytorch_model_predicts_the_same(trained):
    kind, folder = trained
    inputs, outputs = examples(folder)
    weights = torch.load(folder / "weights.pt", weights_only=True)
    save_file(weights, folder / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        predicted = predictor(kind, folder / name).predict(inputs)
        assert np.abs(predicted - outputs).max() <= 1e-6 * max(1.0, np.abs(outputs).max())
    # The control: one number of one tensor decides.
    first = next(name for name in weights if name.endswith("weight"))
    weights[first].view(-1)[0] += 0.1
    torch.save(weights, folder / "other.pt")
    assert np.abs(predictor(kind, folder / "other.pt").predict(inputs) - outputs).max() > 1e-4


@pytest.mark.parametrize("num_layers", [0, 2])
def test_the_weights_of_a_multilayer_perceptron_say_how_many_inputs_it_has(num_layers):
    model = SimpleMLP(num_layers=num_layers, hidden_dim=4)
    twin = COUNTERPARTS.make(model, {"inputs": np.zeros((1, 7), "f4")})
    shapes = {name: tuple(tensor.shape) for name, tensor in twin.network().state_dict().items()}
    assert COUNTERPARTS.infer_inputs(model, shapes) == ((7,), "float32")
    assert COUNTERPARTS.infer_inputs(model, {}) is None


def test_an_import_is_a_run_that_predicts_the_same(trained, tmp_path):
    kind, folder = trained
    inputs, outputs = examples(folder)
    sets = [f"model_params.{key}={value}" for key, value in PARAMS[kind].items()]
    command = ImportCommand(
        file=folder / "weights.pt",
        model=NAMES[kind],
        workdir=tmp_path / "run",
        overrides=tuple(sets),
        input_shape=SHAPES.get(kind),
    )
    assert command.execute() == 0
    snapshot = read_snapshot(tmp_path / "run" / "checkpoints" / "snapshot_step0")
    assert snapshot.record.progress.step == 0
    predicted = Predictor(checkpoint_path=tmp_path / "run").predict(inputs)
    assert np.abs(predicted - outputs).max() <= 1e-6 * max(1.0, np.abs(outputs).max())


def test_an_export_is_loaded_by_a_plain_pytorch_model(trained, tmp_path):
    """There, back into a file, and into the class that the first file came from."""
    kind, folder = trained
    test_an_import_is_a_run_that_predicts_the_same(trained, tmp_path)
    inputs, outputs = examples(folder)
    for name in ("w.pt", "w.safetensors", "folder"):
        to = tmp_path / name
        assert ExportCommand(snapshot=str(tmp_path / "run"), to=to).execute() == 0
        if name == "w.pt":
            weights = torch.load(to, weights_only=True)
        else:
            weights = load_file(to / "model.safetensors" if name == "folder" else to)
            assert np.array_equal(  # these say themselves what model they are of
                Predictor(checkpoint_path=to).predict(inputs),
                Predictor(checkpoint_path=tmp_path / "run").predict(inputs),
            )
        model = PLAIN[kind]()
        missing, extra = model.load_state_dict(weights, strict=False)
        assert not extra and all("num_batches_tracked" in key for key in missing)
        model.eval()
        with torch.no_grad():
            x = torch.from_numpy(inputs)
            out = model(x.permute(0, 3, 1, 2) if kind == "cnn" else x).numpy()
        np.testing.assert_allclose(out, outputs, atol=1e-6)
    assert (tmp_path / "folder" / "config.json").is_file()


def test_an_export_has_the_averaged_parameters(train, tmp_path):
    run = train("averaged", ema_decay=0.9, epochs=1)
    to = tmp_path / "w.safetensors"
    assert ExportCommand(snapshot=str(run.run_dir), to=to).execute() == 0
    arrays = read_snapshot(run.run_dir / "checkpoints" / "snapshot_ep1").arrays
    kernel = load_file(to)["layers.0.weight"].numpy().T
    assert np.array_equal(kernel, arrays["opt_state/averaged_params/Dense_0/kernel"])
    assert not np.array_equal(kernel, arrays["params/Dense_0/kernel"]), "the control"


def test_imported_weights_are_trained_on(train, tmp_path):
    """What is imported with a config is resumed with it, and by either backend."""
    run = train("first", epochs=1)
    file, config = tmp_path / "w.pt", tmp_path / "first.yaml"
    assert ExportCommand(snapshot=str(run.run_dir), to=file).execute() == 0
    losses = {}
    for strategy in ("cpu", "torch"):
        workdir = tmp_path / strategy
        command = ImportCommand(file=file, workdir=workdir, config_file=config)
        assert command.execute() == 0
        losses[strategy] = train(strategy, resume="latest", epochs=1, strategy=strategy).summary
    assert {summary["steps"] for summary in losses.values()} == {23}
    for summary in losses.values():
        assert summary["final"]["eval/loss"] < run.summary["final"]["eval/loss"]


def damaged_files(folder, good):
    """Name -> what the message of a file that is not sound says."""
    state = torch.load(good, weights_only=True)
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(folder / "executed"),)

    def written(name, data):
        (folder / name).write_bytes(data)

    def saved(name, value):
        torch.save(value, folder / name)

    saved("missing.pt", {k: v for k, v in state.items() if k != "head.bias"})
    saved("extra.pt", {**state, "tail.bias": torch.zeros(2)})
    saved("shape.pt", {**state, "head.bias": torch.zeros(2)})
    saved("hostile.pt", {"head.bias": Hostile()})
    written("hostile_pickle.pt", pickle.dumps({"head.bias": Hostile()}))
    saved("module.pt", torch.nn.Linear(2, 2))
    saved("list.pt", [1, 2])
    saved("number.pt", {"head.bias": 3})
    saved("sparse.pt", {"head.bias": torch.zeros(2).to_sparse()})
    written("truncated.pt", content[: len(content) // 2])
    written("flipped.pt", bytes(flipped))
    written("noise.pt", os.urandom(4096))
    written("empty.pt", b"")
    written("text.txt", b"hello")
    save_file(state, folder / "plain.safetensors", {"aetheria": json.dumps({"model_name": "x"})})
    plain = (folder / "plain.safetensors").read_bytes()
    written("truncated.safetensors", plain[: len(plain) // 2])
    written("noise.safetensors", os.urandom(4096))
    written("long_header.safetensors", (1 << 60).to_bytes(8, "little") + b"{}")
    return {
        "missing.pt": "expected a tensor 'head.bias', got none",
        "extra.pt": "expected no tensor 'tail.bias', got one",
        "shape.pt": "expected 'head.bias' to be [10], got [2]",
        "hostile.pt": "Weights only load failed",
        "hostile_pickle.pt": "Weights only load failed",
        "module.pt": "Weights only load failed",
        "list.pt": "got a list",
        "number.pt": "got 'head.bias' -> int in it",
        "sparse.pt": "got a tensor 'head.bias' of torch.float32, torch.sparse_coo",
        "truncated.pt": "expected a state_dict in a .pt or .safetensors file, got ",
        "flipped.pt": "of another checksum than the file says",
        "noise.pt": "expected a state_dict in a .pt or .safetensors file, got ",
        "empty.pt": "expected a state_dict in a .pt or .safetensors file, got EOFError",
        "text.txt": "got a file that ends in .txt",
        "plain.safetensors": "got metadata 'aetheria' with the keys model_name",
        "truncated.safetensors": "got SafetensorError",
        "noise.safetensors": "got SafetensorError",
        "long_header.safetensors": "header too large",
        "absent.pt": "expected a file of weights, got none there",
    }


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    state = {
        "layers.0.weight": torch.randn(16, 64),
        "layers.0.bias": torch.randn(16),
        "head.weight": torch.randn(10, 16),
        "head.bias": torch.randn(10),
    }
    torch.save(state, folder / "sound.pt")
    return folder / "sound.pt"


def import_digits(file, workdir):
    sets = tuple(f"model_params.{k}={v}" for k, v in DIGITS["model_params"].items())
    return ImportCommand(file=file, model="SimpleMLP", workdir=workdir, overrides=sets)


def test_no_damaged_or_hostile_file_is_read(sound_file, tmp_path):
    assert import_digits(sound_file, tmp_path / "sound").execute() == 0, "as it is, it is read"
    for name, message in damaged_files(tmp_path, sound_file).items():
        with pytest.raises(AetheriaError) as caught:
            import_digits(tmp_path / name, tmp_path / "run").execute()
        assert message in str(caught.value), name
        assert str(caught.value).startswith(str(tmp_path / name)), name
        assert len(str(caught.value).splitlines()) == 1, name
    assert not (tmp_path / "run").exists(), "nothing was written"
    assert not (tmp_path / "executed").exists(), "nothing was run"
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert (tmp_path / "executed").exists(), "the control: read the usual way, it is run"


def test_a_digest_guards_what_we_exported(train, tmp_path):
    run = train("run", epochs=1)
    to = tmp_path / "w.safetensors"
    ExportCommand(snapshot=str(run.run_dir), to=to).execute()
    content = bytearray(to.read_bytes())
    content[-100] ^= 1
    to.write_bytes(bytes(content))
    with pytest.raises(AetheriaError, match="tensors of another digest than the file says"):
        Predictor(checkpoint_path=to)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    ],
)
def test_what_wrappers_add_is_taken_off(sound_file, tmp_path, wrap):
    state = torch.load(sound_file, weights_only=True)
    torch.save(wrap(state), tmp_path / "wrapped.pt")
    assert import_digits(tmp_path / "wrapped.pt", tmp_path / "run").execute() == 0


def test_half_precision_weights_become_float32(sound_file, tmp_path):
    state = torch.load(sound_file, weights_only=True)
    torch.save({k: v.bfloat16() for k, v in state.items()}, tmp_path / "half.pt")
    import_digits(tmp_path / "half.pt", tmp_path / "run").execute()
    arrays = read_snapshot(tmp_path / "run" / "checkpoints" / "snapshot_step0").arrays
    assert arrays["params/Dense_1/bias"].dtype == np.float32
    np.testing.assert_allclose(arrays["params/Dense_1/bias"], state["head.bias"], rtol=1e-2)


def test_wrong_requests_are_one_line_each_and_write_nothing(sound_file, train, tmp_path, command):
    run = train("run", epochs=1)
    (tmp_path / "taken.pt").touch()
    mlp = ["--model", "SimpleMLP", "--set", "model_params.input_dim=64"]
    cases = [
        (["export", str(run.run_dir), "--to", "taken.pt"], "--to: expected a name that is free"),
        (["export", "nope", "--to", "x.pt"], "snapshot: expected one at nope"),
        (["export", str(run.run_dir)], "expected --to PATH, got none"),
        (["export", str(run.run_dir), "--to", "/proc/x.pt"], "expected a place that can be"),
        (["import", str(sound_file), "--workdir", "new"], "model_name: expected one"),
        (["import", str(sound_file), "--workdir", "new", *mlp], "expected 'layers.0.weight' to be"),
        (["import", str(sound_file), *mlp], "expected --workdir DIR, got none"),
        (
            ["import", str(sound_file), "--workdir", "new", "--model", "SimpleCNN"],
            "input_shape: expected the shape of one example",
        ),
    ]
    for arguments, message in cases:
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists() and (tmp_path / "taken.pt").stat().st_size == 0
    with pytest.raises(AetheriaError, match="--workdir: expected a folder without a run"):
        import_digits(sound_file, run.run_dir).execute()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**DIGITS, "data_name": "diabetes"}))
    done = command("import", str(sound_file), "--workdir", "new", "--config", "config.yaml")
    assert done.returncode == 2 and "column 'labels': expected class numbers" in done.stderr


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """Runs `python -m aetheria` where everything is installed that is here, but PyTorch."""
    packages = tmp_path_factory.mktemp("packages")
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if not item.name.startswith(("torch", "safetensors", "functorch")):
            (packages / item.name).symlink_to(item)
    path = os.pathsep.join([str(REPOSITORY), str(packages)])

    def run(*arguments, cwd):
        return subprocess.run(
            [sys.executable, "-S", "-m", "aetheria", *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
        )

    return run


COMMANDS = {
    "train": (["c.yaml", "--set", "strategy=torch", "--workdir=new"], "strategy 'torch'"),
    "parity": (["c.yaml"], "parity"),
    "export": (["run", "--to", "w.pt"], "export"),
    "import": (["w.safetensors", "--workdir=new"], "w.safetensors"),
}


@pytest.mark.parametrize(
    ("arguments", "what"),
    covering_rows(
        {name: ([name, *rest], what) for name, (rest, what) in COMMANDS.items()},
        default=["export"],
    ),
)
def test_without_torch_what_needs_it_names_the_extra(
    train, tmp_path, without_torch, arguments, what
):
    train("run", epochs=1)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(DIGITS))
    done = without_torch(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    message = f"{what}: expected the package torch, got none; pip install 'aetheria[torch]'"
    assert done.stderr.splitlines() == [message]
    assert not (tmp_path / "new").exists()


def test_without_torch_everything_else_works(tmp_path, without_torch):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**DIGITS, "epochs": 1}))
    done = without_torch("train", "c.yaml", "--workdir=new", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "new" / "summary.json").read_text())
    assert summary["status"] == "completed" and "torch" not in summary["versions"]
