"""Training, meta and test images of an experiment, and how the meta and the held-out images are drawn."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from datasets.drawing import (
    HELDOUT_SHARE,
    check_classes,
    drawn_for_tests,
    held_out,
    long_tailed,
    shared_note,
    split_meta,
)
from datasets.examples import Examples, class_counts, with_meta
from datasets.image_lists import ImageList, write_list
from harness.errors import UserError
from harness.run_files import list_paths

E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class Sets(Generic[E]):
    """The three lists of an experiment, the counts of the training list, and lines for the user.

    `lists` are what the sets were drawn from. `heldout` are images to choose on, `joined` the training and the meta images
    together, None unless asked for.
    """

    train: E
    meta: E
    test: E
    cls_num_list: list[int]
    notes: list[str]
    lists: Lists[E] | None = None
    heldout: E | None = None
    joined: E | None = None

    @property
    def parts(self) -> dict[str, E]:
        """The lists by name."""
        heldout = {} if self.heldout is None else {"heldout": self.heldout}
        return {"train": self.train, "meta": self.meta, "test": self.test, **heldout}

    @property
    def trained(self) -> E:
        """The images that are trained on."""
        return self.train if self.joined is None else self.joined

    @property
    def stage2_counts(self) -> list[int]:
        """How many images of each class are trained on."""
        return class_counts(self.trained)

    def facts(self) -> dict[str, object]:
        """Return what checkpoints and summaries say of the images."""
        joined = {} if self.joined is None else {"stage2_counts": self.stage2_counts}
        own = {"class_names": self.train.class_names, "train_digest": self.train.digest(), "notes": self.notes}
        return {**own, "cls_num_list": self.cls_num_list, **joined}

    def about(self) -> list[str]:
        """Return lines that say how many images there are of what."""
        words = "  ".join(f"{name.replace('heldout', 'held out')} {len(part)}" for name, part in self.parts.items())
        counts = f"{max(self.cls_num_list)} to {min(self.cls_num_list)} training images a class"
        both = [] if self.joined is None else [f"training and meta images together, each once: {len(self.joined)}"]
        return [f"{words}  ({counts})", *both, *(f"note: {note}" for note in self.notes)]

    def write_lists(self, folder: Path, name: str) -> str:
        """Write the training list, meta images included, and the test list; return a line that says so."""
        assert self.lists is not None
        places = list_paths(folder, name)
        for place, images in zip(places, (self.lists.train, self.lists.test), strict=True):
            assert isinstance(images, ImageList)
            write_list(place, images)
        return f"wrote the lists {' and '.join(map(str, places))}, for --train_list and --val_list"

    def digests(self) -> dict[str, str]:
        """Return a digest of each list, and what tells the images from others; see `ImageList.content`."""
        lists = {f"{name} list": part.digest() for name, part in self.parts.items()}
        return {**lists, **{f"{name} images": part.content for name, part in self.parts.items()}}


@dataclass(frozen=True)
class Lists(Generic[E]):
    """The lists of an experiment before its meta images are drawn from `source`.

    `draw` says how: `source` is used whole; or the images drawn stay where they are as well, where it is "share" at most a
    fifth of each class; or they are taken out of the training list. `checked` says whether all images were read, and none
    left that cannot be.
    """

    train: E
    source: E
    test: E
    draw: Literal["whole", "copy", "share", "take out"]
    notes: list[str]
    val: E | None = None  # images to choose on, where they need not be held out of training
    checked: bool = False
    redrawn: Callable[[Container[Hashable]], Lists[E]] | None = None  # where test images were drawn: again, without some

    @property
    def parts(self) -> list[E]:
        """All the images that there are."""
        return [self.train, self.source, self.test, *([] if self.val is None else [self.val])]

    def without(self, bad: Container[Hashable], note: str) -> Lists[E]:
        """Return the lists without the images `bad`, which `note` speaks of; test images are drawn from what is left."""
        if self.redrawn is not None:
            lists = self.redrawn(bad)
            return replace(lists, notes=[*lists.notes, note])
        train, source, test, *val = (part.without(bad) for part in self.parts)
        return replace(self, train=train, source=source, test=test, val=next(iter(val), None), notes=[*self.notes, note])

    def sets(
        self, num_meta: int, num_heldout: int = 0, join_meta: bool = False, imb_factor: float | None = None
    ) -> Sets[E]:
        """Draw `num_meta` meta images a class as published, see `drawing.split_meta`; every class must have one.

        With a `num_meta` of 0 none are drawn.

        Parameters
        ----------
        num_heldout:
            Images a class to hold out, see `drawing.held_out`. Where there is a list `val`, that is all of it.
        join_meta:
            Also make one list of the training and the meta images, each file once; the training list stays what it is.
        imb_factor:
            Smallest class over largest of the training images that are kept, see `drawing.long_tailed`; None keeps all.
        """
        names, train, notes = self.train.class_names, self.train, list(self.notes)
        check_classes(class_counts(train), names, f"training image in {train.source}")
        index, left = split_meta(self.source.targets, num_meta, len(names), HELDOUT_SHARE if self.draw == "share" else 1)
        meta = self.source if self.draw == "whole" else self.source.subset(index)
        if num_meta:
            check_classes(class_counts(meta), names, f"meta image in {self.source.source}")
        if self.draw == "take out":
            notes += shared_note(class_counts(train), names, num_meta)
            train = train.subset(left)
        if imb_factor is not None:
            train, few = long_tailed(train, imb_factor)
            notes += few
        heldout = self.val if num_heldout else None
        if self.val is not None and not num_heldout:
            train = train.joined(self.val)
            among = f"the {len(self.val)} images of {self.val.source}"
            notes.append(f"{among} are trained on too: --select_on heldout keeps them to choose the best epoch")
        elif num_heldout and heldout is None:
            heldout, train, spare = held_out(train, self.source, [meta, self.test], num_heldout)
            if not len(heldout):
                advice = "add images, lower --num_meta, or leave --select_on heldout out"
                raise UserError(f"no class has an image to hold out: {advice}")
            among = f"{spare} of the {len(heldout)} held-out images"
            notes += [f"{among} come from {self.source.source}, the others were training images"] if spare else []
        joined = with_meta(train, meta) if join_meta and self.draw != "share" else None
        return Sets(train, meta, self.test, class_counts(train), notes, self, heldout, joined)


def split_lists(images: E, val_fraction: float, val_seed: int, notes: Sequence[str] = (), meta: E | None = None) -> Lists[E]:
    """Draw test images from a list; the others are for training, and the meta images are drawn from them or `meta`."""
    names = images.class_names
    drawn = drawn_for_tests(images.targets, len(names), val_fraction, val_seed)
    train, test = images.subset(np.setdiff1d(np.arange(len(images)), drawn)), images.subset(drawn)
    single = [name for name, count in zip(names, class_counts(test), strict=True) if not count]
    told = []
    if single and len(test):
        told.append(f"classes of one image, which is trained on and never tested: {', '.join(single)}")

    def again(bad: Container[Hashable]) -> Lists[E]:
        return split_lists(images.without(bad), val_fraction, val_seed, notes, None if meta is None else meta.without(bad))

    draw: Literal["whole", "take out"] = "take out" if meta is None else "whole"
    return Lists(train, train if meta is None else meta, test, draw, [*notes, *told], redrawn=again)
