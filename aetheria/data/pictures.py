"""Pictures as a model sees them: decoded, upright, of one size and one number of channels.

The same code makes what a model is trained on and what it predicts from. Pillow decodes.
"""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from aetheria.config.json_types import JsonObject
from aetheria.data.error_context import needs_package
from aetheria.errors import AetheriaError, SnapshotError, shown

if TYPE_CHECKING:
    from PIL.Image import Image

FITS = ("crop", "stretch")
# Not every format that Pillow knows: to draw an EPS, it starts another program.
STRANGERS_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_CHANNELS = {1: "L", 3: "RGB"}
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class PictureEncoding:
    """How pictures become inputs, and class numbers names; part of every snapshot.

    A picture is turned as its EXIF says; what is transparent becomes white; a picture of several
    frames is its first one. It is resized with an antialiasing bilinear filter.

    Attributes:
        image_size: (height, width) in pixels.
        channels: 3: red, green, blue; 1: grey.
        fit: `crop`: the largest centered part of the right aspect ratio is kept; `stretch`: the
            whole picture, whatever becomes of its aspect ratio.
        classes: the name of each class number.
    """

    image_size: tuple[int, int]
    channels: int = 3
    fit: str = "crop"
    classes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """[height, width, channel] of an example."""
        return (*self.image_size, self.channels)

    def read_file(self, file: str | Path) -> np.ndarray:
        """Decodes a file: f32 [height, width, channel] in [0, 1].

        Raises:
            AetheriaError: it is no picture, or a damaged one; the line has its name.
        """
        return self._decode(file, os.fspath(file))

    def read_bytes(self, content: bytes, where: str, max_pixels: int) -> np.ndarray:
        """Decodes the content of a file that a stranger sent: f32 [height, width, channel] in
        [0, 1], as `read_file`. Only the formats in `STRANGERS_FORMATS` are tried.

        Args:
            content: the bytes of the file.
            where: what to call it in errors.
            max_pixels: a larger picture is not decoded: a small file can hold a huge one.

        Raises:
            AetheriaError: it is no picture, a damaged one, or too large.
        """
        return self._decode(io.BytesIO(content), where, STRANGERS_FORMATS, max_pixels)

    def _decode(
        self,
        file: str | Path | BinaryIO,
        where: str,
        formats: Sequence[str] | None = None,
        max_pixels: int | None = None,
    ) -> np.ndarray:
        pillow = import_pillow()
        try:
            with pillow.open(file, formats=formats) as image:
                if max_pixels is not None and math.prod(image.size) > max_pixels:
                    raise AetheriaError(
                        f"expected a picture of at most {max_pixels} pixels, got "
                        f"{image.size[0]} x {image.size[1]}; make it smaller"
                    )
                # A JPEG is decoded at half, a quarter or an eighth of its size if that is still
                # twice the size that is asked for: several times as fast.
                height, width = self.image_size
                longest = 2 * max(height, width)
                image.draft(None, (longest, longest))
                return self.encode_image(image)
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            raise AetheriaError(
                f"{where}: expected a file that can be read, got none ({error.strerror}); check "
                "the path"
            ) from error
        except AetheriaError as error:
            raise AetheriaError(*(f"{where}: {p}" for p in error.problems)) from error
        except MemoryError:
            raise
        except Exception as error:  # decoders raise errors of any type for broken bytes
            text = " ".join(str(error).split())[:160] or type(error).__name__
            raise AetheriaError(
                f"{where}: expected a picture, got a damaged or unknown file ({text}); replace or "
                "remove it"
            ) from error

    def encode_image(self, image: "Image") -> np.ndarray:
        """Makes f32 [height, width, channel] in [0, 1] of an image of Pillow."""
        from PIL import Image, ImageOps

        upright = ImageOps.exif_transpose(image)
        plain = _plain(upright, _CHANNELS[self.channels])
        height, width = self.image_size
        if self.fit == "crop":
            sized = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
        else:
            sized = plain.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(sized, np.float32) / np.float32(255)
        return np.broadcast_to(pixels.reshape(height, width, -1), self.shape)

    def encode_inputs(self, given: Any) -> Any:
        """Makes inputs of pictures as a user gives them.

        Args:
            given: the path of a picture, an image of Pillow, or a list of these or of decoded
                pictures as u8 [height, width] or [height, width, channel] of any size; or an array
                u8 [batch, height, width, channel] of such. Anything else is returned as it is: an
                array of floats stands for inputs as the model was trained on.

        Returns:
            f32 [batch, height, width, channel] in [0, 1].

        Raises:
            AetheriaError: a file is no picture, or an array is none.
        """
        if hasattr(given, "dtype"):  # an array of any library
            given = np.asarray(given)
            if given.dtype.kind not in "iu":
                return given
            if given.dtype != np.uint8 or given.ndim != 4:
                raise AetheriaError(
                    "inputs: expected decoded pictures uint8 [batch, height, width, channel], got "
                    f"{given.dtype}{list(given.shape)}; give such a batch, or a list of pictures"
                )
        elif not isinstance(given, Sequence) or isinstance(given, str):
            if not isinstance(given, str | Path) and not _is_image(given):
                return given
            given = [given]
        elif not all(_is_picture(each) for each in given):
            return given
        pictures = [self._encode_one(each) for each in given]
        return np.stack(pictures) if pictures else np.zeros((0, *self.shape), np.float32)

    def _encode_one(self, given: Any) -> np.ndarray:
        if isinstance(given, str | Path):
            return self.read_file(given)
        if not isinstance(given, np.ndarray):
            return self.encode_image(given)
        pixels = given[..., 0] if given.ndim == 3 and given.shape[-1] == 1 else given
        if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[-1] not in (3, 4)):
            raise AetheriaError(
                "inputs: expected decoded pictures u8 [height, width] or [height, width, channel] "
                f"of 1, 3 or 4 channels, got {list(given.shape)}; move the channels to the end"
            )
        return self.encode_image(import_pillow().fromarray(pixels))

    def to_json(self) -> JsonObject:
        """JSON values, as a snapshot holds them."""
        return {
            "image_size": [*self.image_size],
            "channels": self.channels,
            "fit": self.fit,
            "classes": [*self.classes],
        }

    @classmethod
    def from_json(cls, said: object, where: str) -> "PictureEncoding":
        """The inverse of `to_json`.

        Raises:
            SnapshotError: it is something else.
        """
        match said:
            case {
                "image_size": [int() as height, int() as width],
                "channels": 1 | 3 as channels,
                "fit": "crop" | "stretch" as fit,
                "classes": [*names],
            } if height > 0 and width > 0 and all(isinstance(name, str) for name in names):
                size, classes = (height, width), tuple(map(str, names))
                return cls(image_size=size, channels=channels, fit=fit, classes=classes)
        raise SnapshotError(
            f"{where}: expected an encoding of pictures, got {shown(said)}; use another file"
        )


def import_pillow() -> ModuleType:
    """The module `PIL.Image`.

    Raises:
        AetheriaError: it is not installed.
    """
    with needs_package("image_folder", "Pillow", "to read pictures"):
        from PIL import Image
    return Image


def _plain(image: "Image", mode: str) -> "Image":
    """An image of mode `L` or `RGB`; of 16 bits a pixel, `F` from 0 to 255: Pillow itself would cut
    the values off at 255.
    """
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image).astype(np.float32) / np.float32(257))
    if image.mode in ("I", "F"):
        raise AetheriaError(
            f"expected 8 or 16 bits a channel, got pixels of 32 bits (mode {image.mode}), whose "
            "range is not known; convert it"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    if image.mode in ("P", "PA") or (mode == "L" and image.mode not in ("1", "L")):
        image = image.convert("RGB")
    return image.convert(mode)


def _is_image(value: Any) -> bool:
    return hasattr(value, "getexif") and hasattr(value, "convert")


def _is_picture(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8
    return isinstance(value, str | Path) or _is_image(value)
