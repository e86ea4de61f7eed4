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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from datasets.image_lists import check_counted_from_0
from datasets.pictures import some_of
from harness.command_flags import MAX_CLASSES
from harness.errors import UserError
from harness.text import printable

ARRAY_ENDINGS = (".npz", ".safetensors")
ARRAYS = ("features", "labels", "split", "class_names", "names", "paths")
SPLIT_WORDS = ("train", "meta", "val", "test")
SPLIT_NUMBERS = {"0": "train", "1": "meta", "2": "val"}  # as safetensors holds no words


@dataclass(frozen=True)
class FeatureTable:
    """The rows of a file: features (N, A) float16 or float32, targets (N,) int64, split (N,) of `SPLIT_WORDS`, and N names.

    What the file does not have is None; classes are called by their numbers if nothing names them. `digest` is one of the
    features, wherever the file lies and however it was written.
    """

    path: Path
    features: np.ndarray
    targets: np.ndarray | None
    class_names: list[str]
    split: np.ndarray | None
    names: list[str] | None
    digest: str

    def __len__(self) -> int:
        return len(self.features)


def read_features(path: Path) -> FeatureTable:
    """Read a file of features; a `UserError` names the file, the array and what is wrong."""
    ending = path.suffix.lower()
    if ending not in ARRAY_ENDINGS or not os.path.isfile(path):
        raise UserError(f"{path} is no file that ends in {' or '.join(ARRAY_ENDINGS)}: check the path")
    try:
        arrays = read_npz(path) if ending == ".npz" else read_safetensors(path)
    except Exception as error:  # of zipfile, NumPy, json or safetensors, a MemoryError too: which depends on the damage
        said = printable(" ".join(str(error).split()))[:200]
        advice = "write it again, with words by dtype str and not as objects"
        raise UserError(f"{path} cannot be read as {ending} ({said}): {advice}") from error
    check_array("features" in arrays, path, "features", "is not there: write it under that name")
    features = checked_features(path, arrays.pop("features"))
    for name, array in arrays.items():
        rows = array.size if name == "class_names" else len(features)
        told = f"is {array.shape} of {array.dtype.name}: write {rows} integers or words in one row"
        check_array(array.shape == (rows,) and array.dtype.kind in "iuU", path, name, told)
    targets, class_names = read_targets(path, arrays)
    split = read_split(path, arrays["split"]) if "split" in arrays else None
    names = words(arrays, "names") or words(arrays, "paths")
    return FeatureTable(path, features, targets, class_names, split, names, hashlib.sha256(features.data).hexdigest()[:16])


def words(arrays: Mapping[str, np.ndarray], name: str) -> list[str] | None:
    """Return an array as words, None where it is not there."""
    return arrays[name].astype(str).tolist() if name in arrays else None


def check_array(sound: bool, path: Path, name: str, problem: str) -> None:
    """Raise a `UserError` about an array unless it is sound."""
    if not sound:
        raise UserError(f"{path}: its array {name} {problem}")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read an archive of NumPy, whose checksums must be right."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # NumPy reads no further than an array's header says, so not always to the checksum
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in ARRAYS if name in kept.files}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a file of tensors, whose words are in its metadata; bfloat16, which NumPy does not have, becomes float32."""
    with safe_open(path, framework="pt") as kept:
        tensors = {name: kept.get_tensor(name) for name in ARRAYS if name in kept.keys()}  # noqa: SIM118 - no mapping
        texts = {name: json.loads(text) for name, text in (kept.metadata() or {}).items() if name in ARRAYS[3:]}
    plain = {name: (one.float() if one.dtype == torch.bfloat16 else one).numpy() for name, one in tensors.items()}
    return {name: np.array(found) for name, found in {**texts, **plain}.items()}


def checked_features(path: Path, features: np.ndarray) -> np.ndarray:
    """Return features (N, A) in float16 or float32, which are all finite."""
    whole = features.ndim == 2 and features.size and features.dtype.kind == "f"
    told = f"is {features.shape} of {features.dtype.name}: write rows x features, in float32 or float16"
    check_array(bool(whole), path, "features", told)
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, np.float16 if features.dtype.itemsize == 2 else np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    told = f"has values that are not finite as {features.dtype} in {len(bad)} of {len(features)} rows, row"
    check_array(not len(bad), path, "features", f"{told} {some_of(bad.astype(str).tolist())}: correct or leave them out")
    return features


def read_targets(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray | None, list[str]]:
    """Return the targets (N,) and the names of the classes, where there are labels."""
    class_names = words(arrays, "class_names")
    if class_names is not None:
        single = 0 < len(class_names) == len(set(class_names))
        check_array(single, path, "class_names", "is empty or names a class twice: use unique names")
    labels = arrays.get("labels")
    if labels is None:
        return None, []
    if labels.dtype.kind == "U":
        class_names = class_names or sorted(set(labels.tolist()))
        number = {name: k for k, name in enumerate(class_names)}
        targets = np.array([number.get(label, -1) for label in labels.tolist()], dtype=np.int64)
    else:
        targets = labels.astype(np.int64)
        # Without class_names, only labels that leave out 0 and no other are taken for such that count from 1.
        last = len(np.unique(labels)) if class_names is None else len(class_names)
        if last > 1:
            check_counted_from_0((int(labels.min()), int(labels.max())), path, last)
    limit = MAX_CLASSES if class_names is None else len(class_names)
    advice = f"labels count from 0 and lie below {limit}, or are class_names"
    check_rows(path, "labels", labels, (targets >= 0) & (targets < limit), advice)
    return targets, class_names or [str(k) for k in range(targets.max() + 1)]


def check_rows(path: Path, name: str, array: np.ndarray, sound: np.ndarray, advice: str) -> None:
    """Raise a `UserError` that names the entries that are not sound."""
    strange = [f"{str(array[i])[:80]!r} in row {i}" for i in np.flatnonzero(~sound)]
    check_array(not strange, path, name, f"has {some_of(strange)}: {advice}")


def read_split(path: Path, array: np.ndarray) -> np.ndarray:
    """Return the word of `SPLIT_WORDS` for each row."""
    words = np.array([SPLIT_NUMBERS.get(word, word) for word in array.astype(str).tolist()])
    check_rows(path, "split", array, np.isin(words, SPLIT_WORDS), "write train, meta, val or test, or as numbers 0, 1 or 2")
    return words
