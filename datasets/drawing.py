"""Which examples are drawn for the meta set and to choose settings on, by the published rule: the same for all data sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.folders import some_of
from harness.errors import UserError

META_SEED = 6  # fixed in the published code: --seed does not change the subsets
HELDOUT_SEED = 7
HELDOUT_IMAGES = 2000  # about so many are held out in all, unless --num_heldout says how many a class
HELDOUT_SHARE = 5  # one of so many training images may be held out


def split_meta(targets: np.ndarray, num_meta: int, cls_num: int, share: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw `num_meta` images a class for the meta set; return their indices and those left, both ascending.

    A class of `num_meta` images or fewer has all that are drawn in both, see `shared_note`. At most one of `share` images of
    a class is drawn, but one of each class.
    """
    generator = np.random.RandomState(META_SEED)
    chosen: list[int] = []
    shared: list[int] = []
    for k in range(cls_num):
        indices = np.flatnonzero(targets == k)
        generator.shuffle(indices)
        chosen.extend(indices[: min(num_meta, max(len(indices) // share, 1))].tolist())
        shared.extend(indices.tolist() if len(indices) <= num_meta else ())
    meta = np.sort(np.array(chosen, dtype=np.int64))
    return meta, np.union1d(np.setdiff1d(np.arange(len(targets)), meta), np.array(shared, dtype=np.int64))


def check_classes(counts: Sequence[int], names: Sequence[str], wanted: str) -> None:
    """Raise a `UserError` that names the classes without an image; `wanted` says of what kind."""
    empty = [f"{k} ({name})" for k, (name, count) in enumerate(zip(names, counts, strict=True)) if not count]
    if empty:
        told = f"{'class' if len(empty) == 1 else 'classes'} {some_of(empty)}"
        advice = "add some, or remove the class (labels count from 0 without gaps)"
        raise UserError(f"{told} {'has' if len(empty) == 1 else 'have'} no {wanted}: {advice}")


def shared_note(counts: Sequence[int], names: Sequence[str], num_meta: int) -> list[str]:
    """Return a line that names the classes of `num_meta` images or fewer, if any.

    Raises
    ------
    UserError
        If no class has more than a `num_meta` above 1.
    """
    if 1 < num_meta >= max(counts):
        raise UserError(
            f"--num_meta {num_meta} would take every training image (the largest class has {max(counts)}): lower it"
        )
    small = small_classes(counts, names, num_meta)
    if not small:
        return []
    return [f"classes of no more than --num_meta {num_meta} images have them in both the training and the meta set: {small}"]


def small_classes(counts: Sequence[int], names: Sequence[str], most: int) -> str:
    """Return the names of the classes with `most` images or fewer, the first ten of them, "" if there are none."""
    small = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count <= most]
    more = f" and {len(small) - 10} more" if len(small) > 10 else ""
    return ", ".join(small[:10]) + more


def hold_out(
    targets: np.ndarray, train: np.ndarray, rest: np.ndarray, num_heldout: int, cls_num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw up to `num_heldout` images a class to choose settings on, -1: about HELDOUT_IMAGES in all.

    Return their indices and those left to train on.

    First those of `rest` that the long tail leaves out, so that the training set stays what it is; where they do not
    suffice, up to a fifth of the class's images in `train`.
    """
    wished = max(HELDOUT_IMAGES // cls_num, 1) if num_heldout < 0 else num_heldout
    generator = np.random.RandomState(HELDOUT_SEED)
    spare = np.setdiff1d(rest, train)
    heldout: list[int] = []
    for k in range(cls_num):
        left_out, trained = spare[targets[spare] == k], train[targets[train] == k]
        generator.shuffle(left_out)
        generator.shuffle(trained)
        chosen = left_out[:wished].tolist()
        chosen += trained[: min(wished - len(chosen), len(trained) // HELDOUT_SHARE)].tolist()
        heldout.extend(chosen)
    kept = np.sort(np.array(heldout, dtype=np.int64))
    return kept, np.setdiff1d(train, kept)


def check_held_out(count: int) -> None:
    """Raise a `UserError` if no image was held out."""
    if not count:
        raise UserError("no class has an image to hold out: add images, lower --num_meta, or leave --select_on heldout out")
