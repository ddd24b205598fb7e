"""Datasets of text and images: windows of tokens, IDX files, and the real data they are for."""

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aetheria.data import ArraySource, Feed
from aetheria.data.datasets import diabetes, digits
from aetheria.data.forms import hold_out
from aetheria.data.images import ImageSource, fashion_mnist, read_idx
from aetheria.data.text import TokenSource, python_docs, tokens
from aetheria.errors import AetheriaError
from aetheria.plugins import DATA


def read_all(source):
    return source.read(np.arange(len(source)))


def whole(source):
    """The row of tokens that a source's windows cover."""
    columns = read_all(source)
    return np.append(columns["inputs"][0, 0], columns["labels"].ravel())


# Windows of tokens


@given(num_tokens=st.integers(2, 60), length=st.integers(1, 20))
def test_windows_overlap_by_one_token_and_cover_the_row(num_tokens, length):
    row = np.arange(num_tokens, dtype=np.uint16)
    if num_tokens <= length:
        with pytest.raises(AetheriaError, match="length"):
            TokenSource(row, length)
        return
    source = TokenSource(row, length)
    columns = read_all(source)
    assert columns["inputs"].shape == columns["labels"].shape == (len(source), length)
    assert np.array_equal(columns["inputs"] + 1, columns["labels"])
    assert np.array_equal(columns["labels"].ravel(), 1 + np.arange(len(source) * length))
    left_out = num_tokens - (len(source) * length + 1)
    assert 0 <= left_out < length


def test_windows_are_read_in_the_order_asked_for_as_int32():
    source = TokenSource(np.arange(100, 120, dtype=np.uint8), 4)
    columns = source.read(np.array([3, 0, 3]))
    assert columns["inputs"][:, 0].tolist() == [112, 100, 112]
    assert {column.dtype for column in columns.values()} == {np.dtype(np.int32)}


def test_the_held_out_part_is_the_last_and_shares_no_label():
    row = np.arange(1000, dtype=np.int32)
    splits = _token_splits(row, length=10, eval_fraction=0.2)
    train, held_out = read_all(splits.train)["labels"], read_all(splits.eval)["labels"]
    assert train.max() + 1 == held_out.min()
    assert len(held_out) == 20 and len(train) + len(held_out) == 99


def _token_splits(row, **arguments):
    path = Path("tokens.npy")
    np.save(path, row)
    return tokens(path=str(path), **arguments)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_files_of_every_kind_give_their_tokens():
    row = np.arange(300, dtype=np.uint16)
    row.tofile("row.bin")
    np.save("row.npy", row)
    Path("row.txt").write_bytes(bytes(range(256)))
    row.astype(np.int32).tofile("wide.bin")
    for path, arguments, last in (
        ("row.bin", {}, 298),
        ("row.npy", {}, 298),
        ("row.txt", {}, 254),
        ("wide.bin", {"dtype": "int32"}, 298),
    ):
        splits = tokens(path=path, length=2, **arguments)
        assert whole(splits.train)[:3].tolist() == [0, 1, 2]
        assert whole(splits.eval)[-1] == last


