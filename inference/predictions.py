"""What a trained network says of images and features, on lines or in a table."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from heapq import nlargest
from itertools import chain
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor

from datasets.feature_files import ARRAY_ENDINGS, FeatureTable, read_features
from datasets.folders import files_below, left_out_note
from datasets.pictures import Seen, read_or_fault
from harness.errors import UserError
from harness.evaluation import no_answers
from harness.files import check_is_table, check_output, replacing
from harness.progress import progress
from harness.text import WRITTEN_OUT, say
from inference.classifiers import Classifier, ReadImage

BATCH, ROWS_AT_ONCE = 32, 1024  # images and rows of features at once
TABLE_HEADING = r"path(,class \d+,probability \d+)+(,error)?"  # of a table
Row = tuple[str, Sequence[tuple[str, str]], str]  # an input, its most probable classes and their probabilities, an error
ReadBatch = list[tuple[str, ReadImage | UserError]]  # what inputs are called, and what was read of them or why nothing


def check_read(seen: Sequence[Seen], status: int) -> None:
    """Raise a `UserError` that names the images among all inputs that cannot be read, if any."""
    faults = [str(one) for one in seen if isinstance(one, UserError)]
    if len(faults) == 1:
        raise UserError(faults[0], status=status)
    if faults:
        raise UserError(f"{len(faults)} of {len(seen)} images cannot be read, see above", faults, status)


def read_inputs(given: Sequence[Path], network: Classifier) -> tuple[list[FeatureTable], list[Path], list[str]]:
    """Read files of features and find the images that are named or lie in folders; notes say what is left out there."""
    notes: list[str] = []
    taken = network.head.in_features if network.head else "images"
    tables = [read_features(path) for path in given if path.suffix.lower() in ARRAY_ENDINGS]
    others = [path for path in given if path.suffix.lower() not in ARRAY_ENDINGS]
    if others and network.model is network.head:
        raise UserError(f"{others[0]} is no file of features, .npz or .safetensors, which the network was trained on")
    for table in tables:
        if table.features.shape[1] != taken:
            raise UserError(f"{table.path} has {table.features.shape[1]} features a row, the network takes {taken}")
    return tables, [file for path in others for file in images_at(path, notes)], notes


def images_at(path: Path, notes: list[str]) -> list[Path]:
    """Return a file, or the images below a folder; add lines that say what is left out there."""
    if not os.path.isdir(path):
        return [path]
    try:
        images, left_out = files_below(path)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it away"
        ) from error
    if not images:
        raise UserError(f"{path} holds no image in a format that can be read: name another folder, or convert them")
    notes += left_out_note(path, left_out)
    return [path / file for file in images]


def read_rows(table: FeatureTable) -> Iterator[ReadBatch]:
    """Yield the rows of a file of features."""
    names = table.names or [f"{table.path} row {number}" for number in range(len(table))]
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = torch.from_numpy(table.features[start : start + ROWS_AT_ONCE]).float()
        yield [(name, ReadImage(row)) for name, row in zip(names[start : start + ROWS_AT_ONCE], rows, strict=True)]


def read_files(files: Sequence[Path], network: Classifier, shown: bool) -> Iterator[ReadBatch]:
    """Yield images as a network takes them; `shown` says whether to say how far that is."""
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    with ThreadPoolExecutor() as pool:  # decoders let other threads work
        label = f"batches of {BATCH} images"
        for batch in progress(batches, len(batches), label, print_freq=0 if shown else None, file=sys.stderr):
            read = pool.map(partial(read_or_fault, read=network.read), batch)
            yield list(zip(map(str, batch), read, strict=True))


def predictions(
    network: Classifier, batches: Iterable[ReadBatch], shift: Tensor, top: int, source: Path, seen: list[Seen]
) -> Iterator[Row]:
    """Yield a row for each input.

    Parameters
    ----------
    shift:
        What is added to the logits (C,), where the model is.
    source:
        The network's checkpoint.
    seen:
        Takes what was done to each image, or why it cannot be read.

    Raises
    ------
    UserError
        If the network's answers are no numbers, and in the end if no input can be read.
    """
    for batch in batches:
        found = iter(network.probabilities([read for _, read in batch if isinstance(read, ReadImage)], shift))
        for name, read in batch:
            if isinstance(read, UserError):
                seen.append(read)
                yield name, [], str(read)
                continue
            seen.append(read.done)
            chances = next(found)
            if any(map(math.isnan, chances)):
                raise no_answers(source)
            best = nlargest(top, zip(network.names, chances, strict=True), key=itemgetter(1))
            yield name, [(class_name, f"{chance:.4f}") for class_name, chance in best], ""
    if all(isinstance(one, UserError) for one in seen):
        check_read(seen, status=2)


def print_rows(rows: Iterable[Row]) -> None:
    """Print a line for each input that can be read, probabilities in per cent."""
    for name, best, error in rows:
        if not error:
            say([name, *(f"{class_name} {100 * float(chance):.2f}" for class_name, chance in best)])


def write_rows(rows: Iterable[Row], out: Path, top: int) -> None:
    """Write a table; it is there when all rows are, until then an earlier one."""
    with replacing(out) as part, open(part, "w", newline="", encoding="utf-8", errors=WRITTEN_OUT) as file:
        table = csv.writer(file)
        table.writerow(["path", *(f"{word} {k + 1}" for k in range(top) for word in ("class", "probability")), "error"])
        table.writerows([name, *chain(*(best or [("", "")] * top)), error] for name, best, error in rows)


def check_out(out: Path, inputs: Sequence[Path | str | None]) -> None:
    """Refuse now what cannot be written, what is read, and any file that is no such table."""
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out} is not valid: its name must end in .csv")
    check_output(out, inputs=inputs)
    check_is_table(out, TABLE_HEADING)
