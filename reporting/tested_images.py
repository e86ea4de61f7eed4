"""The test images that a finished run's predictions speak of, where they still are, as small pictures for a page.

A wrong image is worse than none: images are shown only where they are sure to be those that were tested. CIFAR's files are
checked by torchvision, digits come with scikit-learn, a folder of small images is read whole and compared with the digest
in the summary, and of image lists both digests are compared, of names with labels and of the files. These digests have one
more use. A stranger's summary may name any folder of this machine, and a page is made to be sent on: only images whose
content its writer knew can get into it. Nothing that a run's files name is run or downloaded.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_utils import build_dataset
from datasets.folders import class_folders, files_below
from datasets.image_lists import ImageList, read_list, read_tree
from datasets.large_sets import NUM_META, read_test
from datasets.pictures import decode, readable_endings
from datasets.small_sets import PUBLISHED_FOLDERS, ImageSet, read_cifar, read_digits
from harness.errors import UserError
from harness.flags import UNSAID
from harness.run_files import list_paths
from harness.text import printable
from reporting.finished_runs import FinishedRun
from reporting.run_contents import SUMMARY

LONGER_SIDE = 96  # pixels of a photograph in a page
KEPT_SIDE = 64  # images of no more are kept as they are
QUALITY = 80  # of JPEG
MOST_BYTES = 200 * 2**20  # of a folder of small images that is read whole to be compared
UNSHOWABLE = (UserError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError)


class Thumbnail(NamedTuple):
    """A picture for a page: a data URI, its pixels, what to call it."""

    uri: str
    width: int
    height: int
    name: str


class Thumbnails(NamedTuple):
    """Pictures by their place in the test set, and why some or all are missing, each reason once."""

    pictures: dict[int, Thumbnail]
    reasons: list[str]


@dataclass(frozen=True)
class FoundImages:
    """Test images in the order of the predictions: labels (M,), what each is called, and its pixels; see `checked`."""

    target: np.ndarray
    name: Callable[[int], str]
    picture: Callable[[int], Image.Image]
    cached: dict[int, tuple[str, int, int]] = field(default_factory=dict)

    def uri(self, index: int) -> tuple[str, int, int]:
        """Return a data URI and the size of its picture."""
        if index not in self.cached:
            self.cached[index] = encoded(self.picture(index))
        return self.cached[index]


Opened = dict[str, FoundImages | str]  # test sets by what tells them apart, or why they cannot be shown


def thumbnails(run: FinishedRun, indices: Sequence[int], opened: Opened | None = None) -> Thumbnails:
    """Return the pictures of test images by their place in the test set, as far as they are there.

    `opened` keeps what was found, so that runs on one test set look for it once; give the same dict for all of them.
    """
    if run.tested is None:
        return Thumbnails({}, [f"{run.name} has no predictions of its test images"])
    images = found_images(run, {} if opened is None else opened)
    if isinstance(images, str):
        return Thumbnails({}, [images])
    if not np.array_equal(images.target, run.tested.target):
        return Thumbnails({}, [f"the test images of {run.name} have other labels now, or another order"])
    pictures, reasons = {}, []
    for index in sorted(set(indices)):
        try:
            pictures[index] = Thumbnail(*images.uri(index), images.name(index))
        except UNSHOWABLE as error:  # noqa: PERF203  (fifty at most)
            reasons.append(printable(str(error)))
    return Thumbnails(pictures, list(dict.fromkeys(reasons)))


def encoded(image: Image.Image) -> tuple[str, int, int]:
    """Return a picture as a data URI, and its size: a small one as it is, as PNG, a larger one smaller, as JPEG."""
    file, kind = BytesIO(), "png"
    if max(image.size) > KEPT_SIDE:
        image, kind = image.copy(), "jpeg"
        image.thumbnail((LONGER_SIDE, LONGER_SIDE))
    image.save(file, kind, quality=QUALITY, optimize=True)  # without metadata, as of a camera's place
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}", *image.size


def found_images(run: FinishedRun, opened: Opened) -> FoundImages | str:
    """Return the test images of a run, or why they cannot be shown."""
    flags = {**UNSAID, **run.summary.get("flags", {})}
    where = [flags.get(key) for key in ("data_root", "val_list", "features", "dataset")]
    key = repr([where, run.path.parent, run.trained_on, len(run.summary["cls_num_list"])])
    if key not in opened:
        try:
            opened[key] = open_images(run, flags)
        except UNSHOWABLE as error:
            opened[key] = f"the test images of {run.name} cannot be shown: {printable(str(error))}"
    return opened[key]


def open_images(run: FinishedRun, flags: Mapping[str, Any]) -> FoundImages | str:
    """Find and check the test images of a run, below the folders that its flags may mean."""
    dataset, root = flags.get("dataset"), flags.get("data_root")
    if flags.get("features") is not None:
        return f"{run.name} was trained on features, there are no images to show"
    if dataset == "digits":
        return in_memory(read_digits(train=False))
    if not isinstance(root, str):
        return f"the summary of {run.name} does not say where its images are"
    read = {**dict.fromkeys(PUBLISHED_FOLDERS, cifar_images), "folder": folder_images}.get(str(dataset), listed_images)
    why = f"the test images of {run.name} are not below {printable(root)} any more"
    for base in bases(run, flags):
        images = read(run, flags, base)
        if not isinstance(images, str):
            return images
        why = images or why
    return why


def bases(run: FinishedRun, flags: Mapping[str, Any]) -> list[Path]:
    """Return the folders that relative paths of a run's flags may begin at: where it was begun, then the current one.

    A run lies in WORKDIR/checkpoint/ours/<idx or dataset>. If WORKDIR is relative too, that tells where it was begun.
    """
    inside = Path(str(flags.get("workdir", ".")), "checkpoint", "ours", str(flags.get("idx", flags.get("dataset"))))
    folder, depth = run.path.absolute().parent, len(inside.parts)
    begun = []
    if not inside.is_absolute() and folder.parts[-depth:] == inside.parts:
        begun = [folder.parents[depth - 1]]
    return list(dict.fromkeys([*begun, Path.cwd()]))


def in_memory(images: ImageSet, names: Sequence[str] | None = None) -> FoundImages:
    """Return images that are read already, as the network saw them."""

    def name(index: int) -> str:
        return f"test image {index}" if names is None else printable(names[index])

    return FoundImages(images.targets.numpy(), name, lambda index: Image.fromarray(images.pixels[index].numpy()))


def cifar_images(run: FinishedRun, flags: Mapping[str, Any], base: Path) -> FoundImages | str:
    """Read CIFAR's test images if its files are there, in the folders that trainings look into; nothing is fetched."""
    dataset = str(flags["dataset"])
    inside = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[dataset]
    for root in (flags["data_root"], PUBLISHED_FOLDERS[dataset]):
        if os.path.isdir(base / root / inside):
            return in_memory(read_cifar(dataset, str(base / root), train=False))
    return ""


