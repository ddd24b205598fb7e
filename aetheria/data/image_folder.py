"""Pictures in folders, a folder for each class, decoded when a batch is read."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aetheria.data.encoding import class_order
from aetheria.data.forms import EVAL_FRACTION, HELD_OUT, hold_out
from aetheria.data.pictures import FITS, PictureEncoding, import_pillow
from aetheria.data.sources import Columns, DataSplits
from aetheria.errors import AetheriaError, shown
from aetheria.plugins import register_data

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
_MAX_SIDE = 16_384


class Picture(NamedTuple):
    """A file of a picture: its path below the folder of its split, and its size in bytes."""

    name: str
    size: int


class PictureSource:
    """Pictures in files, decoded when they are read: inputs f32 [height, width, channel] in [0, 1]
    and labels i32.

    Args:
        folder: in which the files lie.
        pictures: the files.
        labels: i32 [num_examples].
        encoding: how a picture becomes inputs.
    """

    parallel = True

    def __init__(
        self,
        folder: Path,
        pictures: Sequence[Picture],
        labels: np.ndarray,
        encoding: PictureEncoding,
    ):
        self._folder, self._pictures, self._labels = folder, pictures, labels
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, indices: np.ndarray) -> Columns:
        inputs = np.empty((len(indices), *self._encoding.shape), np.float32)
        for row, index in enumerate(indices.tolist()):
            inputs[row] = self._encoding.read_file(self._folder / self._pictures[index].name)
        return {"inputs": inputs, "labels": self._labels[indices]}

    def identify(self, indices: np.ndarray) -> bytes:
        """The size of inputs, names and sizes of these files, bytes of the first and the last."""
        total = hashlib.sha256(f"{self._encoding.shape} {self._encoding.fit}\0".encode())
        for index in indices.tolist():
            picture = self._pictures[index]
            total.update(b"%s\0%d\0" % (os.fsencode(picture.name), picture.size))
        for index in {int(indices[0]): None, int(indices[-1]): None}:
            total.update((self._folder / self._pictures[index].name).read_bytes())
        return total.digest()


@register_data("image_folder")
def image_folder(
    path: str | Path,
    *,
    image_size: Any,
    channels: int = 3,
    fit: str = "crop",
    augment: Any = (),
    eval_path: str | Path | None = None,
    eval_fraction: float = EVAL_FRACTION,
) -> DataSplits:
    """Pictures in folders: `PATH/CLASS/*.png`, or `PATH/train/CLASS/*.png`, `PATH/val/CLASS/…`, and
    `PATH/test/CLASS/…` for what is evaluated once, when the run completes.

    Inputs are f32 [height, width, channel] in [0, 1]. The classes are the folders of the training
    split, numbers by their size and then texts; their names are part of every snapshot, and a
    `Predictor` takes paths of pictures. Hidden files, and files that are no pictures by the ending
    of their names, are left out; folders in the folder of a class are searched too.

    Args:
        path: the folder, relative to the current one.
        image_size: in pixels, one number or [height, width].
        channels: 3: red, green and blue; 1: grey.
        fit: what becomes of a picture of another aspect ratio: `crop` keeps its largest centered
            part of the right one; `stretch` keeps all of it.
        augment: for training examples, in this order: `flip`, `crop`, `resized_crop`, `brightness`,
            each a name or `{name: arguments}`; from Python also a function of (example, rng).
        eval_path: a folder `EVAL_PATH/CLASS/…` to evaluate on.
        eval_fraction: of the pictures that are held out, the same ones in every run, if there is
            nothing else to evaluate on.

    Raises:
        AetheriaError: Pillow is not installed; there is no such folder; it has not two classes, or
            has one without pictures; or an argument is wrong. A damaged picture raises when it is
            read; the line has its name.
    """
    import_pillow()
    if not 0 < eval_fraction < 1:
        raise AetheriaError(
            f"data_params.eval_fraction: expected a number between 0 and 1, got {eval_fraction}; "
            "use 0.2"
        )
    size = _image_size(image_size)
    if channels not in (1, 3):
        raise AetheriaError(
            f"data_params.channels: expected 3 or 1, got {channels}; 3 is color, 1 is grey"
        )
    if fit not in FITS:
        raise AetheriaError(f"data_params.fit: expected crop or stretch, got {fit!r}; use crop")
    changes = _augment(augment)
    train_folder, eval_folder, test_folder = _find_splits(_folder("path", path), eval_path)
    found = _scan(train_folder)
    _check_classes(train_folder, found)
    classes = tuple(sorted(found, key=class_order))
    encoding = PictureEncoding(image_size=size, channels=channels, fit=fit, classes=classes)
    train = _source(train_folder, found, encoding)

    if eval_folder is None:
        splits = hold_out(train, eval_fraction)
    else:
        splits = DataSplits(train, held_out_pictures(eval_folder, encoding))
    test = None if test_folder is None else held_out_pictures(test_folder, encoding)
    return replace(splits, encoding=encoding, augment=changes, test=test)


def held_out_pictures(folder: Path, encoding: PictureEncoding) -> PictureSource:
    """The pictures `folder/CLASS/…` of classes that are known from training.

    Raises:
        AetheriaError: a class is unknown, or there is no picture.
    """
    there = {name: pictures for name, pictures in _scan(folder).items() if pictures}
    _check_held_out(folder, there, encoding.classes)
    return _source(folder, there, encoding)


def _image_size(given: Any) -> tuple[int, int]:
    sides = [*given] if isinstance(given, list | tuple) else [given, given]
    if len(sides) != 2 or not all(type(s) is int and 0 < s <= _MAX_SIDE for s in sides):
        raise AetheriaError(
            "data_params.image_size: expected a number of pixels, or [height, width], of 1 to "
            f"{_MAX_SIDE}, got {shown(given)}; give 64 or [48, 64]"
        )
    return sides[0], sides[1]


def _augment(given: Any) -> Callable[[Any, np.random.Generator], Any] | None:
    if callable(given):
        return given
    if given is None or (isinstance(given, list | tuple) and not given):
        return None
    from aetheria.data.image_augmentations import build_augmentations

    return build_augmentations(given, "data_params.augment")


def _folder(argument: str, given: Any) -> Path:
    folder = Path(given).expanduser() if isinstance(given, str | Path) else None
    if folder is None or not folder.is_dir():
        raise AetheriaError(
            f"data_params.{argument}: expected a folder, got {shown(str(given))}, which is none; "
            "check the path"
        )
    return folder


def _find_splits(
    folder: Path, eval_path: str | Path | None
) -> tuple[Path, Path | None, Path | None]:
    """The folders to train on, to evaluate on and to test on; None: there is no such folder.

    A folder `train` stands for a split if it has folders itself; a class may have that name. A
    folder `test` without folders has pictures without classes, and is left alone.
    """
    eval_folder = None if eval_path is None else _folder("eval_path", eval_path)
    names = {name.lower(): name for name in _folders_in(folder)}
    if "train" not in names or not _folders_in(folder / names["train"]):
        return folder, eval_folder, None
    for name in HELD_OUT:
        if eval_folder is None and name in names:
            eval_folder = folder / names[name]
    if eval_folder is None and (others := sorted(names.keys() - {"train"})):
        raise AetheriaError(
            f"{folder}: expected folders train and val, or one for each class, got train with "
            f"folders in it and {_listed(others)}; rename the second one to val, or give "
            "data_params.eval_path"
        )
    test_folder = folder / names["test"] if "test" in names else None
    if test_folder == eval_folder or test_folder is None or not _folders_in(test_folder):
        test_folder = None
    return folder / names["train"], eval_folder, test_folder


def _scan(folder: Path) -> dict[str, list[Picture]]:
    """The name of each class -> its pictures, in the order of their names."""
    found: dict[str, list[Picture]] = {}
    for name in _folders_in(folder):
        found[name] = []
        _collect(folder, name, found[name], ())
    return found


def _collect(folder: Path, below: str, pictures: list[Picture], outer: tuple[str, ...]) -> None:
    """Adds the pictures of a folder and of those in it, but for a link to one around it."""
    real = os.path.realpath(folder / below)
    if real in outer:
        return
    with os.scandir(folder / below) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = f"{below}/{entry.name}"
        if _is_left_out(entry.name):
            continue
        if entry.is_dir():
            _collect(folder, name, pictures, (*outer, real))
        elif os.path.splitext(entry.name)[1].lower() in ENDINGS:
            size = entry.stat().st_size
            if not size:
                raise AetheriaError(
                    f"{folder / name}: expected a picture, got an empty file; replace or remove it"
                )
            pictures.append(Picture(name, size))


def _folders_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in found if not _is_left_out(name))


def _is_left_out(name: str) -> bool:
    """Whether a name is hidden, or of what other programs leave behind."""
    return name.startswith(".") or name in ("__MACOSX", "__pycache__")


def _check_classes(folder: Path, found: dict[str, list[Picture]]) -> None:
    if not any(found.values()):
        loose = sum(Path(entry).suffix.lower() in ENDINGS for entry in os.listdir(folder))
        got = f"{loose} pictures without such a folder" if loose else "no pictures"
        raise AetheriaError(
            f"{folder}: expected a folder of pictures for each class, got {got}; put them into "
            "PATH/CLASS/"
        )
    if empty := [name for name, pictures in found.items() if not pictures]:
        raise AetheriaError(
            f"{folder}: expected pictures in the folder of each class, got none in "
            f"{_listed(empty)}; add some, or remove the folder"
        )
    if len(found) < 2:
        raise AetheriaError(
            f"{folder}: expected folders of two classes or more, got one, {_listed(found)}; add "
            "another class, or give the folder above"
        )


def _check_held_out(folder: Path, found: dict[str, list[Picture]], classes: Sequence[str]) -> None:
    if unknown := sorted(found.keys() - {*classes}, key=class_order):
        raise AetheriaError(
            f"{folder}: expected the classes of the training split ({_listed(classes)}), got also "
            f"{_listed(unknown)}; remove or rename the folder"
        )
    if not found:
        raise AetheriaError(
            f"{folder}: expected a folder of pictures for each class, got none; add some, or "
            "remove the folder to hold out pictures of the training split"
        )


def _source(
    folder: Path, found: dict[str, list[Picture]], encoding: PictureEncoding
) -> PictureSource:
    pairs = [
        (picture, label)
        for label, name in enumerate(encoding.classes)
        for picture in found.get(name, ())
    ]
    labels = np.array([label for _, label in pairs], np.int32)
    return PictureSource(folder, [picture for picture, _ in pairs], labels, encoding)


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    names = [*names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
