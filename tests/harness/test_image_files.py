"""Which files of a folder are images, and their pixels, in any form."""

import os
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from support.refusals import wrong

from harness import image_files, image_formats
from harness.image_files import class_folders, decode


def picture(path, colour=(200, 100, 50), size=(40, 24), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    for name in ("b", "a"):
        for i in (2, 0, 1):
            picture(tmp_path / name / f"{i}.png")
    return tmp_path


def test_files_come_class_by_class_from_any_depth_in_alphabetical_order(tree):
    picture(tree / "a" / "deep" / "er" / "x.jpg")
    (tree / "c").mkdir()
    (tree / "file").touch()
    found = class_folders(tree, None, "")
    assert found.paths == ["a/0.png", "a/1.png", "a/2.png", "a/deep/er/x.jpg", "b/0.png", "b/1.png", "b/2.png"]
    assert found.labels == [0] * 4 + [1] * 3
    assert found.class_names == ["a", "b", "c"]
    assert found.notes(tree) == []


def test_classes_that_are_known_may_be_missing_but_there_may_be_no_new_ones(tree):
    assert class_folders(tree, ["0", "b", "a"], "").labels == [2] * 3 + [1] * 3
    assert f"{tree}/b is a class that the training set does not have" in wrong(class_folders, tree, ["a"], "")


def test_what_is_left_out_is_counted_by_reason(tree):
    for name in ("notes.txt", ".hidden.png", "README", "deep/.git/x.png"):
        (tree / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "a" / name).write_text("x")
    (tree / "a" / "plan.pdf").write_text("Pillow writes this form, it does not read it")
    (tree / "a" / "0.png").rename(tree / "a" / "picture")  # an image without an ending
    for name in ("1.HEIC", "2.heic", "3.nef"):
        (tree / "b" / name).touch()
    (tree / "b" / "gone.png").symlink_to(tree / "nowhere.png")
    (tree / "b" / "loop").symlink_to(tree / "b")
    picture(tree / "beside.png")
    for name in ("list.txt", ".DS_Store"):
        (tree / name).touch()
    (tree / ".git").mkdir()
    found = class_folders(tree, None, "")
    assert (len(found.paths), sum(found.left_out.values())) == (6, 11)
    assert "a/picture" in found.paths
    assert found.notes(tree) == [
        f"{tree}: files left out: 2 hidden, 2 in a format that cannot be read here (.heic: convert to JPEG or PNG), "
        "1 in a format that cannot be read here (.nef: convert to JPEG or PNG), 1 in no class folder, "
        "1 link to a folder above, 1 link to nothing, 3 not images"
    ]


def test_links_are_followed(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    picture(elsewhere / "deep" / "x.png")
    (tree / "a" / "more").symlink_to(elsewhere)
    (tree / "c").symlink_to(elsewhere / "deep")
    found = class_folders(tree, None, "")
    assert found.paths == [
        *(f"a/{i}.png" for i in range(3)),
        "a/more/deep/x.png",
        *(f"b/{i}.png" for i in range(3)),
        "c/x.png",
    ]
    assert found.notes(tree) == []


def test_classes_that_are_one_folder_are_said(tree):
    (tree / "c").symlink_to(tree / "a")
    found = class_folders(tree, None, "")
    assert found.labels == [0] * 3 + [1] * 3 + [2] * 3
    assert found.notes(tree) == [f"{tree}: the classes a and c are one folder, by a link"]


def test_classes_keep_their_order_whatever_sorts_before_a_slash(tmp_path):
    for name in ("a", "a b", "a!"):
        picture(tmp_path / name / "0.png")
    found = class_folders(tmp_path, None, "")
    assert (found.paths, found.labels) == (["a/0.png", "a b/0.png", "a!/0.png"], [0, 1, 2])


def test_nothing_that_has_an_ending_is_opened(tree, monkeypatch):
    """A look at a million files takes long."""
    monkeypatch.setattr(image_formats.Image, "open", None)
    monkeypatch.setattr("builtins.open", None)
    assert len(class_folders(tree, None, "").paths) == 6


def test_what_is_no_regular_file_is_counted_and_never_opened(tree):
    """A pipe that is opened is waited for without end."""
    os.mkfifo(tree / "a" / "p.png")
    os.mkfifo(tree / "a" / "no_ending")
    os.mkfifo(tree / "beside.png")
    (tree / "b" / "null.jpg").symlink_to(os.devnull)
    found = class_folders(tree, None, "")
    assert len(found.paths) == 6
    assert found.notes(tree) == [f"{tree}: files left out: 3 not regular files"]
    for path in (tree / "a/p.png", os.devnull):
        assert f"{path} is a pipe, socket or device, not an image file" in wrong(decode, path, True)
    assert f"{tree}/a is a folder, not an image file" in wrong(decode, tree / "a", True)


def test_folders_are_read_at_any_depth(tree, nest):
    """More of them than Python's functions may call one another."""
    nest(tree / "a", "d", 1050)
    picture(tree / "x.png")
    os.rename(tree / "x.png", "x.png")
    paths = class_folders(tree, None, "").paths
    assert "a/" + 1050 * "d/" + "x.png" in paths
    assert len(paths) == 7


def test_a_path_that_is_too_long_is_named_in_one_line(tree, nest):
    nest(tree / "a", 200 * "d", 25)
    assert "cannot be read (File name too long): advice" in wrong(class_folders, tree, None, "advice")
    assert "cannot be read (File name too long)" in wrong(decode, tree / ("d" * 5000), True)


def test_formats_of_which_pillow_reads_no_pixels_are_not_images(tree):
    """It knows how they begin, and fails when it is asked for the pixels."""
    for ending in ("h5", "hdf", "grib", "bufr", "wmf", "emf", "mpg", "mpeg"):
        (tree / "a" / f"x.{ending}").write_bytes(b"\0\0\1\xb3\x14\0\xf0" + bytes(50))
    (tree / "a" / "data").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    assert class_folders(tree, None, "").notes(tree) == [f"{tree}: files left out: 9 not images"]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
FOREIGN = [
    ("HEIC", HEIC), ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"), ("JPEG XL", b"\xff\x0a\1\1"),
    ("a camera's raw format", b"II*\0\x10\0\0\0CR\2\0"), ("a camera's raw format", b"\0\0\0\x18ftypcrx \0\0\0\1crx "),
]  # fmt: skip


@pytest.mark.parametrize(("form", "content"), FOREIGN)
def test_a_format_that_cannot_be_read_is_named_whatever_the_ending(tree, form, content):
    for name in ("x.jpg", "x"):
        (tree / "a" / name).write_bytes(content + bytes(100))
        said = wrong(decode, tree / "a" / name, True)
        assert said == f"{tree}/a/{name} is {form}, which cannot be read here: convert it to JPEG or PNG"
    assert class_folders(tree, None, "").notes(tree) == [  # the other is seen when it is read
        f"{tree}: files left out: 1 in a format that cannot be read here ({form}: convert to JPEG or PNG)"
    ]


def test_an_ending_names_the_format_of_what_cannot_be_read_but_not_of_a_damaged_image(tmp_path):
    avif = "(5 bytes) cannot be read as" if ".avif" in image_formats.readable_endings() else "is AVIF, which"
    for name, words in (("x.HIF", "is HEIC, which"), ("x.avif", avif), ("x.png", "(5 bytes) cannot be read as")):
        (tmp_path / name).write_bytes(bytes(5))
        assert words in wrong(decode, tmp_path / name, True)


def chunk(name, data, crc=None):
    return len(data).to_bytes(4, "big") + name + data + (zlib.crc32(name + data) if crc is None else crc).to_bytes(4, "big")


@pytest.mark.parametrize(
    "extra",
    [chunk(b"tEXt", b"a\0b", 1), chunk(b"eXIf", b"II*\0", 1), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27))),
     chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**27)))],
)  # fmt: skip
def test_what_surrounds_the_pixels_of_a_png_may_be_damaged_or_too_large(tmp_path, extra):
    kept = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(kept, "PNG", transparency=tuple(pixels[0, 0].tolist()))
    whole, path = kept.getvalue(), tmp_path / "x.png"
    path.write_bytes(whole)
    wanted = decode(path, upright=True)
    path.write_bytes(whole[:33] + extra + whole[33:])
    ours = decode(path, upright=True)
    assert ours.laid_on_white
    assert (np.asarray(ours.image) == np.asarray(wanted.image)).all()
    for content in (whole[:2000], whole[:2000] + b"x" + whole[2001:]):  # the control: the pixels themselves
        path.write_bytes(content[:33] + extra + content[33:])
        assert "cannot be read as an image" in wrong(decode, path, True)


