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


def test_an_orientation_in_a_file_of_another_kind_counts_as_well():
    for kind, options in (
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
    ):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        upright = smooth(16, 16)
        data = saved(upright.transpose(INVERSE[6]), kind, exif=exif, **options)
        np.testing.assert_allclose(
            decode(data, size=16, channels=3).astype(int), np.asarray(upright).astype(int), atol=12
        )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        (3, 1, b"\0\0\0\0"),
        (3, 1, b"\0\x09\0\0"),
        (3, 1, b"\xff\xff\0\0"),
        (2, 2, b"6\0\0\0"),
        (5, 1, b"\xff\xff\xff\xff"),
    ],
    ids=["0", "9", "65535", "text", "a fraction out of the file"],
)
def test_an_orientation_that_is_none_leaves_the_picture_as_stored(kind, count, value):
    lie = struct.pack(">HHI", ExifTags.Base.Orientation, kind, count) + value
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + lie + bytes(4)
    pixels = decode(saved(picture(), exif=exif), size=16, channels=3)
    np.testing.assert_array_equal(pixels, np.asarray(picture()))


def test_exif_that_lies_about_the_size_and_the_thumbnail_changes_no_pixel():
    exif = Image.Exif()
    exif[ExifTags.Base.ImageWidth] = exif[ExifTags.Base.ImageLength] = 9
    thumbnail = saved(Image.new("RGB", (4, 4), "red"), "JPEG")
    plain = saved(smooth(16, 16), "JPEG")
    for lie in (exif.tobytes(), b"Exif\0\0" + thumbnail):
        data = saved(smooth(16, 16), "JPEG", exif=lie)
        np.testing.assert_array_equal(
            decode(data, size=16, channels=3), decode(plain, size=16, channels=3)
        )


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


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, colour: int, row: bytes, *chunks: bytes, side: int = 8) -> bytes:
    """A PNG of equal rows, from the bytes of one."""
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * side)
    before = b"".join([chunk(b"IHDR", header), *chunks])
    return b"\x89PNG\r\n\x1a\n" + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def words(*values: int, order: str = ">") -> bytes:
    return struct.pack(f"{order}{len(values)}H", *values)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear", "other", "pixel"),
    [
        (1, 0, b"\x00", words(0), words(1), [0, 0, 0]),
        (2, 0, b"\x55" * 2, words(1), words(2), [85, 85, 85]),
        (4, 0, b"\x77" * 4, words(7), words(119), [119, 119, 119]),
        (8, 0, b"\x07" * 8, words(7), words(8), [7, 7, 7]),
        (16, 0, words(0x1234) * 8, words(0x1234), words(0x1235), [0x12] * 3),
        (8, 2, bytes([1, 2, 3]) * 8, words(1, 2, 3), words(1, 2, 4), [1, 2, 3]),
        (16, 2, words(0x1234, 0, 0xFFFF) * 8, words(0x1234, 0, 0xFFFF), words(0, 0, 0xFFFF),
         [0x12, 0, 0xFF]),
    ],
)  # fmt: skip
def test_the_colour_that_a_png_declares_transparent_becomes_white_at_every_depth(
    depth, colour, row, clear, other, pixel
):
    white, kept = (
        decode(png(depth, colour, row, chunk(b"tRNS", declared)), size=8, channels=3)
        for declared in (clear, other)
    )
    assert white.min() == 255
    assert (kept == pixel).all()


def test_a_palette_has_a_transparency_for_each_colour():
    palette = chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]))
    data = png(8, 3, bytes([0, 1, 2, 3] * 2), palette, chunk(b"tRNS", bytes([0, 128, 255])))
    expected = [[255, 255, 255], [255, 127, 127], [0, 255, 0], [0, 0, 255]]
    assert decode(data, size=8, channels=3)[0, :4].tolist() == expected


@pytest.mark.parametrize(
    ("colour", "row", "pixel"),
    [
        (2, words(0x1234, 0x80FF, 0xFFFF) * 8, [0x12, 0x80, 0xFF]),
        (4, words(0x1234, 0xFFFF) * 8, [0x12] * 3),
        (4, words(0, 0x8000) * 8, [127] * 3),
        (6, words(0, 0, 0, 0x8000) * 8, [127] * 3),
    ],
    ids=["RGB", "grey", "half transparent grey", "half transparent RGB"],
)
def test_of_sixteen_bits_the_high_byte_is_kept(colour, row, pixel):
    assert (decode(png(16, colour, row), size=8, channels=3) == pixel).all()


