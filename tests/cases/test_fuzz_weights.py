"""A hundred malformed files of weights: refused in one line or read, never a traceback of ours."""

import hashlib
import json
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from safetensors.numpy import save  # noqa: E402

from aetheria.errors import AetheriaError  # noqa: E402
from aetheria.inference import Predictor  # noqa: E402
from aetheria.plugins import bounded  # noqa: E402

TENSORS = {
    "layers.0.weight": np.full((4, 3), 0.5, "float32"),
    "layers.0.bias": np.zeros(4, "float32"),
    "head.weight": np.full((2, 4), 0.5, "float32"),
    "head.bias": np.zeros(2, "float32"),
}
ABOUT = {
    "model_name": "SimpleMLP",
    "model_params": {"input_dim": 3, "hidden_dim": 4, "num_classes": 2},
    "example_spec": {
        "inputs": {"shape": [3], "dtype": "float32"},
        "labels": {"shape": [], "dtype": "int32"},
        "mask": {"shape": [], "dtype": "float32"},
    },
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["os:system", "float64", "object", "int128", "SimpleCNN", 10**12]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
PLACES = [
    ("model_name",),
    ("model_params",),
    ("model_params", "hidden_dim"),
    ("model_params", "num_classes"),
    ("model_params", "num_layers"),
    ("model_params", "dropout"),
    ("example_spec",),
    ("example_spec", "inputs"),
    ("example_spec", "inputs", "shape"),
    ("example_spec", "inputs", "dtype"),
    ("resolved",),
    ("sha256",),
]


def plain(about: dict) -> bytes:
    digest = hashlib.sha256()
    for name, array in sorted(TENSORS.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return save(TENSORS, {"aetheria": json.dumps({"sha256": digest.hexdigest(), **about})})


def pickled() -> bytes:
    from io import BytesIO

    file = BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in TENSORS.items()}, file)
    return file.getvalue()


@st.composite
def malformed(draw) -> tuple[str, bytes]:
    """A file name and bytes: a sound file with a lie in its metadata, or with damaged bytes."""
    kind = draw(st.sampled_from(["lie", "plain", "pickled", "noise"]))
    if kind == "lie":
        about = json.loads(json.dumps(ABOUT))
        *way, last = draw(st.sampled_from(PLACES))
        node = about
        for name in way:
            node = node[name]
        node[last] = draw(VALUES)
        return "w.safetensors", plain(about)
    if kind == "noise":
        return draw(st.sampled_from(["w.pt", "w.safetensors"])), draw(st.binary(max_size=300))
    content = bytearray(plain(ABOUT) if kind == "plain" else pickled())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content) - 1))
        change = draw(st.sampled_from(["flip", "cut", "insert"]))
        if change == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del content[at : at + draw(st.integers(1, 400))]
        else:
            content[at:at] = draw(st.binary(min_size=1, max_size=12))
        content = content or bytearray(b"x")
    return "w.safetensors" if kind == "plain" else "w.pt", bytes(content)


def load(folder: Path, name: str, content: bytes) -> Predictor:
    for file in folder.iterdir():
        file.unlink()
    (folder / name).write_bytes(content)
    params = {} if name == "w.safetensors" else ABOUT["model_params"]
    model = None if name == "w.safetensors" else "SimpleMLP"
    return Predictor(model_name=model, model_params=params, checkpoint_path=folder / name)


def test_the_sound_files_are_read(tmp_path):
    for name, content in (("w.safetensors", plain(ABOUT)), ("w.pt", pickled())):
        outputs = load(tmp_path, name, content).predict(np.ones((2, 3), "float32"))
        assert outputs.shape == (2, 2)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"num_layers": 10**12}, "was not made within"),  # a loop over layers, which does not end
        ({"num_layers": 2**70}, "was not made within"),
        ({"hidden_dim": 10**12}, "layers.0.weight"),
        ({"hidden_dim": 2**70}, "TypeError ("),
    ],
    ids=str,
)
def test_an_absurd_size_in_a_file_is_one_line_and_soon(tmp_path, monkeypatch, params, words):
    monkeypatch.setattr(bounded, "SECONDS", 0.5)
    about = {**ABOUT, "model_params": {**ABOUT["model_params"], **params}}
    with pytest.raises(AetheriaError) as refusal:
        load(tmp_path, "w.safetensors", plain(about))
    (line,) = refusal.value.problems
    assert str(tmp_path) in line and words in line, line


def test_what_is_bounded_may_take_the_time_that_its_arrays_are_worth(monkeypatch):
    monkeypatch.setattr(bounded, "SECONDS", 0.1)

    def build() -> str:
        time.sleep(0.5)
        return "made"

    assert bounded.build_described(build, "file", 10) == "made"
    with pytest.raises(AetheriaError, match=r"within 0\.1 s"):
        bounded.build_described(build, "file", 0)
    time.sleep(0.5)  # nothing comes after it has ended


@given(malformed())
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_malformed_file_of_weights_is_a_traceback(tmp_path, case):
    name, content = case
    started_at, problems = time.perf_counter(), ()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load(tmp_path, name, content)
    except AetheriaError as error:
        problems = error.problems
    assert all("\n" not in line and len(line) < 2000 for line in problems)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert time.perf_counter() - started_at < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # 1 GiB
