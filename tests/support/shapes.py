"""Pictures of colored shapes, drawn into a folder for each class."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")


def draw(shape: str, rng: np.random.Generator, size: tuple[int, int] = (40, 48)) -> Image.Image:
    """A light shape of random color, size and place on a dark ground."""
    image = Image.new("RGB", size, tuple(rng.integers(0, 60, 3).tolist()))
    color = tuple(rng.integers(120, 256, 3).tolist())
    (left, top), width = rng.integers(4, 14, 2).tolist(), int(rng.integers(14, 22))
    box = [left, top, left + width, top + width]
    canvas = ImageDraw.Draw(image)
    if shape == "circle":
        canvas.ellipse(box, fill=color)
    elif shape == "square":
        canvas.rectangle(box, fill=color)
    else:
        canvas.polygon([(left, box[3]), (box[2], box[3]), ((left + box[2]) // 2, top)], fill=color)
    return image


def draw_folder(folder: Path, count: int, seed: int = 0, suffix: str = ".png") -> Path:
    """Writes `count` pictures of each shape."""
    rng = np.random.default_rng(seed)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw(shape, rng).save(folder / shape / f"{number:03}{suffix}")
    return folder
