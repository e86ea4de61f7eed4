"""Features that one already has, of images or of anything else, in a file.

A file is an `.npz` of NumPy or a `.safetensors`, with these arrays:

| array | shape | what it holds |
| --- | --- | --- |
| `features` | (N, A) | float16 or float32, which stay what they are; float64 and (safetensors) bfloat16 become float32 |
| `labels` | (N,) | integers that count from 0; or words (npz), which then name the classes |
| `split` | (N,) | which set a row is of: train, meta, and val or test, which mean the same; in safetensors 0, 1 and 2 |
| `class_names` | (C,) | words; without them the classes are called by their numbers, or by the words of `labels` in order |
| `names` or `paths` | (N,) | words or integers: what each row is called |

Prediction needs `features` alone, all else `labels` too. A `.safetensors` has no words in its arrays: there `class_names`,
`names` and `paths` are JSON lists in its metadata, under these keys. In messages rows are counted from 0.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from datasets.folders import some_of
from datasets.image_lists import MAX_CLASSES, check_counted_from_0
from harness.errors import UserError
from harness.text import printable

ARRAY_ENDINGS = (".npz", ".safetensors")
ARRAYS = ("features", "labels", "split", "class_names", "names", "paths")
SPLIT_WORDS = ("train", "meta", "val", "test")  # the first three are 0, 1 and 2 in safetensors
Column = list[str] | np.ndarray  # words, or integers
Contents = tuple[Sequence[str], dict[str, np.ndarray], dict[str, str]]  # names of all arrays; ARRAYS; metadata


@dataclass(frozen=True)
class FeatureTable:
    """The rows of a file: features (N, A) float16 or float32, targets (N,) int64, split (N,) of `SPLIT_WORDS`, and N names.

    What the file does not have is None. `digest` tells its content from others, wherever the file lies and however it was
    written.
    """

    path: Path
    features: np.ndarray
    targets: np.ndarray | None
    class_names: list[str] | None
    split: np.ndarray | None
    names: list[str] | None
    digest: str
    labelled_by_words: bool = False

    def __len__(self) -> int:
        return len(self.features)


def read_features(path: Path, labelled: bool = True) -> FeatureTable:
    """Read a file of features; a `UserError` names the file, the array and what is wrong.

    Labels are read and checked wherever there are some; `labelled` says that there must be.
    """
    if (ending := path.suffix.lower()) not in ARRAY_ENDINGS:
        raise UserError(f"{path} ends in neither {' nor '.join(ARRAY_ENDINGS)}: write the arrays into such a file")
    if not os.path.isfile(path):
        raise UserError(f"{path} is {'no file' if os.path.exists(path) else 'not there'}: check the path")
    with reading(path):
        held, arrays, texts = (read_npz if ending == ".npz" else read_safetensors)(path)
    if "features" not in arrays:
        said = printable(", ".join(sorted(held)[:20])) or "nothing"
        raise UserError(f"{path} has no array features, but {said}: write the features under that name")
    features = checked_features(path, arrays.pop("features"))
    columns: dict[str, Column] = {name: read_column(path, name, array) for name, array in arrays.items()}
    for name in {*ARRAYS[3:]} & {*texts} - {*columns}:
        columns[name] = read_json_list(path, name, texts[name])
    for name, column in columns.items():
        if name != "class_names" and len(column) != len(features):
            problem = f"has {len(column)} entries, but features has {len(features)} rows"
            raise wrong_array(path, name, f"{problem}: give one entry a row")
    if labelled and "labels" not in columns:
        raise UserError(f"{path} has no array labels: add it, with an integer that counts from 0 for each row")
    targets, class_names = read_targets(path, columns)
    split = read_split(path, columns["split"]) if "split" in columns else None
    names = next((words(columns[name]) for name in ("names", "paths") if name in columns), None)
    digest = content_digest(features, targets, class_names, None if split is None else split.tolist(), names)
    by_words = isinstance(columns.get("labels"), list)
    return FeatureTable(path, features, targets, class_names, split, names, digest, by_words)


def wrong_array(path: Path, name: str, problem: str) -> UserError:
    """Return what is said of an array."""
    return UserError(f"{path}: its array {name} {problem}")


def words(column: Column) -> list[str]:
    """Return integers as words too."""
    return column if isinstance(column, list) else [str(number) for number in column.tolist()]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make what is wrong with a file into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({printable(error.strerror or str(error))}): check the path") from error
    except Exception as error:  # of zipfile, NumPy or safetensors, a MemoryError too: which one depends on the damage
        said = printable(" ".join(str(error).split()))[:200]
        raise UserError(f"{path} is damaged, or no {path.suffix.lower()} file ({said}): write it again") from error


def read_npz(path: Path) -> Contents:
    """Read an archive of NumPy, whose checksums must be right."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # NumPy reads no further than an array's header says, so not always to the checksum
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")
    with np.load(path, allow_pickle=False) as kept:
        arrays, name = {}, ""
        try:
            for name in (name for name in kept.files if name in ARRAYS):
                arrays[name] = kept[name]
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            problem = "holds pickled objects, which are not read: write numbers, or words by dtype str"
            raise wrong_array(path, name, problem) from error
        return kept.files, arrays, {}


def read_safetensors(path: Path) -> Contents:
    """Read a file of tensors, whose words are in its metadata."""
    with safe_open(path, framework="pt") as kept:
        names = kept.keys()
        return names, {name: tensor_array(kept.get_tensor(name)) for name in names if name in ARRAYS}, kept.metadata() or {}


