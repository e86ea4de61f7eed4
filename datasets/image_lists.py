"""Image lists of the large sets: ImageNet-LT, iNaturalist 2017 and 2018, and one's own.

The images stay on disk; an `ImageList` says where each one lies and which class it is of. Which lists make a data set is in
`large_sets.py`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from datasets.examples import Examples
from datasets.folders import NAMED, files_below, left_out_note, match_classes, visible_folders
from datasets.pictures import decode, some_of
from harness.command_flags import MAX_CLASSES
from harness.errors import UserError
from harness.files import replacing

SPLIT_ADVICE = (
    "give a --data_root with train/<class>/* and val/<class>/*, or with <class>/* (see --val_fraction), or --train_list and "
    "--val_list"
)
LIST_FORM = "a list has one image a line, 'relative/path label', with a blank between the two"
LIST_LINE = re.compile(r"(.*\S)\s+(-?[0-9]{1,18})\s*")
UNLISTABLE = re.compile("[\r\n\ud800-\udfff]|^\ufeff|\\s$")  # a list of such a path could not be read again


@dataclass(frozen=True)
class ImageList(Examples):
    """Images on disk, whose items are paths below `root`."""

    root: Path = Path()

    @cached_property
    def paths(self) -> list[str]:
        """Their paths below the root."""
        return list(self.items)

    def picture(self, index: int) -> Image.Image | None:
        """Return the image at `index`, upright; None if it cannot be read (any more)."""
        with suppress(UserError):
            return decode(self.root / self.paths[index], upright=True).image
        return None

    def identities(self) -> list[Hashable]:
        """Return what two entries have in common that are one file, also by links; one that is not there has its path."""
        found = zip(self.paths, found_files(self), strict=True)
        return [path if at is None else (at.st_dev, at.st_ino) for path, at in found]

    @cached_property
    def content(self) -> str:
        """What tells these files from others under the same names: their number, and their sizes.

        Nearly every edit of a compressed image changes its size. Times of change are left out, since a copy on another
        disk has others. Files that are not there have the size -1 here, and are named by who needs them; where none is
        there the folder is the wrong one, a `UserError`.
        """
        sizes = np.array([-1 if found is None else found.st_size for found in found_files(self)], dtype=np.int64)
        if len(self) and sizes.max() < 0:
            raise UserError(f"none of the {len(self)} images of {self.source} is there, {self.root / self.paths[0]} for "
                            "instance: check the list and --data_root")  # fmt: skip
        digest = hashlib.sha256(sizes.tobytes()).hexdigest()[:12]
        return f"{len(self)} files of {sizes.clip(0).sum()} bytes ({digest})"


def image_list(root: Path, paths: Iterable[str], labels: Iterable[int], class_names: list[str], source: str) -> ImageList:
    """Return images below `root`."""
    items = np.array([*map(os.path.normpath, paths)], dtype=object)
    return ImageList(items, np.array([*labels], dtype=np.int64), class_names, source, root=root)


def found_files(images: ImageList) -> Iterator[os.stat_result | None]:
    """Yield what the file system says of each image, None of one that is not there or no file."""
    for path in images.paths:
        try:
            found = os.stat(images.root / path)
        except (OSError, ValueError):
            found = None
        yield found if found is not None and stat.S_ISREG(found.st_mode) else None


def read_list(file: Path, root: Path, num_classes: int | None, advice: str = "check the path") -> ImageList:
    """Read a list of 'relative/path label' lines; the path may hold spaces, blank lines may end the file.

    Paths are relative to `root`. Labels lie in [0, num_classes); with None the largest of them decides. `advice` is for a
    file that cannot be read. A `UserError` names the file and what is wrong, for bad lines "FILE line N: ...".
    """
    lines = read_text(file, advice).rstrip().split("\n")  # not splitlines, which splits at characters that names may hold
    found = [LIST_LINE.fullmatch(line) for line in lines]
    refuse(f"{file} line", {k: f"{lines[k - 1][:80]!r}" for k, one in enumerate(found, 1) if one is None}, LIST_FORM)
    entries = [(one[1], int(one[2])) for one in found if one]
    return checked_list(entries, f"{file} line", file, root, num_classes)


def write_list(file: Path, images: ImageList) -> None:
    """Write a list that `read_list` reads, see `check_listable`."""
    lines = [f"{path} {label}\n" for path, label in zip(images.paths, images.targets, strict=True)]
    with replacing(file) as part:
        part.write_text("".join(lines), encoding="utf-8")


def check_listable(images: ImageList) -> None:
    """Raise a `UserError` if a list of these images could not be read again."""
    if bad := [str(images.root / path) for path in images.paths if UNLISTABLE.search(path)]:
        raise UserError(f"names that a list cannot hold: {some_of(bad)}; rename the files")


def read_text(file: Path, advice: str) -> str:
    """Return the text of a file; a `UserError` ends in `advice`."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problem = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read as text ({error})"
        raise UserError(f"{file} {problem}: {advice}") from error