def test_a_file_on_disk_is_read_ahead_and_text_in_memory_is_not():
    row = np.arange(300, dtype=np.uint16)
    row.tofile("row.bin")
    Path("row.txt").write_bytes(bytes(range(256)))
    assert not tokens(path="row.bin", length=2).train.in_memory
    assert tokens(path="row.txt", length=2).train.in_memory


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "none.bin"}, r"data_params.path: expected a file of tokens, got 'none.bin'"),
        ({"path": "row.csv"}, r"expected a .txt, .npy or .bin file, got 'row.csv'"),
        ({"path": "row.bin", "dtype": "int7"}, "data_params.dtype: expected a dtype"),
        ({"path": "row.bin", "dtype": "float32"}, "expected one row of whole numbers"),
        ({"path": "odd.bin"}, r"expected whole tokens of uint16 \(2 bytes each\), got 'odd.bin'"),
        ({"path": "empty.bin"}, "expected whole tokens"),
        ({"path": "empty.txt"}, "got a length of 128 and 0 tokens"),
        ({"path": "text.npy"}, "expected an array as numpy.save writes it"),
        ({"path": "matrix.npy"}, r"expected one row of whole numbers.*int32\[2, 300\]"),
        ({"path": "wide.npy"}, "expected one row of whole numbers that fit int32, got int64"),
        ({"path": "row.bin", "length": 0}, "got a length of 0 and 300 tokens"),
        ({"path": "row.bin", "length": 200}, "data_params.length: expected at most 149"),
        ({"path": "row.bin", "length": 300}, "got a length of 300 and 300"),
        ({"path": "row.bin", "eval_fraction": 1.0}, "eval_fraction: expected a number between"),
    ],
)
def test_what_is_no_file_of_tokens_is_one_line(arguments, message):
    row = np.arange(300, dtype=np.uint16)
    row.tofile("row.bin")
    Path("row.csv").write_text("1,2")
    Path("odd.bin").write_bytes(b"abc")
    Path("empty.bin").touch()
    Path("empty.txt").touch()
    Path("text.npy").write_text("words")
    np.save("matrix.npy", np.zeros((2, 300), np.int32))
    np.save("wide.npy", np.zeros(300, np.int64))
    with pytest.raises(AetheriaError, match=message) as caught:
        tokens(**arguments)
    assert "\n" not in str(caught.value)


def test_python_docs_are_english_in_one_order():
    splits = python_docs(length=64)
    text = bytes(whole(splits.train).astype(np.uint8)).decode(errors="replace")
    assert len(text) > 300_000 and "the" in text.split()
    again = python_docs(length=64)
    assert np.array_equal(whole(again.train), whole(splits.train))
    order = [text.index(word) for word in ('The "assert" statement', 'The "break" statement')]
    assert order == sorted(order)


def test_tokens_are_served_as_windows_of_a_run():
    feed = Feed(splits=python_docs(length=32), batch_size=8, num_slices=2, seed=0)
    (chunk,) = itertools.islice(feed.train_chunks(0, 1), 1)
    assert chunk.arrays["inputs"].shape == chunk.arrays["labels"].shape == (1, 2, 4, 32)
    assert np.array_equal(chunk.arrays["inputs"][..., 1:], chunk.arrays["labels"][..., :-1])


# IDX files


def idx_bytes(array, code=8):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


IMAGES = np.random.default_rng(0).integers(256, size=(5, 4, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_bytes(gzip.compress(content))
    return file


def write_dataset(folder, images=IMAGES, labels=LABELS):
    for prefix in ("train", "t10k"):
        write(folder, f"{prefix}-images-idx3-ubyte.gz", idx_bytes(images))
        write(folder, f"{prefix}-labels-idx1-ubyte.gz", idx_bytes(labels))
    return folder


def test_an_idx_file_gives_its_array(tmp_path):
    assert np.array_equal(read_idx(write(tmp_path, "i.gz", idx_bytes(IMAGES)), 3), IMAGES)
    assert np.array_equal(read_idx(write(tmp_path, "l.gz", idx_bytes(LABELS)), 1), LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_bytes(IMAGES)[:-1], r"expected 76 bytes, as its header says \(\[5, 4, 3\]\), got 75"),
        (idx_bytes(IMAGES) + b"0", "expected 76 bytes.*got 77"),
        (idx_bytes(IMAGES)[:9], "as its header says"),
        (idx_bytes(LABELS), "expected an IDX file of bytes with 3 dims"),
        (idx_bytes(IMAGES, code=13), r"it begins with 00000803.*begins with '00000d03'"),
        (b"", "begins with ''"),
    ],
)
def test_an_idx_file_that_is_cut_or_of_another_kind_is_refused(content, message, tmp_path):
    file = write(tmp_path, "images.gz", content)
    with pytest.raises(AetheriaError, match=message):
        read_idx(file, 3)


