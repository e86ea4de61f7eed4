"""The pixels of image files, whatever their form."""

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from support.refusals import wrong

from datasets.image_lists import read_tree
from datasets.pictures import CLIPPED, FIRST, ON_WHITE, decode, done_notes

COLOUR = (200, 100, 50)


def picture(path, size=(40, 24), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOUR).convert(mode).save(path, **options)


def test_what_is_no_format_of_pictures_is_not_opened(tmp_path, monkeypatch):
    """Nor is an interpreter started on it, whatever it is called."""
    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile._open", None)
    for name, content in (("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), ("x.h5", b"\x89HDF\r\n\x1a\n")):
        (tmp_path / name).write_bytes(content + bytes(50))
        assert "cannot be read as an image" in wrong(decode, tmp_path / name, True)


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [("x.jpg", "RGB", (500, 300)), ("x.JPEG", "L", (32, 32)), ("x.png", "RGBA", (8, 8)), ("x.png", "P", (33, 31)),
     ("x.png", "1", (64, 64)), ("x.webp", "RGB", (40, 40)), ("x.gif", "P", (40, 40)), ("x.bmp", "RGB", (1, 1)),
     ("x.tiff", "CMYK", (40, 40)), ("x with spaces é.png", "LA", (40, 40)), ("x.heic", "RGB", (64, 48)),
     ("x.avif", "RGB", (64, 48))],
)  # fmt: skip
def test_any_size_and_format_is_read(tmp_path, name, mode, size):
    pillow_heif.register_heif_opener()
    picture(tmp_path / "a" / name, size=size, mode=mode)
    assert read_tree(tmp_path, None).paths == [f"a/{name}"]
    image = decode(tmp_path / "a" / name, upright=True).image
    assert (image.mode, image.size) == ("RGB", size)
    wanted = (124, 124, 124) if mode in ("L", "LA") else COLOUR
    assert mode in ("1", "P") or np.abs(np.subtract(image.getpixel((0, 0)), wanted)).max() <= 6


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    grey = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "x.png")
    ours = np.asarray(decode(tmp_path / "x.png", upright=True).image)
    assert np.abs(ours[..., 0].astype(float) - grey / 257).max() <= 1
    assert (ours[..., 0] == ours[..., 2]).all()
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([0x80, 0, 0xFF, 0xFF]))
    assert np.asarray(decode(tmp_path / "x.pgm", True).image)[0, :, 0].tolist() == [127, 255]


FLOATS = {"floats": (1.0, 1.0), "a glint": (1.02, 1.0), "dim": (0.5, 0.5), "below": (-1.0, 1.0)}  # one value, the most


@pytest.mark.parametrize(("one", "most"), FLOATS.values(), ids=FLOATS)
def test_floats_go_from_0_to_1_whatever_their_largest(tmp_path, one, most):
    values = np.linspace(0, most, 32 * 32, dtype=np.float32).reshape(32, 32)
    values[5, 5] = one
    Image.fromarray(values).save(tmp_path / "x.tiff")
    image, done = decode(tmp_path / "x.tiff", upright=True)
    assert np.abs(np.asarray(image)[..., 0] - values.clip(0, 1) * 255).max() <= 1
    assert done == ({CLIPPED} if one not in (0.5, 1.0) else set())


@pytest.mark.parametrize(("top", "kind", "words"), [
    (255, np.float32, "has floats up to 255, which are read from 0 to 1"),
    (255, np.int32, "has 32-bit integers"), (65535, np.int32, "has 32-bit integers"),
])  # fmt: skip
def test_a_range_that_nothing_says_is_refused(tmp_path, top, kind, words):
    Image.fromarray(np.full((4, 4), top, kind)).save(tmp_path / "x.tiff")
    assert wrong(decode, tmp_path / "x.tiff", True).startswith(f"{tmp_path}/x.tiff {words}")


@pytest.mark.parametrize("ending", ["tiff", "gif", "webp", "png"])
def test_of_several_pictures_the_first_is_taken_and_that_is_said(tmp_path, ending):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    first.save(tmp_path / f"x.{ending}", save_all=True, append_images=[second, first])
    image, done = decode(tmp_path / f"x.{ending}", True)
    assert np.abs(np.subtract(image.getpixel((3, 3)), (250, 0, 0))).max() <= 8
    assert done == {FIRST}
    assert done_notes([done, done, frozenset()]) == [f"{FIRST}: 2"]
    first.save(tmp_path / f"x.{ending}")
    assert decode(tmp_path / f"x.{ending}", True).done == set()


def test_images_are_turned_upright_if_that_is_wanted(tmp_path):
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 16))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    upright, stored = (np.asarray(decode(tmp_path / "x.jpg", upright=wanted).image) for wanted in (True, False))
    assert upright[-4:].mean() > 200 > 50 > upright[:4].mean()
    assert stored[:4].mean() > 200 > 50 > stored[-4:].mean()


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "bad.png"
    if content is None:  # cut in the middle
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:5000]
    path.write_bytes(content)
    assert f"{path} ({len(content)} bytes) cannot be read as an image: remove or replace it" in wrong(decode, path, True)
    path.unlink()
    assert f"{path} is missing" in wrong(decode, path, True)
    assert "is missing" in wrong(decode, tmp_path / ("d" * 5000), True)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 4))  # the upper half
    if mode in ("P", "RGB"):  # one colour stands for clear
        image = Image.new("RGB", (8, 8), (9, 9, 9))
        image.paste((0, 0, 0), (0, 0, 8, 4))
        image = image.quantize(2) if mode == "P" else image
        image.save(tmp_path / "x.png", transparency=image.getpixel((0, 7)))
    else:
        image.convert(mode).save(tmp_path / "x.png")
    decoded, done = decode(tmp_path / "x.png", upright=True)
    assert (decoded.getpixel((0, 0)), decoded.getpixel((0, 7)), done) == ((0, 0, 0), (255, 255, 255), {ON_WHITE})
    Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(tmp_path / "x.png")  # the control: nothing of it is transparent
    decoded, done = decode(tmp_path / "x.png", upright=True)
    assert (decoded.getpixel((0, 0)), done) == ((1, 2, 3), set())


def test_a_damaged_exif_block_leaves_the_pixels_readable(tmp_path):
    picture(tmp_path / "x.jpg")
    whole = np.asarray(decode(tmp_path / "x.jpg", upright=True).image)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\0\0\0\x01"
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    assert (np.asarray(decode(tmp_path / "x.jpg", upright=True).image) == whole).all()


def test_a_large_image_is_read_and_an_absurdly_large_or_thin_one_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    picture(path, size=(40, 30))  # large, Pillow warns
    decode(path, upright=True)
    picture(path, size=(60, 60))  # more than twice the limit
    assert f"{path} (" in wrong(decode, path, True)
    picture(path, size=(10, 60))
    assert decode(path, True, resize_size=12).image.size == (10, 60)
    assert "is far too narrow (10 x 60)" in wrong(decode, path, True, resize_size=13)
