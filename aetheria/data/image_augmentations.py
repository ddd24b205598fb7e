"""Augmentations of pictures by name, for examples whose `inputs` are [height, width, channel].

Each is a function of (image, rng) -> image of the same shape; values stay in [0, 1].
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetheria.errors import AetheriaError, shown
from aetheria.plugins.arguments import call_with


class ImageAugmentation(Protocol):
    """Changes one image f32 [height, width, channel]."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(frozen=True)
class Flip:
    """Mirrors an image, left and right.

    Attributes:
        probability: of a flip.
        vertical: top and bottom instead.
    """

    probability: float = 0.5
    vertical: bool = False

    def __post_init__(self) -> None:
        _check_range("flip.probability", self.probability, 0, 1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return image
        return image[::-1] if self.vertical else image[:, ::-1]


@dataclass(frozen=True)
class Crop:
    """Shifts an image by whole pixels, at random along both axes; what comes in is mirrored.

    Attributes:
        fraction: the largest shift, as a fraction of each side. 0.125 is 4 of 32 pixels.

    Source: He et al., "Deep Residual Learning" (arXiv:1512.03385), section 4.2, which pads with 0.
    """

    fraction: float = 0.125

    def __post_init__(self) -> None:
        _check_range("crop.fraction", self.fraction, 0, 0.5)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        most = [round(side * self.fraction) for side in (height, width)]
        top, left = (int(rng.integers(0, 2 * shift + 1)) for shift in most)
        padded = np.pad(image, [*((shift, shift) for shift in most), (0, 0)], mode="symmetric")
        return padded[top : top + height, left : left + width]


@dataclass(frozen=True)
class ResizedCrop:
    """Cuts out a part of random area and aspect ratio (3:4 to 4:3), and resizes it to the whole.

    Attributes:
        min_area: the least area of a part, as a fraction of the image's.

    Source: Szegedy et al., "Going Deeper with Convolutions" (arXiv:1409.4842), section 6.
    """

    min_area: float = 0.25

    def __post_init__(self) -> None:
        _check_range("resized_crop.min_area", self.min_area, 0.01, 1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from PIL import Image

        height, width, channels = image.shape
        area, ratio = rng.uniform(self.min_area, 1), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
        # Of the image's own aspect ratio times `ratio`; a side is at most the image's.
        part_height = min(height, height * np.sqrt(area / ratio))
        part_width = min(width, width * np.sqrt(area * ratio))
        top, left = rng.uniform(0, height - part_height), rng.uniform(0, width - part_width)
        box = (left, top, min(width, left + part_width), min(height, top + part_height))
        resized = [
            Image.fromarray(np.ascontiguousarray(image[:, :, n])).resize(
                (width, height), Image.Resampling.BILINEAR, box=box
            )
            for n in range(channels)
        ]
        return np.stack([np.asarray(channel) for channel in resized], axis=-1)


@dataclass(frozen=True)
class Brightness:
    """Multiplies an image by one random factor, and cuts what exceeds 1.

    Attributes:
        strength: the factor is between 1 - strength and 1 + strength.
    """

    strength: float = 0.2

    def __post_init__(self) -> None:
        _check_range("brightness.strength", self.strength, 0, 1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        factor = np.float32(rng.uniform(1 - self.strength, 1 + self.strength))
        return np.minimum(image * factor, np.float32(1))


BY_NAME: Mapping[str, type[Flip | Crop | ResizedCrop | Brightness]] = {
    "flip": Flip,
    "crop": Crop,
    "resized_crop": ResizedCrop,
    "brightness": Brightness,
}


@dataclass(frozen=True)
class InputAugmentation:
    """Augments the column `inputs` of an example by some steps, one after another.

    >>> example = {"inputs": np.array([[[0.25], [0.5]]], np.float32), "labels": 1}
    >>> InputAugmentation((Flip(probability=1),))(example, np.random.default_rng(0))["inputs"]
    array([[[0.5 ], [0.25]]], dtype=float32)
    """

    steps: tuple[ImageAugmentation, ...]

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image = example["inputs"]
        for step in self.steps:
            image = step(image, rng)
        return {**example, "inputs": image}


def build_augmentations(given: Any, where: str) -> InputAugmentation:
    """Makes augmentations of their names.

    Args:
        given: a name, `{name: arguments}`, or a list of these.
        where: the key that names them, for messages.

    Raises:
        AetheriaError: a name or an argument is unknown.

    >>> build_augmentations(["flip", {"crop": {"fraction": 0.25}}], "augment").steps
    (Flip(probability=0.5, vertical=False), Crop(fraction=0.25))
    """
    listed = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return InputAugmentation(tuple(_build(each, where) for each in listed))


def _build(given: Any, where: str) -> ImageAugmentation:
    name, arguments = given, {}
    if isinstance(given, Mapping) and len(given) == 1:
        ((name, arguments),) = given.items()
    if not isinstance(name, str) or name not in BY_NAME:
        near = difflib.get_close_matches(str(name), BY_NAME, n=1)
        advice = f"did you mean {near[0]!r}?" if near else "use these names or {name: arguments}"
        raise AetheriaError(
            f"{where}: expected some of {', '.join(BY_NAME)}, got {shown(given)}; {advice}"
        )
    if not isinstance(arguments, Mapping):
        raise AetheriaError(
            f"{where}.{name}: expected a mapping of arguments, got {shown(arguments)}; give "
            f"{{{name}: {{argument: value}}}}"
        )
    return call_with(BY_NAME[name], f"{where}.{name}", arguments)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise AetheriaError(
            f"data_params.augment.{name}: expected a number from {least} to {most}, got {value}; "
            "change it"
        )
