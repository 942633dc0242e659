"""Image bytes -> pixels, in the one defined way. Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import PIL
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, features

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
CODECS = ("jpg", "libjpeg_turbo", "libtiff", "webp", "zlib")  # behind Pillow's plugins
END_OF_JPEG = b"\xff\xd9"
GREY, COLOUR = 0, 2  # colour types of a PNG without a palette


def decode(data: bytes, *, size: int, channels: int, name: str = "image") -> np.ndarray:
    """Pixels of an image file: of its first frame, upright, over white, size x size.

    The aspect ratio is not kept. Downscaling averages (a triangle filter as wide as the
    scale asks for; upscaling is bilinear), and a JPEG of more than twice the size is decoded
    by libjpeg at the smallest 1/2, 1/4 or 1/8 that still leaves twice the size. Colour
    profiles are not applied; of 16 bits the high byte is kept.

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


def decoders() -> dict[str, str | None]:
    """Versions of what turns bytes into pixels; the same ones give the same pixels."""
    return {"pillow": PIL.__version__, **{name: features.version(name) for name in CODECS}}


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """Name the image in whatever its bytes raise."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: no image; want one of {', '.join(FORMATS)}, laid out as Pillow reads it"
        ) from None
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
    if image.format == "JPEG" and image.fp is not None:
        _refuse_without_end(data, image.fp.tell())
    reduced = image.draft(None, (least, least))
    image.load()
    if image.format == "PNG" and image.info.get("transparency") is not None:
        image.info["transparency"] = _in_eight_bits(image.info["transparency"], *data[24:26])
    return image, reduced[1] if reduced else None


def _refuse_without_end(data: bytes, scan: int) -> None:
    """Refuse a JPEG without its end; its thumbnail's, before the scan, does not count.

    Pillow sees for itself where bytes are missing, but takes the zeros of a download that was
    cut off for pixels.
    """
    if data.rfind(END_OF_JPEG, scan) < 0:  # from behind, where it is
        raise ValueError("image file is truncated: it has no end")


def _in_eight_bits(transparency: Any, depth: int, kind: int) -> Any:
    """What a PNG declares transparent, as its pixels are once Pillow has brought them to 8 bits.

    Args:
        transparency: as Pillow hands it on, in the file's own depth.
        depth: bits a channel, in the file.
        kind: the file's colour type.
    """
    if kind == GREY and depth in (2, 4):
        return transparency * 255 // (2**depth - 1)
    if kind == COLOUR and depth == 16:
        return tuple(value >> 8 for value in transparency)
    return transparency


def _upright(pixels: Image.Image, stored: Image.Image) -> Image.Image:
    """Turn pixels as the EXIF orientation of the stored image asks."""
    try:
        turn = TURNS.get(stored.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # unreadable EXIF says nothing of the pixels: they stay as stored
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


def _over_white(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_high_byte(image)).convert(mode)
    if image.mode == "F":
        raise InputError("floating-point pixels, whose white is unknown; save the image in 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _high_byte(image: Image.Image) -> np.ndarray:
    """Grey of 16 bits and more, uint8 (height, width); what is transparent is white."""
    values = np.clip(np.asarray(image), 0, 0xFFFF)
    photometric = TiffImagePlugin.PHOTOMETRIC_INTERPRETATION
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(photometric) == 0:
        values = 0xFFFF - values  # 0 is white; in 8 bits Pillow turns it round itself
    grey: np.ndarray = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 0xFF
    return grey
