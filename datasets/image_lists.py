"""Image lists of the large sets: ImageNet-LT, iNaturalist 2017 and 2018, and one's own.

The images stay on disk; an `ImageList` says where each one lies and which class it is of. Which lists make a data set is in
`large_sets.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datasets.examples import Examples
from datasets.folders import class_folders, some_of
from datasets.pictures import numbered
from harness.errors import UserError
from harness.files import replacing

MAX_CLASSES = 1_000_000  # where the list itself says how many there are: larger labels are ids of another kind
SAMPLE = 256  # files whose content is compared when a run goes on
SPLIT_ADVICE = "give a --data_root with train/<class>/* and val/<class>/*, or --train_list and --val_list"
LIST_FORM = "a list has one image a line, 'relative/path label', with a blank between the two"


@dataclass(frozen=True)
class ImageList(Examples):
    """Images on disk: M paths below `root`, targets (M,) int64, class names, and the file or folder that lists them."""

    root: Path
    paths: list[str]
    targets: np.ndarray
    class_names: list[str]
    source: str
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Their paths."""
        return self.paths

    def subset(self, index: np.ndarray) -> ImageList:
        """Return the images at `index`."""
        return replace(self, paths=[self.paths[i] for i in index.tolist()], targets=self.targets[index])

    def ids(self) -> list[str]:
        """Return where each image lies, the same file as the same text in every list; links are not followed."""
        return [os.path.normpath(os.path.join(self.root, path)) for path in self.paths]

    def joined(self, other: ImageList) -> ImageList:
        """Return these images and after them those of `other`, of the same classes, below a folder that holds both."""
        if not len(other):
            return self
        root = self.root if self.root == other.root else Path(os.path.commonpath([self.root, other.root]))
        paths = []
        for part in (self, other):
            inside = "" if part.root == root else os.path.relpath(part.root, root)
            paths += [os.path.join(inside, path) for path in part.paths]
        return replace(self, root=root, paths=paths, targets=np.concatenate([self.targets, other.targets]))

    def identities(self) -> list[Hashable]:
        """Return what two entries have in common that are one file, also by links; one that is not there has its path."""
        found = zip(self.ids(), found_files(self), strict=True)
        return [path if at is None else (at.st_dev, at.st_ino) for path, at in found]

    @cached_property
    def content(self) -> str:
        """What tells these files from others under the same names: their number, their size in all, and a digest.

        The digest is of the size of each file, which nearly every edit of a compressed image changes, and of the content of
        SAMPLE of them, evenly spread, which shows that all were rewritten to the same size, as uncompressed formats are.
        Times of change are left out, since a copy on another disk has others; to read all would take as long as an epoch.
        Files that are not there have the size -1 here, and are named by who needs them.
        """
        sizes = np.array([-1 if found is None else found.st_size for found in found_files(self)], dtype=np.int64)
        digest = hashlib.sha256(sizes.tobytes())
        for i in np.unique(np.linspace(0, len(self) - 1, SAMPLE, dtype=np.int64)).tolist() if len(self) else ():
            with suppress(OSError):  # one that cannot be read is named by who needs it
                if sizes[i] >= 0:
                    digest.update(hashlib.sha256((self.root / self.paths[i]).read_bytes()).digest())
        gone = int((sizes < 0).sum())
        missing = f", {gone} of them missing" if gone else ""
        return f"{len(self)} files of {sizes.sum() + gone} bytes{missing} ({digest.hexdigest()[:12]})"

    def check_root(self) -> None:
        """Raise a `UserError` if none of the images is there: then the folder is the wrong one."""
        if self.paths and not any(found is not None for found in found_files(self)):
            none = f"none of the {len(self)} images of {self.source} is there, {self.root / self.paths[0]} for instance"
            raise UserError(f"{none}: check the list and --data_root")


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

    No path may leave `root`. Labels lie in [0, num_classes); with None the largest of them decides. `advice` is for a file
    that cannot be read. A `UserError` names the file and what is wrong, for a bad line "FILE line N: ...".
    """
    text = read_text(file, advice).rstrip()
    if not text:
        raise UserError(f"{file} is empty: {LIST_FORM}")
    lines = text.split("\n")  # not splitlines, which also splits at characters that names may hold
    return checked_list(lines, f"{file} line", file, root, num_classes)


def write_list(file: Path, images: ImageList) -> None:
    """Write a list that `read_list` reads, see `check_listable`."""
    lines = [f"{path} {label}\n" for path, label in zip(images.paths, images.targets.tolist(), strict=True)]
    with replacing(file) as part:
        part.write_text("".join(lines), encoding="utf-8")


def check_listable(images: ImageList) -> None:
    """Raise a `UserError` if a list of these images could not be read again: line breaks, blanks at an end, other bytes."""
    bad = []
    for path in images.paths:
        kept = not {"\n", "\r"} & set(path) and not path.startswith("\ufeff") and split_line(f"{path} 0") == (path, 0)
        if not kept or any("\ud800" <= letter <= "\udfff" for letter in path):
            bad.append(str(images.root / path))
    if bad:
        raise UserError(f"{some_of(bad)}: {numbered(len(bad), 'name', 'names')} that a list cannot hold: rename the files")


def read_text(file: Path, advice: str) -> str:
    """Return the text of a file; a `UserError` ends in `advice`."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problem = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read as text ({error})"
        raise UserError(f"{file} {problem}: {advice}") from error


