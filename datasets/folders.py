"""Folders of images: which files they hold, class by class, and which folders are splits of a data set."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.pictures import readable_endings, some_of
from harness.errors import UserError

SYSTEM = ("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "System Volume Information", "lost+found", "feature_cache")
SPLITS = {  # the names of folders of a split, in small letters
    "train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing"), "meta": ("meta",),
}  # fmt: skip
NAMED = 5  # classes


def left_out_note(folder: Path, left_out: Counter[str]) -> list[str]:
    """Return a line about files that are left out below a folder, if any."""
    kinds = some_of([f"{number} {kind}" for kind, number in left_out.most_common()])
    return [f"{folder}: files left out: {kinds}"] if kinds else []


def match_classes(names: Sequence[str], class_names: Sequence[str], source: Path | str) -> dict[str, int]:
    """Return the label of each name in the class names of the training set; those that have none are a `UserError`.

    Names may differ in case, in blanks at their ends and in how Unicode writes a letter, unless classes differ by that.
    """
    plain = {name: unicodedata.normalize("NFKC", name).casefold().strip() for name in (*names, *class_names)}
    if len({plain[name] for name in class_names}) < len(class_names):
        plain = {name: name for name in plain}
    label_of = {plain[name]: label for label, name in enumerate(class_names)}
    strange = [repr(name[:80]) for name in names if plain[name] not in label_of]
    if strange:
        raise UserError(f"{source} has classes that the training set does not have: {some_of(strange)}; rename them to "
                        f"match ({some_of(class_names, NAMED)}), or move them away")  # fmt: skip
    return {name: label_of[plain[name]] for name in names}


def is_data(folder: str, name: str) -> bool:
    """Return whether a folder may hold images: it is not hidden, none of the system, and none that this program writes."""
    ours = {"checkpoint": "ours", "report": "report.html"}.get(name)
    own = ours is not None and os.path.exists(os.path.join(folder, name, ours))
    return not (name.startswith(".") or name in SYSTEM or own)


def visible_folders(folder: Path) -> list[str]:
    """Return the names of the folders that may hold data, in alphabetical order."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and is_data(str(folder), entry.name))


def files_below(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the images at any depth, class by class, relative to `folder`, and how many other files there are of a kind.

    What a file is is told by its ending; one with that of an image is left out if it is no regular file. Links are followed,
    but not to a folder that they lie in. Only folders of `is_data` are looked into. One that cannot be read is an OSError.
    """
    endings = readable_endings()
    found: list[str] = []
    left_out: Counter[str] = Counter()

    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        folders[:] = [name for name in folders if is_data(place, name) and not is_above(os.path.join(place, name))]
        inside = "" if place == str(folder) else os.path.relpath(place, folder)
        for name in files:
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                left_out["hidden"] += 1
            elif ending in endings and os.path.isfile(os.path.join(place, name)):
                found.append(os.path.join(inside, name))
            else:
                left_out[ending or "without an ending"] += 1
    return sorted(found, key=lambda path: (path.partition(os.sep)[0], path)), left_out


def is_above(path: str) -> bool:
    """Return whether a folder is a link to one that it lies in."""
    real = os.path.realpath(path)
    return os.path.islink(path) and os.path.commonpath([real, os.path.realpath(os.path.dirname(path))]) == real


class Layout(NamedTuple):
    """The folders of the splits below a root; without splits `train` is the root itself, and the others are None."""

    train: Path
    val: Path | None = None
    test: Path | None = None
    meta: Path | None = None
    notes: Sequence[str] = ()

    @property
    def tested(self) -> Path | None:
        """The folder to test on, None if test images have to be drawn."""
        return self.test or self.val


def read_layout(root: Path) -> Layout:
    """Return which splits a folder holds, by the names of `SPLITS` in any case.

    They are splits where the one for training holds folders and no images: else `train` is a class among others. A test
    folder without class folders is passed over, as its images have no labels.
    """
    try:
        names = visible_folders(root)
    except OSError:
        return Layout(root)  # to be named by who reads it
    of = {split: [name for name in names if name.lower() in known] for split, known in SPLITS.items()}
    others = sorted({*names}.difference(*of.values()))
    tests = [*of["val"], *of["test"]]
    splits = of["train"] or ([] if others else tests)  # for tests alone those of training need not be there
    if not any(holds_classes(root / name) for name in splits) or (others and not tests):
        return Layout(root)
    for split, found in of.items():
        if len(found) > 1:
            raise UserError(f"{root} holds {' and '.join(found)}, which both mean {split}: move one away")
    notes = [f"{root}: folders that are no splits, and not used: {some_of(others)}"] if others else []
    place = {"train": root / "train", **{split: root / found[0] for split, found in of.items() if found}}
    bare = [split for split in ("val", "test", "meta") if split in place and not holds_classes(place[split])]
    notes += [f"{place.pop(split)} has no class folders to say what is on its images: it is not used" for split in bare]
    return Layout(**place, notes=notes)


def holds_classes(folder: Path) -> bool:
    """Return whether a folder holds folders, and no images beside them."""
    endings = readable_endings()
    images = any(os.path.splitext(name)[1].lower() in endings for name in os.listdir(folder))
    return not images and bool(visible_folders(folder))
