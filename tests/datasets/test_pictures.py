"""The pixels of image files, whatever their form."""

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from support.refusals import wrong

from datasets.image_lists import read_tree
from datasets.pictures import CLIPPED, DARK, FIRST, ON_WHITE, decode, readable_endings

COLOUR, CLEAR, BLACK, WHITE = (200, 100, 50), (0, 0, 0, 0), (0, 0, 0), (255, 255, 255)


def seen(path):
    """The first and the last pixel of a file, and what was done to it."""
    image, done = decode(path, upright=True)
    assert image.mode == "RGB"
    return [image.getpixel(at) for at in ((0, 0), (image.width - 1, image.height - 1))], done


FORMATS = {"x.jpg": "RGB", "x.JPEG": "L", "x.webp": "RGB", "x.gif": "P", "x.bmp": "RGB", "x.tiff": "CMYK",
           "spaces é.png": "LA", "x.png": "RGBA", "x.heic": "RGB", "x.avif": "RGB"}  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), FORMATS.items())
def test_any_format_is_read(tmp_path, name, mode):
    readable_endings()
    (tmp_path / "a").mkdir()
    Image.new("RGB", (40, 24), COLOUR).convert(mode).save(tmp_path / "a" / name)
    assert read_tree(tmp_path, ["a"]).paths == [f"a/{name}"]
    (first, _), done = seen(tmp_path / "a" / name)
    wanted = (124, 124, 124) if mode in ("L", "LA") else COLOUR
    assert mode == "P" or np.abs(np.subtract(first, wanted)).max() <= 6
    assert done == set()


GREYS = [  # the kind of a picture, a value of it, the grey from 0 to 255, and what is said
    (np.uint16, 4095, 15, {DARK}), (np.uint16, 65535, 255, set()), (np.uint16, 300 * 257 // 4, 75, set()),
    (np.float32, 1, 255, set()), (np.float32, 0.5, 127, set()), (np.float32, 1.02, 255, {CLIPPED}),
    (np.float32, -1, 0, {CLIPPED}), (np.float32, np.nan, 0, {CLIPPED}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "grey", "done"), GREYS)
def test_greys_go_over_the_range_of_their_kind_whatever_their_largest(tmp_path, kind, value, grey, done):
    Image.fromarray(np.full((3, 3), value, kind)).save(tmp_path / "x.tiff")
    assert seen(tmp_path / "x.tiff") == ([3 * (grey,)] * 2, done)


def test_decoders_are_known_wherever_an_image_is_read_first(tmp_path, monkeypatch):
    pillow_heif.from_pillow(Image.new("RGB", (40, 24), COLOUR)).save(tmp_path / "x.heic")
    readable_endings.cache_clear()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    assert decode(tmp_path / "x.heic", True).image.size == (40, 24)


def test_sixteen_bits_of_a_pgm(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([0x80, 0, 0xFF, 0xFF]))
    assert seen(tmp_path / "x.pgm")[0] == [(127, 127, 127), WHITE]


UNREADABLE = "bytes) cannot be read as an image: remove or replace it"
WRONG = [  # what a file holds, or its pixels; the words
    (np.full((4, 4), 255, np.float32), "has floats up to 255, outside 0 to 1"),
    (np.full((4, 4), 9, np.int32), "has 32-bit integers"), (b"", f"(0 {UNREADABLE}"), (b"no image", f"(8 {UNREADABLE}"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNREADABLE), (b"\x89HDF\r\n\x1a\n" + bytes(50), UNREADABLE),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), WRONG)
def test_what_is_no_picture_or_of_a_range_that_nothing_says_is_named(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile._open", None)  # no interpreter is started, whatever it is called
    path = tmp_path / ("x.png" if isinstance(content, bytes) else "x.tiff")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    said = wrong(decode, path, True)
    assert said.startswith(f"{path} ")
    assert words in said


@pytest.mark.parametrize("ending", ["tiff", "gif", "webp", "png"])
def test_of_several_pictures_the_first_is_taken_and_that_is_said(tmp_path, ending):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    for more in ([second, first], []):
        first.save(tmp_path / f"x.{ending}", save_all=True, append_images=more)
        (pixel, _), done = seen(tmp_path / f"x.{ending}")
        assert np.abs(np.subtract(pixel, (250, 0, 0))).max() <= 8
        assert done == ({FIRST} if more else set())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    alone = mode in ("P", "RGB")  # one colour stands for clear
    image = Image.new("RGB", (8, 8), (9, 9, 9)) if alone else Image.new("RGBA", (8, 8), CLEAR)
    image.paste(BLACK, (0, 0, 8, 4))  # the upper half
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "x.png", **({"transparency": image.getpixel((0, 7))} if alone else {}))
    assert seen(tmp_path / "x.png") == ([BLACK, WHITE], {ON_WHITE})


def test_a_damaged_exif_block_leaves_the_pixels_readable(tmp_path):
    Image.new("RGB", (40, 24), COLOUR).save(tmp_path / "x.jpg")
    whole, content = seen(tmp_path / "x.jpg"), (tmp_path / "x.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\0\0\0\x01"
    (tmp_path / "x.jpg").write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    assert seen(tmp_path / "x.jpg") == whole


def test_a_large_image_is_read_and_one_whose_short_side_would_make_it_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # of more Pillow warns
    Image.new("RGB", (10, 60)).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", True, resize_size=9).image.size == (10, 60)
    assert "is far too narrow (10 x 60)" in wrong(decode, tmp_path / "x.png", True, resize_size=13)
