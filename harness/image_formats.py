"""Formats of image files: which can be read, which other ones photographs come in, and what surrounds a PNG's pixels."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageFile

# Endings of photographs and drawings in formats that Pillow does not read, or not everywhere.
OTHER_FORMATS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"), **dict.fromkeys((".svg", ".svgz"), "SVG"),
    ".avif": "AVIF", ".jxl": "JPEG XL", ".exr": "OpenEXR", ".dcm": "DICOM", ".xcf": "XCF",
    **dict.fromkeys(
        (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".rwl"), "a camera's raw format"
    ),
}  # fmt: skip
# How such files begin, whatever their names.
BEGINNINGS = {
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL", b"\x76\x2f\x31\x01": "OpenEXR", b"gimp xcf": "XCF",
    b"II*\0\x10\0\0\0CR": "a camera's raw format", b"FUJIFILMCCD-RAW": "a camera's raw format",
    **dict.fromkeys((b"IIU\0", b"IIRO", b"IIRS", b"MMOR"), "a camera's raw format"),
}  # fmt: skip
BRANDS = {  # of files of ISO's form: "ftyp" at the fifth byte, the brand, a version, more brands
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
    b"avif": "AVIF", b"avis": "AVIF", b"crx ": "a camera's raw format",
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


def readable_formats() -> set[str]:
    """Return the names of the formats whose pixels Pillow reads; of some others it knows no more than how they begin."""
    Image.init()
    return {
        form
        for form, (opener, _) in Image.OPEN.items()
        if form != "MPEG" and not (isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile))
    }


def readable_endings() -> set[str]:
    """Return the endings of the files that Pillow reads."""
    forms = readable_formats()
    return {ending for ending, form in Image.registered_extensions().items() if form in forms}


def is_image(path: Path) -> bool:
    """Return whether the content is that of an image."""
    try:
        with Image.open(path, formats=sorted(readable_formats())):
            return True
    except Image.DecompressionBombError:
        return True  # to be named when it is read
    except OSError:
        return False


def other_format(path: Path) -> str | None:
    """Return which format that cannot be read a file is in, by its first bytes or its ending; None: in none known."""
    head = b""
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(32)
    form = next((form for beginning, form in BEGINNINGS.items() if head.startswith(beginning)), None)
    if head[4:8] == b"ftyp":
        form = next((BRANDS[b] for b in (head[8:12], head[16:20], head[20:24], head[24:28]) if b in BRANDS), None)
    form = form or OTHER_FORMATS.get(path.suffix.lower())
    return None if form in readable_formats() else form  # AVIF is, where Pillow has its library


def png_without_extras(path: Path) -> bytes | None:
    """Return a PNG without the chunks that its pixels do not need (PNG 3, section 5.4), None for another format."""
    content = path.read_bytes()
    if not content.startswith(PNG):
        return None
    kept, start = [PNG], len(PNG)
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")  # length, name, data, CRC
        name = content[start + 4 : start + 8]
        if name == b"tRNS" or not name[:1].islower():  # a capital: the pixels need it
            kept.append(content[start:end])
        start = end
    return b"".join(kept)
