"""`aetheria predict` and `aetheria.predict.predict_batches`: files of any length, in order, in
bounded memory, continued where they were interrupted; and what is refused.
"""

import csv
import importlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.long import only_long

import aetheria
from aetheria import predict
from aetheria.cli.main import main
from aetheria.errors import AetheriaError
from aetheria.inference import Predictor
from aetheria.tools.predict.partial import PartialFile
from aetheria.tools.predict.progress import ProgressReport

NUM_FEATURES = 8


def rows_of(num_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_rows, NUM_FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on arrays, with three classes without names."""
    inputs = rows_of(300)
    return aetheria.train(
        model="SimpleMLP",
        model_params={"hidden_dim": 8, "num_classes": 3},
        data=(inputs, (inputs.sum(1) > 0).astype(np.int32)),
        epochs=2,
        strategy="cpu",
        workdir=tmp_path_factory.mktemp("arrays") / "run",
    ).run_dir


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor.from_snapshot(run)


@pytest.fixture(scope="module")
def loans():
    rng = np.random.default_rng(0)
    income, purpose = rng.normal(50, 15, 60).round(1), rng.choice(["car", "house"], 60)
    late = np.where(income + 20 * (purpose == "house") < 55, "yes", "no")
    return pd.DataFrame({"income": income, "purpose": purpose, "late": late})


@pytest.fixture(scope="module")
def table_run(tmp_path_factory, loans):
    """A run on a table, whose classes have names."""
    return aetheria.train(
        model="SimpleMLP",
        model_params={"hidden_dim": 8, "num_classes": 2},
        data=aetheria.read_table(loans, label="late"),
        epochs=2,
        strategy="cpu",
        workdir=tmp_path_factory.mktemp("table") / "run",
    ).run_dir


def predict_file(*arguments) -> int:
    return main(["predict", *map(str, arguments)])


def refused(capfd, *arguments) -> str:
    """The one line with which a command is refused."""
    capfd.readouterr()
    assert predict_file(*arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


def write_inputs(folder: Path, inputs: np.ndarray) -> list[Path]:
    """The same rows in every format."""
    names = [f"x{place}" for place in range(inputs.shape[1])]
    np.save(folder / "x.npy", inputs)
    np.savez_compressed(folder / "x.npz", inputs=inputs)
    frame = pd.DataFrame(inputs, columns=names)
    frame.to_csv(folder / "x.csv", index=False)
    frame.to_parquet(folder / "x.parquet", row_group_size=100)
    lines = [json.dumps({"inputs": row}) for row in inputs.tolist()]
    (folder / "x.jsonl").write_text("\n".join(lines))
    return [folder / f"x.{kind}" for kind in ("npy", "npz", "csv", "parquet", "jsonl")]


def test_every_format_gives_the_same_rows_in_order(run, predictor, tmp_path):
    inputs = rows_of(333)
    pieces = [predictor.predict_proba(inputs[at : at + 64]) for at in range(0, 333, 64)]
    expected = np.concatenate(pieces)
    files = write_inputs(tmp_path, inputs)
    options = ("--proba", "--batch-size=64")
    for number, file in enumerate(files):
        answers = tmp_path / f"y{number}.npy"
        assert predict_file(run, "--input", file, "--output", answers, *options) == 0
        np.testing.assert_array_equal(np.load(answers), expected)
        batches = predict.predict_batches(predictor, file, probabilities=True, batch_size=64)
        np.testing.assert_array_equal(np.concatenate(list(batches)), expected)
    assert (tmp_path / "y0.npy").read_bytes() == numpy_bytes(expected)
    reverse = np.concatenate(list(predict.predict_batches(predictor, inputs[::-1])))
    assert abs(reverse - expected).max() > 0.01
    for kind, read in {"csv": pd.read_csv, "jsonl": read_jsonl, "parquet": pd.read_parquet}.items():
        table = tmp_path / f"y.{kind}"
        assert predict_file(run, "--input", files[0], "--output", table, *options) == 0
        frame = read(table)
        assert [*frame.columns] == ["class", "p_0", "p_1", "p_2"]
        np.testing.assert_array_equal(frame["class"], expected.argmax(1))
        written = frame[["p_0", "p_1", "p_2"]].to_numpy(np.float32)
        np.testing.assert_array_equal(written, expected)
    assert not [*tmp_path.glob("*.partial*")]


def numpy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def read_jsonl(path):
    return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])


def test_a_table_is_answered_with_the_names_of_classes(table_run, loans, tmp_path, capfd):
    loaded = Predictor.from_snapshot(table_run)
    loans.to_csv(tmp_path / "new.csv", index=False)
    arguments = ("--input", tmp_path / "new.csv", "--output", "-")
    capfd.readouterr()
    assert predict_file(table_run, *arguments) == 0
    names = [row["class"] for row in csv.DictReader(capfd.readouterr().out.splitlines())]
    assert names == loaded.predict_classes(loans)
    assert {*names} <= {"yes", "no"}
    assert predict_file(table_run, *arguments, "--proba") == 0
    answers = pd.read_csv(io.StringIO(capfd.readouterr().out))
    assert [*answers.columns] == ["class", "p_no", "p_yes"]
    np.testing.assert_array_equal(
        answers[["p_no", "p_yes"]].to_numpy(np.float32), loaded.predict_proba(loans)
    )


def test_stdin_is_csv_or_json_lines(table_run, loans, tmp_path, monkeypatch, capfd):
    names = Predictor.from_snapshot(table_run).predict_classes(loans)
    (tmp_path / "csv").write_text(loans.drop(columns="late").to_csv(index=False))
    lines = [json.dumps(row) + "\n" for row in loans.to_dict("records")]
    (tmp_path / "jsonl").write_text("".join(lines))
    for kind in ("csv", "jsonl"):
        capfd.readouterr()
        with (tmp_path / kind).open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert predict_file(table_run, "--input", "-", "--output", "-", "--batch-size=7") == 0
        printed = capfd.readouterr().out.splitlines()
        rows = csv.DictReader(printed) if kind == "csv" else map(json.loads, printed)
        assert [row["class"] for row in rows] == names


def test_a_reader_that_has_exited_ends_the_prediction(run, tmp_path):
    np.save(tmp_path / "x.npy", rows_of(50))
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "aetheria", "predict", run, "--input=x.npy", "--output=-"]
    done = subprocess.run(
        [*map(str, command), "--batch-size=4"],
        cwd=tmp_path,
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writes)
    assert done.returncode == 1
    assert "stdout: its reader has exited after 0 rows" in done.stderr
    assert "Traceback" not in done.stderr


def interrupt_after(num_rows: int, patch: pytest.MonkeyPatch) -> None:
    """Sends this process an interrupt when so many rows are written and noted."""
    append = PartialFile.append

    def interrupt(file: PartialFile, data: bytes, rows: int) -> None:
        append(file, data, rows)
        if file.num_rows == num_rows:
            os.kill(os.getpid(), signal.SIGINT)

    patch.setattr(PartialFile, "append", interrupt)


@pytest.fixture
def interruptible():
    """Python's own answer to an interrupt, which a shell in the background switches off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_interrupted_file_is_continued_to_the_same_bytes(
    kind, run, tmp_path, capfd, monkeypatch
):
    np.save(tmp_path / "x.npy", rows_of(800))
    whole, answers = tmp_path / f"whole.{kind}", tmp_path / f"y.{kind}"
    arguments = (run, "--input", tmp_path / "x.npy", "--proba", "--batch-size=16")
    assert predict_file(*arguments, "--output", whole) == 0
    partial = tmp_path / f"y.{kind}.partial"
    with monkeypatch.context() as patch:
        interrupt_after(320, patch)
        assert predict_file(*arguments, "--output", answers) == 75
    assert partial.exists() and not answers.exists()
    assert "the same command continues" in capfd.readouterr().err
    assert predict_file(*arguments, "--output", answers) == 0
    said = capfd.readouterr()
    assert "continues after" in said.err and "of them earlier" in said.out
    assert answers.read_bytes() == whole.read_bytes()
    assert not [*tmp_path.glob("*.partial*")]


