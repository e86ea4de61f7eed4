"""Folders of images: which files they hold, class by class, and which folders are splits of a data set."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.pictures import LISTED, is_image, numbered, readable_endings
from harness.errors import UserError

# Why a file is left out; others by their ending, as ".txt files".
HIDDEN, STRAY, NO_IMAGE = "hidden", "in no class folder", "not images"
DEAD_LINK, LOOP, NOT_REGULAR = "links to nothing", "links to a folder above", "not regular files"
NOT_DATA = "folders of the system or of this program"
OF_ONE = {
    NO_IMAGE: "not an image", NOT_REGULAR: "not a regular file", NOT_DATA: "folder of the system or of this program",
    DEAD_LINK: "link to nothing", LOOP: "link to a folder above",
}  # fmt: skip
SYSTEM = ("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "System Volume Information", "lost+found", "feature_cache")
SPLITS = {  # the names of folders of a split, in small letters
    "train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing"), "meta": ("meta",),
}  # fmt: skip
NAMED = 5  # endings, classes


class ClassFolders(NamedTuple):
    """Image files below a folder: M paths relative to it, M labels, class names, how many files are left out by reason."""

    paths: list[str]
    labels: list[int]
    class_names: list[str]
    left_out: Counter[str]
    more: list[str]  # lines about the classes

    def notes(self, folder: Path) -> list[str]:
        """Return lines for the user: files left out, classes without images, classes that share theirs."""
        lines = [f"files left out: {counted(self.left_out)}"] if self.left_out else []
        return [f"{folder}: {line}" for line in lines + self.more]


def counted(reasons: Counter[str]) -> str:
    """Return for instance "3 hidden, 2 .txt files"; of many endings the most frequent."""
    endings = sorted((reason for reason in reasons if reason.startswith(".")), key=lambda reason: -reasons[reason])
    other = sum(reasons[reason] for reason in endings[NAMED:])
    kept = {reason: number for reason, number in reasons.items() if reason not in endings[NAMED:]}
    kept |= {"other files": other} if other else {}
    one = {**{reason: reason.removesuffix("s") for reason in (*endings, "other files")}, **OF_ONE}
    return ", ".join(numbered(number, one.get(reason, reason), reason) for reason, number in sorted(kept.items()))


def some_of(names: Sequence[str], most: int = LISTED) -> str:
    """Return names with commas between, the first of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def class_folders(folder: Path, class_names: Sequence[str] | None, advice: str) -> ClassFolders:
    """List the images of `folder/<class>/**`; classes, if not given, are the folders with an image, in alphabetical order.

    Links are followed. What is left out is counted by reason. Given names may differ in case, in blanks at their ends and in
    how Unicode writes a letter. `advice` says what a folder should hold.
    """
    endings = readable_endings()
    left_out: Counter[str] = Counter()
    chosen: list[tuple[str, str]] = []  # path, and the folder of a class
    try:
        found = visible_folders(folder)
        for path, reason in files_below(folder, endings):
            name, _, inside = path.partition(os.sep)
            if not reason and inside:
                chosen.append((path, name))
            elif inside or reason in ("", DEAD_LINK, LOOP, NOT_DATA):  # beside the class folders only images count
                left_out[reason or STRAY] += 1
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): {advice}") from error
    if not chosen:
        if left_out[STRAY] and not found:
            told = f"{folder} holds {numbered(left_out[STRAY], 'image', 'images')}, but no folder of a class"
            raise UserError(f"{told}: {advice}")
        there = f" (files left out: {counted(left_out)})" if left_out else ""
        raise UserError(f"{folder} holds no image in a format that can be read{there}: {advice}")
    full = {name for _, name in chosen}
    names = [name for name in found if name in full]
    empty = [name for name in found if name not in full]
    more = [f"folders without an image, which are no classes: {some_of(empty)}"] if empty else []
    label_of = {name: label for label, name in enumerate(names)}
    if class_names is not None:
        label_of, names = matched(folder, names, class_names), list(class_names)
    labels = [label_of[name] for _, name in chosen]
    return ClassFolders([path for path, _ in chosen], labels, names, left_out, more + one_folder(folder, found))


def matched(folder: Path, names: Sequence[str], class_names: Sequence[str]) -> dict[str, int]:
    """Return the label of each class folder; a `UserError` names those that the training set does not have."""
    found, strange, same = same_classes(names, class_names)
    if strange:
        told = f"{some_of([str(folder / name) for name in strange])}: no such {'class' if len(strange) == 1 else 'classes'}"
        raise UserError(f"{told} in the training set, which has {some_of(class_names, NAMED)}: rename or move away")
    if same:
        raise UserError(f"{folder} has {' and '.join(same)}, one class of the training set: join them")
    return found


