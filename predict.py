#!/usr/bin/env python3
"""Name what is on image files, with a checkpoint of a training script or a released one.

  python3 predict.py --checkpoint_path checkpoint/ours/0/name_ckpt.pth.tar photo.jpg folder
  python3 predict.py --checkpoint_path ImageNet_iNat/checkpoint/ours/custom/name_ckpt.pth.tar folder --out predictions.csv
  python3 predict.py --checkpoint_path ImageNet_iNat/checkpoint/ours/custom/name_ckpt.pth.tar --export onnx

The first prints a line an image, tabs between: the file, then the most probable classes and their probabilities in per cent.
Folders are read at any depth. Files that cannot be read are named at the end, and the exit status is 1, or 2 if none can be.
Images may have any size and format that Pillow reads. Networks of the CIFAR scripts take them resized to 32x32, as in
training; heads of ImageNet_iNat take their middle, 224x224, after the short side is made 256. The third writes
name_ckpt.onnx beside the checkpoint, which needs none of this code and takes pixels of any size (docs/own_data.md).
"""

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

import argparse
import csv
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from harness.devices import choose_device
from harness.errors import UserError, run_main
from harness.evaluation import no_answers
from harness.files import check_is_table, check_output, replacing
from harness.flags import Parser, add_checkpoint_flags, add_device_flags, require
from harness.image_files import LISTED, OTHER_FORMAT, counted, files_below, numbered, readable_endings
from harness.image_sets import read_or_fault
from harness.progress import progress
from harness.text import WRITTEN_OUT, say
from heads.feature_files import FeatureTable, read_features
from heads.large_sets import LARGE_SETS
from inference.class_priors import prior_shift
from inference.classifier_exports import export_classifier, exported_file
from inference.classifiers import Classifier, ReadImage, classifier
from inference.exports import ENDINGS


def main() -> None:
    """Load the network, read images in batches, print or write what is on them."""
    args = parser().parse_args()
    require(args.top >= 1, "--top", args.top, "at least 1")
    if not args.images and (args.out or not args.export):
        raise UserError("no image is given: name files, or folders of them")
    path, out = Path(args.checkpoint_path), args.out
    network = classifier(path, args.arch, args.dataset, args.pretrained)
    device = choose_device(args.gpu, args.no_cuda)
    network.model.to(device).to(memory_format=torch.channels_last)
    shift, notes = torch.zeros(len(network.names)), [*network.notes]
    if args.prior is not None:
        shift, line = prior_shift(args.prior, network.names, network.state, path)
        notes.append(line)
    tables = [read_features(path, labelled=False) for path in args.images if is_features(path)]
    files, left_out = images_among([path for path in args.images if not is_features(path)])
    if files and network.read is None:
        raise UserError(f"{path} was trained on features of a file, not on images: give such files, .npz or .safetensors")
    if out is not None:
        check_out(out, [path, args.prior, *files, *(table.path for table in tables)])
    exported = exported_file(network, path, args.export) if args.export else None
    problems: list[str] = []
    images: list[ReadImage] = []
    rows = 0
    with table(out, min(args.top, len(network.names))) if out else nullcontext(print_line) as tell:
        shown = out is not None or not sys.stdout.isatty()
        for name, chances, image in answers(network, tables, files, shift.to(device), shown):
            if isinstance(chances, UserError):
                problems.append(str(chances))
                continue
            if any(map(math.isnan, chances)):
                raise no_answers(path)
            tell(name, most_probable(chances, network.names, args.top))
            images += [] if image is None else [image._replace(pixels=torch.empty(0))]
            rows += image is None
        if out is not None and not images and not rows:  # an earlier table stays
            raise faults(problems, len(files))
    changed = network.changes([image.size for image in images], sum(image.laid_on_white for image in images))
    say(*(f"note: {note}" for note in (*notes, *left_out, *changed)), file=sys.stderr)
    if out is not None:
        counted_rows = [numbered(rows, "row of features", "rows of features")] if tables else []
        counted_images = [numbered(len(images), "image", "images")] if files else []
        say(f"wrote {out}: {' and '.join(counted_images + counted_rows)}")
    if exported:
        say(export_classifier(network, args.export, exported, files, shift, args.prior))
    if problems:
        raise faults(problems, len(files))


def is_features(path: Path) -> bool:
    """Return whether a path is named as a file of features is."""
    return path.suffix.lower() in (".npz", ".safetensors")


def faults(problems: Sequence[str], total: int) -> UserError:
    """Return the error that names the images that cannot be read; its status is 1 if there are others, else 2."""
    status = 1 if len(problems) < total else 2
    if len(problems) == 1:
        return UserError(problems[0], status=status)
    return UserError(f"{len(problems)} of {total} images cannot be read, see above", problems, status)


def answers(
    network: Classifier, tables: Sequence[FeatureTable], files: Sequence[Path], shift: Tensor, shown: bool
) -> Iterator[tuple[str, list[float] | UserError, ReadImage | None]]:
    """Yield name, probabilities of the classes or why there are none, and what was read of an image: rows, then images."""
    for one in tables:
        yield from ((name, chances, None) for name, chances in network.of_rows(one, shift))
    for file, found in predictions(network, files, shift, shown) if files else ():
        yield (str(file), found, None) if isinstance(found, UserError) else (str(file), found[1], found[0])