# As `aetheria`, but that it notes each block and is killed after 480 rows.
KILLED = """
import os, signal, sys
from aetheria.cli.main import main
from aetheria.tools.predict import partial
partial.SECONDS_BETWEEN = 0
append = partial.PartialFile.append
def kill(file, data, rows):
    append(file, data, rows)
    if file.num_rows == 480:
        os.kill(os.getpid(), signal.SIGKILL)
partial.PartialFile.append = kill
sys.exit(main())
"""


@pytest.fixture
def killed(run, tmp_path):
    """A prediction that was killed, and the same one made in one go."""
    np.save(tmp_path / "x.npy", rows_of(800))
    np.save(tmp_path / "other.npy", rows_of(800, seed=1))
    arguments = ["predict", str(run), f"--input={tmp_path / 'x.npy'}", "--batch-size=16"]
    command = [sys.executable, "-c", KILLED, *arguments, f"--output={tmp_path / 'y.npy'}"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "y.npy.partial.json").read_text())["num_rows"] > 0
    assert main([*arguments, f"--output={tmp_path / 'whole.npy'}"]) == 0
    return tmp_path


def test_a_killed_prediction_is_continued_of_the_same_alone(killed, run, capfd):
    partial, answers = killed / "y.npy.partial", killed / "y.npy"
    arguments = ("--output", answers, "--batch-size=16")
    own = ("--input", killed / "x.npy")
    for other, name in {
        ("--input", killed / "other.npy"): "another input",
        (*own, "--proba"): "another proba",
        (*own, "--batch-size=32"): "another batch size",
    }.items():
        line = refused(capfd, run, *arguments, *other)
        assert line.startswith(f"{partial}: expected") and f"got one of {name}" in line
    first = run / "checkpoints" / "snapshot_ep1"
    assert "another snapshot" in refused(capfd, first, *arguments, *own)
    with partial.open("ab") as file:
        file.write(b"what was written when the kill came")
    importlib.import_module("aetheria.data.pictures")  # what a process has loaded does not count
    assert predict_file(run, *arguments, *own) == 0
    assert "of them earlier" in capfd.readouterr().out
    assert answers.read_bytes() == (killed / "whole.npy").read_bytes()