def folder_images(run: FinishedRun, flags: Mapping[str, Any], base: Path) -> FoundImages | str:
    """Read a folder of small images as the training did, and compare them with the digest of them all in the summary."""
    root, digest = base / str(flags["data_root"]), run.summary.get("data")
    if not os.path.isdir(root / "test"):
        return ""
    if digest is None:
        return f"the summary of {run.name} has no digest of its images, by which to tell that they are the same"
    endings, parts = readable_endings(), (root / "train", root / "test")
    files = [part / path for part in parts for path, left_out in files_below(part, endings) if not left_out]
    if (total := sum(map(os.path.getsize, files))) > MOST_BYTES:
        return f"the images below {root} are too many to tell whether they are the same ({total / 2**20:.0f} MB)"
    heldout = (flags["num_heldout"] or -1) if flags["select_on"] == "heldout" else 0
    settings = flags["num_meta"], flags["imb_factor"], str(root), heldout, bool(flags.get("skip_bad"))
    data = build_dataset("folder", *settings)
    if data.digest() != digest:
        return f"the images below {root} are not those of {run.name} any more"
    paths = class_folders(root / "test", data.test.class_names, "").paths
    return in_memory(data.test, paths if len(paths) == len(data.test.targets) else None)  # else some cannot be read


def listed_images(run: FinishedRun, flags: Mapping[str, Any], base: Path) -> FoundImages | str:
    """List the images of ImageNet_iNat and train_own.py, and compare them with what the summary says of them."""
    root = base / str(flags["data_root"])
    if not os.path.isdir(root):
        return ""
    listed, content = run.summary.get("test list"), run.summary.get("test images")
    if listed is None or content is None:
        return f"the summary of {run.name} has no digest of its images, by which to tell that they are the same"
    images = tested_list(run, flags, base, root)
    if images.digest() != listed or images.content != content:
        skipped = ", as --skip_bad left out some" if flags.get("skip_bad") else ""
        return f"the images below {root} are not those that {run.name} was tested on{skipped}"
    upright = flags.get("dataset") in ("own", "custom")  # as the training saw them
    return FoundImages(
        images.targets, lambda index: printable(images.paths[index]),
        lambda index: decode(images.root / images.paths[index], upright).image,
    )  # fmt: skip


def tested_list(run: FinishedRun, flags: Mapping[str, Any], base: Path, root: Path) -> ImageList:
    """Return the list of a run's test images, of those that were drawn from one folder the list beside its checkpoints."""
    classes, dataset = len(run.summary["cls_num_list"]), str(flags.get("dataset"))
    if dataset in NUM_META and dataset != "custom":
        return read_test(dataset, root, classes, None, None)
    if flags.get("val_list") is not None:
        return read_list(base / str(flags["val_list"]), root, classes)
    if flags.get("val_fraction") is not None:
        return read_list(list_paths(run.path.parent, run.path.name.removesuffix(SUMMARY))[1], root, classes)
    if dataset == "own" and os.path.isdir(root / "test"):  # beside it the folder val is chosen on
        return read_tree(root / "test", run.class_names)
    return read_test("custom", root, classes, None, run.class_names)