def tiff(bits: int, photometric: int, row: bytes, *, samples: int = 1, extra=None) -> bytes:
    """A little-endian TIFF of 8 equal rows, from the bytes of one."""
    tags = {
        256: (4, [8]), 257: (4, [8]), 258: (3, [bits] * samples), 259: (3, [1]),
        262: (3, [photometric]), 273: (4, [0]), 277: (3, [samples]), 278: (4, [8]),
        279: (4, [8 * len(row)]),
    }  # fmt: skip
    if extra is not None:
        tags[338] = (3, [extra])
    start = 8 + 2 + 12 * len(tags) + 4
    bodies = {
        tag: struct.pack(f"<{len(v)}{' HI'[kind - 2]}", *v) for tag, (kind, v) in tags.items()
    }
    far = b"".join(body for body in bodies.values() if len(body) > 4)
    bodies[273] = struct.pack("<I", start + len(far))
    entries, at = b"", start
    for tag, body in bodies.items():
        kind, values = tags[tag]
        where = body.ljust(4, b"\0") if len(body) <= 4 else struct.pack("<I", at)
        at += len(body) if len(body) > 4 else 0
        entries += struct.pack("<HHI", tag, kind, len(values)) + where
    return (
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + far + 8 * row
    )


def little(*values: int) -> bytes:
    return words(*values, order="<")


@pytest.mark.parametrize(
    ("data", "pixel"),
    [
        (tiff(16, 1, little(0x1234) * 8), [0x12] * 3),
        (tiff(16, 0, little(0x1234) * 8), [0xED] * 3),
        (tiff(8, 0, b"\x12" * 8), [0xED] * 3),
        (tiff(1, 0, b"\x00"), [255] * 3),
        (tiff(4, 1, b"\x77" * 4), [0x77] * 3),
        (tiff(16, 2, little(0x1234, 0x80FF, 0) * 8, samples=3), [0x12, 0x80, 0]),
        (tiff(16, 2, little(0x4000, 0, 0, 0x8000) * 8, samples=4, extra=1), [191, 127, 127]),
        (tiff(8, 2, bytes([64, 0, 0, 128]) * 8, samples=4, extra=2), [159, 127, 127]),
        (tiff(8, 2, bytes([64, 0, 0, 128]) * 8, samples=4, extra=0), [64, 0, 0]),
        (tiff(8, 5, bytes([0, 0, 0, 255]) * 8, samples=4), [0, 0, 0]),
        (tiff(16, 5, little(0, 0, 0, 0) * 8, samples=4), [255, 255, 255]),
    ],
    ids=[
        "16-bit grey", "16-bit grey, 0 is white", "8-bit grey, 0 is white", "1 bit, 0 is white",
        "4-bit grey", "16-bit RGB", "16-bit RGB times alpha", "RGB and alpha",
        "RGB and a channel of no meaning", "CMYK", "16-bit CMYK",
    ],
)  # fmt: skip
def test_every_layout_of_a_tiff_becomes_rgb(data, pixel):
    assert (decode(data, size=8, channels=3) == pixel).all()


def test_a_lab_tiff_keeps_its_colours():
    red = tiff(8, 8, bytes([138, 81, 70]) * 8, samples=3)  # L 54, a 81, b 70, under D50
    np.testing.assert_allclose(decode(red, size=8, channels=3)[0, 0], [255, 0, 0], atol=8)


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