def tensor_array(tensor: Tensor) -> np.ndarray:
    """Return a copy in memory; bfloat16 and shorter kinds, which NumPy does not have, as float32."""
    of_numpy = tensor.dtype in (torch.float16, torch.float64) or not tensor.is_floating_point()
    return np.array((tensor if of_numpy else tensor.float()).numpy())


def checked_features(path: Path, features: np.ndarray) -> np.ndarray:
    """Return features (N, A) in float16 or float32, which are all finite."""
    if features.ndim != 2:
        raise wrong_array(path, "features", f"has {features.ndim} dimensions: give it two, rows x features")
    if not features.size:
        problem = f"is empty, {features.shape[0]} x {features.shape[1]}: write at least one row of one feature"
        raise wrong_array(path, "features", problem)
    if features.dtype.kind != "f":
        raise wrong_array(path, "features", f"is of the kind {features.dtype.name}: write it as float32 or float16")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, np.float16 if features.dtype.itemsize == 2 else np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        problem = f"has values that are not finite as {features.dtype} in {len(bad)} of {len(features)} rows, row"
        advice = "correct these rows or leave them out"
        raise wrong_array(path, "features", f"{problem} {some_of(list(map(str, bad)))}: {advice}")
    return features


def read_column(path: Path, name: str, array: np.ndarray) -> Column:
    """Return an array of one dimension, of integers or words."""
    if array.ndim != 1:
        raise wrong_array(path, name, f"has {array.ndim} dimensions: give it one")
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind not in "US":
        raise wrong_array(path, name, f"is of the kind {array.dtype.name}: write integers or words")
    try:
        return [word.decode() if isinstance(word, bytes) else word for word in array.tolist()]
    except UnicodeDecodeError as error:
        raise wrong_array(path, name, f"holds bytes that are no UTF-8 ({error}): write words by dtype str") from error


def read_json_list(path: Path, name: str, text: str) -> list[str]:
    """Read words from the metadata of a safetensors file."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(type(word) in (str, int) for word in found):
        raise UserError(f"{path}: {name} in its metadata is no JSON list of words: write json.dumps of a list of str")
    return [str(word) for word in found]


def read_targets(path: Path, columns: Mapping[str, Column]) -> tuple[np.ndarray | None, list[str] | None]:
    """Return the targets (N,) and the names of the classes, where there are such."""
    labels, class_names = columns.get("labels"), words(columns["class_names"]) if "class_names" in columns else None
    if class_names is not None and (not class_names or len(set(class_names)) < len(class_names)):
        raise wrong_array(path, "class_names", "is empty or names a class twice: give each class a name of its own")
    if labels is None:
        return None, class_names
    if isinstance(labels, np.ndarray):
        check_labels(path, labels, None if class_names is None else len(class_names))
        return labels.astype(np.int64), class_names
    class_names = sorted(set(labels)) if class_names is None else class_names
    number = {name: k for k, name in enumerate(class_names)}
    strange = [f"{label[:80]!r} in row {i}" for i, label in enumerate(labels) if label not in number]
    if strange:
        raise wrong_array(path, "labels", f"has {some_of(strange)}, which is none of class_names: correct one of the two")
    return np.array([number[label] for label in labels], dtype=np.int64), class_names


def check_labels(path: Path, labels: np.ndarray, num_classes: int | None) -> None:
    """Raise a `UserError` unless all labels lie in [0, num_classes), with None: are sensible, and do not count from 1.

    Where the file does not say how many classes there are, only labels that leave out 0 and no other are taken for such.
    """
    ends = int(labels.min()), int(labels.max())
    if num_classes is not None:
        check_counted_from_0(ends, path, num_classes)
    elif 1 < ends[1] <= len(labels) and len(np.unique(labels)) == ends[1]:
        try:
            check_counted_from_0(ends, path, ends[1])
        except UserError as error:
            raise UserError(f"{error}, or add class_names if no row is of class 0") from error
    limit = MAX_CLASSES if num_classes is None else num_classes
    outside = np.flatnonzero((labels < 0) | (labels >= limit))
    if len(outside):
        problem = f"has {some_of([f'{labels[i]} in row {i}' for i in outside])}, outside [0, {limit})"
        unknown = " (leave the array out for prediction, if they are not known)" if ends[0] < 0 else ""
        raise wrong_array(path, "labels", f"{problem}: labels count from 0{unknown}")


def read_split(path: Path, column: Column) -> np.ndarray:
    """Return the word of `SPLIT_WORDS` for each row."""
    if isinstance(column, list):
        wanted, found = "the words train, meta, val or test", column
    elif path.suffix.lower() == ".npz":
        raise wrong_array(path, "split", "is of integers: write the words train, meta, val or test")
    else:
        wanted = "0 for train, 1 for meta, 2 for val"
        found = [SPLIT_WORDS[number] if number in (0, 1, 2) else str(number) for number in column.tolist()]
    strange = [f"{word[:80]!r} in row {i}" for i, word in enumerate(found) if word not in SPLIT_WORDS]
    if strange:
        raise wrong_array(path, "split", f"has {some_of(strange)}: write {wanted}")
    return np.array(found)


def content_digest(features: np.ndarray, targets: np.ndarray | None, *said: list[str] | None) -> str:
    """Return a short digest of all that a table holds."""
    digest = hashlib.sha256(json.dumps([features.shape, features.dtype.name, *said]).encode())
    digest.update(features.data)
    digest.update(b"" if targets is None else targets.data)
    return digest.hexdigest()[:16]