@pytest.mark.parametrize("damage", [lambda b: b[:-10], lambda b: b"no gzip", lambda b: b[:12]])
def test_a_damaged_gzip_file_is_refused(damage, tmp_path):
    file = write(tmp_path, "images.gz", idx_bytes(IMAGES))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(AetheriaError, match="expected a gzip file, got a damaged one"):
        read_idx(file, 3)


def test_images_are_read_as_fractions_with_one_channel():
    columns = ImageSource(IMAGES, LABELS).read(np.array([4, 0]))
    assert columns["inputs"].shape == (2, 4, 3, 1) and columns["inputs"].dtype == np.float32
    np.testing.assert_allclose(columns["inputs"][..., 0] * 255, IMAGES[[4, 0]], rtol=1e-6)
    assert columns["labels"].tolist() == [5, 3] and columns["labels"].dtype == np.int32


def test_images_and_labels_must_be_as_many(tmp_path):
    folder = write_dataset(tmp_path / "data", labels=LABELS[:4])
    with pytest.raises(AetheriaError, match="as many labels, got 5 and 4"):
        fashion_mnist(folder=str(folder))


# Fashion-MNIST


def test_the_folder_given_comes_before_the_environment(tmp_path, monkeypatch):
    given = write_dataset(tmp_path / "given", images=IMAGES[:2], labels=LABELS[:2])
    write_dataset(tmp_path / "root" / "fashion-mnist")
    monkeypatch.setenv("AETHERIA_DATA", str(tmp_path / "root"))
    assert len(fashion_mnist(folder=str(given)).train) == 2
    assert len(fashion_mnist().train) == 5


def test_the_first_examples_alone_can_be_asked_for(tmp_path):
    folder = str(write_dataset(tmp_path / "data"))
    splits = fashion_mnist(folder=folder, num_train=3, num_eval=1)
    assert (len(splits.train), len(splits.eval)) == (3, 1)
    assert read_all(splits.train)["labels"].tolist() == LABELS[:3].tolist()
    for most in (0, 6):
        with pytest.raises(
            AetheriaError, match=f"num_train: expected a number from 1 to 5, got {most}"
        ):
            fashion_mnist(folder=folder, num_train=most)


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(AetheriaError, match="apt-get install dataset-fashion-mnist") as caught:
        fashion_mnist(folder=str(tmp_path))
    assert "train-images-idx3-ubyte.gz" in str(caught.value) and "\n" not in str(caught.value)


def test_fashion_mnist_is_the_published_dataset():
    try:
        splits = fashion_mnist()
    except AetheriaError as error:
        pytest.skip(str(error))
    assert (len(splits.train), len(splits.eval)) == (60_000, 10_000)
    for source in (splits.train, splits.eval):
        columns = read_all(source)
        assert columns["inputs"].shape[1:] == (28, 28, 1)
        assert columns["inputs"].min() == 0 and columns["inputs"].max() == 1
        assert np.bincount(columns["labels"]).tolist() == [len(source) // 10] * 10


# Tables of scikit-learn


def test_the_tables_are_those_of_scikit_learn_bit_for_bit():
    from sklearn.datasets import load_diabetes, load_digits

    for made, load, scale in ((digits, load_digits, 16.0), (diabetes, load_diabetes, 1.0)):
        inputs, labels = load(return_X_y=True)
        splits = made() if made is digits else made(standardize=False)
        whole = ArraySource({"inputs": inputs / scale, "labels": labels.reshape(len(labels), -1)})
        want = hold_out(whole, 0.2)
        for source, expected in ((splits.train, want.train), (splits.eval, want.eval)):
            found, columns = read_all(source), read_all(expected)
            assert found["inputs"].tobytes() == columns["inputs"].tobytes()
            assert found["labels"].tobytes() == columns["labels"].tobytes()


def test_without_scikit_learn_a_table_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AetheriaError, match=r"expected scikit-learn, .* pip install 'scikit-learn"):
        digits()


def test_the_names_of_the_datasets_are_registered():
    for name, function in (
        ("tokens", tokens),
        ("python_docs", python_docs),
        ("fashion_mnist", fashion_mnist),
    ):
        assert DATA.get(name) is function