def test_folders_that_are_missing_or_hold_no_image_are_named_with_advice(tmp_path):
    said = wrong(class_folders, tmp_path / "no", None, "put it there")
    assert said == f"{tmp_path}/no cannot be read (No such file or directory): put it there"
    (tmp_path / "empty" / "a").mkdir(parents=True)
    said = wrong(class_folders, tmp_path / "empty", None, "put it there")
    assert said == f"{tmp_path}/empty holds no image in a format that can be read: put it there"


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [("x.jpg", "RGB", (500, 300)), ("x.JPEG", "L", (32, 32)), ("x.png", "RGBA", (8, 8)), ("x.png", "P", (33, 31)),
     ("x.png", "1", (64, 64)), ("x.webp", "RGB", (40, 40)), ("x.gif", "P", (40, 40)), ("x.bmp", "RGB", (1, 1)),
     ("x.tiff", "CMYK", (40, 40)), ("x with spaces é.png", "LA", (40, 40))],
)  # fmt: skip
def test_any_size_and_format_is_read(tmp_path, name, mode, size):
    picture(tmp_path / "a" / name, size=size, mode=mode)
    assert class_folders(tmp_path, None, "").paths == [f"a/{name}"]
    image = decode(tmp_path / "a" / name, upright=True).image
    assert (image.mode, image.size) == ("RGB", size)
    wanted = (124, 124, 124) if mode in ("L", "LA") else (200, 100, 50)
    assert mode in ("1", "P") or np.abs(np.subtract(image.getpixel((0, 0)), wanted)).max() <= 3


