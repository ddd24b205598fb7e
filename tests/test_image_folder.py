"""Pictures in folders: found, decoded to the right values, trained on, and predicted from."""

import builtins
import itertools
import os
import shutil

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from support.shapes import SHAPES, draw, draw_folder  # noqa: E402

import aetheria  # noqa: E402
from aetheria.data.fingerprint import fingerprint  # noqa: E402
from aetheria.data.image_folder import image_folder  # noqa: E402
from aetheria.data.pictures import PictureEncoding  # noqa: E402
from aetheria.data.sources import is_parallel  # noqa: E402
from aetheria.errors import AetheriaError, SnapshotError  # noqa: E402
from aetheria.tools.prove import kill_at_step  # noqa: E402

pytestmark = pytest.mark.convolutional

RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("pictures") / "shapes", 50)


@pytest.fixture(scope="module")
def picture(shapes):
    return shapes / "circle" / "000.png"


def place(root, picture, *names):
    """Writes a picture under each name; a name that ends with / is a folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            shutil.copy(picture, path)
    return root


def encoding(size=2, **options):
    return PictureEncoding(image_size=(size, size), **options)


def read(image, tmp_path, suffix=".png", channels=3, save=None, **options):
    file = tmp_path / f"picture{suffix}"
    image.save(file, **(save or {}))
    return encoding(channels=channels, **options).read_file(file)


def plain(color, mode="RGB", size=(4, 4)):
    return Image.new(mode, size, color)


def sixteen_bits(value):
    return Image.fromarray(np.full((4, 4), value, np.uint16))


def in_palette(transparent=None):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *GREEN])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (plain((51, 102, 204)), (0.2, 0.4, 0.8)),
        (plain(51, "L"), (0.2, 0.2, 0.2)),
        (plain(1, "1"), (1, 1, 1)),
        (sixteen_bits(13_107), (0.2, 0.2, 0.2)),
        (sixteen_bits(65_535), (1, 1, 1)),
        (in_palette(), (0, 1, 0)),
        (in_palette(transparent=1), (1, 1, 1)),
        (in_palette(transparent=0), (0, 1, 0)),
        (plain((255, 0, 0, 255), "RGBA"), (1, 0, 0)),
        (plain((255, 0, 0, 0), "RGBA"), (1, 1, 1)),
        (plain((0, 0, 0, 51), "RGBA"), (0.8, 0.8, 0.8)),
        (plain((51, 255), "LA"), (0.2, 0.2, 0.2)),
        (plain((51, 0), "LA"), (1, 1, 1)),
    ],
)
def test_every_kind_of_pixel_becomes_the_color_that_is_seen(image, expected, tmp_path):
    found = read(image, tmp_path)
    assert found.shape == (2, 2, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.broadcast_to(expected, (2, 2, 3)), atol=0.003)
    grey = read(image, tmp_path, channels=1)
    assert grey.shape == (2, 2, 1)
    luma = np.dot(expected, [0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(grey, np.full((2, 2, 1), luma), atol=0.003)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".gif", ".tif"])
def test_formats_agree(suffix, tmp_path):
    found = read(plain((51, 102, 204)), tmp_path, suffix)
    np.testing.assert_allclose(found[0, 0], (0.2, 0.4, 0.8), atol=0.02)


def test_a_cmyk_jpeg_is_red_where_it_is_red(tmp_path):
    found = read(plain(RED).convert("CMYK"), tmp_path, ".jpg")
    np.testing.assert_allclose(found[0, 0], (1, 0, 0), atol=0.05)


def test_a_picture_is_turned_as_its_exif_says(tmp_path):
    image = Image.new("RGB", (64, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))  # red at the left, green at the right
    as_it_lies = read(image, tmp_path, ".jpg", fit="stretch", save={"quality": 95})
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees, clockwise
    turned = read(image, tmp_path, ".jpg", fit="stretch", save={"quality": 95, "exif": exif})
    assert as_it_lies[0, 0, 0] > 0.8 > 0.2 > as_it_lies[0, 1, 0]
    assert turned[0, 0, 0] > 0.8 > 0.2 > turned[1, 0, 0], "red is above"


def test_crop_keeps_the_center_and_stretch_keeps_all(tmp_path):
    image = Image.new("RGB", (12, 4), RED)
    image.paste(GREEN, (4, 0, 8, 4))
    cropped = read(image, tmp_path)[..., 0]  # the filter reaches a little beyond the part
    assert cropped.max() < 0.2
    stretched = read(image, tmp_path, fit="stretch")
    assert stretched[..., 0].min() > 0.4
    wide = PictureEncoding(image_size=(2, 6)).read_file(tmp_path / "picture.png")
    np.testing.assert_allclose(wide[0, [0, 2, 5], 1], [0, 1, 0], atol=0.2)


def test_a_large_jpeg_is_decoded_as_a_small_one_would_be(tmp_path):
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp, (512, 512)).copy())
    found = read(image, tmp_path, ".jpg", size=16, channels=1, save={"quality": 95})
    np.testing.assert_allclose(found[8, :, 0], (np.arange(16) + 0.5) / 16, atol=0.01)


def test_folders_are_classes_and_a_fifth_is_held_out(shapes):
    splits = image_folder(shapes, image_size=[8, 10], channels=1)
    assert (len(splits.train), len(splits.eval)) == (120, 30)
    assert splits.encoding.classes == SHAPES and splits.augment is None
    rows = splits.train.read(np.array([3, 0]))
    assert rows["inputs"].shape == (2, 8, 10, 1) and rows["inputs"].dtype == np.float32
    assert rows["labels"].dtype == np.int32
    labels = [s.read(np.arange(len(s)))["labels"] for s in (splits.train, splits.eval)]
    assert np.bincount(np.concatenate(labels)).tolist() == [50, 50, 50]
    again = image_folder(str(shapes), image_size=[8, 10], channels=1)
    np.testing.assert_equal(again.eval.read(np.arange(30)), splits.eval.read(np.arange(30)))


@pytest.mark.parametrize(
    ("names", "sizes", "classes"),
    [
        (("10/a.png", "9/b.png", "b/c.png"), (2, 1), ("9", "10", "b")),
        (("train/a/x.png", "train/b/y.png", "val/b/z.png", "test/1.png"), (2, 1), ("a", "b")),
        (
            ("Train/a/x.png", "Train/b/y.JPG", "valid/a/z.png", "test/a/z.png"),
            (2, 1, 1),
            ("a", "b"),
        ),
        (("train/a/x.png", "train/b/y.png", "test/a/1.png", "test/b/2.png"), (2, 2), ("a", "b")),
        (("train/a/x.png", "train/b/y.png"), (1, 1), ("a", "b")),
        (("train/x.png", "car/y.png", "bus/deep/z.webp"), (2, 1), ("bus", "car", "train")),
        (
            ("a/x.png", "b/y.png", "b/.z.png", "b/z.txt", ".c/x.png", "__MACOSX/y.png", "l.png"),
            (1, 1),
            ("a", "b"),
        ),
    ],
)
def test_layouts(tmp_path, picture, names, sizes, classes):
    splits = image_folder(place(tmp_path, picture, *names), image_size=4)
    tested = [] if splits.test is None else [len(splits.test)]
    assert (len(splits.train), len(splits.eval), *tested) == sizes
    assert splits.encoding.classes == classes


def test_a_link_to_an_outer_folder_is_left_out(tmp_path, picture):
    root = place(tmp_path, picture, "a/x.png", "b/y.png")
    os.symlink(root / "a", root / "a" / "again")
    os.symlink(root / "b" / "y.png", root / "a" / "y.png")
    assert len(image_folder(root, image_size=4).train) == 2  # of 3


BOTH = ("a/x.png", "b/y.png")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((), {"path": "no/such"}, "data_params.path: expected a folder, got 'no/such'"),
        (("x.png",), {}, "expected a folder of pictures for each class, got 1 pictures without"),
        (("a/",), {}, "expected a folder of pictures for each class, got no pictures"),
        (("a/x.png",), {}, "expected folders of two classes or more, got one, a;"),
        ((*BOTH, "c/"), {}, "expected pictures in the folder of each class, got none in c;"),
        (
            ("train/a/x.png", "train/b/x.png", "val/c/x.png"),
            {},
            "expected the classes of the training split (a, b), got also c; remove or rename",
        ),
        (("train/a/x.png", "train/b/x.png", "val/a/"), {}, "for each class, got none; add some"),
        (("train/a/x.png", "train/b/x.png", "more/a/x.png"), {}, "train with folders in it and m"),
        (BOTH, {"image_size": 0}, "data_params.image_size: expected a number of pixels, or [heig"),
        (BOTH, {"image_size": [8, 8, 3]}, "data_params.image_size: expected a number of pixels"),
        (BOTH, {"channels": 4}, "data_params.channels: expected 3 or 1, got 4"),
        (BOTH, {"fit": "pad"}, "data_params.fit: expected crop or stretch, got 'pad'"),
        (BOTH, {"eval_fraction": 1}, "data_params.eval_fraction: expected a number between 0"),
        (BOTH, {"augment": ["flop"]}, "resized_crop, brightness, got 'flop'; did you mean 'flip'?"),
        (BOTH, {"augment": {"flip": 1}}, "data_params.augment.flip: expected a mapping of argum"),
        (BOTH, {"augment": [{"flip": {"p": 1}}]}, "data_params.augment.flip.p: expected one of"),
        (BOTH, {"augment": [{"crop": {"fraction": 3}}]}, "augment.crop.fraction: expected a numb"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, picture, names, options, message):
    root = place(tmp_path, picture, *names)
    with pytest.raises(AetheriaError) as caught:
        image_folder(**{"path": root, "image_size": 4, **options})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_file_is_found_at_once_and_a_damaged_one_when_it_is_read(tmp_path, picture):
    root = place(tmp_path, picture, *BOTH, "a/z.png")
    whole = picture.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:40] + b"\0" * 200, b"no picture"):
        (root / "a" / "z.png").write_bytes(damaged)
        splits = image_folder(root, image_size=4, eval_path=root)
        with pytest.raises(AetheriaError, match=r"a/z\.png: expected a picture, got a damag"):
            splits.train.read(np.arange(3))
        assert splits.train.read(np.array([0, 2]))["labels"].tolist() == [0, 1]
    (root / "a" / "z.png").unlink()
    with pytest.raises(
        AetheriaError, match=r"a/z\.png: expected a file that can be read, got none"
    ):
        splits.train.read(np.arange(3))
    (root / "a" / "z.png").touch()
    with pytest.raises(AetheriaError, match=r"a/z\.png: expected a picture, got an empty file"):
        image_folder(root, image_size=4)


def test_without_pillow_one_line_says_how_to_get_it(shapes, monkeypatch):
    find = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("PIL"):
            raise ImportError(name)
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AetheriaError, match=r"Pillow .* got none; pip install 'aetheria\[data\]'$"):
        image_folder(shapes, image_size=4)


def test_the_fingerprint_sees_names_sizes_and_some_contents_and_decodes_nothing(
    tmp_path, shapes, monkeypatch
):
    root = tmp_path / "copy"
    shutil.copytree(shapes, root)
    told = lambda: fingerprint(image_folder(root, image_size=4, eval_path=root).train)
    before = told()
    assert before["num_examples"] == 150 and not before["random"]
    bounds = [(start, stop) for start, stop, _ in before["parts"]]
    assert bounds[0][0] == 0 and bounds[-1][1] == 150
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))
    decoded = []
    monkeypatch.setattr(
        PictureEncoding, "read_file", lambda self, file: decoded.append(file) or np.zeros((4, 4, 3))
    )
    assert told()["parts"] == before["parts"] and len(decoded) == 1, "for its shape alone"
    first = root / "circle" / "000.png"
    content = first.read_bytes()
    first.write_bytes(content[:-1] + b"x")  # of the same size
    assert told()["parts"] != before["parts"]
    first.write_bytes(content)
    assert told()["parts"] == before["parts"]
    other = image_folder(root, image_size=4, eval_path=root, fit="stretch").train
    assert fingerprint(other)["parts"] != before["parts"]
    (root / "square" / "001.png").rename(root / "square" / "0010.png")
    assert told()["parts"] != before["parts"]


def config(shapes, **options):
    return {
        "model_name": "SimpleCNN",
        "model_params": {"conv_dims": [8, 16], "hidden_dim": 32, "num_classes": 3},
        "data_name": "image_folder",
        "data_params": {"path": str(shapes), "image_size": 32, "augment": ["flip", "crop"]},
        "epochs": 16,
        "batch_size": 24,
        "learning_rate": 0.005,
        "loggers": ["jsonl"],
        **options,
    }


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A run by a config, stopped in the middle of an epoch and resumed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    stopped = aetheria.train(config(shapes), workdir=folder, stop_at_step=33)
    assert stopped.status == "preempted"
    return stopped.resume()


def test_a_convolutional_network_learns_shapes_from_pictures(trained):
    assert trained.status == "completed"
    assert trained.metrics["eval/accuracy"] > 0.85  # 0.33 by chance


def test_a_prediction_takes_paths_images_and_decoded_pictures(trained, shapes, tmp_path):
    predictor = aetheria.Predictor(checkpoint_path=f"{trained.run_dir}@best")
    assert predictor.classes == SHAPES
    rng = np.random.default_rng(99)
    names = [*SHAPES] * 10
    images = [draw(name, rng) for name in names]
    files = [tmp_path / f"{number}.png" for number in range(len(names))]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    found = predictor.predict_classes(files)
    assert np.mean([name == other for name, other in zip(names, found, strict=True)]) > 0.8
    expected = predictor.predict(files)
    inputs = image_folder(shapes, image_size=32).encoding.encode_inputs(files)
    arrays = [np.asarray(image) for image in images]
    for given in ([*map(str, files)], images, arrays, np.stack(arrays), inputs):
        np.testing.assert_array_equal(predictor.predict(given), expected)
    for one in (files[1], str(files[1]), images[1]):
        assert predictor.predict(one).shape == (1, 3)
        assert predictor.predict_classes(one) == found[1:2]
    for wrong, message in (
        (tmp_path / "none.png", "none.png: expected a file that can be read"),
        (np.zeros((48, 40, 3), np.uint8), "inputs: expected decoded pictures uint8"),
        (np.zeros((1, 48, 40, 3), int), "inputs: expected decoded pictures uint8"),
        ([np.zeros((3, 48, 40), np.uint8)], "of 1, 3 or 4 channels, got"),
        (np.zeros((1, 48, 40, 3)), "predict: expected inputs"),
    ):
        with pytest.raises(AetheriaError, match=message):
            predictor.predict(wrong)


def test_a_run_of_pictures_is_checked_before_it_starts(shapes, trained, tmp_path):
    few = config(shapes, model_params={"num_classes": 2})
    with pytest.raises(AetheriaError, match=r"least 3 classes, as the data has \(circle, square"):
        aetheria.train(few, workdir=tmp_path / "few")
    other = config(shapes, data_params={"path": str(shapes), "image_size": 32})
    with pytest.raises(SnapshotError, match=r"data_params\.augment"):
        aetheria.train(other, workdir=trained.run_dir, resume="latest")


def test_a_proof_of_resuming_trains_on_the_augmented_pictures(shapes):
    params = config(shapes)["data_params"]
    observed = kill_at_step.dataset(name="image_folder", params=params, project=None)
    whole = image_folder(**params)
    assert observed.augment == whole.augment is not None
    assert observed.encoding == whole.encoding
    assert not is_parallel(observed.train), "what is read is recorded in its order"


def test_an_encoding_survives_json_and_another_is_refused():
    made = PictureEncoding(image_size=(4, 6), channels=1, fit="stretch", classes=("a", "b"))
    assert PictureEncoding.from_json(made.to_json(), "here") == made
    for change in ({"channels": 2}, {"fit": "pad"}, {"image_size": [4]}, {"classes": [1]}):
        with pytest.raises(SnapshotError, match="here: expected an encoding of pictures"):
            PictureEncoding.from_json({**made.to_json(), **change}, "here")