def refuse(place: str, faults: dict[int, str], advice: str) -> None:
    """Raise a `UserError` if there are faults, by the number of the entry."""
    if faults:
        raise UserError(f"{place} {some_of([f'{number}: {fault}' for number, fault in faults.items()])}; {advice}")


def checked_list(
    entries: list[tuple[str, int]], place: str, file: Path, root: Path, num_classes: int | None
) -> ImageList:
    """Check labels, and make a list of them and their paths."""
    labels, limit = [label for _, label in entries], num_classes or MAX_CLASSES
    if num_classes is None and len({*labels}) < 2:
        raise UserError(f"{file} holds one class; at least two are needed")
    check_counted_from_0(labels, file, num_classes or min(max(labels), limit))
    wrong = {k: f"label {label}" for k, label in enumerate(labels, 1) if not 0 <= label < limit}
    refuse(place, wrong, f"labels count from 0 and lie in [0, {limit})")
    names = [str(k) for k in range(num_classes or max(labels) + 1)]
    return image_list(Path(root), (path for path, _ in entries), labels, names, str(file))


def check_counted_from_0(labels: Iterable[int], source: str | Path, last: int) -> None:
    """Raise a `UserError` if labels run from 1 to `last`, the number that they end at where they are counted so."""
    found = set(labels)
    if (min(found), max(found)) == (1, last):
        raise UserError(f"{source}: its labels run from 1 to {last}, but labels count from 0: subtract 1 from each")


class OfficialImage(msgspec.Struct):
    """An image of an official json."""

    id: int
    file_name: str


class Annotation(msgspec.Struct):
    """What is on it."""

    image_id: int
    category_id: int


class Official(msgspec.Struct):
    """An official json of iNaturalist."""

    images: list[OfficialImage]
    annotations: list[Annotation]


def read_inaturalist17(file: Path, root: Path, num_classes: int | None, advice: str = "check the path") -> ImageList:
    """Read an official json of iNaturalist: images[] with file_name and id, annotations[] with category_id and image_id.

    The order is that of images[]. The rest is as in `read_list`.
    """
    try:
        found = msgspec.json.decode(read_text(file, advice), type=Official)
        label_of = {one.image_id: one.category_id for one in found.annotations}
        entries = [(one.file_name, label_of[one.id]) for one in found.images]
        if not len(found.annotations) == len(label_of) == len({one.id for one in found.images}) == len(entries) > 0:
            raise ValueError("an image has no annotation with a category_id of its own")
    except (msgspec.DecodeError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"{file} is not an official JSON with annotations, or is damaged: {error}") from error
    return checked_list(entries, f"{file} image", file, root, num_classes)


def read_tree(
    folder: Path, class_names: list[str] | None, root: Path | None = None, advice: str = SPLIT_ADVICE
) -> ImageList:
    """List the images of `folder/<class>/**` by their paths below `root`, else `folder`.

    Classes, if not given, are the folders with an image, in alphabetical order; given names may differ as `match_classes`
    says. `advice` says what a folder should hold.
    """
    try:
        found = visible_folders(folder)
        files, left_out = files_below(folder)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): {advice}") from error
    paths = [path for path in files if os.sep in path]
    if len(paths) < len(files):
        left_out["images in no class folder"] = len(files) - len(paths)
    notes = left_out_note(folder, left_out)
    of = [path.partition(os.sep)[0] for path in paths]
    names = sorted(set(of))
    if not paths:
        raise UserError(f"{folder} holds no class folder with an image that can be read: {advice}", notes)
    if class_names is None and len(names) < 2:
        raise UserError(f"{folder} holds one class folder; at least two are needed")
    notes.append(f"{folder}: {len(paths)} images of {len(names)} classes, {some_of(names, NAMED)}")
    if empty := [name for name in found if name not in names]:
        notes.append(f"{folder}: folders without an image, which are no classes: {some_of(empty)}")
    label_of = match_classes(names, class_names or names, folder)
    inside = os.path.relpath(folder, root or folder)
    images = image_list(root or folder, (os.path.join(inside, path) for path in paths), (label_of[name] for name in of),
                        class_names or names, str(folder))  # fmt: skip
    return replace(images, notes=tuple(notes))