def test_sixteen_bit_greys_are_scaled_not_cut(tmp_path):
    grey = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "x.png")
    ours = np.asarray(decode(tmp_path / "x.png", upright=True).image)
    assert np.abs(ours[..., 0].astype(float) - grey / 257).max() <= 1
    assert (ours[..., 0] == ours[..., 2]).all()


@pytest.mark.parametrize(("mode", "top"), [("I", 255), ("I", 65535), ("I", 10**6), ("F", 1.0), ("F", 255.0)])
def test_greys_of_32_bits_keep_their_range(tmp_path, mode, top):
    values = np.linspace(0, top, 32 * 32).reshape(32, 32)
    Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32)).save(tmp_path / "x.tiff")
    ours = np.asarray(decode(tmp_path / "x.tiff", upright=True).image)[..., 0].astype(float)
    assert np.abs(ours - values / top * 255).max() <= 2


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


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 4))  # the upper half
    if mode in ("P", "RGB"):  # one colour stands for clear
        image = Image.new("RGB", (8, 8), (9, 9, 9))
        image.paste((0, 0, 0), (0, 0, 8, 4))
        image = image.quantize(2) if mode == "P" else image
        clear = image.getpixel((0, 7))
        image.save(tmp_path / "x.png", transparency=clear)
    else:
        image = image.convert("LA") if mode == "LA" else image
        image.save(tmp_path / "x.png")
    decoded, laid_on_white = decode(tmp_path / "x.png", upright=True)
    assert (decoded.getpixel((0, 0)), decoded.getpixel((0, 7)), laid_on_white) == ((0, 0, 0), (255, 255, 255), True)
    Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(tmp_path / "x.png")  # the control: nothing of it is transparent
    decoded, laid_on_white = decode(tmp_path / "x.png", upright=True)
    assert (decoded.getpixel((0, 0)), laid_on_white) == ((1, 2, 3), False)


def test_a_damaged_exif_block_leaves_the_pixels_readable(tmp_path, monkeypatch):
    picture(tmp_path / "x.jpg")
    whole = np.asarray(decode(tmp_path / "x.jpg", upright=True).image)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\0\0\0\x01"
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    assert (np.asarray(decode(tmp_path / "x.jpg", upright=True).image) == whole).all()
    monkeypatch.setattr(image_files.ImageOps, "exif_transpose", lambda image: 1 / 0)  # whatever it raises
    assert (np.asarray(decode(tmp_path / "x.jpg", upright=True).image) == whole).all()


def test_a_large_image_is_read_and_an_absurdly_large_one_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    picture(tmp_path / "a" / "0", size=(40, 30), format="PNG")  # large, Pillow warns
    decode(tmp_path / "a" / "0", upright=True)
    picture(tmp_path / "a" / "0", size=(60, 60), format="PNG")  # more than twice the limit
    assert class_folders(tmp_path, None, "").paths == ["a/0"]  # to be named when it is read
    assert "a/0 is absurdly large" in wrong(decode, tmp_path / "a" / "0", True)
