"""Which examples are drawn for what, by the published rules: the same for all data sets."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from datasets.examples import Self, class_counts, first_places, with_others
from datasets.pictures import some_of
from harness.errors import UserError

META_SEED, SUBSET_SEED = 6, 42  # fixed in the published code: --seed does not change the subsets
HELDOUT_SEED = 7
HELDOUT_IMAGES = 2000  # about so many are held out in all, unless --num_heldout says how many a class
HELDOUT_SHARE = 5  # one of so many training images may be held out


def shuffled(targets: np.ndarray, cls_num: int, seed: int) -> list[np.ndarray]:
    """Return the indices of each class, shuffled one class after the other by one generator."""
    generator = np.random.RandomState(seed)
    return [generator.permutation(np.flatnonzero(targets == k)) for k in range(cls_num)]


def in_order(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the indices of all parts, ascending."""
    return np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))


def split_meta(targets: np.ndarray, num_meta: int, cls_num: int, share: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw `num_meta` images a class for the meta set; return their indices and those left, both ascending.

    A class of `num_meta` images or fewer has all that are drawn in both, see `all_meta_note`. At most one of `share` images
    of a class is drawn, but one of each class.
    """
    classes = shuffled(targets, cls_num, META_SEED)
    meta = in_order([own[: min(num_meta, max(len(own) // share, 1))] for own in classes])
    shared = in_order([own for own in classes if len(own) <= num_meta])
    return meta, np.union1d(np.setdiff1d(np.arange(len(targets)), meta), shared)


def long_tailed_counts(img_max: int, cls_num: int, imb_factor: float) -> list[int]:
    """Return how many images class k of C keeps: ⌊img_max · imb_factor^(k / (C − 1))⌋."""
    return [int(img_max * imb_factor ** (k / max(cls_num - 1, 1))) for k in range(cls_num)]


def long_tailed(train: Self, imb_factor: float) -> Self:
    """Draw `long_tailed_counts` images a class, or all it has when that is fewer."""
    names = train.class_names
    wanted = long_tailed_counts(max(class_counts(train)), len(names), imb_factor)
    if min(wanted) < 1:
        raise UserError(f"--imb_factor {imb_factor} leaves class {names[wanted.index(0)]} without images: raise it")
    generator = random.Random(SUBSET_SEED)
    kept: list[int] = []
    for k, count in enumerate(wanted):
        indices = np.flatnonzero(train.targets == k).tolist()
        generator.shuffle(indices)
        kept.extend(indices[:count])
    return train.subset(np.sort(kept))


def drawn_for_tests(targets: np.ndarray, cls_num: int, val_fraction: float, val_seed: int) -> np.ndarray:
    """Draw this share of each class, rounded, at least one image and not all; return their indices in order."""
    classes = shuffled(targets, cls_num, val_seed)
    least = 1 if val_fraction else 0
    return in_order([own[: min(max(round(val_fraction * len(own)), least), len(own) - 1)] for own in classes])


def held_out(train: Self, source: Self, others: Sequence[Self], num_heldout: int) -> tuple[Self, Self]:
    """Draw up to `num_heldout` images a class to choose on, -1: about HELDOUT_IMAGES in all.

    Return them, and what is left to train on. Spare images come first: those of `source`, where meta images are drawn, that
    serve nothing else. Where they do not suffice, up to a fifth of the class's training images is held out. No image of
    `others` is, and a file that is listed several times is one image.
    """
    cls_num = len(train.class_names)
    wished = max(HELDOUT_IMAGES // cls_num, 1) if num_heldout < 0 else num_heldout
    pool = with_others(train, source)
    taken = {item for part in others for item in part.items.tolist()}
    first = np.sort(first_places(pool))
    free = first[[item not in taken for item in pool.items[first].tolist()]]
    generator = np.random.RandomState(HELDOUT_SEED)
    drawn: list[np.ndarray] = []
    for k in range(cls_num):
        own = free[pool.targets[free] == k]
        spare, trained = own[own >= len(train)], own[own < len(train)]
        generator.shuffle(spare)
        generator.shuffle(trained)
        more = max(wished - len(spare), 0)
        drawn += [spare[:wished], trained[: min(more, len(trained) // HELDOUT_SHARE)]]
    kept = pool.subset(in_order(drawn))
    return kept, train.without(set(kept.items.tolist()))


def check_classes(counts: Sequence[int], names: Sequence[str], wanted: str) -> None:
    """Raise a `UserError` that names the classes without an image; `wanted` says of what kind."""
    if empty := [f"{k} ({name})" for k, (name, count) in enumerate(zip(names, counts, strict=True)) if not count]:
        advice = "add some, or remove the class (labels count from 0 without gaps)"
        raise UserError(f"no {wanted} for these classes: {some_of(empty)}; {advice}")


def all_meta_note(counts: Sequence[int], names: Sequence[str], num_meta: int) -> list[str]:
    """Return a line that names the classes of `num_meta` images or fewer, if any."""
    small = some_of([f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count <= num_meta], 10)
    told = f"classes with no more than --num_meta {num_meta} images, all of which are meta images as well"
    return [f"{told}: {small}"] if small else []
