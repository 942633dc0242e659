"""Image bytes -> pixels, in the one defined way. Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from isdh.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no decoder that runs a program
MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a GiB as RGB
TOO_LARGE = f"more than {MAX_PIXELS:,} pixels; shrink the image"
Box = tuple[float, float, float, float]  # left, top, right, bottom
TURNS = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, *, size: int, channels: int, name: str = "image") -> np.ndarray:
    """Pixels of an image file: of its first frame, upright, over white, size x size.

    The aspect ratio is not kept. Downscaling averages (a triangle filter as wide as the
    scale asks for; upscaling is bilinear), and a JPEG of more than twice the size is decoded
    by libjpeg at the smallest 1/2, 1/4 or 1/8 that still leaves twice the size. Colour
    profiles are not applied; 16-bit grey keeps its high byte.

    Args:
        data: the file's bytes: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM.
        size: pixels a side of the result.
        channels: 3 for RGB, 1 for luma (ITU-R 601).
        name: what messages call the image.

    Returns:
        uint8 (size, size, channels).

    Raises:
        InputError: not such an image, a damaged one, or one of more than MAX_PIXELS.
    """
    mode = "RGB" if channels == 3 else "L"
    with _refused(name):
        stored, box = _stored(data, 2 * size)
        small = _over_white(stored, mode).resize((size, size), Image.Resampling.BILINEAR, box)
        return np.asarray(_upright(small, stored)).reshape(size, size, channels)


def thumbnail(data: bytes, *, side: int, name: str = "image") -> Image.Image:
    """What `decode` makes of an image file, for people: the aspect ratio is kept.

    Args:
        data: as in `decode`.
        side: the most pixels a side of the result; a smaller picture is not enlarged.
        name: what messages call the image.

    Returns:
        RGB.

    Raises:
        InputError: as in `decode`.
    """
    with _refused(name):
        stored, box = _stored(data, 2 * side)
        width, height = box[2:] if box else stored.size
        scale = min(side / max(width, height), 1)
        shape = max(round(width * scale), 1), max(round(height * scale), 1)
        small = _over_white(stored, "RGB").resize(shape, Image.Resampling.BILINEAR, box)
        return _upright(small, stored)


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """Name the image in whatever its bytes raise."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: no image; want one of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{name}: {TOO_LARGE}") from None
    except Exception as error:  # decoders of damaged bytes raise whatever they stumble over
        raise InputError(f"{name}: damaged image ({error}); replace the file") from error


def _stored(data: bytes, least: int) -> tuple[Image.Image, Box | None]:
    """The first frame as it is stored; a JPEG at a scale that leaves `least` pixels a side.

    Returns:
        The frame, loaded, and what the picture covers of it if its scale was reduced: a reduced
        side is rounded up.
    """
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise InputError(TOO_LARGE)
    reduced = image.draft(None, (least, least))
    image.load()
    return image, reduced[1] if reduced else None


def _upright(pixels: Image.Image, stored: Image.Image) -> Image.Image:
    """Turn pixels as the EXIF orientation of the stored image asks."""
    try:
        turn = TURNS.get(stored.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # unreadable EXIF says nothing of the pixels: they stay as stored
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


def _over_white(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        high = np.clip(np.asarray(image), 0, 0xFFFF) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert(mode)
    if image.mode == "F":
        raise InputError("floating-point pixels, whose white is unknown; save the image in 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