def same_classes(names: Sequence[str], class_names: Sequence[str]) -> tuple[dict[str, int], list[str], list[str]]:
    """Return the label of each name in `class_names`, the names that have none, and the first names that share one.

    Names that are not the same are matched by what `plain_name` leaves of them, unless that is one for two classes.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    alike = {plain_name(name): label for name, label in label_of.items()}
    if len(alike) < len(label_of):
        alike = {}
    by_name = {name: label_of.get(name, alike.get(plain_name(name))) for name in names}
    found = {name: label for name, label in by_name.items() if label is not None}
    shared = [label for label, number in Counter(found.values()).items() if number > 1][:1]
    same = [name for name, label in found.items() if label in shared]
    return found, [name for name, label in by_name.items() if label is None], same


def plain_name(name: str) -> str:
    """Return a name without what is easily mistaken: case, blanks at the ends, how Unicode writes a letter."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def one_folder(folder: Path, names: Sequence[str]) -> list[str]:
    """Return a line for each class whose folder is, by a link, that of a class before it."""
    first: dict[str, str] = {}
    real = [(name, first.setdefault(os.path.realpath(folder / name), name)) for name in names]
    return [f"the classes {earlier} and {name} are one folder, by a link" for name, earlier in real if earlier != name]


def is_data(folder: str, name: str) -> bool:
    """Return whether a folder may hold images of a data set: none of the system, and none that this program writes."""
    ours = {"checkpoint": "ours", "report": "report.html"}.get(name)
    return name not in SYSTEM and not (ours and os.path.exists(os.path.join(folder, name, ours)))


def visible_folders(folder: Path) -> list[str]:
    """Return the names of the folders that may hold data, in alphabetical order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(name for name in names if is_data(str(folder), name))


def files_below(folder: Path, endings: Container[str]) -> list[tuple[str, str]]:
    """Return the files at any depth, in order, as paths relative to `folder`, each with why it is left out, or "".

    Links are followed, but not to a folder that they lie in. Folders that are hidden are not looked into, nor those of
    `is_data`. One that cannot be read is an OSError.
    """
    found: list[tuple[str, str]] = []
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]  # a folder, and those it lies in
    while waiting:
        place, above = waiting.pop()
        for entry in os.scandir(folder / place):
            path = os.path.join(place, entry.name)
            if entry.is_symlink() and not os.path.exists(entry.path):
                found.append((path, DEAD_LINK))
            elif entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                if entry.name.startswith("."):
                    found.extend([(path, HIDDEN)] if place else [])
                elif not is_data(os.path.join(folder, place), entry.name):
                    found.append((path, NOT_DATA))
                elif real in above:
                    found.append((path, LOOP))
                else:
                    waiting.append((path, (*above, real)))
            else:
                found.append((path, why_left_out(entry, endings)))
    return sorted(found, key=lambda item: (item[0].partition(os.sep)[0], item[0]))  # class by class


def why_left_out(entry: os.DirEntry[str], endings: Container[str]) -> str:
    """Return why a file is not one to read, or "": by its ending, without one by its content.

    Nothing is opened that has an ending, as a look at a million files takes long; nor a pipe, which would be waited for.
    """
    if entry.name.startswith("."):
        return HIDDEN
    if not entry.is_file():
        return NOT_REGULAR
    ending = Path(entry.name).suffix.lower()
    if ending in endings:
        return ""
    if ending:
        return f"{ending} files"
    return "" if is_image(Path(entry.path)) else NO_IMAGE


class Layout(NamedTuple):
    """The folders of the splits below a root; without splits `train` is the root itself, and the others are None."""

    train: Path
    val: Path | None = None
    test: Path | None = None
    meta: Path | None = None
    notes: Sequence[str] = ()

    @property
    def split(self) -> bool:
        """Whether there is something to test on, so that it need not be drawn."""
        return self.val is not None or self.test is not None


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
    for split, found in of.items():
        if len(found) > 1 and of["train"]:
            raise UserError(f"{root} holds {' and '.join(found)}, which both mean {split}: move one away")
    others = [name for name in names if not any(name in found for found in of.values())]
    tests = [*of["val"], *of["test"]]
    splits = [*of["train"]] or ([] if others else tests)  # for tests alone those of training need not be there
    if not any(holds_classes(root / name) for name in splits) or (others and not tests):
        return Layout(root)
    notes = [f"{root}: folders that are no splits, and not used: {some_of(others)}"] if others else []
    place = {"train": root / "train", **{split: root / found[0] for split, found in of.items() if found}}
    for split in ("val", "test", "meta"):
        if split in place and not holds_classes(place[split]):
            told = f"{place.pop(split)} has no class folders, so that nothing says what is on its images: it is not used"
            notes.append(f"{told}{' (name them by predict.py)' if split == 'test' else ''}")
    return Layout(place["train"], place.get("val"), place.get("test"), place.get("meta"), notes)


def holds_classes(folder: Path) -> bool:
    """Return whether a folder holds folders, and no images beside them."""
    endings = readable_endings()
    with os.scandir(folder) as entries:
        images = any(entry.is_file() and Path(entry.name).suffix.lower() in endings for entry in entries)
    return not images and bool(visible_folders(folder))


def understood(train: Path, class_names: Sequence[str], test: Path | None) -> str:
    """Return a line by which a wrong reading is seen: the classes, and where the test images are from."""
    tests = "" if test is None else f"; test images: {test}"
    return f"{train}: {len(class_names)} classes, {some_of(class_names, NAMED)}{tests}"
