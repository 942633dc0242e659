from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from isdh import images
from isdh.errors import InputError
from isdh.images import decode

INVERSE = {**images.TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def picture(side: int = 16, *, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def smooth(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * np.stack([x, y, x * y], axis=2)).astype(np.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_pixels_of_a_picture_of_the_wanted_size_are_unchanged():
    image = picture()
    np.testing.assert_array_equal(decode(saved(image), size=16, channels=3), np.asarray(image))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation, kind):
    upright = picture()
    turn = INVERSE.get(orientation)
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = decode(saved(stored, kind, exif=exif), size=16, channels=3)
    np.testing.assert_array_equal(pixels, np.asarray(upright))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_oblong_picture_is_turned_upright_up_to_rounding(orientation):
    upright = picture(40).crop((0, 0, 40, 24))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(upright.transpose(INVERSE[orientation]), exif=exif)
    turned, plain = (decode(d, size=16, channels=3).astype(int) for d in (data, saved(upright)))
    assert np.abs(turned - plain).max() <= 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_leaves_the_picture_as_stored():
    data = saved(smooth(16, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff broken")
    plain = saved(smooth(16, 16), "JPEG")
    np.testing.assert_array_equal(
        decode(data, size=16, channels=3), decode(plain, size=16, channels=3)
    )


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("L", "PNG"), ("P", "TIFF")])
def test_transparent_pixels_become_white(mode, kind):
    opaque = Image.new("L", (16, 16), 0)
    opaque.paste(255, (0, 0, 8, 16))
    image = Image.new("RGB", (16, 16), "black").convert(mode)
    image.putalpha(opaque)
    pixels = decode(saved(image, kind), size=16, channels=3)
    assert pixels[:, :8].max() == 0
    assert pixels[:, 8:].min() == 255


def test_half_transparent_black_over_white_is_grey():
    data = saved(Image.new("RGBA", (8, 8), (0, 0, 0, 128)))
    assert decode(data, size=8, channels=1).ravel().tolist() == [127] * 64


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour_becomes_white(mode):
    image = Image.new("RGB", (8, 8), (0, 0, 0)).convert(mode)
    corner = image.getpixel((0, 0))
    assert decode(saved(image, transparency=corner), size=8, channels=3).min() == 255
    assert decode(saved(image), size=8, channels=3).max() == 0


def test_sixteen_bit_grey_keeps_its_high_byte():
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 77
    pixels = decode(saved(Image.fromarray(values)), size=16, channels=1)
    np.testing.assert_array_equal(pixels[..., 0], values >> 8)


@pytest.mark.parametrize(
    ("mode", "white", "kind"),
    [
        ("1", 1, "PNG"),
        ("L", 255, "PNG"),
        ("P", 0, "GIF"),
        ("CMYK", (0, 0, 0, 0), "TIFF"),
        ("YCbCr", (255, 128, 128), "TIFF"),
        ("I", 65535, "TIFF"),
        ("I;16", 65535, "PNG"),
    ],
)
def test_every_mode_becomes_rgb_or_luma(mode, white, kind):
    image = Image.new(mode, (8, 8), white)
    if mode == "P":
        image.putpalette([255, 255, 255, 0, 0, 0])
    for channels in (1, 3):
        pixels = decode(saved(image, kind), size=4, channels=channels)
        assert pixels.shape == (4, 4, channels)
        assert pixels.min() == 255


def test_a_cmyk_jpeg_keeps_its_colours():
    data = saved(Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"), "JPEG")
    np.testing.assert_allclose(decode(data, size=8, channels=3)[4, 4], [200, 30, 60], atol=4)


def test_the_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, size=8, channels=3)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_format_named_is_read(kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow reads no WebP")
    pixels = decode(saved(Image.new("RGB", (8, 8), "white"), kind), size=8, channels=3)
    assert pixels.min() >= 250


def test_the_aspect_is_not_kept_and_downscaling_averages():
    stripes = np.zeros((4, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(saved(Image.fromarray(stripes)), size=8, channels=3)
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels[:, 1:-1].astype(int) - 127).max() <= 10


@pytest.mark.parametrize("side", [130, 200, 260, 521, 1100])
def test_a_large_jpeg_decoded_at_a_reduced_scale_looks_the_same(side):
    image = picture(20).resize((side, side), Image.Resampling.BICUBIC)
    data = saved(image, "JPEG", quality=95, subsampling=0)
    pixels = decode(data, size=32, channels=3)
    whole = np.asarray(Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(pixels.astype(int) - whole).max() <= 8
    assert np.abs(pixels.astype(int) - whole).mean() <= 1.5


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no image"),
        (b"no image at all", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (saved(smooth(64, 64), "JPEG")[:-200], "damaged image"),
        (saved(picture())[:-60], "damaged image"),
        (saved(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
    ids=["empty", "text", "postscript", "short JPEG", "short PNG", "float TIFF"],
)
def test_what_is_no_whole_image_is_refused_by_name(data, problem):
    with pytest.raises(InputError, match=f"^cat.jpg: {problem}"):
        decode(data, size=8, channels=3, name="cat.jpg")


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused(side):
    with pytest.raises(InputError, match="more than 89,478,485 pixels"):
        decode(png_of(side, side), size=8, channels=3)


def test_the_largest_picture_is_not_refused_for_its_size(monkeypatch):
    data = saved(picture(16))
    monkeypatch.setattr(images, "MAX_PIXELS", 256)
    assert decode(data, size=8, channels=3).shape == (8, 8, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 255)
    with pytest.raises(InputError, match="pixels"):
        decode(data, size=8, channels=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_damaged_bytes_raise_nothing_but_input_error(kind):
    generator = np.random.default_rng(0)
    whole = np.frombuffer(saved(picture(24), kind), dtype=np.uint8)
    refused = 0
    for _ in range(100):
        data = whole.copy()
        data[generator.integers(0, len(data), 8)] = generator.integers(0, 256, 8)
        try:
            assert decode(data.tobytes(), size=8, channels=3).shape == (8, 8, 3)
        except InputError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("width", "height", "shape"),
    [
        (640, 480, (32, 24)),
        (30, 9, (30, 9)),
        (9, 30, (9, 30)),
        (999, 1, (32, 1)),
        (521, 263, (32, 16)),
    ],
)
def test_a_thumbnail_keeps_the_aspect_and_is_not_enlarged(width, height, shape):
    for kind in ("PNG", "JPEG"):
        assert images.thumbnail(saved(smooth(width, height), kind), side=32).size == shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_thumbnail_of_a_square_picture_is_what_is_decoded(kind):
    data = saved(smooth(300, 300), kind)
    pixels = np.asarray(images.thumbnail(data, side=32))
    np.testing.assert_array_equal(pixels, decode(data, size=32, channels=3))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_thumbnail_is_upright_and_over_white(orientation):
    upright = smooth(30, 20).convert("RGBA")
    upright.paste((0, 0, 0, 0), (20, 0, 30, 20))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(upright.transpose(INVERSE[orientation]), exif=exif)
    shown = np.asarray(images.thumbnail(data, side=32))
    np.testing.assert_array_equal(shown[:, :20], np.asarray(smooth(30, 20))[:, :20])
    assert shown[:, 20:].min() == 255


def test_a_thumbnail_refuses_what_is_refused_when_decoded():
    with pytest.raises(InputError, match=r"^cat.jpg: no image"):
        images.thumbnail(b"%!PS-Adobe-3.0 EPSF-3.0\n", side=8, name="cat.jpg")
    with pytest.raises(InputError, match="more than 89,478,485 pixels"):
        images.thumbnail(png_of(10_000, 10_000), side=8)