def split_line(line: str) -> tuple[str, int]:
    """Split the label off the end of a line; a ValueError says what is wrong with it."""
    words = line.rsplit(maxsplit=1)
    if len(words) < 2:
        raise ValueError(f"{line[:80]!r} is too short: {LIST_FORM}")
    path, word = words
    if not (word.isascii() and word.removeprefix("-").isdigit() and len(word) < 19):  # int() takes 1_0 and ٣ too
        raise ValueError(f"label {word[:80]!r} is no integer: {LIST_FORM}")
    return path, int(word)


def checked_list(
    entries: Sequence[str | tuple[str, int]], place: str, file: Path, root: Path, num_classes: int | None
) -> ImageList:
    """Check lines, or paths and labels, and make a list of them; an error tells of the first that is wrong."""
    base = os.path.join(os.path.abspath(root), "")
    limit = MAX_CLASSES if num_classes is None else num_classes
    found = [entry_or_fault(entry, base) for entry in entries]
    refuse_entries(place, {number: one for number, one in enumerate(found, start=1) if isinstance(one, str)})
    kept = [one for one in found if not isinstance(one, str)]
    labels = [label for _, label in kept]
    check_counted_from_0(labels, file, min(max(labels), limit) if num_classes is None else num_classes)
    outside = {number: label for number, label in enumerate(labels, start=1) if not 0 <= label < limit}
    told = f"lies outside [0, {limit}): labels count from 0"
    refuse_entries(place, {number: f"label {label} {told}" for number, label in outside.items()})
    targets = np.array(labels, dtype=np.int64)
    names = [str(k) for k in range(int(targets.max()) + 1 if num_classes is None else num_classes)]
    return ImageList(Path(root), [path for path, _ in kept], targets, names, str(file))


def refuse_entries(place: str, faults: Mapping[int, str]) -> None:
    """Raise a `UserError` if there are faults, by the number of the entry."""
    if faults:
        first, *others = faults
        more = f" (wrong too: {some_of(list(map(str, others)))})" if others else ""
        raise UserError(f"{place} {first}: {faults[first]}{more}")


def entry_or_fault(entry: str | tuple[str, int], base: str) -> tuple[str, int] | str:
    """Return path and label of a line or of such a pair, or what is wrong with them; `base` is the root, with a slash."""
    try:
        path, label = split_line(entry) if isinstance(entry, str) else entry
    except ValueError as error:
        return str(error)
    if os.sep == "/" and "\\" in path and not os.path.exists(os.path.join(base, path)):
        path = path.replace("\\", "/")  # a list from Windows
    if "\0" in path or "\n" in path:  # normpath stops at the first, a list cannot hold the second
        return f"{path!r} has a character that a name in a list cannot have: correct the list"
    if not os.path.normpath(os.path.join(base, path)).startswith(base):  # as written: links are not followed
        return f"{path!r} lies outside {base}: correct the list, or check --data_root"
    return path, label


def check_counted_from_0(labels: Sequence[int], source: str | Path, last: int) -> None:
    """Raise a `UserError` if labels run from 1 to `last`, the number that they end at where they are counted so."""
    if (min(labels), max(labels)) != (1, last):
        return
    if last == 1:
        raise UserError(f"{source} holds one class; at least two are needed")
    raise UserError(f"{source}: its labels run from 1 to {last}, but labels count from 0: subtract 1 from each")


def read_inaturalist17(file: Path, root: Path, num_classes: int | None, advice: str = "check the path") -> ImageList:
    """Read an official json of iNaturalist: images[] with file_name and id, annotations[] with category_id and image_id.

    The order is that of images[]. Without image_id, annotations[n] belongs to images[n]. The rest is as in `read_list`.
    """
    try:
        entries = json_entries(json.loads(read_text(file, advice)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no official json with annotations, or damaged: {error}") from error
    return checked_list(entries, f"{file} image", file, root, num_classes)


def json_entries(content: Any) -> list[tuple[str, int]]:
    """Return path and label of each image; a ValueError says what is missing."""
    for part in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(f"it has no list {part!r}")
    images, annotations = content["images"], content["annotations"]
    paths = json_column(images, "images", "file_name", str)
    labels = json_column(annotations, "annotations", "category_id", int)
    if not paths or len(paths) != len(labels):
        raise ValueError(f"it has {len(paths)} images and {len(labels)} annotations")
    "".join(paths).encode()  # half a surrogate pair is in no file name: a ValueError
    if not any("image_id" in annotation for annotation in annotations):
        return list(zip(paths, labels, strict=True))
    owners = json_column(annotations, "annotations", "image_id", int, str)
    ids = json_column(images, "images", "id", int, str)
    label_of = dict(zip(owners, labels, strict=True))
    found = Counter(ids)
    strange = [repr(image_id) for image_id in found if found[image_id] > 1 or image_id not in label_of]
    if strange:  # with as many annotations as images, doubles end here too
        raise ValueError(f"image id {some_of(strange)} has no annotation of its own")
    return [(path, label_of[image_id]) for path, image_id in zip(paths, ids, strict=True)]


def json_column(rows: list[Any], part: str, key: str, *kinds: type) -> list[Any]:
    """Return `row[key]` of every row; a ValueError names the rows without one of these kinds."""
    values = [row.get(key) if isinstance(row, dict) else None for row in rows]
    bad = [str(number) for number, value in enumerate(values, start=1) if type(value) not in kinds]  # True is no int
    if bad:
        raise ValueError(f"number {some_of(bad)} of its {part} has no {key}")
    return values


def read_tree(folder: Path, class_names: list[str] | None, advice: str = SPLIT_ADVICE) -> ImageList:
    """List the images of `folder/<class>/**`, see `folders.class_folders`."""
    found = class_folders(folder, class_names, advice)
    targets = np.array(found.labels, dtype=np.int64)
    return ImageList(folder, found.paths, targets, found.class_names, str(folder), tuple(found.notes(folder)))