def test_nothing_is_overwritten_silently(run, tmp_path, capfd):
    np.save(tmp_path / "x.npy", rows_of(10))
    answers = tmp_path / "y.csv"
    answers.write_text("mine")
    arguments = (run, "--input", tmp_path / "x.npy", "--output", answers)
    assert "add --overwrite" in refused(capfd, *arguments)
    assert answers.read_text() == "mine"
    assert predict_file(*arguments, "--overwrite") == 0
    assert answers.read_text().startswith("class\n")
    (tmp_path / "z.csv.partial").write_text("mine")
    line = refused(capfd, run, "--input", tmp_path / "x.npy", "--output", tmp_path / "z.csv")
    assert "got a file without a journal" in line
    assert (tmp_path / "z.csv.partial").read_text() == "mine"


NUMBERS = ",".join("12345678")
NAMES = ",".join("abcdefgh")
WRONG = {
    "x.csv": {
        "": "expected rows to predict for, got none",
        f"{NAMES}\n": "expected rows to predict for, got none",
        f"{NUMBERS}\n{NUMBERS}\n": "expected a first line of column names, got numbers",
        "a,b\n1,2\n": "expected 8 columns of numbers",
        "a,a\n1,2\n": "expected a first line of different column names",
        f"{NAMES}\n{NUMBERS}\n1,2\n": "row 1: expected 8 cells",
        f"{NAMES}\n{NUMBERS}\n1,2,3,red,5,6,7,8\n": "column 'd': expected a number, as in "
        "training, got 'red' in row 1",
        f"{NAMES}\n,2,3,4,5,6,7,8\n": "column 'a': expected a number, as in training, got nothing",
    },
    "x.jsonl": {
        "": "expected rows to predict for, got none",
        "[1, 2]\n": "row 0: expected inputs of numbers [8]",
        f"[{NUMBERS}]\n[{NUMBERS}\n": "row 1: expected JSON",
        f"[{NUMBERS}]\n3\n": "row 1: expected an object or a list",
        f'[{NUMBERS}]\n{{"a": 1}}\n': "row 1: expected the keys of row 0 (inputs), got a",
    },
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts]
)
def test_a_wrong_text_is_one_line(name, text, run, tmp_path, capfd):
    file = tmp_path / name
    file.write_text(text)
    line = refused(capfd, run, "--input", file, f"--output={tmp_path / 'y.csv'}")
    assert str(file) in line and WRONG[name][text] in line
    assert not [*tmp_path.glob("y*")]