def test_a_cmyk_jpeg_is_inverted_with_and_without_adobes_marker():
    data = saved(Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"), "JPEG")
    start = data.index(b"\xff\xee")  # APP14
    (length,) = struct.unpack_from(">H", data, start + 2)
    bare = data[:start] + data[start + 2 + length :]
    np.testing.assert_array_equal(
        decode(bare, size=8, channels=3), decode(data, size=8, channels=3)
    )


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"keep_rgb": True}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("side", [16, 300])
def test_every_kind_of_jpeg_gives_the_same_picture(options, side):
    plain, other = (
        decode(
            saved(smooth(side, side), "JPEG", quality=95, subsampling=0, **more), size=8, channels=3
        )
        for more in ({}, options)
    )
    np.testing.assert_allclose(other.astype(int), plain.astype(int), atol=4)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_is_taken(kind, tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "frames", kind, save_all=True, append_images=frames[1:])
    data = (tmp_path / "frames").read_bytes()
    with Image.open(tmp_path / "frames") as image:
        assert image.n_frames == 2
    np.testing.assert_allclose(decode(data, size=8, channels=3)[0, 0], [255, 0, 0], atol=2)


def test_of_an_animated_png_the_picture_that_plain_viewers_show_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    still = Image.new("RGB", (8, 8), "lime")
    data = saved(still, save_all=True, append_images=frames, default_image=True)
    assert decode(data, size=8, channels=3)[0, 0].tolist() == [0, 255, 0]


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


def zeros_after(data: bytes, kept: int) -> bytes:
    """What a download that took its space first and then broke off leaves."""
    return data[:kept] + bytes(len(data) - kept)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no image"),
        (b"no image at all", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (saved(smooth(64, 64), "JPEG")[:-200], "damaged image"),
        (zeros_after(saved(smooth(64, 64), "JPEG"), 700), "damaged image .*it has no end"),
        (
            zeros_after(
                saved(smooth(64, 64), "JPEG", exif=b"Exif\0\0" + saved(smooth(8, 8), "JPEG")), 1400
            ),
            "damaged image .*it has no end",
        ),
        (saved(picture())[:-60], "damaged image"),
        (saved(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
    ids=[
        "empty", "text", "postscript", "short JPEG", "JPEG ending in zeros",
        "JPEG with a thumbnail ending in zeros", "short PNG", "float TIFF",
    ],
)  # fmt: skip
def test_what_is_no_whole_image_is_refused_by_name(data, problem):
    with pytest.raises(InputError, match=f"^cat.jpg: {problem}"):
        decode(data, size=8, channels=3, name="cat.jpg")


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("kind", "options", "spare"),
    [
        ("JPEG", {}, 0),
        ("JPEG", {"progressive": True}, 0),
        ("PNG", {}, 20),  # bytes at the end that hold no pixel
        ("WEBP", {}, 0),
        ("GIF", {}, 2),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("PPM", {}, 0),
    ],
)
def test_a_file_cut_short_anywhere_is_refused(kind, options, spare):
    data = saved(picture(24), kind, **options)
    for length in range(0, len(data) - spare, 29):
        with pytest.raises(InputError):
            decode(data[:length], size=8, channels=3)


def test_a_jpeg_with_something_behind_its_end_is_read():
    data = saved(smooth(16, 16), "JPEG")
    longer = data + b"\xff\xda video of a phone" + bytes(50)
    np.testing.assert_array_equal(
        decode(longer, size=8, channels=3), decode(data, size=8, channels=3)
    )


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def claiming(kind: str) -> bytes:
    """A small file that claims 60,000 x 60,000 pixels."""
    data, small = saved(Image.new("RGB", (17, 19)), kind), (17, 19)
    places = {
        "JPEG": struct.pack(">HH", *small[::-1]),
        "GIF": struct.pack("<HH", *small),
        "BMP": struct.pack("<ii", *small),
        "PPM": b"17 19",
    }
    claims = {
        "JPEG": struct.pack(">HH", 60_000, 60_000),
        "GIF": struct.pack("<HH", 60_000, 60_000),
        "BMP": struct.pack("<ii", 60_000, 60_000),
        "PPM": b"60000 60000",
    }
    assert places[kind] in data
    return data.replace(places[kind], claims[kind])


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "PPM"])
def test_a_decompression_bomb_of_every_kind_is_refused(kind):
    with pytest.raises(InputError, match="more than 89,478,485 pixels"):
        decode(claiming(kind), size=8, channels=3)


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


def test_the_versions_that_determine_pixels_are_told():
    versions = images.decoders()
    assert versions["pillow"] == Image.__version__
    assert versions["jpg"] == features.version("jpg")