def predictions(
    network: Classifier, files: Sequence[Path], shift: Tensor, shown: bool
) -> Iterator[tuple[Path, tuple[ReadImage, list[float]] | UserError]]:
    """Yield for each file what was read of it and the classes' probabilities, or why it cannot be read."""
    assert network.read is not None
    starts = range(0, len(files), network.at_once)
    label, print_freq = f"batches of {network.at_once} images", 0 if shown else None
    with ThreadPoolExecutor() as pool:  # decoders let other threads work
        for start in progress(starts, len(starts), label, print_freq=print_freq, file=sys.stderr):
            batch = files[start : start + network.at_once]
            read = list(pool.map(partial(read_or_fault, read=network.read), batch))
            chances = network.probabilities([image for image in read if not isinstance(image, UserError)], shift)
            for file, image in zip(batch, read, strict=True):
                yield file, image if isinstance(image, UserError) else (image, next(chances))


def images_among(given: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the files, folders replaced by the images below them, and lines that say what is left out there."""
    files: list[Path] = []
    lines = []
    for path in given:
        if not os.path.isdir(path):
            files.append(path)
            continue
        try:
            below = files_below(path, readable_endings())
        except OSError as error:
            why = f"{error.filename} cannot be read ({error.strerror})"
            raise UserError(f"{why}: make it readable, or move it away") from error
        images = [path / file for file, reason in below if not reason]
        if not images:
            raise UserError(f"{path} holds no image in a format that can be read: name another folder, or convert them")
        files += images
        left_out = Counter(reason for _, reason in below if reason)
        if left_out:
            lines.append(f"{path}: files left out: {counted(left_out)}")
        foreign = [file for file, reason in below if reason.startswith(OTHER_FORMAT)]
        if foreign:
            more = f" and {len(foreign) - LISTED} more" if len(foreign) > LISTED else ""
            lines.append(f"{path}: {OTHER_FORMAT}: {', '.join(foreign[:LISTED])}{more}")
    return files, lines


def parser() -> Parser:
    """Return the parser of the flags."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="image files, or folders of them; files of "
                      "features, .npz or .safetensors")  # fmt: skip
    made.add_argument("--top", type=int, default=5, help="how many classes to name (default: %(default)s)")
    made.add_argument("--out", type=Path, help="write a table there instead, .csv or .jsonl: probabilities of 0 to 1")
    made.add_argument("--prior", help="how frequent the classes are among such images: train (as in training), uniform, or "
                      "a table with a line class,number for each (default: probabilities as they are)")  # fmt: skip
    made.add_argument("--export", choices=tuple(ENDINGS), help="also write the network beside its checkpoint, to be run "
                      "without this code: pixels in, logits out, with what --prior adds")  # fmt: skip
    made.add_argument("--dataset", choices=LARGE_SETS, help="of a released head, which does not say it (default: by its "
                      "number of classes)")  # fmt: skip
    made.add_argument("--pretrained", help="file of the weights that a head of train_own.py was trained on (default: where "
                      "training found them)")  # fmt: skip
    add_checkpoint_flags(made)
    add_device_flags(made)
    return made


def check_out(out: Path, inputs: Sequence[Path | str | None]) -> None:
    """Refuse now what cannot be written, what is read, and any file that is no such table."""
    beginning = {".csv": b"path,", ".jsonl": b'{"path":'}.get(out.suffix.lower())
    if beginning is None:
        raise UserError(f"--out {out} makes no sense: its name must end in .csv or .jsonl")
    check_output(out, inputs=inputs)
    check_is_table(out, beginning)


Tell = Callable[[str, Sequence[tuple[str, float]]], object]


@contextmanager
def table(out: Path, top: int) -> Iterator[Tell]:
    """Give a function that writes a line for an image; the file is there when all are."""
    with replacing(out) as part, open(part, "w", newline="", encoding="utf-8", errors=WRITTEN_OUT) as file:
        if out.suffix.lower() == ".csv":
            writer = csv.writer(file)
            writer.writerow(["path", *(f"{word} {k + 1}" for k in range(top) for word in ("class", "probability"))])
            yield lambda path, best: writer.writerow([path, *(word for pair in best for word in pair)])
        else:
            yield lambda path, best: file.write(
                json.dumps({"path": path, "classes": [{"name": name, "probability": p} for name, p in best]}) + "\n"
            )


def print_line(path: str, best: Sequence[tuple[str, float]]) -> None:
    """Print a line for an image, probabilities in per cent."""
    say([path, *(f"{name} {100 * probability:.2f}" for name, probability in best)])


def most_probable(found: Sequence[float], names: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Return name and probability of the `top` most probable classes, the first of equals first."""
    order = sorted(range(len(names)), key=lambda k: -found[k])[:top]
    return [(names[k], found[k]) for k in order]


if __name__ == "__main__":
    run_main(main)