def test_a_wrong_array_is_one_line(run, tmp_path, capfd):
    file, kinds = (
        tmp_path / "x.npy",
        {
            "expected inputs [num_rows, 8], as in training, got [5, 9]": np.zeros(
                (5, 9), np.float32
            ),
            "expected inputs of float32, as in training, got complex64": np.zeros(
                (5, 8), np.complex64
            ),
            "expected rows to predict for, got none": np.zeros((0, 8), np.float32),
            "Array can't be memory-mapped: Python objects in dtype": np.array([{}] * 8, object),
        },
    )
    for expected, array in kinds.items():
        np.save(file, array, allow_pickle=True)
        assert expected in refused(capfd, run, "--input", file, "--output", tmp_path / "y.npy")
        np.savez(tmp_path / "x.npz", inputs=array)
        line = refused(capfd, run, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npy")
        assert expected in line or "never unpickled" in line
    file.write_bytes(b"no array")
    assert "expected a .npy file" in refused(capfd, run, "--input", file, "--output=y.npy")
    assert "not trained on a folder" in refused(capfd, run, "--input", tmp_path, "--output=y.csv")
    assert "expected a .npy, .npz" in refused(capfd, run, "--input=x.txt", "--output=y.csv")
    assert "can be read" in refused(capfd, run, "--input=no.csv", "--output=y.csv")
    assert "expected a .npy, .csv" in refused(capfd, run, "--input=x.npy", "--output=y.txt")
    assert not [*tmp_path.glob("y*")]


def test_a_row_of_a_table_is_named_by_its_number_in_the_file(table_run, loans, tmp_path, capfd):
    file = tmp_path / "new.csv"
    options = ("--batch-size=8", "--output", tmp_path / "y.csv")
    loans.astype({"income": str}).assign(income=["1"] * 50 + ["much"] * 10).to_csv(
        file, index=False
    )
    line = refused(capfd, table_run, "--input", file, *options)
    assert "column 'income': expected a number, as in training, got 'much' in row 50" in line
    loans.drop(columns="purpose").to_csv(file, index=False)
    line = refused(capfd, table_run, "--input", file, *options)
    assert "expected a column 'purpose', as in training" in line


def test_pictures_are_named_in_the_answer(train_once, tmp_path):
    pytest.importorskip("PIL")
    from support.shapes import draw_folder

    folder = draw_folder(tmp_path / "shapes", 8)
    run = train_once(
        "pictures",
        model_name="SimpleCNN",
        model_params={"num_classes": 3, "conv_dims": [4], "hidden_dim": 8},
        data_name="image_folder",
        data_params={"path": str(folder), "image_size": 8},
        epochs=1,
        batch_size=8,
    ).run_dir
    answers = tmp_path / "y.csv"
    assert predict_file(run, "--input", folder, "--output", answers, "--batch-size=5") == 0
    files = sorted(str(file.relative_to(folder)) for file in folder.glob("*/*.png"))
    frame = pd.read_csv(answers)
    assert [*frame["file"]] == files
    loaded = Predictor.from_snapshot(run)
    assert [*frame["class"]] == loaded.predict_classes([folder / name for name in files])


def test_batches_array_and_mapped_array_give_the_same(predictor, tmp_path):
    inputs = rows_of(100)
    np.save(tmp_path / "x.npy", inputs)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    made = [inputs[start : start + 30] for start in range(0, 100, 30)]
    expected = [predictor.predict(batch) for batch in made]
    for batches in (inputs, mapped, tmp_path / "x.npy", str(tmp_path / "x.npy")):
        answers = list(predict.predict_batches(predictor, batches, batch_size=30))
        assert [len(each) for each in answers] == [30, 30, 30, 10]
        np.testing.assert_array_equal(np.concatenate(answers), np.concatenate(expected))
    stacked = list(predict.predict_batches(predictor, np.stack(made[:3])))  # [3, 30, 8]
    np.testing.assert_array_equal(stacked, expected[:3])
    for wrong, size in ((made, 30), (inputs, 0)):
        with pytest.raises(AetheriaError, match="batch_size: expected"):
            predict.predict_batches(predictor, wrong, batch_size=size)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_in_a_terminal_and_a_line_in_a_pipe():
    cases = (
        (Terminal(), 0.5, "500 of 1,000 rows, 800 rows/s, 0:00 left"),
        (io.StringIO(), 11.0, "500 of 1,000 rows, 36 rows/s, 0:13 left"),
    )
    for stream, seconds, expected in cases:
        times = iter([0.0, 0.0, seconds])
        report = ProgressReport(1000, 100, stream=stream, clock=times.__next__)
        report.add(100)
        assert stream.getvalue() == ""
        report.add(300)
        report.end()
        assert expected in stream.getvalue()
        assert ("#" in stream.getvalue()) == stream.isatty()


# Prints the most memory that the process ever took, in MB, after each of some predictions. What
# `getrusage` says of a child is never less than what its parent had in memory as it started it.
PEAKS = """
import re, sys
from pathlib import Path
import numpy as np
from aetheria import predict
from aetheria.cli.main import main

run, way, *files = sys.argv[1:]
predictor = predict.load(run)
for file in files:
    if way == "batches":
        rows = sum(len(each) for each in predict.predict_batches(predictor, file))
    elif way == "command":
        assert main(["predict", run, "--input", file, "--output", f"{file}.out.npy"]) == 0
    else:
        list(predict.predict_batches(predictor, np.split(np.load(file), 100)))
    status = Path("/proc/self/status").read_text()
    print("peak", int(re.search(r"VmHWM:\\s*([0-9]+) kB", status)[1]) / 1024)
"""


def peaks(*arguments) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak")]


def write_rows(file: Path, num_rows: int) -> None:
    """Writes random rows block by block, so that this process stays small too."""
    array = np.lib.format.open_memmap(file, "w+", np.float32, (num_rows, NUM_FEATURES))
    for start in range(0, num_rows, 100_000):
        array[start : start + 100_000] = rows_of(min(100_000, num_rows - start), seed=start)
    array.flush()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(run, tmp_path):
    few, many = tmp_path / "few.npy", tmp_path / "many.npy"
    write_rows(few, 100_000)
    write_rows(many, 3_000_000)
    for way in ("batches", "command"):
        first, last = peaks(run, way, few, many)
        assert last - first < 40, f"{way}: {first:.0f} MB, then {last:.0f} MB"
    first, last = peaks(run, "whole", few, many)
    assert last - first > 80, "a control: the whole array in memory"


@only_long
@pytest.mark.slow
@pytest.mark.parametrize("way", ["batches", "command"])
def test_ten_million_rows_take_the_memory_of_the_first_million(way, run, tmp_path):
    million, all_of_them = tmp_path / "million.npy", tmp_path / "all.npy"
    write_rows(million, 1_000_000)
    write_rows(all_of_them, 10_000_000)
    (few,), (many,) = peaks(run, way, million), peaks(run, way, all_of_them)
    print(f"{way}: {few:.0f} MB for 1 million rows, {many:.0f} MB for 10 million")
    assert many - few < 100
